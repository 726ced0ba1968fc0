internal import BIO

/// A set of the blocks of a store: one bit for each.
struct BlockSet: Equatable {
    private(set) var words: [UInt64]
    private(set) var count: UInt64 = 0

    init(totalBlocks: UInt32) {
        words = [UInt64](repeating: 0, count: (Int(totalBlocks) + 63) / 64)
    }

    func contains(_ block: UInt32) -> Bool {
        let index = Int(block) / 64
        return index < words.count && words[index] >> UInt64(block % 64) & 1 == 1
    }

    /// Whether all blocks of an extent are here.
    func contains(_ extent: BlockExtent) -> Bool {
        (extent.start..<extent.start + extent.count).allSatisfy { contains($0) }
    }

    /// Whether any block of an extent is here.
    func touches(_ extent: BlockExtent) -> Bool {
        (extent.start..<extent.start + extent.count).contains { contains($0) }
    }

    /// Puts 64 blocks at once.
    mutating func set(_ word: UInt64, at index: Int) {
        count -= UInt64(words[index].nonzeroBitCount)
        words[index] = word
        count += UInt64(word.nonzeroBitCount)
    }

    /// Adds blocks, which must be blocks of the store. Returns the first that was there already.
    mutating func insert(_ extent: BlockExtent) -> UInt32? {
        var twice: UInt32?
        for block in extent.start..<extent.start + extent.count {
            if contains(block) {
                twice = twice ?? block
            } else {
                words[Int(block) / 64] |= 1 << UInt64(block % 64)
                count += 1
            }
        }
        return twice
    }

    mutating func remove(_ extent: BlockExtent) {
        for block in extent.start..<extent.start + extent.count where contains(block) {
            words[Int(block) / 64] &= ~(1 << UInt64(block % 64))
            count -= 1
        }
    }

    /// The runs of blocks that are here, and not in `other`, among those of some words; `limit` of
    /// them at most.
    func runs(
        without other: BlockSet? = nil, inWords range: Range<Int>? = nil, limit: Int = .max
    ) -> [BlockExtent] {
        var runs: [BlockExtent] = []
        for index in range ?? words.indices where words[index] != 0 {
            let word = words[index] & ~(other?.words[index] ?? 0)
            for bit in 0..<64 as Range<UInt64> where word >> bit & 1 == 1 {
                let block = UInt32(index * 64) + UInt32(bit)
                if let last = runs.last, last.end == UInt64(block) {
                    runs[runs.count - 1].count += 1
                } else if runs.count < limit {
                    runs.append(BlockExtent(start: block, count: 1))
                } else {
                    return runs
                }
            }
        }
        return runs
    }
}
