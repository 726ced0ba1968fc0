/// Which data blocks of a target are in use: a bitmap in memory, rebuilt when the target is loaded.
///
/// Nothing of it is on disk: the layer above marks the blocks that its checkpoint and log refer to
/// (`markUsed`), everything else is free. A block that the last durable log group has a check on
/// is not given out again before a later group is durable, because recovery verifies those checks.
/// Confined to the xstream of its store.
public final class BlockAllocator {
    /// The number of data blocks.
    public let totalBlocks: UInt32

    /// Blocks that can be given out now, those kept back for privileged callers included.
    @safe @exclusivity(unchecked) public private(set) var freeBlocks: UInt32

    /// Blocks kept back for deletes and checkpoints, which need space to make space.
    public let reserveBlocks: UInt32

    /// Blocks in use, reserved, or freed a moment ago and not reusable yet.
    public var usedBlocks: UInt32 { totalBlocks - freeBlocks }

    /// Blocks freed that wait for the next durable log group.
    @safe @exclusivity(unchecked) public private(set) var quarantinedBlocks: UInt32 = 0

    /// One bit a block: set means in use.
    @safe @exclusivity(unchecked) private var words: [UInt64]
    /// Free blocks of each chunk of `chunkWords` words, to skip full ones.
    @safe @exclusivity(unchecked) private var chunkFree: [UInt32]
    /// One bit a block: the last durable group has a check on it.
    @safe @exclusivity(unchecked) private var guardWords: [UInt64]
    @safe @exclusivity(unchecked) private var guardedExtents: [BlockExtent] = []
    @safe @exclusivity(unchecked) private var quarantine: [BlockExtent] = []
    /// Where the next search begins for up to `smallMax` blocks, and where for more: small values
    /// stay together, and find prepared blocks (`BlockPreparer`).
    @safe @exclusivity(unchecked) private(set) var smallCursor: UInt32 = 0
    @safe @exclusivity(unchecked) private var largeCursor: UInt32

    private static let chunkWords = 64
    private static let chunkBlocks = UInt32(chunkWords * 64)
    /// The most blocks of a small reservation.
    static let smallMax: UInt32 = 8
    /// The most runs that one search for a contiguous run looks at.
    static let runsExaminedMax = 512

    /// All `totalBlocks` (at least 1) are free. `reserveBlocks` defaults to 1/32 of them.
    public init(totalBlocks: UInt32, reserveBlocks: UInt32? = nil) {
        precondition(totalBlocks > 0, "an allocator needs blocks")
        self.totalBlocks = totalBlocks
        self.reserveBlocks = min(totalBlocks, reserveBlocks ?? totalBlocks / 32)
        freeBlocks = totalBlocks
        largeCursor = totalBlocks / 2
        let wordCount = (Int(totalBlocks) + 63) / 64
        words = [UInt64](repeating: 0, count: wordCount)
        guardWords = words
        chunkFree = (0..<(wordCount + Self.chunkWords - 1) / Self.chunkWords).map { chunk in
            min(Self.chunkBlocks, totalBlocks - UInt32(chunk) * Self.chunkBlocks)
        }
        // The bits behind the last block are never free.
        if totalBlocks % 64 != 0 { words[wordCount - 1] = ~0 << UInt64(totalBlocks % 64) }
    }

    // MARK: - Reserving and freeing

    /// Takes `blocks` blocks (at least 1), in as few extents as it finds quickly.
    ///
    /// Throws `.full`, and takes nothing, when there are too few; the last `reserveBlocks` are for
    /// `privileged` callers.
    public func reserve(
        blocks: UInt32, privileged: Bool = false
    ) throws(BIOError) -> [BlockExtent] {
        precondition(blocks > 0, "a reservation of no blocks")
        let kept = privileged ? 0 : reserveBlocks
        guard freeBlocks >= kept, freeBlocks - kept >= blocks else {
            let unit = UInt64(BlockDevice.blockSize)
            throw .full(
                requested: UInt64(blocks) * unit,
                free: UInt64(freeBlocks - min(kept, freeBlocks)) * unit)
        }
        let isSmall = blocks <= Self.smallMax
        let cursor = isSmall ? smallCursor : largeCursor
        if let run = contiguous(blocks, from: cursor) {
            take(run)
            let next = run.end == UInt64(totalBlocks) ? 0 : UInt32(run.end)
            if isSmall { smallCursor = next } else { largeCursor = next }
            return [run]
        }
        var extents: [BlockExtent] = []
        var missing = blocks
        gather(&missing, into: &extents, runMin: max(1, blocks / 8), from: cursor)
        if missing > 0 { gather(&missing, into: &extents, runMin: 1, from: cursor) }
        precondition(missing == 0, "the bitmap has fewer free blocks than were counted")
        return extents
    }

    /// Takes all free blocks of `extent`, for a moment: `cancel` gives them back. Takes none when
    /// that would leave less than is kept for privileged callers, and as much again.
    func takeFree(in extent: BlockExtent) -> [BlockExtent] {
        precondition(extent.end <= UInt64(totalBlocks), "no such blocks")
        guard freeBlocks / 2 > reserveBlocks, freeBlocks / 2 > extent.count else { return [] }
        var extents: [BlockExtent] = []
        var position = extent.start
        while let first = firstFree(from: position), UInt64(first) < extent.end {
            let run = BlockExtent(
                start: first,
                count: runLength(from: first, max: UInt32(extent.end - UInt64(first))))
            take(run)
            extents.append(run)
            position = first + run.count
        }
        return extents
    }

    /// Gives back blocks that were reserved and that no log record refers to.
    public func cancel(_ extents: [BlockExtent]) {
        for extent in extents { release(extent) }
    }

    /// Gives back blocks whose release is durable: call it from `apply` of the record that frees
    /// them, or later. Traps when one of them is free already.
    public func free(_ extents: [BlockExtent]) {
        for extent in extents {
            if !guardedExtents.isEmpty, isGuarded(extent) {
                precondition(allUsed(extent), "blocks freed that are free: \(extent)")
                quarantine.append(extent)
                quarantinedBlocks += extent.count
            } else {
                release(extent)
            }
        }
    }

    /// While loading: `extent` is in use. Throws `.corrupt` when it is out of range or in use
    /// already, which means that what was loaded contradicts itself.
    public func markUsed(_ extent: BlockExtent) throws(BIOError) {
        guard extent.count > 0, extent.end <= UInt64(totalBlocks) else {
            throw .outOfRange(
                "blocks \(extent.start)..<\(extent.end) of \(totalBlocks) cannot be in use")
        }
        guard runLength(from: extent.start, max: extent.count) == extent.count else {
            throw .corrupt(
                path: "block map", offset: UInt64(extent.start) * UInt64(BlockDevice.blockSize),
                what: "blocks \(extent.start)..<\(extent.end) are referred to twice")
        }
        take(extent)
    }

    /// Whether all blocks of `extent` are in use (or wait in quarantine).
    public func isUsed(_ extent: BlockExtent) -> Bool {
        extent.end <= UInt64(totalBlocks) && allUsed(extent)
    }

    // MARK: - Checks of the last durable group

    /// A group with checks on `extents` is durable now, so the checks of the one before no longer
    /// matter and its blocks may be given out again.
    func guardOnly(_ extents: [BlockExtent]) {
        for extent in guardedExtents { forEachWord(extent) { guardWords[$0] &= ~$1 } }
        let released = quarantine
        quarantine.removeAll(keepingCapacity: true)
        quarantinedBlocks = 0
        for extent in released { release(extent) }
        guardedExtents = extents
        for extent in extents { forEachWord(extent) { guardWords[$0] |= $1 } }
    }

    private func isGuarded(_ extent: BlockExtent) -> Bool {
        var found = false
        forEachWord(extent) { if guardWords[$0] & $1 != 0 { found = true } }
        return found
    }

    // MARK: - The bitmap

    private func take(_ extent: BlockExtent) {
        forEachWord(extent) { index, mask in
            precondition(words[index] & mask == 0, "blocks taken that are in use: \(extent)")
            words[index] |= mask
            chunkFree[index / Self.chunkWords] -= UInt32(mask.nonzeroBitCount)
        }
        freeBlocks -= extent.count
    }

    private func release(_ extent: BlockExtent) {
        forEachWord(extent) { index, mask in
            precondition(words[index] & mask == mask, "blocks freed that are free: \(extent)")
            words[index] &= ~mask
            chunkFree[index / Self.chunkWords] += UInt32(mask.nonzeroBitCount)
        }
        freeBlocks += extent.count
    }

    private func allUsed(_ extent: BlockExtent) -> Bool {
        var used = true
        forEachWord(extent) { if words[$0] & $1 != $1 { used = false } }
        return used
    }

    /// Calls `body` with each word that `extent` touches and the mask of its bits.
    private func forEachWord(_ extent: BlockExtent, _ body: (Int, UInt64) -> Void) {
        precondition(extent.count > 0 && extent.end <= UInt64(totalBlocks), "no such blocks")
        var block = UInt64(extent.start)
        while block < extent.end {
            let bit = block % 64
            let length = min(64 - bit, extent.end - block)
            let mask = (length == 64 ? UInt64.max : (1 << length) - 1) << bit
            body(Int(block / 64), mask)
            block += length
        }
    }

    /// The first free block at or after `start`, or nil.
    private func firstFree(from start: UInt32) -> UInt32? {
        guard start < totalBlocks else { return nil }
        var index = Int(start / 64)
        var free = ~words[index] & (UInt64.max << UInt64(start % 64))
        while free == 0 {
            index += 1
            while index < words.count, index % Self.chunkWords == 0,
                chunkFree[index / Self.chunkWords] == 0
            {
                index += Self.chunkWords
            }
            guard index < words.count else { return nil }
            free = ~words[index]
        }
        return UInt32(index * 64 + free.trailingZeroBitCount)
    }

    /// The number of free blocks from `start` on without a gap, up to `max`.
    private func runLength(from start: UInt32, max: UInt32) -> UInt32 {
        var length: UInt32 = 0
        while length < max, start + length < totalBlocks {
            let block = start + length
            let bit = UInt64(block % 64)
            let zeroes = (words[Int(block / 64)] >> bit).trailingZeroBitCount
            let run = min(64 - bit, UInt64(zeroes))
            length += UInt32(run)
            if run < 64 - bit { break }
        }
        return min(length, max)
    }

    /// A free run of `blocks`, next after `cursor`, or nil when a bounded search finds none.
    private func contiguous(_ blocks: UInt32, from cursor: UInt32) -> BlockExtent? {
        var examined = 0
        for start in [cursor, 0] {
            var position = start
            while examined < Self.runsExaminedMax, let first = firstFree(from: position) {
                let length = runLength(from: first, max: blocks)
                if length == blocks { return BlockExtent(start: first, count: blocks) }
                position = first + length
                examined += 1
            }
        }
        return nil
    }

    /// Takes runs of at least `runMin` blocks until nothing is missing.
    private func gather(
        _ missing: inout UInt32, into extents: inout [BlockExtent], runMin: UInt32,
        from cursor: UInt32
    ) {
        for start in [cursor, 0] {
            var position = start
            while missing > 0, let first = firstFree(from: position) {
                let length = runLength(from: first, max: missing)
                position = first + length
                guard length >= min(runMin, missing) else { continue }
                let extent = BlockExtent(start: first, count: length)
                take(extent)
                extents.append(extent)
                missing -= length
            }
        }
    }

    /// Verifies the counts against the bitmap. For tests and simulations: O(blocks).
    package func checkInvariants() {
        let bits = UInt32(words.count * 64) - totalBlocks
        let used = words.reduce(0) { $0 + $1.nonzeroBitCount }
        precondition(UInt32(used) - bits == usedBlocks, "the count of free blocks is wrong")
        for chunk in chunkFree.indices {
            let range = chunk * Self.chunkWords..<min(words.count, (chunk + 1) * Self.chunkWords)
            let free = words[range].reduce(0) { $0 + (~$1).nonzeroBitCount }
            precondition(UInt32(free) == chunkFree[chunk], "the count of chunk \(chunk) is wrong")
        }
        for extent in quarantine { precondition(allUsed(extent)) }
    }
}
