internal import ArgumentParser
internal import DrayFileSystem
internal import DrayRuntime

/// An entry as it is printed.
struct EntryDescription: Encodable, Sendable {
    var name: String?
    var name_base64: String?
    var type: String
    var mode: String
    var userID: UInt32
    var groupID: UInt32
    var size: UInt64
    var modifiedSeconds: Int64
    var modifiedNanoseconds: UInt32
    var target: String?
    var target_base64: String?
    var object: String

    init(name: [UInt8], _ inode: Inode) {
        let json = JSONName(bytes: name)
        self.name = json.text
        name_base64 = json.base64
        type =
            switch inode.type {
            case .file: "file"
            case .directory: "directory"
            case .symbolicLink: "link"
            }
        mode = EntryDescription.octal(inode.attributes.mode)
        userID = inode.attributes.userID
        groupID = inode.attributes.groupID
        size = inode.size
        modifiedSeconds = inode.attributes.modified.seconds
        modifiedNanoseconds = inode.attributes.modified.nanoseconds
        object = inode.objectID.description
        guard inode.type == .symbolicLink else { return }
        let pointed = JSONName(bytes: inode.target)
        target = pointed.text
        target_base64 = pointed.base64
    }

    static func octal(_ mode: UInt16) -> String {
        let digits = String(mode, radix: 8)
        return String(repeating: "0", count: max(0, 4 - digits.count)) + digits
    }

    /// Type and permissions as `ls -l` shows them: `drwxr-xr-x`.
    static func letters(_ inode: Inode) -> String {
        let type =
            switch inode.type {
            case .file: "-"
            case .directory: "d"
            case .symbolicLink: "l"
            }
        let mode = inode.attributes.mode
        var text = type
        for (shift, special, letter) in [(6, 0o4000, "s"), (3, 0o2000, "s"), (0, 0o1000, "t")] {
            let bits = mode >> UInt16(shift)
            text += bits & 4 != 0 ? "r" : "-"
            text += bits & 2 != 0 ? "w" : "-"
            let executable = bits & 1 != 0
            if Int(mode) & special != 0 {
                text += executable ? letter : letter.uppercased()
            } else {
                text += executable ? "x" : "-"
            }
        }
        return text
    }
}

extension FileSystemCommand {
    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "ls", abstract: "List a directory, in byte order of the names.")

        @Argument(help: "POOL/CONTAINER:PATH") var path: StorePath
        @Flag(name: .shortAndLong, help: "Mode, size, time (UTC) and target of each entry.")
        var long = false
        @Flag(name: [.customShort("R"), .long], help: "With everything below, as paths.")
        var recursive = false
        @Flag(name: [.customShort("0"), .long], help: "End each name with a zero byte.")
        var null = false
        @OptionGroup var time: TimeOptions
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let path = try path.checkedPath()
            let listing = Listing(
                long: long, recursive: recursive, json: output.json,
                lines: NameLines(null: null))
            let what = self.path.text
            try await cluster.withFileSystem(self.path.container, at: time) {
                (fileSystem, _) async throws(CommandFailure) in
                let location: Location
                do throws(FileSystemError) {
                    location = try await fileSystem.lookup(path)
                } catch {
                    throw CommandFailure(error, what)
                }
                try await listing.run(fileSystem, location, what: what)
            }
        }
    }

    struct Status: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "stat", abstract: "Show everything about an entry.",
            discussion: "A symbolic link itself is shown, not what it points to.")

        @Argument(help: "POOL/CONTAINER:PATH") var path: StorePath
        @OptionGroup var time: TimeOptions
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let path = try path.checkedPath()
            let what = self.path.text
            let inode = try await cluster.withFileSystem(self.path.container, at: time) {
                (fileSystem, _) async throws(CommandFailure) -> Inode in
                do throws(FileSystemError) {
                    return try await fileSystem.lookup(path, followingLinks: false).inode
                } catch {
                    throw CommandFailure(error, what)
                }
            }
            try output.print(
                EntryDescription(name: path.bytes, inode), text: Status.text(path, inode))
        }

        static func text(_ path: FilePath, _ inode: Inode) -> String {
            let entry = EntryDescription(name: path.bytes, inode)
            var rows = [
                ("path", EscapedName.text(path.bytes)), ("type", entry.type),
                ("mode", "\(entry.mode) \(EntryDescription.letters(inode))"),
                ("owner", "\(entry.userID):\(entry.groupID)"),
                ("size", "\(entry.size) (\(Size(bytes: entry.size)))"),
                ("modified", CalendarTime.text(inode.attributes.modified)),
                ("accessed", CalendarTime.text(inode.attributes.accessed)),
                ("changed", CalendarTime.text(inode.changed)),
            ]
            if inode.type == .symbolicLink {
                rows.append(("target", EscapedName.text(inode.target)))
            } else {
                rows.append(("object", entry.object))
            }
            return rows.map { row in
                row.0 + String(repeating: " ", count: 10 - row.0.count) + row.1
            }.joined(separator: "\n")
        }
    }

    struct Concatenate: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "cat", abstract: "Write a file's contents to standard output.")

        @Argument(help: "POOL/CONTAINER:PATH") var path: StorePath
        @OptionGroup var time: TimeOptions
        @OptionGroup var cluster: ClusterOptions

        /// Chunks that are read ahead.
        static let depth = 8

        func run() async throws {
            let path = try path.checkedPath()
            let what = self.path.text
            try await cluster.withFileSystem(self.path.container, at: time) {
                (fileSystem, _) async throws(CommandFailure) in
                do throws(FileSystemError) {
                    let inode = try await fileSystem.lookup(path).inode
                    guard inode.type == .file else { throw .isDirectory(path.bytes) }
                    try await Concatenate.copy(fileSystem.file(inode), size: inode.size, what)
                } catch {
                    if case .isDirectory = error {
                        throw CommandFailure(
                            what, "is a directory", advice: "'dray fs ls' lists it")
                    }
                    throw CommandFailure(error, what)
                }
            }
        }

        /// Reads rounds of `depth` chunks at a time and writes them in order.
        static func copy(
            _ file: File, size: UInt64, _ what: String
        ) async throws(FileSystemError) {
            let chunk = FileSystem.chunkSize
            var offset: UInt64 = 0
            let buffers = (0..<depth).map { _ in IOBuffer(count: chunk) }
            while offset < size {
                let pieces = (0..<depth).compactMap { index -> (UInt64, Int, IOBuffer)? in
                    let start = offset + UInt64(index * chunk)
                    guard start < size else { return nil }
                    return (start, Int(min(UInt64(chunk), size - start)), buffers[index])
                }
                let failure = await withTaskGroup(of: FileSystemError?.self) { group in
                    for (start, count, buffer) in pieces {
                        group.addTask {
                            do throws(FileSystemError) {
                                try await file.read(offset: start, into: buffer, range: 0..<count)
                                return nil
                            } catch {
                                return error
                            }
                        }
                    }
                    var failure: FileSystemError?
                    for await result in group { failure = failure ?? result }
                    return failure
                }
                if let failure { throw failure }
                for (_, count, buffer) in pieces {
                    do throws(CommandFailure) {
                        try Terminal.write(buffer.array(0..<count))
                    } catch {
                        // The reader is gone: there is nobody to write the rest for.
                        return
                    }
                }
                offset += pieces.reduce(0) { $0 + UInt64($1.1) }
            }
        }
    }
}

/// Prints a directory page by page, so that a million entries need no more memory than a thousand.
struct Listing: Sendable {
    var long: Bool
    var recursive: Bool
    var json: Bool
    var lines: NameLines

    /// Prints what stands at `location`.
    func run(
        _ fileSystem: FileSystem, _ location: Location, what: String
    ) async throws(CommandFailure) {
        var array = JSONArray()
        guard location.inode.type == .directory else {
            let name = location.name?.bytes ?? Array("/".utf8)
            guard json else { return try Terminal.write(line(name, location.inode)) }
            try array.write([EntryDescription(name: name, location.inode)])
            return try array.end()
        }
        var pending: [(prefix: [UInt8], inode: Inode)] = [([], location.inode)]
        while let next = pending.popLast() {
            let directory = fileSystem.directory(next.inode)
            var after: FileName?
            repeat {
                if namesOnly {
                    let page = try await attempt(what) { () async throws(FileSystemError) in
                        try await directory.names(after: after)
                    }
                    try Terminal.write(page.names.flatMap { lines.line($0.bytes) })
                    after = page.more ? page.names.last : nil
                    continue
                }
                let page = try await attempt(what) { () async throws(FileSystemError) in
                    try await directory.entries(after: after)
                }
                let named = page.entries.map { (next.prefix + $0.name.bytes, $0.inode) }
                if json {
                    try array.write(named.map { EntryDescription(name: $0, $1) })
                } else {
                    try Terminal.write(named.flatMap { line($0, $1) })
                }
                for (name, inode) in named where recursive && inode.type == .directory {
                    pending.append((name + [UInt8(ascii: "/")], inode))
                }
                after = page.more ? page.last : nil
            } while after != nil
        }
        if json { try array.end() }
    }

    /// Whether names say it all, which cost a request a page and not one for each entry.
    private var namesOnly: Bool { !long && !recursive && !json }
    private func attempt<Value>(
        _ what: String, _ body: () async throws(FileSystemError) -> Value
    ) async throws(CommandFailure) -> Value {
        do throws(FileSystemError) {
            return try await body()
        } catch {
            throw CommandFailure(error, what)
        }
    }

    private func line(_ name: [UInt8], _ inode: Inode) -> [UInt8] {
        guard long else { return lines.line(name) }
        let size = String(inode.size)
        let padding = String(repeating: " ", count: max(0, 12 - size.count))
        let prefix =
            "\(EntryDescription.letters(inode)) \(padding)\(size) "
            + "\(CalendarTime.text(inode.attributes.modified)) "
        guard inode.type == .symbolicLink else { return lines.line(name, prefix: prefix) }
        return lines.line(name + Array(" -> ".utf8) + inode.target, prefix: prefix)
    }
}
