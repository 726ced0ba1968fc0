internal import BIO
internal import DrayRuntime
internal import Logging

/// Flushing: what was logged goes from memory into tables, so that the log before is free.
extension VOS {
    /// Writes what was logged so far to tables of level 0.
    ///
    /// Updates go on meanwhile, and are not in it. Cooperative: serialises a few entries at a time.
    /// When a checkpoint is under way, waits for that one instead. Throws `.noSpace`, `.device`.
    public func checkpoint() async throws(VOSError) {
        try begin()
        defer { end() }
        if isCheckpointing {
            let error = unsafe await withUnsafeContinuation { continuation in
                checkpointWaiters.append(unsafe CheckpointWaiter(continuation: continuation))
            }
            if let error { throw error }
            return
        }
        isCheckpointing = true
        var failure: VOSError?
        do throws(VOSError) {
            try await flush()
        } catch {
            failure = error
        }
        isCheckpointing = false
        let waiters = checkpointWaiters
        checkpointWaiters = []
        for waiter in waiters { unsafe waiter.continuation.resume(returning: failure) }
        if let failure { throw failure }
        flushRetry.reset()
        startMerging()
    }

    /// The last log record that is in tables.
    var checkpointSequence: UInt64 { manifest.sequence }

    private func flush() async throws(VOSError) {
        // What an earlier try has left.
        if frozen != nil { try await flushFrozen() }
        guard lastSequence > checkpointSequence || active.tree.count > 0 else { return }
        frozen = FrozenMemtable(
            memtable: active, sequence: lastSequence, horizon: transactions.horizon,
            transactions: transactions.entries,
            prepared: preparedRecords, completions: uncompleted)
        active = Memtable()
        try await flushFrozen()
    }

    /// A merge may have taken what is left, for a moment: then once more, when that has ended.
    private func flushFrozen() async throws(VOSError) {
        do throws(VOSError) {
            try await writeFrozen()
        } catch .noSpace {
            await mergeLock.withLock {}
            try await writeFrozen()
        } catch {
            throw error
        }
    }

    private func writeFrozen() async throws(VOSError) {
        guard let frozen else { return }
        let memtable = frozen.memtable
        var edit = VersionEdit()
        edit.flushed = frozen
        if memtable.tree.count > 0 {
            let cursor = IndexCursor(
                merging: [MemtableCursor(memtable, prefix: .none, below: .max)])
            try await merge(cursor, from: [], to: 0, &edit)
        }
        do throws(VOSError) {
            try await publish(edit)
        } catch {
            cancel(edit)
            throw error
        }
        log.info("flushed \(memtable.tree.count) entries up to record \(frozen.sequence)")
    }

    /// How many leaves or slabs of a memtable are freed before others have their turn.
    private static let partsPerSlice = 16

    /// Frees a memtable that was flushed, a little at a time, when nobody reads it any more.
    func dismantle(_ memtable: Memtable) {
        retired.append(memtable)
        guard retired.count == 1 else { return }
        // The store is closed only after that: a task that nobody waits for would keep it.
        operations += 1
        xstream.spawn { [self] in
            while !retired.isEmpty, !isClosed {
                if !isKnownUniquelyReferenced(&retired[0]) {
                    await xstream.sleep(for: .milliseconds(1))
                    continue
                }
                let steps = (0..<VOS.partsPerSlice).prefix { _ in retired[0].dismantle() }
                if steps.count < VOS.partsPerSlice { retired.removeFirst() }
                await giveWay()
            }
            retired = []
            end()
        }
    }

    /// Gives back what was written for an edit that was not published.
    func cancel(_ edit: VersionEdit) {
        let extents = edit.adding.flatMap(\.extents) + edit.copied
        if !extents.isEmpty { store.allocator.cancel(extents) }
    }

    /// Whether so much was logged that it should be flushed: the memtable is full, the log half, or
    /// replaying takes half as long as it may.
    var wantsCheckpoint: Bool {
        frozen == nil && lastSequence > checkpointSequence
            && (active.bytes > memtableBytesMax || store.logUsed > store.logSize / 2
                || replayCost.nanoseconds > options.replayTimeMax / 2)
    }

    /// Whether flushing does not keep up, so that updates must wait for it.
    var isBehind: Bool {
        lastSequence > checkpointSequence
            && (active.bytes > 2 * memtableBytesMax || store.logUsed > store.logSize / 4 * 3
                || replayCost.nanoseconds > options.replayTimeMax)
    }

    /// With so many tables in level 0, updates wait for merging to come after.
    static let level0Max = 32

    /// Returns when whoever merges has nothing left to do, or has failed.
    func waitForMerges() async {
        startMerging()
        await mergeLock.withLock {}
    }

    /// No less than the tables will take that the memtables are written to, and what is prepared
    /// when it is committed. An entry of a little more than one device block takes two.
    private var flushedBytesMax: Int {
        2 * (active.bytes + (frozen?.memtable.bytes ?? 0) + preparedBytes)
    }

    /// What the chunks of the manifest take, both copies, without the completions.
    private var chunkBytes: Int {
        2 * (25 * transactions.entries.count + preparedBytes + 12 * dtxs.count)
    }

    /// No less than `blocksKept`, in less time.
    var blocksKeptMax: Int {
        let bytes = flushedBytesMax + chunkBytes + 2 * 65_536 * completions.count
        return bytes / BlockDevice.blockSize + Int(store.allocator.totalBlocks) / 4 + 4096
    }

    /// Blocks that updates leave for copying what is left of extents.
    private var blocksKeptForCopies: Int { Int(store.allocator.dataBlocks) / 128 }

    /// How much a merge may copy: no more than half of what is free, because the blocks of what it
    /// copies are free only when it has ended.
    var copiedWeightMax: UInt64 {
        let free = Int(store.allocator.freeDataBlocks)
        let blocks = max(0, free - blocksKeptForIndex) / 2
        return UInt64(blocks * BlockDevice.blockSize)
    }

    /// Blocks that updates leave on the data device, which is where they take theirs.
    var blocksKept: Int { blocksKeptForIndex + blocksKeptForCopies }

    /// Of these, for flushing what is in memory, and for merging it: what the metadata device has
    /// no room for, if there is one.
    private var blocksKeptForIndex: Int {
        let bytes =
            flushedBytesMax + chunkBytes
            + completions.values.reduce(0) { $0 + 2 * (28 + $1.members.count) }
        let merged = version.mergedBlocks(base: picker.base)
        let unit = BlockDevice.blockSize
        let needed =
            bytes / unit + min(merged, Int(store.allocator.totalBlocks) / 8)
            + 2 * blockMap.pageCount + version.tables.count / 4 + 20
        return max(0, needed - Int(store.allocator.freeMetadataBlocks))
    }

    /// Begins to flush if that is called for and nobody does.
    func startCheckpointIfWanted() {
        guard wantsCheckpoint, !isCheckpointing, !isClosed else { return }
        xstream.spawn { [self] in
            do throws(VOSError) {
                try await checkpoint()
            } catch .closed {
                return
            } catch {
                log.warning("flushing: \(error)")
            }
        }
    }
}

/// A waiter for the checkpoint under way.
@safe struct CheckpointWaiter {
    let continuation: UnsafeContinuation<VOSError?, Never>
}
