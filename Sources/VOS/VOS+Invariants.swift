internal import BIO
internal import DrayRuntime

extension VOS {
    /// Traps when the store's own counts contradict each other, or blocks have leaked. No update or
    /// read may be under way. Throws what reading the tables throws. O(n); for tests and
    /// simulations.
    package func checkInvariants() async throws(VOSError) {
        try begin()
        defer { end() }
        // Nobody merges meanwhile.
        try await mergeLock.withLock { () async throws(VOSError) in
            while try await !checkTables() {}
            checkCounts()
            try await checkRecords()
        }
    }

    /// Compares the tables with what is kept of them in memory. False when a flush has changed them
    /// meanwhile, or is about to, or free blocks are taken to be discarded.
    private func checkTables() async throws(VOSError) -> Bool {
        while isCheckpointing || scrub.isReading || store.isDiscarding { await giveWay() }
        let version = version
        var counted = CountedBlocks(blocks: BlockSet(totalBlocks: store.allocator.totalBlocks))
        for table in version.tables { try await check(table, &counted) }
        guard version === self.version, !isCheckpointing, !scrub.isReading, !store.isDiscarding
        else { return false }
        precondition(counted.blocks == blockMap.blocks, "the block map is wrong")
        let areUsagesRight = counted.usages.entries.elementsEqual(tableUsages.entries) {
            $0.name == $1.name && $0.usage == $1.usage
        }
        precondition(areUsagesRight, "the usage of containers is wrong")
        return true
    }

    /// Compares what is known of the newest versions with what a search finds.
    private func checkRecords() async throws(VOSError) {
        let view = makeView()
        for (path, range, record) in records.known {
            var found: IndexRecord?
            if range.isEmpty {
                found = try await visibleSingle(path, epoch: .max, view).record
            } else {
                let segments = try await visibleSegments(
                    path, range: range, epoch: .max, view
                ).segments
                precondition(
                    segments.count == 1 && segments[0].start == range.lowerBound
                        && segments[0].end == range.upperBound, "a record is not all of a range")
                found = segments[0].record
            }
            precondition(
                found?.epoch == record.epoch && found?.stamp == record.stamp
                    && found?.blocks == record.blocks, "what is known is not the newest")
        }
    }

    private func checkCounts() {
        precondition(inProgress.isEmpty)
        precondition(dtxs.count == undecided.count, "a transaction is neither here nor there")
        precondition(
            epochsInFlight.count == dtxs.count + epochsHeld, "an epoch is still in flight")
        let held = undecided.reduce(0) { $0 + $1.locks.count }
        precondition(locks.heldCount == held, "a key is still locked")
        precondition(preparedBytes == undecided.reduce(0) { $0 + $1.record.count })
        active.checkInvariants()
        frozen?.memtable.checkInvariants()
        let referred = referredBlocks
        precondition(
            referred == UInt64(store.allocator.usedBlocks),
            "\(store.allocator.usedBlocks) blocks are in use, and \(referred) are referred to")
        store.allocator.checkInvariants()
    }

    /// How many blocks the log, the tables, the block map and the manifest refer to, and those that
    /// were freed a moment ago: all that are not free. O(tables).
    var referredBlocks: UInt64 {
        let values =
            active.valueBlocks + (frozen?.memtable.valueBlocks ?? 0)
            + blockMap.blocks.count
        var metadata = manifest
        metadata.tables = version.tables.map(\.info)
        let root = store.checkpoint?.copies.flatMap { $0 } ?? []
        let extents =
            metadata.extents + root + undecided.flatMap(\.blocks)
            + abortedBlocks.flatMap(\.blocks)
        return values + extents.reduce(0) { $0 + UInt64($1.count) }
            + UInt64(store.allocator.quarantinedBlocks)
    }

    /// What the tables really have.
    private struct CountedBlocks {
        var blocks: BlockSet
        var usages = UsageTable()
    }

    private func check(
        _ table: IndexTable, _ counted: inout CountedBlocks
    ) async throws(VOSError) {
        let cursor = IndexCursor(
            merging: [RunCursor([table], prefix: .none, reader: PieceReader(store))])
        try await cursor.seek([])
        var entries: UInt64 = 0
        var previous: IndexKey.Bytes = []
        while cursor.isValid {
            let key = unsafe IndexKey.Bytes(cursor.entry.key)
            precondition(IndexKey.compare(previous, key) < 0, "entries out of order")
            let record = try cursor.entry.record()
            unsafe counted.usages.add(cursor.entry.key, try cursor.entry.head())
            for extent in record.blocks {
                precondition(store.allocator.isUsed(extent), "a value in free blocks")
                precondition(counted.blocks.insert(extent) == nil, "a block has two values")
            }
            for end in [Int(record.dkeyEnd), Int(record.akeyEnd)]
            where end > 0 && !record.kind.isPunch {
                let hash = unsafe key.withPrefix(end) { unsafe TableFilter.path($0) }
                let isKnown = try await table.mayContain(hash)
                precondition(isKnown, "a name is not in the filter")
            }
            if entries == 0 { precondition(key == table.info.firstKey) }
            entries += 1
            previous = key
            try await cursor.next()
        }
        precondition(entries == table.info.entries && previous == table.info.lastKey)
    }
}
