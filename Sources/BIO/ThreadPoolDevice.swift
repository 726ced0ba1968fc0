internal import CUring
internal import DrayRuntime
internal import Glibc

/// A file or block device through blocking system calls on a few threads: what `FileDevice` does,
/// where io_uring is forbidden.
final class ThreadPoolDevice: BlockDevice {
    private var file: OpenFile?
    private let pool: ThreadPool
    private let xstream: XStream
    private var inFlight = 0
    private var closed = false
    private var closing: Waiter<Void>?

    init(file: OpenFile, pool: ThreadPool, on xstream: XStream) {
        precondition(xstream.isCurrent, "a device is opened on its xstream")
        self.file = file
        self.pool = pool
        self.xstream = xstream
        super.init(name: file.path, size: file.size)
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
        var progress = TransferProgress(name: name, count: buffer.count, offset: offset)
        let address = UInt(bitPattern: buffer.baseAddress)
        while progress.remaining > 0 {
            let (done, length) = (UInt(progress.done), UInt64(progress.remaining))
            progress.add(
                await perform { descriptor in
                    // SAFETY: the caller keeps the buffer until this has returned.
                    unsafe dray_file_read(
                        descriptor, UnsafeMutableRawPointer(bitPattern: address + done), length,
                        offset + UInt64(done))
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
        var progress = TransferProgress(name: name, count: buffer.count, offset: offset)
        let address = UInt(bitPattern: buffer.baseAddress)
        while progress.remaining > 0 {
            let (done, length) = (UInt(progress.done), UInt64(progress.remaining))
            progress.add(
                await perform { descriptor in
                    // SAFETY: the caller keeps the buffer until this has returned.
                    unsafe dray_file_write(
                        descriptor, UnsafeRawPointer(bitPattern: address + done), length,
                        offset + UInt64(done), durable)
                })
            try progress.check()
        }
    }

    override func flush() async throws(BIOError) {
        try await measured(.flush, bytes: 0, on: xstream) { () async throws(BIOError) in
            let result = await perform { dray_file_flush($0) }
            guard result >= 0 else {
                throw .failed(
                    path: name, offset: 0, code: -result, message: BIOError.message(-result))
            }
        }
    }

    override func firstUnwritten(in range: Range<UInt64>) -> Range<UInt64>? {
        file?.firstUnwritten(in: range)
    }

    override func close() async {
        precondition(!closed, "a device was closed twice")
        closed = true
        if inFlight > 0 { await Waiter.suspend { closing = $0 } }
        file = nil
    }

    /// Runs `call` on a thread of the pool and comes back with its result.
    private func perform(_ call: @escaping @Sendable (Int32) -> Int64) async -> Int32 {
        precondition(!closed, "a closed device was used")
        guard let file else { preconditionFailure("an open device has a file") }
        inFlight += 1
        // Not the file itself: a thread that lets go of it late would keep it open, and locked,
        // after `close`.
        let descriptor = file.descriptor
        let xstream = xstream
        let result = await Waiter<Int32>.suspend { waiter in
            pool.submit {
                let result = Int32(clamping: call(descriptor))
                xstream.submit { waiter.resume(returning: result) }
            }
        }
        inFlight -= 1
        if inFlight == 0, let waiter = closing {
            closing = nil
            waiter.resume()
        }
        return result
    }
}
