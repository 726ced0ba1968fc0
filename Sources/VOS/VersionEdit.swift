internal import BIO
internal import DrayRuntime

/// A memtable that takes nothing more, and what goes into the manifest with it.
struct FrozenMemtable {
    let memtable: Memtable
    /// The last log record in it.
    let sequence: UInt64
    let horizon: UInt64
    let transactions: TransactionTable.EntryQueue
    let prepared: [(sequence: UInt64, record: [UInt8])]
    let completions: [(id: UniqueID, epoch: UInt64, members: [UInt8])]
}

/// What a flush or a merge changes.
struct VersionEdit {
    var removing: [IndexTable] = []
    var adding: [TableInfo] = []
    /// Blocks of values that came into tables, and which of them a merge has copied values to.
    var marked: [BlockExtent] = []
    var copied: [BlockExtent] = []
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
    /// How many extents parts have taken the place of, and their dkeys, as `KeyLocks` has them.
    var extentsCut = 0
    var cutDkeys: Set<UInt64> = []
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
        guard usages.change(adding: edit.addedUsages, removing: edit.removedUsages) else {
            throw .damaged(what: "the tables have more than the manifest says of containers")
        }
        try changeBlockMap(clearing: edit.cleared, marking: edit.marked)
        var manifest = self.manifest
        var metadata = MetadataWrite()
        do throws(VOSError) {
            if let flushed = edit.flushed {
                manifest.sequence = flushed.sequence
                manifest.horizon = flushed.horizon
                manifest.transactionCount = UInt64(flushed.transactions.count)
                manifest.chunks = []
                try await addChunks(of: flushed, to: &manifest, &metadata)
            }
            try addPages(to: &manifest, &metadata)
            manifest.aggregatedEpoch = aggregatedEpoch
            manifest.nextTable = nextTable
            manifest.tables = next.tables.map(\.info)
            manifest.usages = usages.entries.map { Manifest.Usage(name: $0.name, usage: $0.usage) }
            manifest.setSnapshots(snapshots)
            manifest.destroyed = destroyed.filter { !edit.finished.contains($0) }
            try await write(manifest, &metadata)
        } catch {
            try changeBlockMap(clearing: edit.marked, marking: edit.cleared)
            if !metadata.extents.isEmpty { store.allocator.cancel(metadata.extents) }
            throw error
        }
        blockMap.setClean()
        let kept = Set(manifest.metadata)
        let old = self.manifest.metadata.filter { !kept.contains($0) }
        if !old.isEmpty { store.allocator.free(old) }
        self.manifest = manifest
        tableUsages = usages
        destroyed.removeAll { edit.finished.contains($0) }
        if let flushed = edit.flushed {
            frozen = nil
            dismantle(flushed.memtable)
            for entry in abortedBlocks where entry.sequence <= flushed.sequence {
                store.allocator.free(entry.blocks)
            }
            abortedBlocks.removeAll { $0.sequence <= flushed.sequence }
        }
        replaceVersion(by: next, edit)
    }

    /// Throws, and changes nothing, when the tables and the block map contradict each other.
    private func changeBlockMap(
        clearing: [BlockExtent], marking: [BlockExtent]
    ) throws(VOSError) {
        let cleared = clearing.prefix { blockMap.clear($0) }
        let marked = cleared.count == clearing.count ? marking.prefix { blockMap.mark($0) } : []
        guard cleared.count < clearing.count || marked.count < marking.count else { return }
        for extent in marked { _ = blockMap.clear(extent) }
        for extent in cleared { _ = blockMap.mark(extent) }
        throw .damaged(what: "the tables and the block map do not agree about a value's blocks")
    }

    private func replaceVersion(by next: IndexVersion, _ edit: VersionEdit) {
        extentsCut += edit.extentsCut
        // Changes have no order.
        for dkey in edit.cutDkeys { records.didChange(dkey: dkey) }
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

    /// The most transactions that are encoded before others have their turn.
    private static let transactionsPerSlice = 128

    private func addChunks(
        of frozen: FrozenMemtable, to manifest: inout Manifest, _ metadata: inout MetadataWrite
    ) async throws(VOSError) {
        var bytes: [UInt8] = []
        let goal = Manifest.Chunk.byteCountGoal
        for (count, entry) in frozen.transactions.enumerated() {
            bytes.append(id: entry.transaction)
            bytes.put(entry.epoch)
            bytes.append(entry.isCommitted ? 1 : 0)
            if count % VOS.transactionsPerSlice == 0 { await giveWay() }
            if bytes.count >= goal {
                try await addChunk(.transactions, &bytes, &manifest, &metadata)
            }
        }
        try await addChunk(.transactions, &bytes, &manifest, &metadata)
        for (sequence, record) in frozen.prepared {
            if bytes.count + record.count > goal {
                try await addChunk(.prepared, &bytes, &manifest, &metadata)
            }
            bytes.put(sequence)
            bytes.put(string: record)
        }
        try await addChunk(.prepared, &bytes, &manifest, &metadata)
        for completion in frozen.completions {
            bytes.append(id: completion.id)
            bytes.put(completion.epoch)
            bytes.put(string: completion.members)
            if bytes.count >= goal {
                try await addChunk(.completions, &bytes, &manifest, &metadata)
            }
        }
        try await addChunk(.completions, &bytes, &manifest, &metadata)
    }

    private func addChunk(
        _ type: Manifest.ChunkType, _ bytes: inout [UInt8], _ manifest: inout Manifest,
        _ metadata: inout MetadataWrite
    ) async throws(VOSError) {
        guard !bytes.isEmpty else { return }
        let (extents, mirror) = try metadata.add(bytes, store)
        manifest.chunks.append(
            Manifest.Chunk(
                type: type, byteCount: bytes.count,
                checksum: bytes.checksum(first: bytes.count), extents: extents, mirror: mirror))
        bytes.removeAll(keepingCapacity: true)
        do throws(BIOError) {
            try await metadata.write(store)
        } catch {
            throw VOS.error(error)
        }
    }

    /// Adds the pages of the block map that have changed.
    private func addPages(
        to manifest: inout Manifest, _ metadata: inout MetadataWrite
    ) throws(VOSError) {
        if manifest.pages.isEmpty {
            manifest.pages = Array(repeating: BlockMap.Page(), count: blockMap.pageCount)
        }
        for index in blockMap.dirty.sorted() {
            guard let bytes = blockMap.page(index) else {
                manifest.pages[index] = BlockMap.Page()
                continue
            }
            let (extents, mirror) = try metadata.add(bytes, store)
            manifest.pages[index] = BlockMap.Page(
                copies: [extents[0].start, mirror[0].start],
                checksum: bytes.checksum(first: bytes.count))
        }
    }

    /// Writes it all, and makes the manifest the one that counts.
    private func write(
        _ manifest: Manifest, _ metadata: inout MetadataWrite
    ) async throws(VOSError) {
        let bytes = manifest.encode()
        let (extents, mirror) = try metadata.add(bytes, store)
        guard max(extents.count, mirror.count) <= CheckpointRoot.extentsMax else {
            throw .noSpace(requested: UInt64(bytes.count), free: space.free)
        }
        do throws(BIOError) {
            try await metadata.write(store)
            try await store.publishCheckpoint(
                CheckpointRoot(
                    extents: extents, mirror: mirror, byteCount: UInt64(bytes.count),
                    checksum: bytes.checksum(first: bytes.count),
                    logSequence: manifest.sequence))
        } catch {
            throw VOS.error(error)
        }
    }
}

/// Pieces of metadata, each in two copies: some are written together.
private struct MetadataWrite {
    /// Of both copies of all pieces.
    private(set) var extents: [BlockExtent] = []
    /// Of the first and the second copies of those that are not written yet, in order; neighbours
    /// are one.
    private var gathered: (first: [BlockExtent], mirror: [BlockExtent]) = ([], [])
    private var bytes: [UInt8] = []

    /// Reserves blocks for both copies of a piece.
    mutating func add(
        _ piece: [UInt8], _ store: BlockStore
    ) throws(VOSError) -> (extents: [BlockExtent], mirror: [BlockExtent]) {
        let count = VOS.blockCount(piece.count)
        let first = try reserve(count, .metadata, store)
        let mirror = try reserve(count, .mirror, store)
        MetadataWrite.gather(first, into: &gathered.first)
        MetadataWrite.gather(mirror, into: &gathered.mirror)
        bytes.append(contentsOf: piece)
        bytes.append(
            contentsOf: [UInt8](repeating: 0, count: count * BlockDevice.blockSize - piece.count))
        return (first, mirror)
    }

    private mutating func reserve(
        _ blocks: Int, _ stream: BlockStream, _ store: BlockStore
    ) throws(VOSError) -> [BlockExtent] {
        do throws(BIOError) {
            let reserved = try store.allocator.reserve(
                blocks: UInt32(blocks), privileged: true, stream: stream)
            extents += reserved
            return reserved
        } catch {
            throw VOS.error(error)
        }
    }

    private static func gather(_ extents: [BlockExtent], into gathered: inout [BlockExtent]) {
        for extent in extents {
            if let last = gathered.last, last.end == UInt64(extent.start) {
                gathered[gathered.count - 1].count += extent.count
            } else {
                gathered.append(extent)
            }
        }
    }

    /// Writes what has gathered.
    mutating func write(_ store: BlockStore) async throws(BIOError) {
        guard !bytes.isEmpty else { return }
        let buffer = IOBuffer(copying: bytes)
        let places = gathered
        bytes.removeAll(keepingCapacity: true)
        gathered = ([], [])
        for copy in [places.first, places.mirror] {
            try unsafe await store.write(UnsafeRawBufferPointer(buffer.bytes), to: copy)
        }
    }
}

extension Manifest {
    /// The blocks of chunks and pages, both copies.
    var metadata: [BlockExtent] {
        chunks.flatMap { $0.extents + $0.mirror }
            + pages.flatMap(\.copies).map { BlockExtent(start: $0, count: 1) }
    }

    mutating func setSnapshots(_ table: SnapshotTable) {
        snapshots = table.epochs.keys.sorted().flatMap { name in
            table.epochs(of: name).map { Snapshot(name: name, epoch: $0) }
        }
    }
}
