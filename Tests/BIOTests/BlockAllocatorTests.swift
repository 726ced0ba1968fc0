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
}
