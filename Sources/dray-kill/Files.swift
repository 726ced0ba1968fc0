internal import DrayRuntime
internal import Glibc

/// The little that the harness needs of the file system.
enum Files {
    static func read(_ path: String) throws(Failure) -> String {
        String(decoding: try readBytes(path), as: UTF8.self)
    }

    static func readBytes(_ path: String) throws(Failure) -> [UInt8] {
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw failure(path) }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = unsafe Glibc.read(descriptor, &buffer, buffer.count)
            guard count >= 0 else { throw failure(path) }
            guard count > 0 else { return bytes }
            bytes += buffer[0..<count]
        }
    }

    /// Makes a file with these bytes, or puts them in place of what it had.
    static func write(_ path: String, _ bytes: [UInt8]) throws(Failure) {
        let descriptor = unsafe open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw failure(path) }
        defer { close(descriptor) }
        var done = 0
        while done < bytes.count {
            let count = unsafe bytes.withUnsafeBytes {
                unsafe Glibc.write(descriptor, $0.baseAddress! + done, bytes.count - done)
            }
            guard count > 0 else { throw failure(path) }
            done += count
        }
    }

    /// Copies a file; blocks that are zero take no room, and where the file system can, blocks
    /// are shared.
    static func copy(
        _ path: String, to copy: String, log: String, on xstream: XStream
    ) async throws(Failure) {
        let process = try ChildProcess(
            "/bin/cp", ["--sparse=always", "--reflink=auto", path, copy], log: log)
        while process.ending == nil { await xstream.sleep(for: .milliseconds(1)) }
        guard process.ending == 0 else {
            throw Failure("cp: \(ChildProcess.describe(process.ending ?? 0))")
        }
    }

    /// The program that runs here.
    static func ownProgram() throws(Failure) -> String {
        var path = [CChar](repeating: 0, count: 4_096)
        let length = unsafe readlink("/proc/self/exe", &path, path.count - 1)
        guard length > 0 else { throw failure("/proc/self/exe") }
        return String(decoding: path[0..<length].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Makes a new directory, whose name begins with `path`.
    static func makeDirectory(_ path: String) throws(Failure) -> String {
        var template = Array((path + ".XXXXXX").utf8).map { CChar(bitPattern: $0) } + [0]
        guard unsafe mkdtemp(&template) != nil else { throw failure(path) }
        return String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    static func isProgram(_ path: String) -> Bool { unsafe access(path, X_OK) == 0 }

    private static func failure(_ path: String) -> Failure {
        Failure("\(path): \(unsafe String(cString: strerror(errno)))")
    }
}
