internal import BIO
internal import DrayRuntime
internal import Logging

extension VOS {
    /// Drops versions that nobody can see at `epoch` or later, nor at the epoch of a snapshot, and
    /// gives their space back: what a newer version or a punch of that epoch or before hides. From
    /// then on neither reads (but of snapshots) nor updates below `epoch` are possible.
    ///
    /// Stays below the epochs of updates under way. Cooperative: works in small steps. Does nothing
    /// when it is running already, or when nothing has changed since it last did. Cost: it writes
    /// every table once that has or overlaps what may have been hidden since.
    public func aggregate(upTo epoch: UInt64) async throws(VOSError) {
        try begin()
        defer { end() }
        guard !isAggregating else { return }
        isAggregating = true
        defer { isAggregating = false }
        raiseAggregatedEpoch(to: epoch)
        try await reclaimDestroyed()
        guard aggregatedEpoch > 0 else { return }
        let state = AggregationState(
            epoch: aggregatedEpoch, sequence: lastSequence, snapshots: snapshots.changes)
        guard state != aggregated else { return }
        let weight = weightApplied
        try await flushAll()
        try await mergeLock.withLock { () async throws(VOSError) in try await mergeAll() }
        aggregated = state
        aggregatedWeight = weight
        aggregationRetry.reset()
    }

    func raiseAggregatedEpoch(to epoch: UInt64) {
        let bound = min(epoch, (epochsInFlight.min() ?? .max) - 1)
        aggregatedEpoch = max(aggregatedEpoch, bound)
    }

    /// Returns when all that is logged now is in tables.
    func flushAll() async throws(VOSError) {
        let sequence = lastSequence
        // A transaction that was decided may be in it without a record of its own.
        let memtable = active
        while checkpointSequence < sequence
            || memtable.tree.count > 0 && (active === memtable || frozen?.memtable === memtable)
        {
            try await checkpoint()
        }
    }

    /// Merges all tables down to the last level, and writes anew those there that have something to
    /// drop.
    private func mergeAll() async throws(VOSError) {
        let last = IndexVersion.levelMax
        for level in 0..<last {
            let groups =
                level == 0 ? [version.levels[0]] : version.levels[level].map { [$0] }
            for tables in groups where !tables.isEmpty {
                let below = ((level + 1)..<last).first { !version.levels[$0].isEmpty } ?? last
                try await run(picker.job(tables, to: below))
            }
        }
        var tables = version.levels[last].filter { hasGarbage($0.info) }
        var hidden = UInt64.max
        // What a merge may copy is limited: again, as long as less is left each time.
        while !tables.isEmpty {
            // An earlier one may have taken it.
            for table in tables where version.levels[last].contains(where: { $0 === table }) {
                try await run(picker.job([table], to: last))
            }
            tables = version.levels[last].filter { $0.info.hiddenEpoch <= aggregatedEpoch }
            let left = tables.reduce(0) { $0 + $1.info.hiddenWeight }
            guard left < hidden else { return }
            hidden = left
        }
    }

    /// Whether a table has something to drop that can be told from it alone.
    private func hasGarbage(_ info: TableInfo) -> Bool {
        info.hiddenEpoch <= aggregatedEpoch || info.punches > 0
            || info.held > 0 && snapshots.changes != aggregated?.snapshots
            || destroyed.contains { $0.overlaps(info) }
    }

    // MARK: - Background

    /// Aggregates, takes checkpoints, and scrubs, until the store is closed or the device is out of
    /// service. What fails is tried again after a while that grows (`RetryPause`). Spawn one.
    ///
    /// When less than an eighth of the blocks is free, or somebody else wants space
    /// (`pressForSpace`), superseded versions are kept for a second only (or the retention time, if
    /// that is shorter).
    public func runBackground() async {
        scheduleScrub()
        while !isClosed {
            await xstream.sleep(for: .milliseconds(Int64(options.backgroundPeriod)))
            guard !isClosed else { return }
            guard !store.isOutOfService else {
                log.error("the store is out of service: nothing is done in the background any more")
                return
            }
            startScrubIfDue()
            await attempt("aggregating", \.aggregationRetry) { () async throws(VOSError) in
                let now = world.clock.wallNanoseconds
                let kept = isTight ? min(options.retention, 1_000_000_000) : options.retention
                // No further than epochs go: the wall clock may be ahead, and the updates that come
                // when it is right again must not be too old.
                if now > kept {
                    try await aggregateIfWorth(upTo: min(now - kept, transactions.newest))
                }
                try await reclaimIfQuiet()
            }
            await attempt("flushing", \.flushRetry) { () async throws(VOSError) in
                // Also what could not be flushed for want of space.
                if wantsCheckpoint || frozen != nil { try await checkpoint() }
            }
        }
    }

    /// Does what has not failed lately.
    private func attempt(
        _ what: String, _ retry: ReferenceWritableKeyPath<VOS, RetryPause>,
        _ work: () async throws(VOSError) -> Void
    ) async {
        guard !isClosed, self[keyPath: retry].isOver(at: xstream.now) else { return }
        do throws(VOSError) {
            try await work()
        } catch .closed {
            // The loop sees it.
        } catch .noSpace(let requested, let free) {
            // Updates wait for what this gives back.
            log.warning("\(what): \(requested) bytes wanted, \(free) free")
        } catch {
            log.warning("\(what), again in \(self[keyPath: retry].next): \(error)")
            self[keyPath: retry].begin(at: xstream.now, after: error)
        }
    }

    /// Whether the background should make room at the price of what was written lately: of the
    /// data device or the metadata device less than an eighth is free, or somebody asks for it.
    var isTight: Bool {
        let allocator = store.allocator
        return allocator.freeDataBlocks < allocator.dataBlocks / 8
            || allocator.freeMetadataBlocks < allocator.metadataBlocks / 8
            || pressedUntil.map { xstream.now < $0 } ?? false
    }

    /// How long the background makes room after it was asked to.
    private static let pressTime = Duration.seconds(2)

    /// For the next two seconds the background makes room as if the device were nearly full: a pool
    /// may be, of which the store knows nothing. Cheap.
    public func pressForSpace() { pressedUntil = xstream.now + VOS.pressTime }

    /// Merges in passing leave no more than a fifth or so of what is hidden. The rest goes when all
    /// that was written is old enough; or, when all that there was the last time is, and since then
    /// so much was written that there must be more of it.
    private func aggregateIfWorth(upTo bound: UInt64) async throws(VOSError) {
        let newest = transactions.newest
        guard weightApplied != aggregatedWeight || snapshots.changes != aggregated?.snapshots ?? 0
        else { return }
        let tables = version.tables
        let total = tables.reduce(active.weight) { $0 + $1.info.weight }
        let indexBytes = tables.reduce(0) { $0 + $1.info.byteCount }
        if indexBytes < max(1 << 20, total / VOS.smallIndexShare), bound < newest {
            return try await aggregateSmall(upTo: bound, total: total)
        }
        writtenUntil = []
        if aggregationMark == 0 { aggregationMark = newest }
        guard bound >= aggregationMark else { return }
        let written = weightApplied - aggregatedWeight
        if bound >= newest || written > total / (isTight ? 16 : 2) {
            aggregationMark = newest
            try await aggregate(upTo: bound)
        } else if written > total / 16 {
            raiseAggregatedEpoch(to: bound)
        }
    }

    /// An index of no more than this part of everything is small: merging it costs little.
    private static let smallIndexShare: UInt64 = 256

    /// Where the index is small beside what it describes, what is hidden goes whenever a sixteenth
    /// of everything was written and is old enough: large values fill a device quickly.
    private func aggregateSmall(upTo bound: UInt64, total: UInt64) async throws(VOSError) {
        if writtenUntil.last?.weight != weightApplied {
            writtenUntil.append((epoch: transactions.newest, weight: weightApplied))
        }
        while let second = writtenUntil.dropFirst().first, second.epoch <= bound {
            writtenUntil.removeFirst()
        }
        guard let old = writtenUntil.first, old.epoch <= bound, old.weight > aggregatedWeight,
            old.weight - aggregatedWeight > total / 16
        else { return }
        try await aggregate(upTo: bound)
        // The younger rest comes later.
        aggregatedWeight = old.weight
    }
}

/// What an aggregation has dealt with.
struct AggregationState: Equatable {
    let epoch: UInt64
    let sequence: UInt64
    let snapshots: Int
}
