/// A set of small numbers, without memory of its own: it is copied for each step of a search.
struct SlotSet: Hashable {
    private var words = SIMD4<UInt64>(repeating: 0)

    /// Members are below this.
    static let slotsMax = 256

    func contains(_ slot: Int) -> Bool { words[slot >> 6] >> UInt64(slot & 63) & 1 == 1 }

    mutating func insert(_ slot: Int) { words[slot >> 6] |= 1 << UInt64(slot & 63) }

    mutating func remove(_ slot: Int) { words[slot >> 6] &= ~(1 << UInt64(slot & 63)) }

    func isSubset(of other: SlotSet) -> Bool { words & ~other.words == SIMD4(repeating: 0) }
}
