/// A 128-bit identity (RFC 9562, version 4) of a cluster, engine, pool, container or transaction.
public struct UniqueID: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var high: UInt64
    public var low: UInt64

    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// The identity that stands for "none".
    public static var zero: UniqueID { UniqueID(high: 0, low: 0) }

    /// A random identity.
    public static func random(using entropy: inout Entropy) -> UniqueID {
        UniqueID(
            high: entropy.next() & ~0xf000 | 0x4000,
            low: entropy.next() & ~(0b11 << 62) | (0b10 << 62))
    }

    /// Parses the usual text form, `8-4-4-4-12` hexadecimal digits. Nil for anything else.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: "-", omittingEmptySubsequences: false)
        guard parts.map(\.utf8.count) == [8, 4, 4, 4, 12] else { return nil }
        var value: UInt128 = 0
        for byte in parts.joined().utf8 {
            guard let digit = UniqueID.digit(byte) else { return nil }
            value = value << 4 | UInt128(digit)
        }
        self.init(high: UInt64(value >> 64), low: UInt64(truncatingIfNeeded: value))
    }

    private static func digit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
        default: nil
        }
    }

    public var description: String {
        let digits = Array("0123456789abcdef".utf8)
        var text: [UInt8] = []
        for index in 0..<32 {
            if [8, 12, 16, 20].contains(index) { text.append(UInt8(ascii: "-")) }
            let word = index < 16 ? high : low
            text.append(digits[Int(word >> UInt64(60 - index % 16 * 4) & 0xf)])
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// Several tables are asked about each transaction: see `FastHash`.
    public func _rawHashValue(seed: Int) -> Int {
        FastHash.hash(high, low, seed: seed)
    }

    public static func < (left: UniqueID, right: UniqueID) -> Bool {
        (left.high, left.low) < (right.high, right.low)
    }
}
