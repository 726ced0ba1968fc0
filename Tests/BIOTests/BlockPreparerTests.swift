import DrayRuntime
import Testing

@testable import BIO

/// A device that knows which of its blocks were written, and how often.
private final class SparseDevice: BlockDevice {
    let xstream: XStream
    var writes: [UInt64: Int] = [:]
    var isBroken = false

    init(blocks: UInt64, xstream: XStream) {
        self.xstream = xstream
        super.init(name: "sparse", size: blocks * 4096)
    }

    override func write(
        _ buffer: UnsafeRawBufferPointer, at offset: UInt64, durable: Bool
    ) async throws(BIOError) {
        await xstream.sleep(for: .microseconds(100))
        if isBroken { throw .failed(path: name, offset: offset, code: 5, message: "broken") }
        for block in 0..<UInt64(buffer.count / 4096) {
            writes[offset / 4096 + block, default: 0] += 1
        }
    }

    override func firstUnwritten(in range: Range<UInt64>) -> Range<UInt64>? {
        let blocks = range.lowerBound / 4096..<range.upperBound / 4096
        guard let first = blocks.first(where: { writes[$0] == nil }) else { return nil }
        let last = (first..<blocks.upperBound).first { writes[$0] != nil } ?? blocks.upperBound
        return first * 4096..<last * 4096
    }
}

@Suite struct BlockPreparerTests {
    @Test func freeBlocksAheadAreWrittenOnceAndOthersNever() {
        let node = SimulatedNode(seed: 1)
        let finished = node.run {
            let total: UInt32 = 60_000
            let device = SparseDevice(blocks: UInt64(total) + 3, xstream: node.xstream)
            let allocator = BlockAllocator(totalBlocks: total, reserveBlocks: 10)
            let used = BlockExtent(start: 1000, count: 700)
            try allocator.markUsed(used)
            device.writes[7] = 1
            let preparer = BlockPreparer(
                device: device, allocator: allocator, dataOffset: 3 * 4096, xstream: node.xstream)
            preparer.advance()
            preparer.advance()
            await node.xstream.sleep(for: .seconds(1))
            let window = UInt64(BlockPreparer.windowBlocks)
            #expect(allocator.usedBlocks == used.count)
            for block in 0..<window {
                let isUsed = block >= UInt64(used.start) && block < used.end
                #expect(device.writes[block + 3] == (isUsed ? nil : 1))
            }
            #expect(device.writes.count == Int(window) - Int(used.count))
            // Half of it may be used up before there is more.
            let before = device.writes.count
            while allocator.smallCursor < BlockPreparer.windowBlocks / 2 {
                #expect(device.writes.count == before)
                _ = try allocator.reserve(blocks: 1)
                preparer.advance()
            }
            _ = try allocator.reserve(blocks: 1)
            preparer.advance()
            // The second write is under way.
            await node.xstream.sleep(for: .microseconds(150))
            #expect(allocator.usedBlocks > allocator.smallCursor)
            await preparer.stop()
            let more = device.writes.count
            #expect(more > before)
            preparer.advance()
            await node.xstream.sleep(for: .seconds(1))
            #expect(device.writes.count == more)
            allocator.checkInvariants()
        }
        #expect(finished)
    }

    /// Behind the blocks of the data device lie those of another target: the blocks of the metadata
    /// device, which come next by their numbers, are elsewhere.
    @Test func blocksOfTheMetadataDeviceAreNotPrepared() {
        let node = SimulatedNode(seed: 4)
        let finished = node.run {
            let data = BlockPreparer.windowBlocks - 400
            let device = SparseDevice(blocks: UInt64(data) + 8000, xstream: node.xstream)
            let allocator = BlockAllocator(totalBlocks: data + 4000, metadataBlocks: 4000)
            let preparer = BlockPreparer(
                device: device, allocator: allocator, dataOffset: 3 * 4096, xstream: node.xstream)
            preparer.advance()
            await node.xstream.sleep(for: .seconds(1))
            #expect(device.writes.count == Int(data))
            #expect(device.writes.keys.max() == UInt64(data) + 2)
            #expect(allocator.usedBlocks == 0)
            await preparer.stop()
        }
        #expect(finished)
    }

    @Test func anErrorEndsItAndGivesTheBlocksBack() {
        let node = SimulatedNode(seed: 2)
        let finished = node.run {
            let device = SparseDevice(blocks: 40_000, xstream: node.xstream)
            device.isBroken = true
            let allocator = BlockAllocator(totalBlocks: 40_000)
            let preparer = BlockPreparer(
                device: device, allocator: allocator, dataOffset: 0, xstream: node.xstream)
            preparer.advance()
            await node.xstream.sleep(for: .seconds(1))
            #expect(allocator.usedBlocks == 0)
            device.isBroken = false
            preparer.advance()
            await preparer.stop()
            #expect(device.writes.isEmpty)
        }
        #expect(finished)
    }

    /// Neighbours that come together are one transfer; what is apart is not.
    @Test func smallWritesToNeighboursAreOneTransfer() {
        let node = SimulatedNode(seed: 3)
        let finished = node.run {
            let device = SparseDevice(blocks: 1000, xstream: node.xstream)
            let gatherer = WriteGatherer(device: device, dataOffset: 4096, xstream: node.xstream)
            let buffer = IOBuffer(count: 4096)
            var ended = 0
            let start = node.xstream.now
            for block in Array(10..<40 as Range<UInt32>) + Array(50..<60) {
                node.xstream.spawn {
                    do {
                        try await gatherer.write(UnsafeRawBufferPointer(buffer.bytes), to: block)
                    } catch {
                        Issue.record("\(error)")
                    }
                    ended += 1
                }
            }
            while ended < 40 { await node.xstream.sleep(for: .microseconds(10)) }
            #expect(device.writes.keys.sorted() == Array(11..<41) + Array(51..<61))
            #expect(device.writes.values.allSatisfy { $0 == 1 })
            // One by one, two at a time, it would be twenty times the device's 100 microseconds.
            #expect(node.xstream.now.since(start) < .microseconds(500))
        }
        #expect(finished)
    }
}
