internal import BIO
internal import DrayRuntime
internal import Logging

/// Merging of tables, which is what drops versions that nobody can see any more.
extension VOS {
    /// The most entries that are merged before others have their turn.
    private static let entriesPerSlice = 32

    var picker: MergePicker {
        MergePicker(
            version: version, levelBytesMin: 4 * memtableBytesMax, tableBytesMax: tableBytesMax)
    }

    /// Begins to merge if that is called for and nobody does; not for a while after it has failed,
    /// for want of space or at a damaged table.
    func startMerging() {
        guard mergesTables, !isMerging, !isClosed, !store.isOutOfService,
            mergeRetry.isOver(at: xstream.now), picker.pick() != nil
        else { return }
        isMerging = true
        operations += 1
        xstream.spawn { [self] in
            do throws(VOSError) {
                try await mergeLock.withLock { () async throws(VOSError) in
                    while !isClosed, let job = picker.pick() { try await run(job) }
                }
                mergeRetry.reset()
            } catch {
                log.warning("merging tables: \(error)")
                mergeRetry.begin(at: xstream.now, after: error)
            }
            isMerging = false
            end()
        }
    }

    /// Merges tables. The caller holds `mergeLock`.
    func run(_ job: MergeJob) async throws(VOSError) {
        guard !job.inputs.isEmpty else { return }
        var edit = VersionEdit()
        edit.removing = job.inputs
        let cursor = IndexCursor(merging: sources(of: job))
        try await merge(cursor, from: job.inputs, to: job.level, &edit)
        do throws(VOSError) {
            try await publish(edit)
        } catch {
            cancel(edit)
            throw error
        }
        let bytes = job.inputs.reduce(0) { $0 + $1.info.byteCount }
        log.info(
            "merged \(job.inputs.count) tables, \(bytes) bytes, to level \(job.level)"
        )
    }

    /// One cursor for each level above 0, and for each table of level 0.
    private func sources(of job: MergeJob) -> [SourceCursor] {
        var sources: [SourceCursor] = []
        for level in 0...IndexVersion.levelMax {
            let tables = job.inputs.filter { $0.info.level == level }
                .sorted { IndexKey.compare($0.info.firstKey, $1.info.firstKey) < 0 }
            guard !tables.isEmpty else { continue }
            for run in level == 0 ? tables.map({ [$0] }) : [tables[...]] {
                sources.append(RunCursor(run, prefix: .none, reader: PieceReader(store)))
            }
        }
        return sources
    }

    /// Writes what `cursor` brings to tables of `level`, without what nobody can see any more, and
    /// of extents of which little is left no more than that. `inputs` are the tables that it comes
    /// from. When this throws, nothing has changed.
    func merge(
        _ cursor: IndexCursor, from inputs: [IndexTable], to level: Int, _ edit: inout VersionEdit
    ) async throws(VOSError) {
        let copier =
            inputs.isEmpty
            ? nil
            : ExtentCopier(
                store: store, inlineThreshold: options.inlineThreshold,
                weightMax: copiedWeightMax)
        var merge = Merge(
            filter: makeFilter(besides: inputs),
            writer: TableWriter(
                store: store, level: level, bytesMax: tableBytesMax,
                nextID: { [self] in
                    nextTable += 1
                    return nextTable - 1
                }, giveWay: { [self] in await giveWay() }),
            inlineThreshold: options.inlineThreshold, copier: copier,
            room: room(for: inputs, in: level))
        do throws(VOSError) {
            try await cursor.seek([])
            if cursor.isValid, !inputs.isEmpty { try await beginInside(cursor, &merge) }
            var count = 0
            while cursor.isValid {
                try await merge.add(cursor.entry)
                try await cursor.next()
                count += 1
                if count % VOS.entriesPerSlice == 0 {
                    await giveWay()
                    if isClosed { throw .closed }
                }
            }
            try await merge.finish()
        } catch {
            let written = merge.extents
            if !written.isEmpty { store.allocator.cancel(written) }
            throw error
        }
        merge.apply(to: &edit)
    }

    /// Tables of level 0 overlap; there is room everywhere.
    private func room(for inputs: [IndexTable], in level: Int) -> MergeRoom {
        var room = MergeRoom()
        let first = inputs.map(\.info.firstKey).min { IndexKey.compare($0, $1) < 0 }
        guard level > 0, let first else { return room }
        for table in version.levels[level] where !inputs.contains(where: { $0 === table }) {
            if IndexKey.compare(table.info.lastKey, first) < 0 {
                room.after = table.info.lastKey
            } else {
                room.before = room.before ?? table.info.firstKey
            }
        }
        return room
    }

    private func makeFilter(besides inputs: [IndexTable]) -> VersionFilter {
        let ids = Set(inputs.map(\.info.id))
        let isFlush = inputs.isEmpty
        return VersionFilter(
            bound: aggregatedEpoch, snapshots: snapshots, destroyed: destroyed
        ) { [unowned self] name, epoch in
            let end = IndexKey.successor(ofPrefix: name)
            // At equal epochs what was logged last wins: the punch may hide those, too.
            if active.epochMin <= epoch { return true }
            // What is flushed is what the filter sees.
            if !isFlush, let frozen, frozen.memtable.epochMin <= epoch { return true }
            return version.tables.contains { table in
                table.info.epochMin <= epoch && !ids.contains(table.info.id)
                    && table.info.overlaps(name, end)
            }
        }
    }

    /// Tells the filter which punches apply where it begins.
    private func beginInside(_ cursor: IndexCursor, _ merge: inout Merge) async throws(VOSError) {
        let key = unsafe IndexKey.Bytes(cursor.entry.key)
        let head = try cursor.entry.head()
        let view = makeView()
        guard view.mayHavePunch(for: key) else { return }
        for length in [IndexKey.objectLength, head.dkeyEnd, head.akeyEnd] where length > 0 {
            if let punch = try await view.newestPunch(key, length: length, epoch: aggregatedEpoch) {
                merge.filter.begin(at: key, punch: EntryHead(punch))
            }
        }
    }
}
