import Glibc

/// The files of the working copy that this test was built from.
struct Repository {
    let root: String

    /// The text files that the rules look at, in the order of their paths.
    let files: [SourceFile]

    /// Every file, with its size in bytes.
    let sizes: [(path: String, size: Int)]

    init(containing file: String = #filePath) {
        root = file.split(separator: "/", omittingEmptySubsequences: false).dropLast(3)
            .joined(separator: "/")
        var paths: [(String, Int)] = []
        Repository.walk(root, "", &paths)
        paths.sort { $0.0 < $1.0 }
        sizes = paths.map { (path: $0.0, size: $0.1) }
        let root = root
        files = paths.compactMap { path, size in
            guard Repository.isText(path), size < 1 << 20 else { return nil }
            return SourceFile(path: path, text: Repository.read(root + "/" + path))
        }
    }

    func file(_ path: String) -> SourceFile? { files.first { $0.path == path } }

    private static func isText(_ path: String) -> Bool {
        let name = path.split(separator: "/").last ?? ""
        if path.hasPrefix("scripts/") || path.hasPrefix(".ci/") { return !name.contains(".") }
        return [".swift", ".c", ".h", ".md", ".modulemap"].contains { name.hasSuffix($0) }
    }

    /// Lists regular files; leaves out what git ignores, and git itself.
    private static func walk(_ root: String, _ path: String, _ paths: inout [(String, Int)]) {
        guard let directory = opendir(root + "/" + path) else { return }
        defer { closedir(directory) }
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            let ignored = [".", "..", ".git", ".swiftpm", "Package.resolved"]
            if ignored.contains(name) || name.hasPrefix(".build") { continue }
            let child = path.isEmpty ? name : path + "/" + name
            var status = stat()
            guard lstat(root + "/" + child, &status) == 0 else { continue }
            if status.st_mode & S_IFMT == S_IFDIR {
                walk(root, child, &paths)
            } else if status.st_mode & S_IFMT == S_IFREG {
                paths.append((child, Int(status.st_size)))
            }
        }
    }

    static func read(_ path: String) -> String {
        guard let file = fopen(path, "r") else { return "" }
        defer { fclose(file) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while case let count = fread(&buffer, 1, buffer.count, file), count > 0 {
            bytes += buffer[..<count]
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
