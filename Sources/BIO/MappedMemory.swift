internal import CUring
internal import DrayRuntime
internal import Glibc

/// Persistent memory that is only read, and locked by nobody for that: an open file or DAX device,
/// mapped. Unmapped when dropped.
@safe final class MappedMemory {
    private let path: String
    private let size: UInt64
    // SAFETY: mapped in `init`, unmapped in `deinit`.
    private let base: UnsafeMutableRawPointer

    /// `descriptor` may be closed while the memory is in use.
    init(reading descriptor: Int32, path: String, size: UInt64) throws(BIOError) {
        var base: UnsafeMutableRawPointer?
        let code = unsafe dray_memory_map_read_only(descriptor, size, &base)
        guard code == 0, let base = unsafe base else { throw BIOError.opening(path, code) }
        unsafe self.base = unsafe base
        self.path = path
        self.size = size
    }

    deinit { unsafe dray_memory_unmap(base, size) }

    /// Copies what is at `offset` into `buffer`, and returns how much: less at the end. Throws
    /// `.failed` where memory cannot be read.
    func read(at offset: UInt64, into buffer: IOBuffer) throws(BIOError) -> Int {
        let count = min(UInt64(buffer.count), size - min(offset, size))
        guard count > 0 else { return 0 }
        // SAFETY: both have `count` bytes from there on.
        let copied = unsafe dray_memory_copy(
            buffer.bytes.baseAddress!, base + Int(offset), count, false)
        guard copied == count else { throw .unreadableMemory(path: path, offset: offset + copied) }
        return Int(count)
    }
}

extension BIOError {
    /// Memory at or behind `offset` cannot be used: bad cells, or a file that was truncated.
    static func unreadableMemory(path: String, offset: UInt64) -> BIOError {
        let unit = UInt64(BlockDevice.blockSize)
        return .failed(
            path: path, offset: offset / unit * unit, code: EIO,
            message: message(EIO) + " (memory that cannot be used)")
    }
}
