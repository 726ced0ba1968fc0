internal import BIO
internal import DequeModule
internal import DrayRuntime

/// A memtable that takes nothing more, and what goes into the manifest with it.
struct FrozenMemtable {
    let memtable: Memtable
    /// The last log record in it.
    let sequence: UInt64
    let horizon: UInt64
    let transactions: Deque<TransactionTable.Entry>
    let prepared: [(sequence: UInt64, record: [UInt8])]
    let completions: [(id: UniqueID, epoch: UInt64, members: [UInt8])]
}

/// What a flush or a merge changes.
struct VersionEdit {
    var removing: [IndexTable] = []
    var adding: [TableInfo] = []
    /// Blocks of values that came into tables.
    var marked: [BlockExtent] = []
    /// Blocks of values that were in tables, and are no more.
    var cleared: [BlockExtent] = []
    /// Blocks of values that were never in a table, and will not be.
    var released: [BlockExtent] = []
    var addedUsages = UsageTable()
    var removedUsages = UsageTable()
    /// What is flushed.
    var flushed: FrozenMemtable?
    /// Of these nothing is left.
    var finished: Set<DestroyedRange> = []
}

extension VOS {
    /// Makes an edit durable, then effective. Throws `.noSpace` or `.device`, and then nothing has
    /// changed; the blocks of the new tables are the caller's.
    func publish(_ edit: VersionEdit) async throws(VOSError) {
        try await manifestLock.withLock { () async throws(VOSError) in
            try await publishLocked(edit)
        }
    }

    private func publishLocked(_ edit: VersionEdit) async throws(VOSError) {
        let removed = Set(edit.removing.map(\.info.id))
        let next = version.changed(
            removing: removed,
            adding: edit.adding.map { IndexTable($0, store: store, cache: blockCache) })
        var usages = tableUsages
        usages.change(adding: edit.addedUsages, removing: edit.removedUsages)
        for extent in edit.cleared { blockMap.clear(extent) }
        for extent in edit.marked { blockMap.mark(extent) }
        var manifest = self.manifest
        var written: [BlockExtent] = []
        do throws(VOSError) {
            if let flushed = edit.flushed {
                manifest.sequence = flushed.sequence
                manifest.horizon = flushed.horizon
                manifest.transactionCount = UInt64(flushed.transactions.count)
                manifest.chunks = []
                try await writeChunks(of: flushed, to: &manifest, &written)
            }
            try await writePages(to: &manifest, &written)
            manifest.aggregatedEpoch = aggregatedEpoch
            manifest.nextTable = nextTable
            manifest.tables = next.tables.map(\.info)
            manifest.usages = usages.entries.map { Manifest.Usage(name: $0.name, usage: $0.usage) }
            manifest.setSnapshots(snapshots)
            manifest.destroyed = destroyed.filter { !edit.finished.contains($0) }
            try await writeRoot(manifest, &written)
        } catch {
            for extent in edit.marked { blockMap.clear(extent) }
            for extent in edit.cleared { blockMap.mark(extent) }
            if !written.isEmpty { store.allocator.cancel(written) }
            throw error
        }
        blockMap.setClean()
        let kept = Set(manifest.metadata)
        let old = self.manifest.metadata.filter { !kept.contains($0) }
        if !old.isEmpty { store.allocator.free(old) }
        self.manifest = manifest
        tableUsages = usages
        destroyed.removeAll { edit.finished.contains($0) }
        if edit.flushed != nil { frozen = nil }
        replaceVersion(by: next, edit)
    }

    private func replaceVersion(by next: IndexVersion, _ edit: VersionEdit) {
        let previous = version
        version = next
        let garbage = edit.cleared + edit.released + edit.removing.flatMap(\.info.extents)
        previous.replace(by: next) { [weak self] in
            guard let self, !garbage.isEmpty else { return }
            for extent in garbage { cache.remove(block: extent.start) }
            store.allocator.free(garbage)
        }
    }

    // MARK: - Writing

    private func writeChunks(
        of frozen: FrozenMemtable, to manifest: inout Manifest, _ written: inout [BlockExtent]
    ) async throws(VOSError) {
        var bytes: [UInt8] = []
        let goal = Manifest.Chunk.byteCountGoal
        for (count, entry) in frozen.transactions.enumerated() {
            bytes.append(id: entry.transaction)
            bytes.put(entry.epoch)
            bytes.append(entry.isCommitted ? 1 : 0)
            if count % 1024 == 1023 { await giveWay() }
            if bytes.count >= goal {
                try await writeChunk(.transactions, &bytes, &manifest, &written)
            }
        }
        try await writeChunk(.transactions, &bytes, &manifest, &written)
        for (sequence, record) in frozen.prepared {
            if bytes.count + record.count > goal {
                try await writeChunk(.prepared, &bytes, &manifest, &written)
            }
            bytes.put(sequence)
            bytes.put(string: record)
        }
        try await writeChunk(.prepared, &bytes, &manifest, &written)
        for completion in frozen.completions {
            bytes.append(id: completion.id)
            bytes.put(completion.epoch)
            bytes.put(string: completion.members)
            if bytes.count >= goal {
                try await writeChunk(.completions, &bytes, &manifest, &written)
            }
        }
        try await writeChunk(.completions, &bytes, &manifest, &written)
    }

    private func writeChunk(
        _ type: Manifest.ChunkType, _ bytes: inout [UInt8], _ manifest: inout Manifest,
        _ written: inout [BlockExtent]
    ) async throws(VOSError) {
        guard !bytes.isEmpty else { return }
        let extents = try await write(bytes, &written)
        manifest.chunks.append(
            Manifest.Chunk(
                type: type, byteCount: bytes.count,
                checksum: bytes.checksum(first: bytes.count), extents: extents))
        bytes.removeAll(keepingCapacity: true)
    }

    /// Writes the pages of the block map that have changed.
    private func writePages(
        to manifest: inout Manifest, _ written: inout [BlockExtent]
    ) async throws(VOSError) {
        if manifest.pages.isEmpty {
            manifest.pages = Array(
                repeating: BlockMap.Page(block: nil, checksum: 0), count: blockMap.pageCount)
        }
        for index in blockMap.dirty.sorted() {
            guard let bytes = blockMap.page(index) else {
                manifest.pages[index] = BlockMap.Page(block: nil, checksum: 0)
                continue
            }
            let extents = try await write(bytes, &written)
            manifest.pages[index] = BlockMap.Page(
                block: extents[0].start, checksum: bytes.checksum(first: bytes.count))
        }
    }

    private func writeRoot(
        _ manifest: Manifest, _ written: inout [BlockExtent]
    ) async throws(VOSError) {
        let bytes = manifest.encode()
        let root = try await write(bytes, &written)
        guard root.count <= CheckpointRoot.extentsMax else {
            throw .noSpace(requested: UInt64(bytes.count), free: space.free)
        }
        do throws(BIOError) {
            try await store.publishCheckpoint(
                CheckpointRoot(
                    extents: root, byteCount: UInt64(bytes.count),
                    checksum: bytes.checksum(first: bytes.count),
                    logSequence: manifest.sequence))
        } catch {
            throw VOS.error(error)
        }
    }

    /// Writes `bytes` to blocks that are reserved for them, and adds those to `written`.
    private func write(
        _ bytes: [UInt8], _ written: inout [BlockExtent]
    ) async throws(VOSError) -> [BlockExtent] {
        let count = VOS.blockCount(bytes.count)
        do throws(BIOError) {
            let extents = try store.allocator.reserve(blocks: UInt32(count), privileged: true)
            written.append(contentsOf: extents)
            let buffer = IOBuffer(count: count * BlockDevice.blockSize)
            unsafe bytes.withUnsafeBytes { unsafe buffer.bytes.copyMemory(from: $0) }
            try unsafe await store.write(UnsafeRawBufferPointer(buffer.bytes), to: extents)
            return extents
        } catch {
            throw VOS.error(error)
        }
    }
}

extension Manifest {
    /// The blocks of chunks and pages.
    var metadata: [BlockExtent] {
        chunks.flatMap(\.extents) + pages.compactMap { $0.block.map { BlockExtent(start: $0, count: 1) } }
    }

    mutating func setSnapshots(_ table: SnapshotTable) {
        snapshots = table.epochs.keys.sorted().flatMap { name in
            table.epochs(of: name).map { Snapshot(name: name, epoch: $0) }
        }
    }
}
