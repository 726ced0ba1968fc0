internal import CUring
internal import DrayRuntime
internal import Glibc

/// A file or block device through io_uring, with a ring of its own on its xstream.
@safe final class FileDevice: BlockDevice {
    /// How often one transfer is tried again after EINTR, EAGAIN or no progress.
    static let retriesMax = 16
    /// The most bytes of one submission: a length of 32 bits, in whole blocks.
    static let submissionBytesMax = 1 << 30

    @safe @exclusivity(unchecked) private var file: OpenFile?
    private let ring: TransferRing
    private let xstream: XStream
    /// Until the kernel says that it cannot be done here.
    @safe @exclusivity(unchecked) private var mayDiscard = true

    /// Throws an errno when the kernel gives no ring.
    init(file: OpenFile, on xstream: XStream) throws(TransferRing.RingError) {
        ring = try TransferRing(descriptor: file.descriptor, on: xstream)
        self.file = file
        self.xstream = xstream
        super.init(name: file.path, size: file.size)
    }

    override func register(_ buffer: IOBuffer, sparingly: Bool) -> Bool {
        ring.register(buffer, sparingly: sparingly)
    }

    override func read(
        into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64
    ) async throws(BIOError) {
        try unsafe checkTransfer(UnsafeRawBufferPointer(buffer), at: offset)
        try await measured(.read, bytes: buffer.count, on: xstream) { () async throws(BIOError) in
            try unsafe await transfer(into: buffer, at: offset)
        }
    }

    private func transfer(
        into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64
    ) async throws(BIOError) {
        let number = unsafe ring.number(of: UnsafeRawBufferPointer(buffer))
        var progress = TransferProgress(name: name, count: buffer.count, offset: offset)
        while progress.remaining > 0 {
            let done = progress.done
            let length = UInt32(min(progress.remaining, FileDevice.submissionBytesMax))
            progress.add(
                // SAFETY: the caller keeps the buffer until this returns.
                unsafe await ring.perform { ring, slot in
                    unsafe dray_ring_read(
                        ring, buffer.baseAddress! + done, length, offset + UInt64(done), number,
                        slot)
                })
            try progress.check()
        }
    }

    override func write(
        _ buffer: UnsafeRawBufferPointer, at offset: UInt64, durable: Bool
    ) async throws(BIOError) {
        try unsafe checkTransfer(buffer, at: offset)
        try await measured(
            durable ? .durableWrite : .write, bytes: buffer.count, on: xstream
        ) { () async throws(BIOError) in
            try unsafe await transfer(buffer, at: offset, durable: durable)
        }
    }

    private func transfer(
        _ buffer: UnsafeRawBufferPointer, at offset: UInt64, durable: Bool
    ) async throws(BIOError) {
        let number = unsafe ring.number(of: buffer)
        var progress = TransferProgress(name: name, count: buffer.count, offset: offset)
        while progress.remaining > 0 {
            let done = progress.done
            let length = UInt32(min(progress.remaining, FileDevice.submissionBytesMax))
            progress.add(
                // SAFETY: the caller keeps the buffer until this returns.
                unsafe await ring.perform(atOnce: durable) { ring, slot in
                    unsafe dray_ring_write(
                        ring, buffer.baseAddress! + done, length, offset + UInt64(done), number,
                        durable, slot)
                })
            try progress.check()
        }
    }

    override func writeAndFlush(
        _ buffer: UnsafeRawBufferPointer, at offset: UInt64
    ) async throws(BIOError) {
        if file?.durableWritesFlush == true {
            // The same with one call, and no thread of the kernel that waits for the flush.
            return try unsafe await write(buffer, at: offset, durable: true)
        }
        try unsafe checkTransfer(buffer, at: offset)
        try await measured(
            .durableWrite, bytes: buffer.count, on: xstream
        ) { () async throws(BIOError) in
            try unsafe await transferAndSync(buffer, at: offset)
        }
    }

    private func transferAndSync(
        _ buffer: UnsafeRawBufferPointer, at offset: UInt64
    ) async throws(BIOError) {
        if buffer.count > 0, buffer.count <= FileDevice.submissionBytesMax {
            let number = unsafe ring.number(of: buffer)
            // SAFETY: the caller keeps the buffer until this returns.
            let result = unsafe await ring.perform(atOnce: true) { ring, slot in
                unsafe dray_ring_write_and_flush(
                    ring, buffer.baseAddress!, UInt32(buffer.count), offset, number, slot)
            }
            // Cancelled: the write failed or was short, and no flush has been tried.
            if result != -ECANCELED { return try checkFlush(result) }
        }
        try unsafe await transfer(buffer, at: offset, durable: false)
        try await sync()
    }

    override func flush() async throws(BIOError) {
        try await measured(.flush, bytes: 0, on: xstream) { () async throws(BIOError) in
            try await sync()
        }
    }

    private func sync() async throws(BIOError) {
        try checkFlush(
            unsafe await ring.perform { ring, slot in unsafe dray_ring_flush(ring, slot) })
    }

    /// A flush is not tried again, whatever its error: the kernel may have dropped what failed.
    private func checkFlush(_ result: Int32) throws(BIOError) {
        guard result >= 0 else {
            throw .failed(path: name, offset: 0, code: -result, message: BIOError.message(-result))
        }
    }

    // Space that was reserved would have to be reserved again: not unless asked to.
    override var canDiscard: Bool { mayDiscard }
    override var discardsByDefault: Bool { mayDiscard && file?.isBlockDevice == true }

    override func discard(_ range: Range<UInt64>) async throws(BIOError) {
        try checkDiscard(range)
        guard mayDiscard, !range.isEmpty else { return }
        try await measured(.discard, bytes: range.count, on: xstream) { () async throws(BIOError) in
            let result = unsafe await ring.perform { ring, slot in
                unsafe dray_ring_discard(ring, range.lowerBound, UInt64(range.count), slot)
            }
            if result == -EOPNOTSUPP || result == -ENOSYS {
                // Not an error: neither file systems nor devices need to have it.
                mayDiscard = false
            } else if result < 0 {
                throw .failed(
                    path: name, offset: range.lowerBound, code: -result,
                    message: BIOError.message(-result))
            }
        }
    }

    override func firstUnwritten(in range: Range<UInt64>) -> Range<UInt64>? {
        file?.firstUnwritten(in: range)
    }

    override func close() async {
        await ring.close()
        file = nil
    }
}
