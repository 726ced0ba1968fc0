/// For whom blocks are taken. Each stream goes its own way through the free blocks, so that what
/// is written, and later freed, together lies together.
public enum BlockStream: CaseIterable, Sendable {
    /// Updates of clients; small and large ones apart.
    case foreground
    /// What restores replicas: it comes in bulk, and dies at other times than what clients write.
    case rebuild
    /// What merges (compaction) copy of values: it is older than what clients write meanwhile, and
    /// has outlived what lay beside it. (DAOS: the allocation hint of aggregation)
    case aggregation
    /// The index: on the metadata device where there is one.
    ///
    /// Flushes and merges share it. The tables that a merge writes are freed by the next merges
    /// together with those of flushes. A stream of its own was tried: the free blocks lay in as
    /// many runs, and the longest was shorter.
    case metadata
    /// Second copies of metadata, on the same device: far from the first ones, if that can be.
    case mirror
}

/// How scattered the free blocks are.
public struct BlockFragmentation: Hashable, Sendable {
    /// Free blocks.
    public var freeBlocks: UInt32 = 0
    /// Runs of free blocks with used ones, or an end, on both sides.
    public var freeRuns: UInt32 = 0
    /// The longest of them, in blocks.
    public var largestFreeRun: UInt32 = 0

    public init(freeBlocks: UInt32 = 0, freeRuns: UInt32 = 0, largestFreeRun: UInt32 = 0) {
        self.freeBlocks = freeBlocks
        self.freeRuns = freeRuns
        self.largestFreeRun = largestFreeRun
    }

    /// Of 1, how much of the free space is outside the longest run; 0 when nothing is free.
    public var ratio: Double {
        freeBlocks == 0 ? 0 : 1 - Double(largestFreeRun) / Double(freeBlocks)
    }
}

/// Which data blocks of a target are in use: a bitmap in memory, rebuilt when the target is loaded.
///
/// The last `metadataBlocks` of them are on the metadata device, if there is one: only the streams
/// of metadata and its mirror take those, and no extent lies on both.
///
/// Nothing of it is on disk: the layer above marks the blocks that its checkpoint and log refer to
/// (`markUsed`), everything else is free. A block that the last durable log group has a check on
/// is not given out again before a later group is durable, because recovery verifies those checks.
/// Confined to the xstream of its store.
public final class BlockAllocator {
    /// The number of blocks, those on the metadata device included.
    public let totalBlocks: UInt32
    /// How many of them, the last ones, are on the metadata device.
    public let metadataBlocks: UInt32
    /// How many of them, the first ones, are on the data device.
    public var dataBlocks: UInt32 { totalBlocks - metadataBlocks }

    /// Blocks that can be given out now, those kept back for privileged callers included.
    @safe @exclusivity(unchecked) public private(set) var freeBlocks: UInt32

    /// How many of these are on the metadata device.
    @safe @exclusivity(unchecked) public private(set) var freeMetadataBlocks: UInt32

    /// How many of these are on the data device.
    public var freeDataBlocks: UInt32 { freeBlocks - freeMetadataBlocks }

    /// Blocks on the data device kept back for deletes and checkpoints, which need space to make
    /// space.
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
    /// Where the next search of each lane begins; nil before the first.
    @safe @exclusivity(unchecked) private var cursors = [UInt32?](
        repeating: nil, count: Lane.allCases.count)
    /// Extents that were freed since somebody last took this list; nil when nobody does.
    @safe @exclusivity(unchecked) private var freed: [BlockExtent]?
    @safe @exclusivity(unchecked) private var freedBlocks: UInt64 = 0

    /// A way through the free blocks.
    private enum Lane: Int, CaseIterable {
        case small, large, rebuild, aggregation, metadataOnData, metadata, mirrorOnData, mirror

        /// Where it begins, in eighths of the region.
        var start: UInt64 {
            switch self {
            case .small, .metadata: 0
            case .metadataOnData: 2
            case .aggregation: 3
            case .large, .mirror: 4
            case .mirrorOnData: 6
            case .rebuild: 7
            }
        }
    }

    /// Where the next small value goes: those find prepared blocks (`BlockPreparer`).
    var smallCursor: UInt32 { cursor(of: .small, in: 0..<dataBlocks) }

    private static let chunkWords = 64
    private static let chunkBlocks = UInt32(chunkWords * 64)
    /// The most blocks of a small reservation.
    static let smallMax: UInt32 = 8
    /// The most freed extents that are remembered for discarding.
    private static let freedMax = 8192
    /// The most runs that one search for a contiguous run looks at.
    static let runsExaminedMax = 512

    /// All `totalBlocks` are free; the last `metadataBlocks` of them, not all, are on a metadata
    /// device. `reserveBlocks` defaults to 1/32 of those that are not.
    public init(totalBlocks: UInt32, metadataBlocks: UInt32 = 0, reserveBlocks: UInt32? = nil) {
        precondition(totalBlocks > metadataBlocks, "an allocator needs blocks")
        self.totalBlocks = totalBlocks
        self.metadataBlocks = metadataBlocks
        let dataBlocks = totalBlocks - metadataBlocks
        self.reserveBlocks = min(dataBlocks, reserveBlocks ?? dataBlocks / 32)
        freeBlocks = totalBlocks
        freeMetadataBlocks = metadataBlocks
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

    /// Takes `blocks` blocks (at least 1), in as few extents as it finds quickly, for `stream`.
    ///
    /// Throws `.full`, and takes nothing, when there are too few; the last `reserveBlocks` of the
    /// data device are for `privileged` callers. Metadata goes to the data device when the metadata
    /// device has not enough.
    public func reserve(
        blocks: UInt32, privileged: Bool = false, stream: BlockStream = .foreground
    ) throws(BIOError) -> [BlockExtent] {
        precondition(blocks > 0, "a reservation of no blocks")
        let metadataLane: Lane? =
            switch stream {
            case .metadata: .metadata
            case .mirror: .mirror
            case .foreground, .rebuild, .aggregation: nil
            }
        if let metadataLane, freeMetadataBlocks >= blocks {
            return take(blocks, lane: metadataLane, in: dataBlocks..<totalBlocks)
        }
        let free = freeDataBlocks
        let kept = privileged ? 0 : reserveBlocks
        guard free >= kept, free - kept >= blocks else {
            let unit = UInt64(BlockDevice.blockSize)
            throw .full(
                requested: UInt64(blocks) * unit, free: UInt64(free - min(kept, free)) * unit)
        }
        let lane: Lane =
            switch stream {
            case .foreground: blocks <= Self.smallMax ? .small : .large
            case .rebuild: .rebuild
            case .aggregation: .aggregation
            case .metadata: .metadataOnData
            case .mirror: .mirrorOnData
            }
        return take(blocks, lane: lane, in: 0..<dataBlocks)
    }

    /// Takes blocks of `region`, which has enough.
    private func take(_ blocks: UInt32, lane: Lane, in region: Range<UInt32>) -> [BlockExtent] {
        if let run = contiguous(blocks, lane: lane, in: region) {
            take(run)
            cursors[lane.rawValue] =
                run.end == UInt64(region.upperBound) ? region.lowerBound : UInt32(run.end)
            return [run]
        }
        var extents: [BlockExtent] = []
        var missing = blocks
        let cursor = cursor(of: lane, in: region)
        for runMin in [max(1, blocks / 8), 1] where missing > 0 {
            gather(&missing, into: &extents, runMin: runMin, from: cursor, in: region)
        }
        precondition(missing == 0, "the bitmap has fewer free blocks than were counted")
        return extents
    }

    private func cursor(of lane: Lane, in region: Range<UInt32>) -> UInt32 {
        cursors[lane.rawValue]
            ?? region.lowerBound + UInt32(UInt64(region.count) * lane.start / 8)
    }

    /// Whether another lane is at work in the chunk of `block`.
    private func isClaimed(_ block: UInt32, butBy lane: Lane) -> Bool {
        for other in Lane.allCases where other != lane {
            if let cursor = cursors[other.rawValue],
                cursor / Self.chunkBlocks == block / Self.chunkBlocks
            {
                return true
            }
        }
        return false
    }

    /// Takes all free blocks of `extent`, for a moment: `cancel` gives them back. Takes none when
    /// that would leave less than is kept for privileged callers, and as much again.
    func takeFree(in extent: BlockExtent) -> [BlockExtent] {
        precondition(extent.end <= UInt64(totalBlocks), "no such blocks")
        precondition(!straddles(extent), "no such blocks")
        let isMetadata = extent.start >= dataBlocks
        let (free, kept) =
            isMetadata ? (freeMetadataBlocks, 0) : (freeDataBlocks, reserveBlocks)
        guard free / 2 > kept, free / 2 > extent.count else { return [] }
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
                noteFreed(extent)
            }
        }
    }

    private func noteFreed(_ extent: BlockExtent) {
        guard let count = freed?.count, count < Self.freedMax else { return }
        freed?.append(extent)
        freedBlocks += UInt64(extent.count)
    }

    /// From now on, what `free` frees is remembered for `takeFreed`.
    func rememberFreed() { freed = freed ?? [] }

    /// What was freed since the last call, as long as it was not too much to remember. Some of it
    /// may be in use again.
    func takeFreed() -> [BlockExtent] {
        guard let extents = freed, !extents.isEmpty else { return [] }
        freed = []
        freedBlocks = 0
        return extents
    }

    /// What waits for `takeFreed`.
    var freedSince: (extents: Int, blocks: UInt64) { (freed?.count ?? 0, freedBlocks) }

    /// The free blocks around `block` without a gap, up to `max` on each side; nil when it is in
    /// use.
    func freeRun(around block: UInt32, max: UInt32) -> BlockExtent? {
        let region = block < dataBlocks ? 0..<dataBlocks : dataBlocks..<totalBlocks
        let length = runLength(from: block, max: min(max, region.upperBound - block))
        guard length > 0 else { return nil }
        var start = block
        while start > region.lowerBound, block - start < max,
            words[Int((start - 1) / 64)] >> UInt64((start - 1) % 64) & 1 == 0
        {
            start -= 1
        }
        return BlockExtent(start: start, count: block - start + length)
    }

    /// While loading: `extent` is in use. Throws `.corrupt` when it is out of range or in use
    /// already, which means that what was loaded contradicts itself.
    public func markUsed(_ extent: BlockExtent) throws(BIOError) {
        guard extent.count > 0, extent.end <= UInt64(totalBlocks), !straddles(extent) else {
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
        for extent in released {
            release(extent)
            noteFreed(extent)
        }
        guardedExtents = extents
        for extent in extents { forEachWord(extent) { guardWords[$0] |= $1 } }
    }

    private func isGuarded(_ extent: BlockExtent) -> Bool {
        var found = false
        forEachWord(extent) { if guardWords[$0] & $1 != 0 { found = true } }
        return found
    }

    // MARK: - The bitmap

    /// Whether part of `extent` is on the data device and part on the metadata device.
    private func straddles(_ extent: BlockExtent) -> Bool {
        extent.start < dataBlocks && extent.end > UInt64(dataBlocks)
    }

    private func take(_ extent: BlockExtent) {
        forEachWord(extent) { index, mask in
            precondition(words[index] & mask == 0, "blocks taken that are in use: \(extent)")
            words[index] |= mask
            chunkFree[index / Self.chunkWords] -= UInt32(mask.nonzeroBitCount)
        }
        freeBlocks -= extent.count
        if extent.start >= dataBlocks { freeMetadataBlocks -= extent.count }
    }

    private func release(_ extent: BlockExtent) {
        forEachWord(extent) { index, mask in
            precondition(words[index] & mask == mask, "blocks freed that are free: \(extent)")
            words[index] &= ~mask
            chunkFree[index / Self.chunkWords] += UInt32(mask.nonzeroBitCount)
        }
        freeBlocks += extent.count
        if extent.start >= dataBlocks { freeMetadataBlocks += extent.count }
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

    /// A free run of `blocks`, next after the lane's cursor, away from where other lanes are at
    /// work if that can be; or nil when a bounded search finds none.
    private func contiguous(
        _ blocks: UInt32, lane: Lane, in region: Range<UInt32>
    ) -> BlockExtent? {
        let cursor = cursor(of: lane, in: region)
        for isAlone in [true, false] {
            var examined = 0
            for start in [cursor, region.lowerBound] {
                var position = start
                while examined < Self.runsExaminedMax, let first = firstFree(from: position),
                    first < region.upperBound
                {
                    examined += 1
                    if isAlone, isClaimed(first, butBy: lane) {
                        let (next, overflow) = (first / Self.chunkBlocks + 1)
                            .multipliedReportingOverflow(by: Self.chunkBlocks)
                        if overflow { break }
                        position = next
                        continue
                    }
                    let length = runLength(from: first, max: min(blocks, region.upperBound - first))
                    if length == blocks { return BlockExtent(start: first, count: blocks) }
                    position = first + length
                }
            }
        }
        return nil
    }

    /// Takes runs of at least `runMin` blocks until nothing is missing.
    private func gather(
        _ missing: inout UInt32, into extents: inout [BlockExtent], runMin: UInt32,
        from cursor: UInt32, in region: Range<UInt32>
    ) {
        for start in [cursor, region.lowerBound] {
            var position = start
            while missing > 0, let first = firstFree(from: position), first < region.upperBound {
                let length = runLength(from: first, max: min(missing, region.upperBound - first))
                position = first + length
                guard length >= min(runMin, missing) else { continue }
                let extent = BlockExtent(start: first, count: length)
                take(extent)
                extents.append(extent)
                missing -= length
            }
        }
    }

    /// How scattered the free blocks of the data device are. Goes through the whole bitmap.
    public var fragmentation: BlockFragmentation {
        var found = BlockFragmentation()
        var position: UInt32 = 0
        while let first = firstFree(from: position), first < dataBlocks {
            let length = runLength(from: first, max: dataBlocks - first)
            found.freeBlocks += length
            found.freeRuns += 1
            found.largestFreeRun = max(found.largestFreeRun, length)
            position = first + length
        }
        return found
    }

    /// Verifies the counts against the bitmap. For tests and simulations: O(blocks).
    package func checkInvariants() {
        let bits = UInt32(words.count * 64) - totalBlocks
        let used = words.reduce(0) { $0 + $1.nonzeroBitCount }
        precondition(UInt32(used) - bits == usedBlocks, "the count of free blocks is wrong")
        var freeMetadata: UInt32 = 0
        for block in dataBlocks..<totalBlocks
        where words[Int(block / 64)] >> UInt64(block % 64) & 1 == 0 { freeMetadata += 1 }
        precondition(freeMetadata == freeMetadataBlocks, "the count of metadata blocks is wrong")
        for chunk in chunkFree.indices {
            let range = chunk * Self.chunkWords..<min(words.count, (chunk + 1) * Self.chunkWords)
            let free = words[range].reduce(0) { $0 + (~$1).nonzeroBitCount }
            precondition(UInt32(free) == chunkFree[chunk], "the count of chunk \(chunk) is wrong")
        }
        for extent in quarantine { precondition(allUsed(extent)) }
    }
}
