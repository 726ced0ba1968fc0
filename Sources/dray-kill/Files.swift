internal import Glibc

/// The little that the harness needs of the file system.
enum Files {
    static func read(_ path: String) throws(Failure) -> String {
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw failure(path) }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = unsafe Glibc.read(descriptor, &buffer, buffer.count)
            guard count >= 0 else { throw failure(path) }
            guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
            bytes += buffer[0..<count]
        }
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
