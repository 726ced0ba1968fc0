import Dray
import DrayRuntime
import DraySimulator
import Testing

@testable import DrayFileSystem

@Suite struct FileSystemTests {
    static func attributes(_ entropy: inout Entropy) -> FileAttributes {
        FileAttributes(
            mode: UInt16(entropy.below(0o10000)), userID: UInt32(entropy.below(1000)),
            groupID: UInt32(entropy.below(1000)),
            accessed: Timestamp(seconds: 1, nanoseconds: 2),
            modified: Timestamp(
                seconds: Int64(entropy.below(1 << 32)),
                nanoseconds: UInt32(entropy.below(1_000_000_000))))
    }

    static func name(_ text: String) throws -> FileName { try FileName(text.utf8) }
    static func path(_ text: String) throws -> FilePath { try FilePath(text.utf8) }

    /// Stores `bytes` as a file.
    static func put(
        _ bytes: [UInt8], in fileSystem: FileSystem, _ directory: Directory, _ name: FileName,
        _ attributes: FileAttributes
    ) async throws {
        let file = try await fileSystem.makeFile()
        if !bytes.isEmpty {
            let buffer = IOBuffer(copying: bytes)
            try await file.write(offset: 0, buffer: buffer, range: 0..<bytes.count)
        }
        try await directory.link(
            file, size: UInt64(bytes.count), as: name, attributes: attributes)
    }

    static func contents(_ inode: Inode, in fileSystem: FileSystem) async throws -> [UInt8] {
        guard inode.size > 0 else { return [] }
        let buffer = IOBuffer(count: Int(inode.size))
        try await fileSystem.file(inode).read(offset: 0, into: buffer, range: 0..<buffer.count)
        return buffer.array(0..<buffer.count)
    }

    @Test func formattingHappensOnce() {
        SimulatedCluster.run(seed: 1) { container, world in
            await #expect(throws: FileSystemError.self) {
                _ = try await FileSystem.mount(container, clock: world.clock)
            }
            let first = try await FileSystem.mountOrFormat(container, clock: world.clock)
            let second = try await FileSystem.mountOrFormat(container, clock: world.clock)
            #expect(first.superblock == second.superblock)
            await #expect(throws: FileSystemError.self) {
                _ = try await FileSystem.format(container, clock: world.clock)
            }
            #expect(try await first.rootInode().type == .directory)
        }
    }

    @Test func pathsAreFollowed() {
        SimulatedCluster.run(seed: 2) { container, world in
            var entropy = Entropy(seed: 2)
            let fileSystem = try await FileSystem.format(container, clock: world.clock)
            let attributes = FileSystemTests.attributes(&entropy)
            let deep = try await fileSystem.makeDirectories(
                FileSystemTests.path("/a/b/c"), attributes: attributes)
            try await FileSystemTests.put(
                [7], in: fileSystem, deep, FileSystemTests.name("file"), attributes)
            for (name, target) in [
                ("absolute", "/a/b"), ("relative", "a/b/c"), ("loop", "loop"), ("lost", "nowhere"),
                ("up", "a/b/../../a/b/c/file"),
            ] {
                try await fileSystem.root.makeSymbolicLink(
                    FileSystemTests.name(name), target: Array(target.utf8),
                    attributes: attributes)
            }
            for text in [
                "/a/b/c/file", "absolute/c/file", "relative/file", "/a/../a/b/c/file",
                "/../a/b/c/file",
                "up", "a//b/./c/file",
            ] {
                let found = try await fileSystem.lookup(FileSystemTests.path(text))
                #expect(found.inode.size == 1, "\(text)")
            }
            for text in ["/a/x", "/a/b/c/file/x", "/loop", "/lost", "/a/b/c/file/", "/loop/x"] {
                await #expect(throws: FileSystemError.self, "\(text)") {
                    _ = try await fileSystem.lookup(FileSystemTests.path(text))
                }
            }
            let link = try await fileSystem.lookup(
                FileSystemTests.path("loop"), followingLinks: false)
            #expect(link.inode.type == .symbolicLink)
            await #expect(throws: FileSystemError.self) {
                _ = try await fileSystem.makeDirectories(
                    FileSystemTests.path("/a/b/c/file/d"), attributes: attributes)
            }
        }
    }

    @Test func filesOfManySizesComeBack() {
        SimulatedCluster.run(seed: 3) { container, world in
            var entropy = Entropy(seed: 3)
            let fileSystem = try await FileSystem.format(container, clock: world.clock)
            let name = try FileSystemTests.name("f")
            for size in [0, 1, 4095, 4096, 100_000, 1 << 20, (1 << 20) + 1, (5 << 20) - 3] {
                let bytes = (0..<size).map { _ in UInt8(truncatingIfNeeded: entropy.next()) }
                let attributes = FileSystemTests.attributes(&entropy)
                // Each replaces the one before.
                try await FileSystemTests.put(
                    bytes, in: fileSystem, fileSystem.root, name, attributes)
                let inode = try #require(await fileSystem.root.inode(name))
                #expect(inode.attributes == attributes)
                #expect(try await FileSystemTests.contents(inode, in: fileSystem) == bytes)
            }
        }
    }

    /// Offsets beyond what 32 bits hold stand for themselves.
    @Test func largeFilesHaveEveryOffset() {
        SimulatedCluster.run(seed: 9) { container, world in
            let fileSystem = try await FileSystem.format(container, clock: world.clock)
            let file = try await fileSystem.makeFile()
            let offsets: [UInt64] = [
                5, 1 << 31 - 3, 1 << 32 - 3, 1 << 32 + 100, 3 << 32 + 1 << 20 - 3, 1 << 52 + 5,
            ]
            for (index, offset) in offsets.enumerated() {
                let buffer = IOBuffer(copying: [UInt8](repeating: UInt8(index + 1), count: 7))
                try await file.write(offset: offset, buffer: buffer, range: 0..<7)
            }
            let name = try FileSystemTests.name("large")
            var entropy = Entropy(seed: 9)
            let size: UInt64 = 1 << 53
            try await fileSystem.root.link(
                file, size: size, as: name, attributes: FileSystemTests.attributes(&entropy))
            let inode = try #require(await fileSystem.root.inode(name))
            #expect(inode.size == size)
            let stored = fileSystem.file(inode)
            for (index, offset) in offsets.enumerated() {
                let buffer = IOBuffer(count: 17)
                try await stored.read(offset: offset - 5, into: buffer, range: 0..<17)
                let expected =
                    [0, 0, 0, 0, 0] + [UInt8](repeating: UInt8(index + 1), count: 7)
                    + [0, 0, 0, 0, 0]
                #expect(buffer.array(0..<17) == expected, "offset \(offset)")
            }
            // Where they would be if the upper half were lost.
            let buffer = IOBuffer(count: 20)
            try await stored.read(offset: 1 << 20 - 3, into: buffer, range: 0..<20)
            #expect(buffer.array(0..<20).allSatisfy { $0 == 0 })
        }
    }

    @Test func replacedAndRemovedFilesLeaveNothing() {
        SimulatedCluster.run(seed: 4) { container, world in
            var entropy = Entropy(seed: 4)
            let fileSystem = try await FileSystem.format(container, clock: world.clock)
            let name = try FileSystemTests.name("f")
            let attributes = FileSystemTests.attributes(&entropy)
            try await FileSystemTests.put([1], in: fileSystem, fileSystem.root, name, attributes)
            let old = try #require(await fileSystem.root.inode(name))
            try await FileSystemTests.put([2], in: fileSystem, fileSystem.root, name, attributes)
            let new = try #require(await fileSystem.root.inode(name))
            #expect(old.objectID != new.objectID)
            #expect(try await FileSystemTests.contents(old, in: fileSystem) == [0])
            #expect(try await FileSystemTests.contents(new, in: fileSystem) == [2])
            try await fileSystem.root.remove(name)
            #expect(try await FileSystemTests.contents(new, in: fileSystem) == [0])
            #expect(try await fileSystem.root.inode(name) == nil)
            await #expect(throws: FileSystemError.self) { try await fileSystem.root.remove(name) }
        }
    }

    @Test func largeDirectoriesAreListedInOrder() {
        SimulatedCluster.run(seed: 5) { container, world in
            var entropy = Entropy(seed: 5)
            let fileSystem = try await FileSystem.format(container, clock: world.clock)
            let attributes = FileSystemTests.attributes(&entropy)
            let directory = try await fileSystem.root.makeDirectory(
                FileSystemTests.name("many"), attributes: attributes)
            var names: Set<FileName> = []
            while names.count < 1500 {
                let bytes = (0...entropy.below(6)).map { _ in UInt8(0x30 + entropy.below(200)) }
                if let name = try? FileName(bytes) { names.insert(name) }
            }
            let target: [UInt8] = [0x78]
            _ = try await concurrently(names.sorted()) {
                (name: FileName) async throws(FileSystemError) in
                try await directory.makeSymbolicLink(name, target: target, attributes: attributes)
            }
            for limit in [97, FileSystem.pageMax] {
                var listed: [FileName] = []
                var after: FileName?
                while true {
                    let page = try await directory.entries(after: after, limit: limit)
                    #expect(page.entries.count <= limit)
                    listed += page.entries.map(\.name)
                    guard page.more else { break }
                    after = page.last
                }
                #expect(listed == names.sorted())
            }
            await #expect(throws: FileSystemError.self) {
                try await fileSystem.root.remove(FileSystemTests.name("many"))
            }
            try await fileSystem.root.removeTree(FileSystemTests.name("many"))
            #expect(try await directory.names().names.isEmpty)
        }
    }

    /// A random history of changes, against a model of what the tree must be.
    @Test(arguments: [11, 12, 13] as [UInt64]) func historiesMatchTheModel(seed: UInt64) {
        SimulatedCluster.run(seed: seed) { container, world in
            let fileSystem = try await FileSystem.format(container, clock: world.clock)
            var history = History(fileSystem: fileSystem, seed: seed)
            for _ in 0..<250 { try await history.step() }
            try await history.check()
            #expect(history.done > 100)
            #expect(history.refused > 10)
        }
    }
}

/// What a tree must be after a random history.
private struct History {
    enum Node: Equatable {
        case file([UInt8], FileAttributes)
        case directory(FileAttributes)
        case link([UInt8], FileAttributes)
    }

    let fileSystem: FileSystem
    var entropy: Entropy
    /// By the names from the root.
    var model: [[FileName]: Node] = [:]
    var done = 0
    var refused = 0

    init(fileSystem: FileSystem, seed: UInt64) {
        self.fileSystem = fileSystem
        entropy = Entropy(seed: seed)
    }

    private func path(_ names: [FileName]) -> FilePath {
        FilePath(components: names.map { .name($0) })
    }

    private func children(_ names: [FileName]) -> [[FileName]] {
        model.keys.filter { $0.count == names.count + 1 && $0.starts(with: names) }
    }

    mutating func step() async throws {
        let directories =
            [[]]
            + model.filter {
                if case .directory = $0.value { true } else { false }
            }.keys.sorted { $0.lexicographicallyPrecedes($1) }
        let above = directories[Int(entropy.below(UInt64(directories.count)))]
        let name = try FileName([0x61 + UInt8(entropy.below(6))])
        let names = above + [name]
        let location = try await fileSystem.lookup(path(above))
        let directory = fileSystem.directory(location.inode)
        let attributes = FileSystemTests.attributes(&entropy)
        let old = model[names]
        do {
            switch entropy.below(10) {
            case 0...3:
                let bytes = (0..<entropy.below(9000)).map { _ in UInt8(entropy.below(256)) }
                try await FileSystemTests.put(bytes, in: fileSystem, directory, name, attributes)
                model[names] = .file(bytes, attributes)
                if case .directory = old { Issue.record("a file replaced a directory") }
            case 4...5:
                _ = try await directory.makeDirectory(name, attributes: attributes)
                model[names] = .directory(attributes)
                if old != nil { Issue.record("a directory replaced something") }
            case 6:
                let target: [UInt8] = [0x2f, 0xff]
                try await directory.makeSymbolicLink(name, target: target, attributes: attributes)
                model[names] = .link(target, attributes)
                if case .directory = old { Issue.record("a link replaced a directory") }
            case 7:
                try await directory.setAttributes(name, attributes)
                model[names] = changed(old, attributes)
                if old == nil { Issue.record("attributes of nothing") }
            case 8:
                try await directory.remove(name)
                if old == nil || !children(names).isEmpty { Issue.record("removed \(names)") }
                model[names] = nil
            default:
                try await directory.removeTree(name)
                if old == nil { Issue.record("removed nothing") }
                for key in model.keys where key.starts(with: names) { model[key] = nil }
            }
            done += 1
        } catch let error as FileSystemError {
            refused += 1
            switch error {
            case .notFound: #expect(old == nil)
            case .exists: #expect(old != nil)
            case .notEmpty: #expect(!children(names).isEmpty)
            case .isDirectory:
                if case .directory = old {} else { Issue.record("\(error)") }
            default: Issue.record("\(error)")
            }
        }
    }

    private func changed(_ node: Node?, _ attributes: FileAttributes) -> Node? {
        switch node {
        case .file(let bytes, _): .file(bytes, attributes)
        case .directory: .directory(attributes)
        case .link(let target, _): .link(target, attributes)
        case nil: nil
        }
    }

    /// Reads the whole tree.
    func check() async throws {
        var found: [[FileName]: Node] = [:]
        var pending: [[FileName]] = [[]]
        while let names = pending.popLast() {
            let location = try await fileSystem.lookup(path(names))
            let page = try await fileSystem.directory(location.inode).entries()
            for entry in page.entries {
                let key = names + [entry.name]
                let attributes = entry.inode.attributes
                switch entry.inode.type {
                case .directory:
                    pending.append(key)
                    found[key] = .directory(attributes)
                case .symbolicLink: found[key] = .link(entry.inode.target, attributes)
                case .file:
                    found[key] = .file(
                        try await FileSystemTests.contents(entry.inode, in: fileSystem),
                        attributes)
                }
            }
        }
        #expect(found == model)
    }
}
