internal import CUring
public import DrayRuntime
internal import Glibc
internal import Logging
internal import Synchronization

/// The devices of this machine: files, block devices, generic devices of NVMe, and persistent
/// memory.
///
/// Which kind a path is decides how it is used (`DeviceKind`). Files are opened with O_DIRECT where
/// the file system can, and locked for this process. Where io_uring is forbidden, a pool of threads
/// does the transfers.
public final class RealDeviceStore: DeviceStore {
    /// How transfers are done.
    public enum Mode: String, CaseIterable, Sendable {
        /// io_uring; threads where the kernel refuses it, or where the environment variable
        /// `DRAY_BLOCK_IO` is `threads`.
        case automatic
        /// io_uring, or an error.
        case ring
        /// Threads.
        case threads
        /// A mapping, whether or not it is persistent memory.
        case memory
    }

    private let mode: Mode
    private let logger: Logger
    private let locks = FileLocks()
    /// Made when it is first needed.
    private let pool = Mutex<ThreadPool?>(nil)
    /// The same for questions to controllers: no transfer waits for one that hangs.
    private let controllerPool = Mutex<ThreadPool?>(nil)

    /// Threads of the pool: how many transfers can be under way without io_uring.
    static let threadCount = 8
    /// How many controllers can be asked at once: one that hangs has a thread until the kernel
    /// gives up, and the others are still asked.
    static let controllerThreadCount = 2
    /// Forces threads when it is `threads`.
    public static let environmentVariable = "DRAY_BLOCK_IO"

    public init(log: LogFacilities = LogFacilities(), mode: Mode = .automatic) {
        logger = log.logger(.bio)
        let isForced =
            mode == .automatic
            && RealDeviceStore.environment(RealDeviceStore.environmentVariable) == "threads"
        self.mode = isForced ? .threads : mode
    }

    private static func environment(_ name: String) -> String? {
        // SAFETY: the result is copied at once; nothing in Dray changes the environment.
        guard let value = unsafe getenv(name) else { return nil }
        return unsafe String(cString: value)
    }

    public func create(path: String, size: UInt64) throws(BIOError) {
        let unit = UInt64(BlockDevice.blockSize)
        guard size > 0, size % unit == 0, size <= UInt64(Int64.max) else {
            throw .outOfRange("a file of \(size) bytes; expected a multiple of \(unit)")
        }
        let descriptor = unsafe path.withCString { unsafe dray_file_create($0) }
        guard descriptor >= 0 else {
            throw -descriptor == EEXIST
                ? .foreign(path: path, found: "a file or device of that name")
                : BIOError.opening(path, -descriptor)
        }
        defer { Glibc.close(descriptor) }
        do throws(BIOError) {
            try reserve(descriptor, path: path, size: size)
            try RealDeviceStore.syncNew(descriptor, path: path)
        } catch {
            _ = unsafe unlink(path)
            throw error
        }
    }

    private func reserve(_ descriptor: Int32, path: String, size: UInt64) throws(BIOError) {
        let code = dray_file_reserve(descriptor, size)
        if code == 0 { return }
        if code == ENOSPC || code == EDQUOT {
            throw .full(requested: size, free: dray_file_system_free(descriptor))
        }
        guard code == EOPNOTSUPP || code == ENOSYS else {
            throw .unusable(path: path, code: code, message: BIOError.message(code))
        }
        guard ftruncate(descriptor, off_t(size)) == 0 else {
            let code = errno
            throw .unusable(
                path: path, code: code,
                message: BIOError.message(code)
                    + " (the file system cannot reserve space, so the file was only extended)")
        }
        logger.warning("\(path): the file system cannot reserve space; it may run out later")
    }

    /// Makes the file and its name durable.
    private static func syncNew(_ descriptor: Int32, path: String) throws(BIOError) {
        var code: Int32 = fsync(descriptor) == 0 ? 0 : errno
        if code == 0 {
            let slash = path.lastIndex(of: "/")
            let folder = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
            let folderDescriptor = unsafe folder.withCString { unsafe dray_file_open($0, O_RDONLY) }
            if folderDescriptor < 0 {
                code = -folderDescriptor
            } else {
                // Some file systems cannot flush a folder; then there is nothing to flush.
                if fsync(folderDescriptor) != 0, errno != EINVAL { code = errno }
                Glibc.close(folderDescriptor)
            }
        }
        guard code == 0 else {
            throw .unusable(path: path, code: code, message: BIOError.message(code))
        }
    }

    /// Opens `path` for the calling xstream, which must be `xstream`.
    public func open(path: String, on xstream: XStream) throws(BIOError) -> BlockDevice {
        let kind = DeviceKind(path: path)
        if case .nvme(let name) = kind {
            return try openNVMe(path: path, name: name, on: xstream)
        }
        let file = try OpenFile(path: path, isMemory: kind == .memory, locks: locks)
        if file.isMemory || mode == .memory { return try openMemory(file, on: xstream) }
        if !file.isDirect {
            logger.notice("\(path): no O_DIRECT here, so transfers go through the page cache")
        }
        if mode != .threads {
            do throws(TransferRing.RingError) {
                return try FileDevice(file: file, on: xstream)
            } catch {
                guard mode == .automatic else {
                    throw .unusable(
                        path: path, code: error.code,
                        message: "io_uring: " + BIOError.message(error.code))
                }
                logger.notice(
                    "\(path): io_uring refused (\(BIOError.message(error.code))); using threads")
            }
        }
        return ThreadPoolDevice(file: file, pool: sharedPool(), on: xstream)
    }

    public func isSame(_ path: String, _ other: String) -> Bool {
        var (first, second) = (stat(), stat())
        guard unsafe stat(path, &first) == 0, unsafe stat(other, &second) == 0 else {
            return path == other
        }
        if first.st_mode & S_IFMT == S_IFBLK, second.st_mode & S_IFMT == S_IFBLK {
            return first.st_rdev == second.st_rdev
        }
        return first.st_dev == second.st_dev && first.st_ino == second.st_ino
    }

    public func mayHaveHealth(_ path: String) -> Bool { path.hasPrefix("/dev/") }

    public func health(of path: String, on xstream: XStream) async -> NVMeHealth? {
        xstream.checkIsolated()
        let pool = RealDeviceStore.made(
            controllerPool, "dray-nvme", threadCount: RealDeviceStore.controllerThreadCount)
        return await Waiter<NVMeHealth?>.suspend { waiter in
            pool.submit {
                let health = StorageScan.health(of: path)
                xstream.submit { waiter.resume(returning: health) }
            }
        }
    }

    private func sharedPool() -> ThreadPool {
        RealDeviceStore.made(pool, "dray-bio", threadCount: RealDeviceStore.threadCount)
    }

    private static func made(
        _ pool: borrowing Mutex<ThreadPool?>, _ name: String, threadCount: Int
    ) -> ThreadPool {
        pool.withLock { pool in
            if let pool { return pool }
            let new = ThreadPool(name: name, threadCount: threadCount)
            pool = new
            return new
        }
    }

    private func openMemory(_ file: OpenFile, on xstream: XStream) throws(BIOError) -> BlockDevice {
        let device = try MemoryDevice(file: file, pool: sharedPool(), on: xstream)
        if !device.isSynchronous {
            logger.notice(
                "\(file.path): no MAP_SYNC here, so the mapping is flushed with fdatasync")
        }
        return device
    }

    private func openNVMe(
        path: String, name: String, on xstream: XStream
    ) throws(BIOError) -> BlockDevice {
        let space = try NVMeNamespace(path: path, name: name, locks: locks)
        let instead = "; the block device of the namespace can be used instead"
        guard mode != .threads else {
            throw .unusable(
                path: path, code: ENOSYS,
                message: "commands of NVMe need io_uring, which is turned off" + instead)
        }
        do throws(TransferRing.RingError) {
            return try NVMeDevice(space: space, on: xstream)
        } catch {
            throw .unusable(
                path: path, code: error.code,
                message: "io_uring for commands of NVMe: " + BIOError.message(error.code) + instead)
        }
    }
}
