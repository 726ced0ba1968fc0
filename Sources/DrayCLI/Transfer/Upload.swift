internal import DrayFileSystem
internal import DrayRuntime
internal import Glibc

/// Stores a tree of the machine's file system: `dray fs put`.
///
/// One task walks the tree and makes the directories; workers store files and links. A file's
/// contents are stored first and its name last, so that an interrupted upload leaves no half
/// files. Confined to the client's xstream.
final class Upload: Transfer {
    private let fileSystem: FileSystem
    private let acknowledged: OpenFile?
    private let verbose: Bool
    private let queue = WorkQueue<Item>(limit: Transfer.queueMax)

    private struct Item {
        var directory: Directory
        var name: FileName
        var source: LocalPath
        /// From the root of the upload, for the list of acknowledged entries.
        var relative: [UInt8]
        var status: LocalStatus
    }

    init(
        fileSystem: FileSystem, xstream: XStream, acknowledged: OpenFile?, verbose: Bool,
        quiet: Bool
    ) {
        self.fileSystem = fileSystem
        self.acknowledged = acknowledged
        self.verbose = verbose
        super.init(title: "put", xstream: xstream, quiet: quiet)
    }

    /// Stores `source`: a directory's contents become those of `destination` (made if need be), a
    /// file goes into `destination` if that is a directory and else gets its name.
    func run(
        _ source: LocalPath, to destination: FilePath
    ) async throws(CommandFailure) -> TransferReport {
        let status: LocalStatus
        do throws(Errno) {
            // What the user names is followed: the link is how they reach it.
            status = try LocalFiles.status(source, followingLinks: true)
        } catch {
            throw CommandFailure(
                error.code == ENOENT ? .notFound : .failure, source.text, error.text)
        }
        if case .special(let what) = status.kind {
            throw CommandFailure(source.text, "is \(what)", advice: "name a file or a directory")
        }
        let workers = TaskCounter()
        for _ in 0..<Transfer.workersMax {
            workers.spawn(on: xstream) { await self.work() }
        }
        do throws(FileSystemError) {
            if status.kind == .directory {
                await countTotals(source)
                let root = try await fileSystem.makeDirectories(
                    destination, attributes: status.attributes)
                try await fileSystem.setAttributes(destination, status.attributes)
                try await walk(source, into: root)
            } else {
                try await enqueueFile(source, status, destination)
            }
        } catch {
            fail(CommandFailure(error, EscapedName.text(destination.bytes)))
        }
        queue.end(discarding: failed)
        await workers.wait()
        return try finish()
    }

    private func enqueueFile(
        _ source: LocalPath, _ status: LocalStatus, _ destination: FilePath
    ) async throws(FileSystemError) {
        filesTotal = 1
        bytesTotal = status.size
        var parent = destination
        var name = try FileName(source.name)
        if !destination.requiresDirectory, case .name(let last) = destination.components.last {
            do throws(FileSystemError) {
                let there = try await fileSystem.lookup(destination)
                if there.inode.type != .directory {
                    parent = FilePath(components: destination.components.dropLast())
                    name = last
                }
            } catch {
                guard case .notFound = error else { throw error }
                parent = FilePath(components: destination.components.dropLast())
                name = last
            }
        }
        let location = try await fileSystem.lookup(parent)
        guard location.inode.type == .directory else { throw .notDirectory(parent.bytes) }
        await queue.put(
            Item(
                directory: fileSystem.directory(location.inode), name: name, source: source,
                relative: name.bytes, status: status))
    }

    // MARK: - The walk

    /// A directory whose entries are still to be walked.
    private struct Pending {
        var source: LocalPath
        var relative: [UInt8]
        var directory: Directory
    }

    private func walk(_ source: LocalPath, into root: Directory) async throws(FileSystemError) {
        report.directories += 1
        var pending = [Pending(source: source, relative: [], directory: root)]
        while let next = pending.popLast(), !failed {
            let names: [[UInt8]]
            do throws(Errno) {
                names = try LocalFiles.names(in: next.source)
            } catch {
                skip(next.source.text, error.text)
                continue
            }
            for bytes in names where !failed {
                let path = next.source.appending(bytes)
                let name = try FileName(bytes)
                let relative =
                    next.relative.isEmpty ? bytes : next.relative + [UInt8(ascii: "/")] + bytes
                guard let status = status(of: path) else { continue }
                switch status.kind {
                case .directory:
                    let made = try await makeDirectory(name, in: next.directory, status)
                    report.directories += 1
                    acknowledge(relative)
                    pending.append(Pending(source: path, relative: relative, directory: made))
                case .file, .symbolicLink:
                    await queue.put(
                        Item(
                            directory: next.directory, name: name, source: path,
                            relative: relative, status: status))
                case .special(let what):
                    skip(path.text, "is \(what)")
                }
            }
        }
    }

    private func status(of path: LocalPath) -> LocalStatus? {
        do throws(Errno) {
            return try LocalFiles.status(path)
        } catch {
            skip(path.text, error.text)
            return nil
        }
    }

    private func makeDirectory(
        _ name: FileName, in parent: Directory, _ status: LocalStatus
    ) async throws(FileSystemError) -> Directory {
        do throws(FileSystemError) {
            return try await parent.makeDirectory(name, attributes: status.attributes)
        } catch {
            guard case .exists = error else { throw error }
        }
        guard let inode = try await parent.inode(name), inode.type == .directory else {
            throw .notDirectory(name.bytes)
        }
        try await parent.setAttributes(name, status.attributes)
        return fileSystem.directory(inode)
    }

    /// Counts files and bytes for the progress bar, when somebody looks at it.
    private func countTotals(_ source: LocalPath) async {
        guard Terminal.isTerminal(2) else { return }
        var files: UInt64 = 0
        var bytes: UInt64 = 0
        var pending = [source]
        while let next = pending.popLast() {
            files += 1
            guard let names = try? LocalFiles.names(in: next) else { continue }
            for name in names {
                let path = next.appending(name)
                guard let status = try? LocalFiles.status(path) else { continue }
                switch status.kind {
                case .directory: pending.append(path)
                case .file:
                    files += 1
                    bytes += status.size
                case .symbolicLink: files += 1
                case .special: break
                }
            }
            await xstream.yield()
        }
        filesTotal = files
        bytesTotal = bytes
    }

    // MARK: - The workers

    private func work() async {
        while let item = await queue.take() {
            if failed { continue }
            do throws(FileSystemError) {
                switch item.status.kind {
                case .symbolicLink: try await putLink(item)
                case .file, .directory, .special: try await putFile(item)
                }
            } catch {
                fail(CommandFailure(error, item.source.text))
                queue.end(discarding: true)
            }
            showProgress()
        }
    }

    private func putLink(_ item: Item) async throws(FileSystemError) {
        let target: [UInt8]
        do throws(Errno) {
            target = try LocalFiles.target(of: item.source)
        } catch {
            return skip(item.source.text, error.text)
        }
        try await item.directory.makeSymbolicLink(
            item.name, target: target, attributes: item.status.attributes)
        report.symbolicLinks += 1
        acknowledge(item.relative)
    }

    private func putFile(_ item: Item) async throws(FileSystemError) {
        let source: OpenFile
        let status: LocalStatus
        do throws(Errno) {
            // Not to wait for a FIFO's writer, should one stand there by now.
            source = try OpenFile(item.source, O_RDONLY | O_NONBLOCK)
            status = try source.status()
        } catch {
            return skip(item.source.text, error.text)
        }
        guard status.kind == .file else { return skip(item.source.text, "changed its type") }
        let file = try await fileSystem.makeFile()
        let problem = try await store(source, size: status.size, into: file)
        if let problem {
            try await file.discard()
            return skip(item.source.text, problem)
        }
        try await item.directory.link(
            file, size: status.size, as: item.name, attributes: status.attributes)
        report.files += 1
        report.bytes += status.size
        acknowledge(item.relative)
    }

    /// Stores the contents chunk by chunk, several at a time. Returns why the source cannot be
    /// read, if so.
    private func store(
        _ source: OpenFile, size: UInt64, into file: File
    ) async throws(FileSystemError) -> String? {
        let chunk = UInt64(FileSystem.chunkSize)
        let state = ChunkState()
        let tasks = TaskCounter()
        var offset: UInt64 = 0
        while offset < size, state.error == nil, state.problem == nil, !failed {
            if size > chunk {
                // Holes are passed over; what is never written reads as zeroes.
                guard let data = source.nextData(from: offset), data < size else { break }
                offset = max(offset, data / chunk * chunk)
            }
            let buffer = await buffers.take()
            let count = Int(min(chunk, size - offset))
            let start = offset
            if size <= chunk {
                await Upload.storeChunk(source, file, buffer, count, start, state)
                buffers.give(buffer)
            } else {
                tasks.spawn(on: xstream) {
                    await Upload.storeChunk(source, file, buffer, count, start, state)
                    self.buffers.give(buffer)
                }
            }
            offset += UInt64(count)
        }
        await tasks.wait()
        if let error = state.error { throw error }
        if let problem = state.problem { return problem }
        // A hole that was passed over may have become the end.
        guard let now = try? source.status().size, now >= size else { return Upload.shorter }
        return nil
    }

    private static let shorter = "became shorter while it was read"

    /// What the chunks of one file have come to.
    private final class ChunkState {
        var error: FileSystemError?
        var problem: String?
    }

    private static func storeChunk(
        _ source: OpenFile, _ file: File, _ buffer: IOBuffer, _ count: Int, _ offset: UInt64,
        _ state: ChunkState
    ) async {
        do throws(Errno) {
            let read = try source.read(into: buffer, range: 0..<count, offset: offset)
            if read < count {
                state.problem = Upload.shorter
                return
            }
        } catch {
            state.problem = error.text
            return
        }
        // What is never written reads as zeroes: holes and long runs of zeroes take no space.
        if OpenFile.isZero(buffer, count: count) { return }
        do throws(FileSystemError) {
            try await file.write(offset: offset, buffer: buffer, range: 0..<count)
        } catch {
            state.error = state.error ?? error
        }
    }

    // MARK: - Acknowledgements

    /// Writes down that an entry is stored: the path and a zero byte, at once.
    private func acknowledge(_ relative: [UInt8]) {
        if verbose {
            progress.clear()
            Terminal.note(EscapedName.text(relative))
        }
        guard let acknowledged else { return }
        do throws(Errno) {
            try acknowledged.append(relative + [0])
        } catch {
            fail(CommandFailure("list of acknowledged files", error.text))
        }
    }
}
