internal import CUring
internal import DrayRuntime
internal import Glibc

/// A namespace of an NVMe controller through its generic device: the commands go to the
/// controller's queues by io_uring, past the block layer of the kernel.
///
/// What exceeds the most bytes of one command is several, under way at once. A durable write has
/// "forced unit access"; a flush is left out where the controller has no volatile cache.
@safe final class NVMeDevice: BlockDevice {
    @safe @exclusivity(unchecked) private var space: NVMeNamespace?
    private let ring: TransferRing
    private let xstream: XStream
    private let number: UInt32
    private let blockShift: UInt64
    private let transferMax: Int
    private let hasVolatileCache: Bool
    private let deallocates: Bool

    /// Throws an errno when the kernel gives no ring for commands.
    init(space: NVMeNamespace, on xstream: XStream) throws(TransferRing.RingError) {
        ring = try TransferRing(descriptor: space.descriptor, commands: true, on: xstream)
        self.space = space
        self.xstream = xstream
        number = space.number
        blockShift = space.blockShift
        transferMax = space.transferMax
        hasVolatileCache = space.hasVolatileCache
        deallocates = space.deallocates
        super.init(name: space.path, size: space.size)
    }

    /// One command of a transfer: which bytes of the buffer, and whether it flushes instead.
    private struct Part {
        var start: Int
        var count: Int
        var isFlush: Bool { count == 0 }
    }

    override func read(
        into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64
    ) async throws(BIOError) {
        try unsafe checkTransfer(UnsafeRawBufferPointer(buffer), at: offset)
        let number = number
        try await measured(.read, bytes: buffer.count, on: xstream) { () async throws(BIOError) in
            try unsafe await perform(parts(buffer.count), at: offset) { ring, part, first, slot in
                // SAFETY: the caller keeps the buffer until this returns.
                unsafe dray_nvme_read(
                    ring, number, buffer.baseAddress! + part.start, UInt32(part.count), first,
                    UInt32(part.count >> blockShift), slot)
            }
        }
    }

    override func write(
        _ buffer: UnsafeRawBufferPointer, at offset: UInt64, durable: Bool
    ) async throws(BIOError) {
        try unsafe checkTransfer(buffer, at: offset)
        try await measured(
            durable ? .durableWrite : .write, bytes: buffer.count, on: xstream
        ) { () async throws(BIOError) in
            try unsafe await write(buffer, parts(buffer.count), at: offset, durable: durable)
        }
    }

    override func writeAndFlush(
        _ buffer: UnsafeRawBufferPointer, at offset: UInt64
    ) async throws(BIOError) {
        try unsafe checkTransfer(buffer, at: offset)
        try await measured(
            .durableWrite, bytes: buffer.count, on: xstream
        ) { () async throws(BIOError) in
            // The flush covers what was written before, and the writes cover themselves: nothing
            // has to wait for anything.
            var parts = parts(buffer.count)
            if hasVolatileCache { parts.append(Part(start: 0, count: 0)) }
            try unsafe await write(buffer, parts, at: offset, durable: true)
        }
    }

    private func write(
        _ buffer: UnsafeRawBufferPointer, _ parts: [Part], at offset: UInt64, durable: Bool
    ) async throws(BIOError) {
        let number = number
        let blockShift = Int(blockShift)
        try unsafe await perform(parts, at: offset) { ring, part, first, slot in
            // SAFETY: the caller keeps the buffer until this returns.
            unsafe part.isFlush
                ? dray_nvme_flush(ring, number, slot)
                : dray_nvme_write(
                    ring, number, buffer.baseAddress! + part.start, UInt32(part.count), first,
                    UInt32(part.count >> blockShift), durable, slot)
        }
    }

    override func flush() async throws(BIOError) {
        try await measured(.flush, bytes: 0, on: xstream) { () async throws(BIOError) in
            guard hasVolatileCache else { return }
            let number = number
            try unsafe await perform([Part(start: 0, count: 0)], at: 0) { ring, _, _, slot in
                unsafe dray_nvme_flush(ring, number, slot)
            }
        }
    }

    private func parts(_ count: Int) -> [Part] {
        stride(from: 0, to: count, by: transferMax).map {
            Part(start: $0, count: min(transferMax, count - $0))
        }
    }

    /// Performs all `parts` of a transfer at `offset`; `queue` gets each with its first logical
    /// block. Those that fail for a moment only are tried again, but for a flush: nobody knows
    /// what one that failed has left.
    private func perform(
        _ parts: [Part], at offset: UInt64,
        _ queue: (OpaquePointer, Part, _ first: UInt64, _ slot: UInt64) -> Bool
    ) async throws(BIOError) {
        var left = parts
        var attempts = 0
        while !left.isEmpty {
            let now = left
            let first = { [blockShift] (part: Part) in (offset + UInt64(part.start)) >> blockShift }
            var results: [Int32]
            if now.count == 1 {
                results = [
                    unsafe await ring.perform { ring, slot in
                        unsafe queue(ring, now[0], first(now[0]), slot)
                    }
                ]
            } else {
                results = unsafe await ring.perform(count: now.count) { ring, index, slot in
                    unsafe queue(ring, now[index], first(now[index]), slot)
                }
            }
            left = []
            attempts += 1
            for (part, result) in zip(now, results) {
                let status = NVMeStatus(result)
                if status.isSuccess { continue }
                guard !part.isFlush, status.isTemporary, attempts <= FileDevice.retriesMax else {
                    throw status.error(name, offset: offset + UInt64(part.start))
                }
                left.append(part)
            }
        }
    }

    override var canDiscard: Bool { deallocates }
    override var discardsByDefault: Bool { deallocates }

    override func discard(_ range: Range<UInt64>) async throws(BIOError) {
        try checkDiscard(range)
        guard deallocates else { return }
        try await measured(.discard, bytes: range.count, on: xstream) { () async throws(BIOError) in
            var start = range.lowerBound
            while start < range.upperBound {
                let length = min(range.upperBound - start, 1 << 30)
                let status = NVMeStatus(await deallocate(start, length))
                guard status.isSuccess else { throw status.error(name, offset: start) }
                start += length
            }
        }
    }

    /// The controller reads which blocks from memory of ours.
    private func deallocate(_ start: UInt64, _ length: UInt64) async -> Int32 {
        let list = IOBuffer(count: BlockDevice.blockSize)
        let number = number
        return unsafe await ring.perform { [blockShift] ring, slot in
            let address = unsafe list.bytes.baseAddress!
            let range = unsafe address.bindMemory(to: dray_nvme_range.self, capacity: 1)
            unsafe range.pointee = dray_nvme_range(
                attributes: 0, count: UInt32(length >> blockShift), first: start >> blockShift)
            return unsafe dray_nvme_deallocate(ring, number, range, slot)
        }
    }

    override func close() async {
        await ring.close()
        space = nil
    }
}
