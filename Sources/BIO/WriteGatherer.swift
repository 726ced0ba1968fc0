internal import DequeModule
internal import DrayRuntime

/// Joins small writes to neighbouring data blocks into one.
///
/// The allocator gives out blocks in order, so the values of updates that come together lie side
/// by side, and a device takes them as one write at the cost of one. The pieces are copied into a
/// buffer of our own, which is much cheaper than another transfer. While as many writes are under
/// way as there may be, what comes waits, and the next write is so much the larger; a lone piece
/// waits for nobody.
final class WriteGatherer {
    /// The most bytes of a piece; what is longer is better written from where it is.
    static let pieceBytesMax = 32 << 10
    /// The most bytes of one gathered write.
    static let writeBytesMax = 512 << 10
    /// The most rounds of the xstream that a write waits for more pieces, and how many are enough.
    static let roundsMax = 8
    static let gatheredEnough = 16
    /// The most gathered writes at once.
    static let writesMax = 2

    /// A small write that waits, and who waits for it.
    @safe struct Piece {
        // SAFETY: the caller of `write` keeps the memory until it returns.
        let bytes: UnsafeRawBufferPointer
        let block: UInt32
        let waiter: Waiter<BIOError?>

        var blocks: UInt32 { UInt32(unsafe bytes.count / BlockDevice.blockSize) }
    }

    private let device: BlockDevice
    /// Where data block 0 is on the device.
    private let dataOffset: UInt64
    private let xstream: XStream
    @safe @exclusivity(unchecked) private var pieces = Deque<Piece>()
    @safe @exclusivity(unchecked) private var writes = 0
    @safe @exclusivity(unchecked) private var spare: [IOBuffer] = []

    init(device: BlockDevice, dataOffset: UInt64, xstream: XStream) {
        self.device = device
        self.dataOffset = dataOffset
        self.xstream = xstream
    }

    /// Writes `bytes`, whole blocks, from data block number `block` on; returns when the write has
    /// ended, not durably.
    func write(_ bytes: UnsafeRawBufferPointer, to block: UInt32) async throws(BIOError) {
        let error = await Waiter<BIOError?>.suspend { waiter in
            unsafe pieces.append(Piece(bytes: bytes, block: block, waiter: waiter))
            guard writes < WriteGatherer.writesMax else { return }
            writes += 1
            xstream.spawn { await self.run() }
        }
        if let error { throw error }
    }

    private func newBuffer() -> IOBuffer {
        let buffer = IOBuffer(count: WriteGatherer.writeBytesMax)
        device.register(buffer)
        return buffer
    }

    /// Writes until nothing waits.
    private func run() async {
        let buffer = spare.popLast() ?? newBuffer()
        var run: [Piece] = []
        while !pieces.isEmpty {
            await letGather()
            guard let first = pieces.first else { break }
            takeRun(into: &run)
            var end = 0
            for piece in run {
                let count = unsafe piece.bytes.count
                unsafe buffer.writable(end..<end + count).copyMemory(from: piece.bytes)
                end += count
            }
            var failure: BIOError?
            do throws(BIOError) {
                let offset = dataOffset + UInt64(first.block) * UInt64(BlockDevice.blockSize)
                try unsafe await device.write(buffer.readable(0..<end), at: offset, durable: false)
            } catch {
                failure = error
            }
            for piece in run { piece.waiter.resume(returning: failure) }
            run.removeAll(keepingCapacity: true)
        }
        writes -= 1
        spare.append(buffer)
    }

    /// Waits while each round of the xstream brings more pieces.
    private func letGather() async {
        var count = 0
        for _ in 0..<WriteGatherer.roundsMax
        where pieces.count > count && pieces.count < WriteGatherer.gatheredEnough {
            count = pieces.count
            await xstream.yield()
        }
    }

    /// Takes the piece that came first, and those that continue where the one before ends.
    private func takeRun(into run: inout [Piece]) {
        var bytes = 0
        var next: Int? = 0
        while let index = next {
            let piece = pieces.remove(at: index)
            run.append(piece)
            unsafe bytes += piece.bytes.count
            guard bytes + WriteGatherer.pieceBytesMax <= WriteGatherer.writeBytesMax else { return }
            // Mostly the next one: they come in the order of their blocks.
            next = pieces.firstIndex { $0.block == piece.block + piece.blocks }
        }
    }
}
