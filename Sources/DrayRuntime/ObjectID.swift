/// The identity of an object within its container: 128 bits, as in DAOS.
///
/// The upper 32 bits of `high` belong to Dray (type and class, which placement reads), the other
/// 96 are chosen by whoever makes the object.
public struct ObjectID: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var high: UInt64
    public var low: UInt64

    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// Hexadecimal, `HIGH.LOW`.
    public var description: String {
        String(high, radix: 16) + "." + String(low, radix: 16)
    }

    /// Parses the text form. Nil for anything else.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        // A sign is no digit.
        guard parts.count == 2, !text.contains("+"), let high = UInt64(parts[0], radix: 16),
            let low = UInt64(parts[1], radix: 16)
        else { return nil }
        self.init(high: high, low: low)
    }

    public static func < (left: ObjectID, right: ObjectID) -> Bool {
        (left.high, left.low) < (right.high, right.low)
    }
}
