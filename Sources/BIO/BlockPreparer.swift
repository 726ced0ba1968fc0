internal import DrayRuntime

/// Writes zeroes to free blocks that were never written, some way ahead of where small values go.
///
/// A file system reserves space without writing it. The first write to such a place changes the
/// file's metadata, and the flush after it has to commit that: a lone durable write of 4 KiB then
/// takes up to nine times as long (measured on ext4). Prepared a mebibyte at a time, this costs
/// next to nothing for each block, and only the first time. Long values pay little as they are,
/// and go elsewhere (`BlockAllocator`).
///
/// Only blocks that nobody refers to are written, and they are taken while that lasts.
final class BlockPreparer {
    /// How far ahead is prepared: 64 MiB. Work begins when half of that is left.
    static let windowBlocks: UInt32 = 16_384
    /// The most blocks of one write: 1 MiB.
    static let writeBlocks: UInt32 = 256

    private let device: BlockDevice
    private let allocator: BlockAllocator
    /// Where data block 0 is on the device.
    private let dataOffset: UInt64
    private let xstream: XStream
    /// Blocks from the allocator's cursor up to here are prepared, or in use.
    private var preparedEnd: UInt32 = 0
    private var isRunning = false
    private var isStopped = false
    private var stopWaiter: Waiter<Void>?

    init(device: BlockDevice, allocator: BlockAllocator, dataOffset: UInt64, xstream: XStream) {
        self.device = device
        self.allocator = allocator
        self.dataOffset = dataOffset
        self.xstream = xstream
    }

    /// Starts to prepare what small values will need next, unless there is enough. Cheap.
    func advance() {
        guard !isRunning, !isStopped else { return }
        let cursor = allocator.smallCursor
        // The cursor went back to the beginning, or on over used blocks.
        if cursor > preparedEnd || preparedEnd - cursor > BlockPreparer.windowBlocks {
            preparedEnd = cursor
        }
        guard preparedEnd - cursor < BlockPreparer.windowBlocks / 2,
            preparedEnd < allocator.dataBlocks
        else { return }
        isRunning = true
        xstream.spawn { await self.run() }
    }

    /// Waits for the write under way; nothing is written any more.
    func stop() async {
        isStopped = true
        if isRunning { await Waiter.suspend { stopWaiter = $0 } }
    }

    private func run() async {
        let unit = UInt64(BlockDevice.blockSize)
        let cursor = allocator.smallCursor
        let end = min(allocator.dataBlocks - cursor, BlockPreparer.windowBlocks) + cursor
        var zeroes: IOBuffer?
        while preparedEnd < end, !isStopped {
            let wanted = dataOffset + UInt64(preparedEnd) * unit..<dataOffset + UInt64(end) * unit
            guard let gap = device.firstUnwritten(in: wanted) else {
                preparedEnd = end
                break
            }
            let first = UInt32((gap.lowerBound - dataOffset) / unit)
            let last = UInt32((gap.upperBound - dataOffset + unit - 1) / unit)
            let count = min(last - first, BlockPreparer.writeBlocks)
            let buffer = zeroes ?? IOBuffer(count: Int(BlockPreparer.writeBlocks) * Int(unit))
            zeroes = buffer
            guard await prepare(BlockExtent(start: first, count: count), buffer) else { break }
            preparedEnd = first + count
        }
        isRunning = false
        if let waiter = stopWaiter {
            stopWaiter = nil
            waiter.resume()
        }
    }

    /// Writes `zeroes` to the free blocks of `extent`. False when that failed: then it is left to
    /// those who write values to find out what the device is up to.
    private func prepare(_ extent: BlockExtent, _ zeroes: IOBuffer) async -> Bool {
        let free = allocator.takeFree(in: extent)
        defer { allocator.cancel(free) }
        do throws(BIOError) {
            for part in free {
                let offset = dataOffset + UInt64(part.start) * UInt64(BlockDevice.blockSize)
                try unsafe await device.write(
                    zeroes.readable(0..<Int(part.byteCount)), at: offset, durable: false)
            }
            return true
        } catch {
            isStopped = true
            return false
        }
    }
}
