internal import DrayFileSystem
internal import DrayRuntime
internal import Glibc

/// Compares a tree of the machine's file system with one of the store: `dray fs compare`.
///
/// Types, modes, modification times, links' targets, sizes and every byte. Each difference is a
/// line on standard output. Confined to the client's xstream.
final class Comparison: Transfer {
    private let fileSystem: FileSystem
    private let queue = WorkQueue<Item>(limit: Transfer.queueMax)
    private(set) var lines: [String] = []

    /// Lines that are kept; further differences are only counted.
    static let linesMax = 1000

    private struct Item {
        var local: LocalPath
        var remote: FilePath
        /// The record, when the walk has it already.
        var inode: Inode?
    }

    init(fileSystem: FileSystem, xstream: XStream, quiet: Bool) {
        self.fileSystem = fileSystem
        super.init(title: "compare", xstream: xstream, quiet: quiet)
    }

    /// Compares everything below two directories, both ways; or only the paths of `only`, given
    /// from those directories on.
    func run(
        _ local: LocalPath, with remote: FilePath, only: [[UInt8]]?
    ) async throws(CommandFailure) -> TransferReport {
        let workers = TaskCounter()
        for _ in 0..<Transfer.workersMax {
            workers.spawn(on: xstream) { await self.work() }
        }
        do throws(FileSystemError) {
            if let only {
                filesTotal = UInt64(only.count)
                for path in only where !failed {
                    let steps = try FilePath(path).components
                    await queue.put(
                        Item(
                            local: local.appending(path),
                            remote: FilePath(components: remote.components + steps)))
                }
            } else {
                let location = try await fileSystem.lookup(remote)
                try await walk(Item(local: local, remote: remote, inode: location.inode))
            }
        } catch {
            fail(CommandFailure(error, EscapedName.text(remote.bytes)))
        }
        queue.end(discarding: failed)
        await workers.wait()
        return try finish()
    }

    private func walk(_ root: Item) async throws(FileSystemError) {
        var pending = [root]
        while let next = pending.popLast(), !failed {
            await queue.put(next)
            guard let inode = next.inode, inode.type == .directory else { continue }
            let localNames = (try? LocalFiles.names(in: next.local)) ?? []
            var missing = Set(localNames)
            var after: FileName?
            while true {
                let page = try await fileSystem.directory(inode).entries(after: after)
                for entry in page.entries {
                    missing.remove(entry.name.bytes)
                    let item = Item(
                        local: next.local.appending(entry.name.bytes),
                        remote: next.remote.appending(entry.name), inode: entry.inode)
                    if entry.inode.type == .directory {
                        pending.append(item)
                    } else {
                        await queue.put(item)
                    }
                }
                guard page.more, let last = page.last else { break }
                after = last
            }
            for name in missing.sorted(by: { $0.lexicographicallyPrecedes($1) }) {
                differ(next.local.appending(name), "only on this machine")
            }
        }
    }

    private func differ(_ path: LocalPath, _ what: String) {
        report.differences += 1
        if lines.count < Comparison.linesMax { lines.append("\(path.text): \(what)") }
    }

    // MARK: - The workers

    private func work() async {
        while let item = await queue.take() {
            if failed { continue }
            do throws(FileSystemError) {
                try await compare(item)
            } catch {
                fail(CommandFailure(error, EscapedName.text(item.remote.bytes)))
                queue.end(discarding: true)
            }
            showProgress()
        }
    }

    private func compare(_ item: Item) async throws(FileSystemError) {
        let status: LocalStatus
        do throws(Errno) {
            status = try LocalFiles.status(item.local)
        } catch {
            return differ(item.local, "only in the store (\(error.text))")
        }
        let inode: Inode
        if let known = item.inode {
            inode = known
        } else {
            do throws(FileSystemError) {
                inode = try await fileSystem.lookup(item.remote, followingLinks: false).inode
            } catch {
                guard case .notFound = error else { throw error }
                return differ(item.local, "not in the store")
            }
        }
        if status.attributes.mode != inode.attributes.mode, inode.type != .symbolicLink {
            differ(
                item.local,
                "mode \(String(status.attributes.mode, radix: 8)) here, "
                    + "\(String(inode.attributes.mode, radix: 8)) in the store")
        }
        if status.attributes.modified != inode.attributes.modified {
            differ(item.local, "modification times differ")
        }
        switch (status.kind, inode.type) {
        case (.directory, .directory): report.directories += 1
        case (.symbolicLink, .symbolicLink): compareLink(item, inode)
        case (.file, .file): try await compareFile(item, inode, size: status.size)
        default: differ(item.local, "of another type than in the store")
        }
    }

    private func compareLink(_ item: Item, _ inode: Inode) {
        report.symbolicLinks += 1
        let target = try? LocalFiles.target(of: item.local)
        if target != inode.target { differ(item.local, "points elsewhere than in the store") }
    }

    private func compareFile(
        _ item: Item, _ inode: Inode, size: UInt64
    ) async throws(FileSystemError) {
        report.files += 1
        guard size == inode.size else {
            return differ(item.local, "\(size) bytes here, \(inode.size) in the store")
        }
        let local: OpenFile
        do throws(Errno) {
            local = try OpenFile(item.local, O_RDONLY | O_NONBLOCK)
        } catch {
            return skip(item.local.text, error.text)
        }
        let file = fileSystem.file(inode)
        var offset: UInt64 = 0
        while offset < size, !failed {
            let count = Int(min(UInt64(FileSystem.chunkSize), size - offset))
            let position = try await firstDifference(local, file, offset, count)
            if let position {
                return differ(item.local, "bytes differ from byte \(position) on")
            }
            offset += UInt64(count)
            report.bytes += UInt64(count)
        }
    }

    /// The first byte that differs in a range; nil when all are equal.
    private func firstDifference(
        _ local: OpenFile, _ file: File, _ offset: UInt64, _ count: Int
    ) async throws(FileSystemError) -> UInt64? {
        let here = await buffers.take()
        let there = IOBuffer(count: count)
        defer { buffers.give(here) }
        do throws(Errno) {
            let read = try local.read(into: here, range: 0..<count, offset: offset)
            guard read == count else { return offset + UInt64(read) }
        } catch {
            return offset
        }
        try await file.read(offset: offset, into: there, range: 0..<count)
        let ours = unsafe UnsafeRawBufferPointer(rebasing: here.bytes[0..<count])
        let stored = unsafe UnsafeRawBufferPointer(rebasing: there.bytes[0..<count])
        if unsafe ours.elementsEqual(stored) { return nil }
        let index = unsafe zip(ours, stored).enumerated().first { $1.0 != $1.1 }?.offset
        return offset + UInt64(index ?? 0)
    }
}
