internal import DrayFileSystem
internal import DrayRuntime
internal import Glibc

/// An open descriptor, closed when the last reference goes. Calls may come from any thread: each
/// names its own place in the file.
final class OpenFile: Sendable {
    let descriptor: Int32

    init(_ path: LocalPath, _ flags: Int32, mode: UInt16 = 0) throws(Errno) {
        descriptor = unsafe path.withCString { pointer in
            unsafe open(pointer, flags | O_CLOEXEC, mode_t(mode))
        }
        guard descriptor >= 0 else { throw .last }
    }

    deinit {
        close(descriptor)
    }

    func status() throws(Errno) -> LocalStatus {
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0 else { throw .last }
        return LocalStatus(status)
    }

    /// Reads up to the range's length; less only at the end of the file. Returns the count.
    func read(into buffer: IOBuffer, range: Range<Int>, offset: UInt64) throws(Errno) -> Int {
        precondition(range.upperBound <= buffer.count)
        var done = 0
        while done < range.count {
            let count = unsafe pread(
                descriptor, buffer.bytes.baseAddress?.advanced(by: range.lowerBound + done),
                range.count - done, off_t(offset) + off_t(done))
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw .last }
            if count == 0 { break }
            done += count
        }
        return done
    }

    func write(from buffer: IOBuffer, range: Range<Int>, offset: UInt64) throws(Errno) {
        precondition(range.upperBound <= buffer.count)
        var done = 0
        while done < range.count {
            let count = unsafe pwrite(
                descriptor, buffer.bytes.baseAddress?.advanced(by: range.lowerBound + done),
                range.count - done, off_t(offset) + off_t(done))
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw .last }
            done += count
        }
    }

    /// Where the first data from `offset` on are: that, unless there is a hole, and a file system
    /// that tells. Nil: only a hole follows, or nothing.
    func nextData(from offset: UInt64) -> UInt64? {
        // SEEK_DATA (Linux 3.1), which the headers show only to GNU sources. It moves the
        // descriptor's place, which nothing here uses.
        let found = lseek(descriptor, off_t(offset), 3)
        if found >= 0 { return UInt64(found) }
        return errno == ENXIO ? nil : offset
    }

    /// Whether the first `count` bytes are all zero. Costs less than reading them from a file.
    static func isZero(_ buffer: IOBuffer, count: Int) -> Bool {
        precondition(count <= buffer.count)
        let bytes = unsafe buffer.bytes
        guard let base = bytes.baseAddress, count > 0 else { return true }
        // SAFETY: both ranges are within the buffer. Each byte equals the one before it, and the
        // first is zero.
        return unsafe bytes[0] == 0 && memcmp(base, base + 1, count - 1) == 0
    }

    /// Adds bytes at the end: for files opened with O_APPEND.
    func append(_ bytes: [UInt8]) throws(Errno) {
        var done = 0
        while done < bytes.count {
            let count = unsafe bytes.withUnsafeBytes { source in
                unsafe Glibc.write(
                    descriptor, source.baseAddress?.advanced(by: done), bytes.count - done)
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw .last }
            done += count
        }
    }

    func setSize(_ size: UInt64) throws(Errno) {
        guard ftruncate(descriptor, off_t(size)) == 0 else { throw .last }
    }

    func setMode(_ mode: UInt16) throws(Errno) {
        guard fchmod(descriptor, mode_t(mode)) == 0 else { throw .last }
    }

    func setTimes(accessed: Timestamp, modified: Timestamp) throws(Errno) {
        let times = [accessed.timespec, modified.timespec]
        guard unsafe futimens(descriptor, times) == 0 else { throw .last }
    }

    func synchronise() throws(Errno) {
        guard fsync(descriptor) == 0 else { throw .last }
    }
}
