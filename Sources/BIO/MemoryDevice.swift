internal import CUring
internal import DrayRuntime
internal import Glibc

/// Persistent memory: a file in a file system with direct access (DAX), or a DAX device, mapped
/// into the process. A transfer is a copy.
///
/// Writes go around the processor's caches, so a fence is all that a flush takes (MAP_SYNC). Where
/// the mapping is none of the medium itself, as of an ordinary file, flushes are fdatasync(2), on a
/// thread of the pool. Memory that cannot be read is an error, not a signal.
@safe final class MemoryDevice: BlockDevice {
    /// The most bytes that are copied before others on the xstream have their turn.
    static let copyBytesMax = 256 << 10

    private var file: OpenFile?
    // SAFETY: mapped in `init`, unmapped once, in `close` or `deinit`, when no copy is under way.
    private var base: UnsafeMutableRawPointer?
    /// Whether a fence makes stores durable.
    let isSynchronous: Bool
    private let pool: ThreadPool
    private let xstream: XStream
    private var inFlight = 0
    /// Bytes copied since the xstream had a chance to do something else.
    private var bytesInTurn = 0
    private var closed = false
    private var closing: Waiter<Void>?

    init(file: OpenFile, pool: ThreadPool, on xstream: XStream) throws(BIOError) {
        precondition(xstream.isCurrent, "a device is opened on its xstream")
        var base: UnsafeMutableRawPointer?
        var synchronous = false
        let code = unsafe dray_memory_map(file.descriptor, file.size, &base, &synchronous)
        guard code == 0, let base = unsafe base else { throw BIOError.opening(file.path, code) }
        unsafe self.base = unsafe base
        isSynchronous = synchronous
        self.file = file
        self.pool = pool
        self.xstream = xstream
        super.init(name: file.path, size: file.size)
    }

    deinit {
        if let base = unsafe base { unsafe dray_memory_unmap(base, size) }
    }

    override func read(
        into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64
    ) async throws(BIOError) {
        try unsafe checkTransfer(UnsafeRawBufferPointer(buffer), at: offset)
        try await measured(.read, bytes: buffer.count, on: xstream) { () async throws(BIOError) in
            try unsafe await copy(buffer.count, at: offset) { memory, part in
                // SAFETY: the caller keeps the buffer until this returns.
                unsafe dray_memory_copy(
                    buffer.baseAddress! + part.lowerBound, memory, UInt64(part.count), false)
            }
        }
    }

    override func write(
        _ buffer: UnsafeRawBufferPointer, at offset: UInt64, durable: Bool
    ) async throws(BIOError) {
        try unsafe checkTransfer(buffer, at: offset)
        let isSynchronous = isSynchronous
        try await measured(
            durable ? .durableWrite : .write, bytes: buffer.count, on: xstream
        ) { () async throws(BIOError) in
            try unsafe await copy(buffer.count, at: offset) { memory, part in
                // SAFETY: the caller keeps the buffer until this returns.
                unsafe dray_memory_copy(
                    memory, buffer.baseAddress! + part.lowerBound, UInt64(part.count),
                    isSynchronous)
            }
            if durable { try await sync() }
        }
    }

    // The base class's write and flush is two operations of ours; here the flush is the same.
    override func writeAndFlush(
        _ buffer: UnsafeRawBufferPointer, at offset: UInt64
    ) async throws(BIOError) {
        try unsafe await write(buffer, at: offset, durable: true)
    }

    override func flush() async throws(BIOError) {
        try await measured(.flush, bytes: 0, on: xstream) { () async throws(BIOError) in
            try await sync()
        }
    }

    /// Makes all stores durable: of this thread, which is the only one that stores.
    private func sync() async throws(BIOError) {
        if isSynchronous { return dray_memory_fence() }
        guard let file else { preconditionFailure("an open device has a file") }
        let descriptor = file.descriptor
        inFlight += 1
        let xstream = xstream
        let result = await Waiter<Int64>.suspend { waiter in
            pool.submit {
                let result = dray_file_flush(descriptor)
                xstream.submit { waiter.resume(returning: result) }
            }
        }
        ended()
        guard result >= 0 else {
            let code = Int32(clamping: -result)
            throw .failed(path: name, offset: 0, code: code, message: BIOError.message(code))
        }
    }

    /// Calls `body` with parts of a transfer of `count` bytes at `offset`, and where each lies. It
    /// returns how much it could copy.
    private func copy(
        _ count: Int, at offset: UInt64, _ body: (UnsafeMutableRawPointer, Range<Int>) -> UInt64
    ) async throws(BIOError) {
        precondition(!closed, "a closed device was used")
        guard let base = unsafe base else { preconditionFailure("an open device is mapped") }
        inFlight += 1
        defer { ended() }
        var done = 0
        while done < count {
            let length = min(MemoryDevice.copyBytesMax, count - done)
            // SAFETY: `checkTransfer` has compared the range with the size of the mapping.
            let copied = unsafe body(base + Int(offset) + done, done..<done + length)
            guard copied == UInt64(length) else {
                throw .unreadableMemory(path: name, offset: offset + UInt64(done) + copied)
            }
            done += length
            bytesInTurn += length
            if bytesInTurn >= MemoryDevice.copyBytesMax {
                bytesInTurn = 0
                await xstream.yield()
            }
        }
    }

    private func ended() {
        inFlight -= 1
        guard inFlight == 0, let waiter = closing else { return }
        closing = nil
        waiter.resume()
    }

    override func firstUnwritten(in range: Range<UInt64>) -> Range<UInt64>? {
        file?.firstUnwritten(in: range)
    }

    override func close() async {
        precondition(!closed, "a device was closed twice")
        closed = true
        if inFlight > 0 { await Waiter.suspend { closing = $0 } }
        if let base = unsafe base { unsafe dray_memory_unmap(base, size) }
        unsafe base = nil
        file = nil
    }
}
