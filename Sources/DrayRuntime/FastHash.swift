/// Hashes two words in a few cycles, where the standard library takes hundreds: for the keys of
/// tables that every operation asks several times. A key's `_rawHashValue(seed:)` calls it.
///
/// It has a secret of the process, which the standard library has drawn: whoever chooses the keys
/// does not know which ones collide.
public enum FastHash {
    @inline(__always)
    public static func hash(_ first: UInt64, _ second: UInt64, seed: Int) -> Int {
        let (one, two) = secrets
        let left = first ^ one ^ UInt64(truncatingIfNeeded: seed)
        let right = second ^ two
        // Each word passes through both halves of a product, so that a zero on one side hides
        // nothing of the other.
        let product = (left | 1).multipliedFullWidth(by: right | 1)
        let mixed = (product.high ^ product.low ^ left ^ right.byteSwapped) &* 0x9e37_79b9_7f4a_7c15
        return Int(truncatingIfNeeded: mixed ^ mixed >> 32)
    }

    private static let secrets = (
        UInt64(truncatingIfNeeded: "first".hashValue),
        UInt64(truncatingIfNeeded: "second".hashValue)
    )
}
