internal import Glibc

/// A file that says who is in a group, for those who want to attach to it: `GroupSnapshot.text`.
///
/// Files are small, and reading or writing one blocks the xstream: do it when starting.
public enum AttachFile {
    /// A longer file is not one of ours.
    static let bytesMax = 64 << 20

    /// Writes the file; one that is there is replaced in one step.
    public static func write(_ snapshot: GroupSnapshot, to path: String) throws(AttachError) {
        let temporary = path + ".new"
        let descriptor = unsafe open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw failure(temporary) }
        var isWritten = true
        var bytes = Array(snapshot.text.utf8)[...]
        while isWritten, !bytes.isEmpty {
            let count = unsafe bytes.withUnsafeBytes {
                unsafe Glibc.write(descriptor, $0.baseAddress, $0.count)
            }
            if count > 0 {
                bytes = bytes.dropFirst(count)
            } else {
                isWritten = count < 0 && errno == EINTR
            }
        }
        isWritten = isWritten && fsync(descriptor) == 0
        let problem = failure(temporary)
        isWritten = close(descriptor) == 0 && isWritten
        guard isWritten, unsafe rename(temporary, path) == 0 else {
            let error = isWritten ? failure(path) : problem
            _ = unsafe unlink(temporary)
            throw error
        }
    }

    /// Reads the file.
    public static func read(_ path: String) throws(AttachError) -> GroupSnapshot {
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw failure(path) }
        defer { close(descriptor) }
        var text: [UInt8] = []
        var part = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = unsafe part.withUnsafeMutableBytes {
                unsafe Glibc.read(descriptor, $0.baseAddress, $0.count)
            }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw failure(path) }
            if count == 0 { break }
            text += part[0..<count]
            guard text.count <= bytesMax else {
                throw .file(path: path, message: "the file is too large for an attach file")
            }
        }
        return try GroupSnapshot(parsing: String(decoding: text, as: UTF8.self))
    }

    private static func failure(_ path: String) -> AttachError {
        .file(path: path, message: unsafe String(cString: unsafe strerror(errno)))
    }
}
