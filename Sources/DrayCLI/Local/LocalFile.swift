internal import DrayFileSystem
internal import DrayRuntime
internal import Glibc

/// An error number of the kernel.
struct Errno: Error, Hashable, Sendable {
    var code: Int32

    /// The error of the call that just failed on this thread.
    static var last: Errno { Errno(code: errno) }

    var text: String { SystemError.text(code) }
}

/// What `lstat` says of a path.
struct LocalStatus: Hashable, Sendable {
    enum Kind: Hashable, Sendable {
        case file, directory, symbolicLink
        /// Sockets, FIFOs and devices: what has no contents to store.
        case special(String)
    }

    var kind: Kind
    var size: UInt64
    var attributes: FileAttributes
}

extension LocalStatus {
    init(_ status: stat) {
        kind =
            switch status.st_mode & S_IFMT {
            case S_IFREG: .file
            case S_IFDIR: .directory
            case S_IFLNK: .symbolicLink
            case S_IFSOCK: .special("a socket")
            case S_IFIFO: .special("a FIFO")
            case S_IFCHR, S_IFBLK: .special("a device")
            default: .special("of an unknown type")
            }
        size = UInt64(max(0, status.st_size))
        attributes = FileAttributes(
            mode: UInt16(status.st_mode & 0o7777), userID: status.st_uid, groupID: status.st_gid,
            accessed: Timestamp(status.st_atim), modified: Timestamp(status.st_mtim))
    }
}

extension Timestamp {
    init(_ time: timespec) {
        self.init(seconds: Int64(time.tv_sec), nanoseconds: UInt32(time.tv_nsec))
    }

    var timespec: timespec {
        Glibc.timespec(tv_sec: Int(seconds), tv_nsec: Int(nanoseconds))
    }
}

/// Calls of the kernel on paths of bytes. Each returns or throws the kernel's error.
enum LocalFiles {
    /// What stands at `path`; a symbolic link itself unless it is to be followed.
    static func status(
        _ path: LocalPath, followingLinks: Bool = false
    ) throws(Errno) -> LocalStatus {
        var status = stat()
        let result = unsafe path.withCString { pointer in
            followingLinks ? unsafe stat(pointer, &status) : unsafe lstat(pointer, &status)
        }
        guard result == 0 else { throw .last }
        return LocalStatus(status)
    }

    /// The names in a directory, in byte order, without `.` and `..`.
    static func names(in path: LocalPath) throws(Errno) -> [[UInt8]] {
        let opened = unsafe path.withCString { unsafe opendir($0) }
        guard let stream = unsafe opened else { throw .last }
        defer { unsafe closedir(stream) }
        var names: [[UInt8]] = []
        guard let nameOffset = MemoryLayout<dirent>.offset(of: \.d_name) else {
            preconditionFailure("the name is a stored field")
        }
        while true {
            errno = 0
            guard let entry = unsafe readdir(stream) else {
                guard errno == 0 else { throw .last }
                break
            }
            // SAFETY: `d_name` is a string with its end inside the record that `readdir` gave,
            // which lives until the next call on this stream.
            let field = unsafe UnsafeRawPointer(entry).advanced(by: nameOffset)
            let length = unsafe strlen(field.assumingMemoryBound(to: CChar.self))
            let name = unsafe [UInt8](UnsafeRawBufferPointer(start: field, count: length))
            if name != Array(".".utf8), name != Array("..".utf8) { names.append(name) }
        }
        return names.sorted { $0.lexicographicallyPrecedes($1) }
    }

    /// Where a symbolic link points.
    static func target(of path: LocalPath) throws(Errno) -> [UInt8] {
        var buffer = [UInt8](repeating: 0, count: FilePath.bytesMax + 1)
        let count: Int = unsafe path.withCString { pointer in
            unsafe buffer.withUnsafeMutableBytes { bytes in
                guard let base = bytes.baseAddress else { return 0 }
                return unsafe readlink(
                    pointer, base.assumingMemoryBound(to: CChar.self), bytes.count)
            }
        }
        guard count >= 0 else { throw .last }
        return Array(buffer.prefix(count))
    }

    static func makeDirectory(_ path: LocalPath, mode: UInt16) throws(Errno) {
        guard unsafe path.withCString({ unsafe mkdir($0, mode_t(mode)) }) == 0 else { throw .last }
    }

    /// Makes a directory with all its parents. One that is there already is left as it is.
    static func makeDirectories(_ path: LocalPath, mode: UInt16 = 0o755) throws(Errno) {
        do throws(Errno) {
            try makeDirectory(path, mode: mode)
        } catch {
            switch error.code {
            case EEXIST:
                guard try status(path, followingLinks: true).kind == .directory else {
                    throw Errno(code: ENOTDIR)
                }
            case ENOENT:
                let steps = path.bytes.split(separator: UInt8(ascii: "/"))
                guard steps.count > 1 else { throw error }
                let root: [UInt8] = path.bytes.first == UInt8(ascii: "/") ? [0x2f] : []
                let parent = steps.dropLast().joined(separator: [UInt8(ascii: "/")])
                try makeDirectories(LocalPath(root + Array(parent)), mode: mode)
                try makeDirectory(path, mode: mode)
            default: throw error
            }
        }
    }

    static func makeSymbolicLink(_ path: LocalPath, target: [UInt8]) throws(Errno) {
        let result = unsafe LocalPath(target).withCString { target in
            unsafe path.withCString { unsafe symlink(target, $0) }
        }
        guard result == 0 else { throw .last }
    }

    static func remove(_ path: LocalPath) throws(Errno) {
        guard unsafe path.withCString({ unsafe unlink($0) }) == 0 else { throw .last }
    }

    static func rename(_ path: LocalPath, to newPath: LocalPath) throws(Errno) {
        let result = unsafe path.withCString { old in
            unsafe newPath.withCString { unsafe Glibc.rename(old, $0) }
        }
        guard result == 0 else { throw .last }
    }

    static func setMode(_ path: LocalPath, _ mode: UInt16) throws(Errno) {
        guard unsafe path.withCString({ unsafe chmod($0, mode_t(mode)) }) == 0 else { throw .last }
    }

    /// Sets the times of `path`, of a link itself where it is one.
    static func setTimes(
        _ path: LocalPath, accessed: Timestamp, modified: Timestamp
    ) throws(Errno) {
        let times = [accessed.timespec, modified.timespec]
        let result = unsafe path.withCString { pointer in
            unsafe utimensat(AT_FDCWD, pointer, times, AT_SYMLINK_NOFOLLOW)
        }
        guard result == 0 else { throw .last }
    }

    /// All bytes of a small file. Throws EFBIG for more than `max`.
    static func read(_ path: LocalPath, max: Int = 16 << 20) throws(Errno) -> [UInt8] {
        let file = try OpenFile(path, O_RDONLY)
        let size = try file.status().size
        guard size <= UInt64(max) else { throw Errno(code: EFBIG) }
        var bytes: [UInt8] = []
        let buffer = IOBuffer(count: 64 << 10)
        while true {
            let count = try file.read(
                into: buffer, range: 0..<buffer.count, offset: UInt64(bytes.count))
            guard count > 0 else { return bytes }
            bytes += buffer.array(0..<count)
            guard bytes.count <= max else { throw Errno(code: EFBIG) }
        }
    }

    /// Replaces the contents of a file; whoever reads it sees the old or the new.
    static func replace(_ path: LocalPath, _ bytes: [UInt8]) throws(Errno) {
        let temporary = LocalPath(path.bytes + Array(".new".utf8))
        let file = try OpenFile(temporary, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644)
        if !bytes.isEmpty {
            let buffer = IOBuffer(copying: bytes)
            try file.write(from: buffer, range: 0..<bytes.count, offset: 0)
        }
        try file.synchronise()
        try rename(temporary, to: path)
    }
}
