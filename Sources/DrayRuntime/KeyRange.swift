/// Which keys a list has, and in which order. Keys are ordered by their bytes.
///
///     let page = try await object.listDkeys(in: KeyRange(prefix: Array("2026-".utf8)).reversed)
public struct KeyRange: Hashable, Sendable {
    /// Only keys from this one on; nil: from the first.
    public var lower: [UInt8]?
    /// Only keys before this one; nil: to the last.
    public var upper: [UInt8]?
    /// Whether the last comes first.
    public var isReversed: Bool

    /// Every key, the first one first.
    public static let all = KeyRange()

    /// The keys from `lower` on and before `upper`.
    public init(from lower: [UInt8]? = nil, upTo upper: [UInt8]? = nil, isReversed: Bool = false) {
        self.lower = lower
        self.upper = upper
        self.isReversed = isReversed
    }

    /// The keys that begin with `prefix`.
    public init(prefix: [UInt8], isReversed: Bool = false) {
        self.init(
            from: prefix, upTo: KeyRange.successor(ofPrefix: prefix), isReversed: isReversed)
    }

    /// The same keys the other way round.
    public var reversed: KeyRange {
        KeyRange(from: lower, upTo: upper, isReversed: !isReversed)
    }

    /// The keys that are in `other` too, in the order of this range.
    public func narrowed(to other: KeyRange) -> KeyRange {
        var range = self
        if let bound = other.lower {
            range.lower = lower.map { $0.lexicographicallyPrecedes(bound) ? bound : $0 } ?? bound
        }
        if let bound = other.upper {
            range.upper = upper.map { bound.lexicographicallyPrecedes($0) ? bound : $0 } ?? bound
        }
        return range
    }

    /// Whether the list has `key`.
    public func contains(_ key: [UInt8]) -> Bool {
        if let lower, key.lexicographicallyPrecedes(lower) { return false }
        if let upper, !key.lexicographicallyPrecedes(upper) { return false }
        return true
    }

    /// Whether `key` comes before `other` in the list.
    public func precedes(_ key: [UInt8], _ other: [UInt8]) -> Bool {
        isReversed ? other.lexicographicallyPrecedes(key) : key.lexicographicallyPrecedes(other)
    }

    /// The first key after all that begin with `prefix`; nil when there is none.
    private static func successor(ofPrefix prefix: [UInt8]) -> [UInt8]? {
        guard let index = prefix.lastIndex(where: { $0 != .max }) else { return nil }
        return prefix[..<index] + [prefix[index] + 1]
    }
}
