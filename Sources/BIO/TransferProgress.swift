internal import Glibc

/// How far a transfer is that may end short or interrupted, and what to do about it.
struct TransferProgress {
    private let name: String
    private let count: Int
    private let offset: UInt64
    /// Bytes done, in whole blocks: what is repeated stays aligned.
    private(set) var done = 0
    private var retries = 0
    private var error: BIOError?

    init(name: String, count: Int, offset: UInt64) {
        self.name = name
        self.count = count
        self.offset = offset
    }

    var remaining: Int { count - done }

    /// The kernel's answer: bytes, or a negative errno.
    mutating func add(_ result: Int32) {
        let blocks = Int(max(0, result)) / BlockDevice.blockSize
        precondition(blocks * BlockDevice.blockSize <= remaining, "more bytes than asked for")
        if blocks > 0 {
            done += blocks * BlockDevice.blockSize
            retries = 0
            return
        }
        let isTemporary = result >= 0 || result == -EINTR || result == -EAGAIN
        retries += 1
        guard !isTemporary || retries > FileDevice.retriesMax else { return }
        let code = result < 0 ? -result : EIO
        let message = result < 0 ? BIOError.message(code) : "the file is shorter than it was"
        error = .failed(path: name, offset: offset + UInt64(done), code: code, message: message)
    }

    func check() throws(BIOError) {
        if let error { throw error }
    }
}
