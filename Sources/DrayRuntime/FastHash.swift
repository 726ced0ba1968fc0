/// Hashes two words in a few cycles, where the standard library takes hundreds: for the keys of
/// tables that every operation asks several times. A key's `_rawHashValue(seed:)` calls it.
///
/// It has a secret of the process, which the standard library has drawn: whoever chooses the keys
/// does not know which ones collide.
public enum FastHash {
    @inline(__always)
    public static func hash(_ first: UInt64, _ second: UInt64, seed: Int) -> Int {
        let (one, two) = secrets
        let seed = UInt64(truncatingIfNeeded: seed)
        return Int(truncatingIfNeeded: mix(mix(first ^ one ^ seed) ^ second ^ two))
    }

    /// Both halves of a product: the high bits of the word reach the low ones, by which tables go.
    @inline(__always)
    private static func mix(_ word: UInt64) -> UInt64 {
        let product = word.multipliedFullWidth(by: 0x9e37_79b9_7f4a_7c15)
        return product.high ^ product.low
    }

    private static let secrets = (
        UInt64(truncatingIfNeeded: "first".hashValue),
        UInt64(truncatingIfNeeded: "second".hashValue)
    )
}
