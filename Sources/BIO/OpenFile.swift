internal import CUring
internal import Glibc
internal import Synchronization

/// An open file or block device, locked for this process. Closed when dropped.
final class OpenFile: Sendable {
    let path: String
    let descriptor: Int32
    /// Rounded down to whole blocks.
    let size: UInt64
    /// Whether transfers go past the page cache.
    let isDirect: Bool
    /// Whether it is a block device, not a file.
    let isBlockDevice: Bool
    /// Whether a mapping is the medium itself: persistent memory.
    let isMemory: Bool
    /// Whether a durable write also flushes everything that was written before it.
    let durableWritesFlush: Bool
    private let locks: FileLocks
    private let identity: FileIdentity

    /// Opens and locks `path`, a file or block device, or a DAX device when `isMemory`. Throws
    /// `.missing`, `.busy` or `.unusable`.
    init(path: String, isMemory: Bool = false, locks: FileLocks) throws(BIOError) {
        let identity = try locks.acquire(path: path)
        var descriptor = unsafe path.withCString { unsafe dray_file_open_direct($0) }
        let isDirect = descriptor != -EINVAL
        if !isDirect { descriptor = unsafe path.withCString { unsafe dray_file_open($0, O_RDWR) } }
        guard descriptor >= 0 else {
            locks.release(identity)
            throw BIOError.opening(path, -descriptor)
        }
        var bytes: UInt64 = 0
        var isBlockDevice = false
        let code = unsafe dray_file_size(descriptor, &bytes, &isBlockDevice)
        guard code == 0, bytes >= UInt64(BlockDevice.blockSize) else {
            Glibc.close(descriptor)
            locks.release(identity)
            throw code != 0
                ? BIOError.opening(path, code)
                : .unusable(path: path, code: 0, message: "smaller than one block: \(bytes) bytes")
        }
        self.path = path
        self.descriptor = descriptor
        self.isDirect = isDirect
        self.isBlockDevice = isBlockDevice
        self.isMemory = isMemory || dray_file_is_dax(descriptor)
        durableWritesFlush = isDirect && dray_file_durable_write_flushes(descriptor)
        self.locks = locks
        self.identity = identity
        size = bytes - bytes % UInt64(BlockDevice.blockSize)
    }

    /// The first part of `range` without data on the device.
    func firstUnwritten(in range: Range<UInt64>) -> Range<UInt64>? {
        var gap: (start: UInt64, length: UInt64) = (0, 0)
        let code = unsafe dray_file_unwritten(
            descriptor, range.lowerBound, UInt64(range.count), &gap.start, &gap.length)
        guard code == 0, gap.length > 0 else { return nil }
        return gap.start..<gap.start + gap.length
    }

    deinit {
        Glibc.close(descriptor)
        locks.release(identity)
    }
}

/// Which file it is, whatever its path.
struct FileIdentity: Hashable, Sendable {
    var device: UInt64
    var inode: UInt64
}

/// The files that this process has locked. Its xstreams share one lock on each.
final class FileLocks: Sendable {
    private struct Lock {
        var descriptor: Int32
        var users: Int
    }

    private let locks = Mutex<[FileIdentity: Lock]>([:])

    /// Locks the file, or joins those who have. Throws `.busy` when another process has it.
    func acquire(path: String) throws(BIOError) -> FileIdentity {
        try locks.withLock { locks throws(BIOError) in
            var status = stat()
            guard unsafe stat(path, &status) == 0 else { throw BIOError.opening(path, errno) }
            let identity = FileIdentity(
                device: UInt64(status.st_dev), inode: UInt64(status.st_ino))
            if let lock = locks[identity] {
                locks[identity] = Lock(descriptor: lock.descriptor, users: lock.users + 1)
                return identity
            }
            // On a block device O_EXCL also refuses one that is mounted.
            let isBlockDevice = status.st_mode & S_IFMT == S_IFBLK
            let flags = isBlockDevice ? O_RDWR | O_EXCL : O_RDWR
            let descriptor = unsafe path.withCString { unsafe dray_file_open($0, flags) }
            guard descriptor >= 0 else { throw BIOError.opening(path, -descriptor) }
            let code = dray_file_lock(descriptor)
            guard code == 0 else {
                Glibc.close(descriptor)
                throw BIOError.opening(path, code == EWOULDBLOCK ? EBUSY : code)
            }
            locks[identity] = Lock(descriptor: descriptor, users: 1)
            return identity
        }
    }

    func release(_ identity: FileIdentity) {
        locks.withLock { locks in
            guard var lock = locks[identity] else {
                preconditionFailure("a file was unlocked that is not locked")
            }
            lock.users -= 1
            if lock.users == 0 {
                Glibc.close(lock.descriptor)
                locks[identity] = nil
            } else {
                locks[identity] = lock
            }
        }
    }
}
