internal import DrayFileSystem
internal import DrayRuntime
internal import Glibc

/// Writes a tree of the store into the machine's file system: `dray fs get`.
///
/// Modes, owners (for root) and nanosecond times come back, those of directories last, when
/// nothing is written into them any more. Confined to the client's xstream.
final class Download: Transfer {
    private let fileSystem: FileSystem
    private let queue = WorkQueue<Item>(limit: Transfer.queueMax)
    private let restoresOwners = geteuid() == 0

    private struct Item {
        var inode: Inode
        var destination: LocalPath
    }

    init(fileSystem: FileSystem, xstream: XStream, quiet: Bool) {
        self.fileSystem = fileSystem
        super.init(title: "get", xstream: xstream, quiet: quiet)
    }

    /// Writes what stands at `source`: a directory's contents go into `destination` (made if need
    /// be), a file into `destination` if that is a directory, else it gets that name.
    func run(
        _ source: FilePath, to destination: LocalPath
    ) async throws(CommandFailure) -> TransferReport {
        let location: Location
        do throws(FileSystemError) {
            location = try await fileSystem.lookup(source)
        } catch {
            throw CommandFailure(error, EscapedName.text(source.bytes))
        }
        let workers = TaskCounter()
        for _ in 0..<Transfer.workersMax {
            workers.spawn(on: xstream) { await self.work() }
        }
        var directories: [Item] = []
        do throws(FileSystemError) {
            if location.inode.type == .directory {
                directories = try await walk(location.inode, to: destination)
            } else {
                var target = destination
                if let name = location.name,
                    let status = try? LocalFiles.status(destination, followingLinks: true),
                    status.kind == .directory
                {
                    target = destination.appending(name.bytes)
                }
                await queue.put(Item(inode: location.inode, destination: target))
            }
        } catch {
            fail(CommandFailure(error, EscapedName.text(source.bytes)))
        }
        queue.end(discarding: failed)
        await workers.wait()
        if !failed { finishDirectories(directories) }
        return try finish()
    }

    /// Makes the directories and queues everything else. Returns the directories, parents first.
    private func walk(
        _ root: Inode, to destination: LocalPath
    ) async throws(FileSystemError) -> [Item] {
        var made: [Item] = []
        var pending = [Item(inode: root, destination: destination)]
        while let next = pending.popLast(), !failed {
            do throws(Errno) {
                // Writable for us until its contents are there.
                try LocalFiles.makeDirectories(next.destination, mode: 0o700)
            } catch {
                fail(CommandFailure(next.destination.text, error.text))
                break
            }
            made.append(next)
            report.directories += 1
            var after: FileName?
            while !failed {
                let page = try await fileSystem.directory(next.inode).entries(after: after)
                for entry in page.entries {
                    let item = Item(
                        inode: entry.inode,
                        destination: next.destination.appending(entry.name.bytes))
                    if entry.inode.type == .directory {
                        pending.append(item)
                    } else {
                        await queue.put(item)
                    }
                }
                guard page.more, let last = page.last else { break }
                after = last
            }
        }
        return made
    }

    /// Sets modes and times of directories, the deepest first.
    private func finishDirectories(_ directories: [Item]) {
        for item in directories.reversed() {
            do throws(Errno) {
                try restoreOwner(item)
                try LocalFiles.setMode(item.destination, item.inode.attributes.mode)
                try LocalFiles.setTimes(
                    item.destination, accessed: item.inode.attributes.accessed,
                    modified: item.inode.attributes.modified)
            } catch {
                return fail(CommandFailure(item.destination.text, error.text))
            }
        }
    }

    private func restoreOwner(_ item: Item) throws(Errno) {
        guard restoresOwners else { return }
        let attributes = item.inode.attributes
        let result = unsafe item.destination.withCString {
            unsafe lchown($0, attributes.userID, attributes.groupID)
        }
        guard result == 0 else { throw .last }
    }

    // MARK: - The workers

    private func work() async {
        while let item = await queue.take() {
            if failed { continue }
            do throws(CommandFailure) {
                switch item.inode.type {
                case .symbolicLink: try getLink(item)
                case .file, .directory: try await getFile(item)
                }
            } catch {
                fail(error)
                queue.end(discarding: true)
            }
            showProgress()
        }
    }

    /// Makes room for a new file or link. A directory is not removed.
    private func clear(_ path: LocalPath) throws(Errno) {
        do throws(Errno) {
            try LocalFiles.remove(path)
        } catch {
            guard error.code == ENOENT else { throw error }
        }
    }

    private func getLink(_ item: Item) throws(CommandFailure) {
        do throws(Errno) {
            try clear(item.destination)
            try LocalFiles.makeSymbolicLink(item.destination, target: item.inode.target)
            try restoreOwner(item)
            try LocalFiles.setTimes(
                item.destination, accessed: item.inode.attributes.accessed,
                modified: item.inode.attributes.modified)
        } catch {
            throw CommandFailure(item.destination.text, error.text)
        }
        report.symbolicLinks += 1
    }

    private func getFile(_ item: Item) async throws(CommandFailure) {
        let destination: OpenFile
        do throws(Errno) {
            try clear(item.destination)
            destination = try OpenFile(
                item.destination, O_WRONLY | O_CREAT | O_EXCL, mode: 0o600)
        } catch {
            throw CommandFailure(item.destination.text, error.text)
        }
        try await load(item, into: destination)
        do throws(Errno) {
            try destination.setSize(item.inode.size)
            try restoreOwner(item)
            try destination.setMode(item.inode.attributes.mode)
            try destination.setTimes(
                accessed: item.inode.attributes.accessed,
                modified: item.inode.attributes.modified)
        } catch {
            throw CommandFailure(item.destination.text, error.text)
        }
        report.files += 1
        report.bytes += item.inode.size
    }

    private func load(_ item: Item, into destination: OpenFile) async throws(CommandFailure) {
        let file = fileSystem.file(item.inode)
        let chunk = UInt64(FileSystem.chunkSize)
        let tasks = TaskCounter()
        var offset: UInt64 = 0
        while offset < item.inode.size, !failed {
            let buffer = await buffers.take()
            let count = Int(min(chunk, item.inode.size - offset))
            let start = offset
            tasks.spawn(on: xstream) {
                await self.loadChunk(file, item, destination, buffer, count, start)
                self.buffers.give(buffer)
            }
            offset += UInt64(count)
        }
        await tasks.wait()
    }

    private func loadChunk(
        _ file: File, _ item: Item, _ destination: OpenFile, _ buffer: IOBuffer, _ count: Int,
        _ offset: UInt64
    ) async {
        do throws(FileSystemError) {
            try await file.read(offset: offset, into: buffer, range: 0..<count)
        } catch {
            return fail(CommandFailure(error, item.destination.text))
        }
        // The file is new, and gets its size in the end: zeroes become holes.
        if OpenFile.isZero(buffer, count: count) { return }
        do throws(Errno) {
            try destination.write(from: buffer, range: 0..<count, offset: offset)
        } catch {
            fail(CommandFailure(item.destination.text, error.text))
        }
    }
}
