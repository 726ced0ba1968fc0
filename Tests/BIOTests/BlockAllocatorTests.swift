import DrayRuntime
import Testing

@testable import BIO

@Suite struct BlockAllocatorTests {
    @Test(arguments: [UInt64(1), 2, 3, 4, 5, 6])
    func behavesAsASetOfBlocks(seed: UInt64) throws {
        var entropy = Entropy(seed: seed)
        let total = UInt32(1 + entropy.below(9000))
        let allocator = BlockAllocator(totalBlocks: total)
        var used: Set<UInt32> = []
        var held: [[BlockExtent]] = []
        for step in 0..<600 {
            if entropy.chance(4, in: 10), !held.isEmpty {
                let extents = held.remove(at: Int(entropy.below(UInt64(held.count))))
                for extent in extents {
                    for block in extent.start..<UInt32(extent.end) { used.remove(block) }
                }
                allocator.cancel(extents)
            } else {
                let wish = UInt32(1 + entropy.below(entropy.chance(1, in: 4) ? 600 : 8))
                let privileged = entropy.chance(1, in: 2)
                let free = total - UInt32(used.count)
                let room = free - min(free, privileged ? 0 : allocator.reserveBlocks)
                do throws(BIOError) {
                    let extents = try allocator.reserve(blocks: wish, privileged: privileged)
                    #expect(wish <= room)
                    #expect(extents.reduce(0) { $0 + $1.count } == wish)
                    for extent in extents {
                        for block in extent.start..<UInt32(extent.end) {
                            #expect(used.insert(block).inserted, "block \(block) twice")
                        }
                    }
                    held.append(extents)
                } catch {
                    #expect(wish > room)
                    #expect(
                        error == .full(requested: UInt64(wish) * 4096, free: UInt64(room) * 4096))
                }
            }
            #expect(allocator.usedBlocks == UInt32(used.count))
            if step % 50 == 0 { allocator.checkInvariants() }
        }
        for extents in held { allocator.cancel(extents) }
        allocator.checkInvariants()
        #expect(allocator.freeBlocks == total)
        #expect(try allocator.reserve(blocks: total, privileged: true).count == 1)
    }

    @Test func aFreshMapGivesOneExtent() throws {
        let allocator = BlockAllocator(totalBlocks: 5000, reserveBlocks: 0)
        for wish: UInt32 in [1, 63, 64, 65, 2000] {
            #expect(try allocator.reserve(blocks: wish).count == 1)
        }
    }

    @Test func aScatteredMapIsUsedToTheLastBlock() throws {
        let allocator = BlockAllocator(totalBlocks: 10_000, reserveBlocks: 0)
        let all = try allocator.reserve(blocks: 10_000)
        #expect(all == [BlockExtent(start: 0, count: 10_000)])
        for block in stride(from: UInt32(1), to: 10_000, by: 2) {
            allocator.free([BlockExtent(start: block, count: 1)])
        }
        let extents = try allocator.reserve(blocks: 5000)
        #expect(extents.count == 5000)
        #expect(extents.allSatisfy { $0.start % 2 == 1 })
        #expect(allocator.freeBlocks == 0)
    }

    @Test func loadingRefusesWhatContradictsItself() throws {
        let allocator = BlockAllocator(totalBlocks: 100)
        try allocator.markUsed(BlockExtent(start: 10, count: 5))
        for extent in [
            BlockExtent(start: 14, count: 2), BlockExtent(start: 5, count: 6),
            BlockExtent(start: 99, count: 2), BlockExtent(start: 3, count: 0),
            BlockExtent(start: .max, count: .max),
        ] {
            #expect(throws: BIOError.self) { try allocator.markUsed(extent) }
        }
        #expect(allocator.usedBlocks == 5)
        allocator.checkInvariants()
    }

    @Test func blocksOfTheLastGroupAreNotReusedBeforeTheNext() throws {
        let allocator = BlockAllocator(totalBlocks: 128, reserveBlocks: 0)
        let first = try allocator.reserve(blocks: 100)
        allocator.guardOnly(first)
        allocator.free(first)
        #expect(allocator.quarantinedBlocks == 100 && allocator.freeBlocks == 28)
        #expect(throws: BIOError.self) { try allocator.reserve(blocks: 29) }
        let second = try allocator.reserve(blocks: 28)
        allocator.guardOnly(second)
        #expect(allocator.quarantinedBlocks == 0 && allocator.freeBlocks == 100)
        allocator.free([BlockExtent(start: 100, count: 14)])
        allocator.free([BlockExtent(start: 114, count: 14)])
        #expect(allocator.quarantinedBlocks == 28)
        allocator.guardOnly([])
        #expect(allocator.freeBlocks == 128)
        allocator.checkInvariants()
    }

    /// What is taken by turns lies apart, a stream at a time.
    @Test func streamsStayTogether() throws {
        let allocator = BlockAllocator(totalBlocks: 100_000, reserveBlocks: 0)
        var taken: [BlockStream: [BlockExtent]] = [:]
        var large: [BlockExtent] = []
        for _ in 0..<300 {
            for stream in BlockStream.allCases {
                taken[stream, default: []] += try allocator.reserve(blocks: 4, stream: stream)
            }
            large += try allocator.reserve(blocks: 40)
        }
        for extents in Array(taken.values) + [large] {
            for (first, second) in zip(extents, extents.dropFirst()) {
                #expect(first.end == UInt64(second.start))
            }
        }
        allocator.checkInvariants()
    }

    /// A stream that comes to where another is at work goes on behind it.
    @Test func streamsGoAroundEachOther() throws {
        let allocator = BlockAllocator(totalBlocks: 100_000, reserveBlocks: 0)
        // In the middle, where large ones begin.
        let large = try allocator.reserve(blocks: 100)[0]
        var small: [BlockExtent] = []
        while small.last?.start ?? 0 < 60_000 { small += try allocator.reserve(blocks: 8) }
        let chunk = large.start / 4096
        #expect(small.allSatisfy { $0.start / 4096 != chunk })
        // But nothing is out of reach.
        #expect(try allocator.reserve(blocks: allocator.freeBlocks).count > 0)
        #expect(allocator.freeBlocks == 0)
        allocator.checkInvariants()
    }

    @Test(arguments: [UInt64(1), 2, 3, 4])
    func metadataBlocksAreForMetadata(seed: UInt64) throws {
        var entropy = Entropy(seed: seed)
        let metadata = UInt32(1 + entropy.below(3000))
        let data = UInt32(3000 + entropy.below(3000))
        let allocator = BlockAllocator(totalBlocks: data + metadata, metadataBlocks: metadata)
        #expect(allocator.dataBlocks == data && allocator.reserveBlocks == data / 32)
        var held: [[BlockExtent]] = []
        for step in 0..<2000 {
            if entropy.chance(3, in: 10), !held.isEmpty {
                allocator.cancel(held.remove(at: Int(entropy.below(UInt64(held.count)))))
                continue
            }
            let streams = BlockStream.allCases
            let stream = streams[Int(entropy.below(UInt64(streams.count)))]
            let wish = UInt32(1 + entropy.below(40))
            let freeMetadata = allocator.freeMetadataBlocks
            let freeData = allocator.freeBlocks - freeMetadata
            do throws(BIOError) {
                let extents = try allocator.reserve(blocks: wish, stream: stream)
                let isOnMetadata =
                    (stream == .metadata || stream == .mirror) && freeMetadata >= wish
                for extent in extents {
                    if isOnMetadata {
                        #expect(extent.start >= data)
                    } else {
                        #expect(extent.end <= UInt64(data))
                    }
                }
                held.append(extents)
            } catch {
                #expect(freeData < wish + allocator.reserveBlocks)
                guard case .full = error else { throw error }
            }
            if step % 100 == 0 { allocator.checkInvariants() }
        }
        // An extent on both is what no store has.
        for extents in held { allocator.cancel(extents) }
        #expect(throws: BIOError.self) {
            try allocator.markUsed(BlockExtent(start: data - 1, count: 2))
        }
        #expect(allocator.freeBlocks == data + metadata)
        allocator.checkInvariants()
    }

    @Test func fragmentationCountsRuns() throws {
        let allocator = BlockAllocator(totalBlocks: 10_100, metadataBlocks: 100, reserveBlocks: 0)
        #expect(
            allocator.fragmentation
                == BlockFragmentation(
                    freeBlocks: 10_000, freeRuns: 1, largestFreeRun: 10_000))
        #expect(allocator.fragmentation.ratio == 0)
        _ = try allocator.reserve(blocks: 10_000)
        #expect(allocator.fragmentation == BlockFragmentation())
        for (start, count) in [(0, 10), (20, 1), (63, 70), (9_999, 1)] as [(UInt32, UInt32)] {
            allocator.free([BlockExtent(start: start, count: count)])
        }
        #expect(
            allocator.fragmentation
                == BlockFragmentation(freeBlocks: 82, freeRuns: 4, largestFreeRun: 70))
        #expect(abs(allocator.fragmentation.ratio - 12.0 / 82) < 1e-9)
    }
}
