/// A seedable pseudo-random generator (xoshiro256**, Blackman and Vigna 2018).
///
/// All randomness of Dray comes from one of these. `fork(_:)` gives an independent stream for a
/// named purpose, so that a further draw in one part does not shift what another part sees.
public struct Entropy: RandomNumberGenerator, Sendable {
    private var state: (UInt64, UInt64, UInt64, UInt64)
    private let seed: UInt64

    /// Creates a generator whose stream depends on `seed` alone.
    public init(seed: UInt64) {
        var mixer = seed
        self.seed = seed
        state = (
            Entropy.mix(&mixer), Entropy.mix(&mixer), Entropy.mix(&mixer), Entropy.mix(&mixer)
        )
    }

    /// One step of SplitMix64.
    private static func mix(_ state: inout UInt64) -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    public mutating func next() -> UInt64 {
        let product = state.1 &* 5
        let result = ((product << 7) | (product >> 57)) &* 9
        let shifted = state.1 << 17
        state.2 ^= state.0
        state.3 ^= state.1
        state.1 ^= state.2
        state.0 ^= state.3
        state.2 ^= shifted
        state.3 = (state.3 << 45) | (state.3 >> 19)
        return result
    }

    /// A generator for the purpose `label`: a function of this generator's seed and the label,
    /// not of what has been drawn so far.
    public func fork(_ label: String) -> Entropy {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325  // FNV-1a
        for byte in label.utf8 {
            hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01b3
        }
        return Entropy(seed: seed ^ hash)
    }

    /// A number in `0 ..< bound`. `bound` must be positive.
    public mutating func below(_ bound: UInt64) -> UInt64 {
        precondition(bound > 0, "the bound of a random number must be positive")
        return next().multipliedFullWidth(by: bound).high
    }

    /// True with probability `numerator / denominator`.
    public mutating func chance(_ numerator: UInt64, in denominator: UInt64) -> Bool {
        below(denominator) < numerator
    }
}
