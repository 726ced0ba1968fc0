public import DrayRuntime

/// What the keys of one level of an object are.
public enum KeyType: String, Hashable, Sendable, CaseIterable {
    /// Any bytes, ordered as such.
    case lexical
    /// Unsigned integers of 64 bits, in order of their value: eight bytes each, the highest first
    /// (`IntegerKey`). (DAOS: `DAOS_OT_DKEY_UINT64`, `DAOS_OT_AKEY_UINT64`)
    case integer
}

/// What the distribution and attribute keys of an object are. Part of its id.
public struct KeyTypes: Hashable, Sendable {
    /// Of the distribution keys.
    public var dkey: KeyType
    /// Of the attribute keys.
    public var akey: KeyType

    public init(dkey: KeyType = .lexical, akey: KeyType = .lexical) {
        self.dkey = dkey
        self.akey = akey
    }

    /// As it stands in object ids.
    var code: UInt8 { (dkey == .integer ? 1 : 0) | (akey == .integer ? 2 : 0) }

    init(code: UInt8) {
        dkey = code & 1 == 0 ? .lexical : .integer
        akey = code & 2 == 0 ? .lexical : .integer
    }
}

extension KeyType {
    /// Why `key` cannot be one; nil when it can.
    public func problem(with key: [UInt8]) -> String? {
        guard self == .integer, key.count != IntegerKey.length else { return nil }
        return "an integer key has \(IntegerKey.length) bytes, this one \(key.count)"
    }
}

/// Keys that are integers, as bytes.
public enum IntegerKey {
    /// How many bytes each has.
    public static let length = 8

    /// The key that stands for `value`.
    public static func bytes(_ value: UInt64) -> [UInt8] {
        (0..<length).map { UInt8(truncatingIfNeeded: value >> UInt64(56 - 8 * $0)) }
    }

    /// The integer that `key` stands for; nil when it is none.
    public static func value(_ key: [UInt8]) -> UInt64? {
        guard key.count == length else { return nil }
        return key.reduce(0) { $0 << 8 | UInt64($1) }
    }
}

extension KeyRange {
    /// The integer keys of a range.
    public init(integers: ClosedRange<UInt64>, isReversed: Bool = false) {
        let last = integers.upperBound
        self.init(
            from: IntegerKey.bytes(integers.lowerBound),
            upTo: last == .max ? nil : IntegerKey.bytes(last + 1), isReversed: isReversed)
    }
}
