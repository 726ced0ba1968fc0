internal import BIO
public import DrayRuntime

/// Removal of all versions, or of those of some epochs: a log record makes them garbage, which
/// nobody sees from then on, and tables are written anew without it.
extension VOS {
    /// Removes everything of a container, all versions at once, and frees its space. Cooperative.
    ///
    /// Not atomic: after a crash part of it may be left, and the caller calls this again. Nobody
    /// may use the container any more.
    public func destroyContainer(pool: UniqueID, container: UniqueID) async throws(VOSError) {
        try await destroy(IndexKey.container(pool, container))
    }

    /// Removes everything of a pool: otherwise like `destroyContainer`.
    public func destroyPool(_ pool: UniqueID) async throws(VOSError) {
        try await destroy(IndexKey.pool(pool))
    }

    private func destroy(_ prefix: IndexKey.Bytes) async throws(VOSError) {
        try begin()
        defer { end() }
        let end = IndexKey.successor(ofPrefix: prefix)
        if hasUndecided(from: prefix, to: end) || isAnything(below: prefix)
            || snapshots.isAny(between: prefix, end)
        {
            try await append(LogRecord.encodeRange(from: prefix, to: end)) { [self] sequence in
                apply(.range(from: prefix, to: end), sequence: sequence)
            }
        }
        try await reclaimDestroyed()
    }

    private func isAnything(below prefix: IndexKey.Bytes) -> Bool {
        let pool = UniqueID(high: prefix.word(at: 0), low: prefix.word(at: 8))
        guard prefix.count == 32 else { return usage(pool: pool).entries > 0 }
        let container = UniqueID(high: prefix.word(at: 16), low: prefix.word(at: 24))
        return usage(pool: pool, container: container).entries > 0
    }

    // MARK: - Discarding

    /// The most ranges of garbage that wait for tables to be written without them: each costs every
    /// reader a little.
    static let destroyedMax = 64

    /// Removes every version and every punch of a container, or of one object, whose epoch is in
    /// `epochs`, as if it had never been: what it hid is visible again. Durable when it returns, at
    /// every epoch and in snapshots, too. The space comes back with aggregation, or when the
    /// background finds the time. DAOS: `vos_discard`.
    ///
    /// For what was written and must not stay, such as the copy of a replica that is made anew.
    /// What is logged later stays. Of undecided transactions their changes at these epochs are
    /// taken out; they stay undecided, and may be committed or aborted. Nobody may write at these
    /// epochs meanwhile nor, when later ones are kept, choose record sizes; and transactions that
    /// have read are not told.
    ///
    /// Versions that aggregation has dropped do not come back: `epochs` begins with 0 or 1, or
    /// above `aggregatedEpoch`. Nor may two record sizes meet where a punch goes: when the
    /// container has arrays of records, `epochs` begins with 0 or 1, or ends with `UInt64.max`.
    /// Throws `.epochTooOld`, `.badArgument`, `.noSpace`, `.device`, `.closed`.
    public func discard(
        pool: UniqueID, container: UniqueID, object: ObjectID? = nil, epochs: ClosedRange<UInt64>
    ) async throws(VOSError) {
        try begin()
        defer { end() }
        if destroyed.count >= VOS.destroyedMax { try await reclaimDestroyed() }
        let first = max(1, epochs.lowerBound)
        guard first == 1 || first > aggregatedEpoch else {
            throw .epochTooOld(epoch: first, oldest: aggregatedEpoch + 1)
        }
        let name = ContainerName(pool: pool, container: container)
        guard first == 1 || epochs.upperBound == .max || !mayChooseRecords(name) else {
            throw .badArgument("epochs \(epochs) of a container with arrays of records")
        }
        let from =
            object.map { IndexKey.object(pool, container, $0) }
            ?? IndexKey.container(pool, container)
        let to = IndexKey.successor(ofPrefix: from)
        // Aggregation stays below it until it is in the log.
        holdEpoch(first)
        defer { releaseEpoch(first) }
        try await append(
            LogRecord.encodeDiscard(from: from, to: to, epochs: epochs)
        ) { [self] sequence in
            apply(.discard(from: from, to: to, epochs: epochs), sequence: sequence)
        }
    }

    /// Whether a container may have arrays whose records are not single bytes, undecided ones
    /// included.
    private func mayChooseRecords(_ name: ContainerName) -> Bool {
        let from = IndexKey.container(name.pool, name.container)
        let to = IndexKey.successor(ofPrefix: from)
        return mayHaveRecords(name)
            || undecided.contains { $0.isAnything(in: from, to) && $0.hasRecords }
    }

    // MARK: - Reclaiming

    /// Writes all tables anew that have garbage, and forgets what that was.
    func reclaimDestroyed() async throws(VOSError) {
        let all = destroyed
        guard !all.isEmpty else { return }
        try await flushAll()
        try await mergeLock.withLock { () async throws(VOSError) in
            // Somebody else may have done it.
            let ranges = all.filter(destroyed.contains)
            guard !ranges.isEmpty else { return }
            // Each gets rid of its own.
            for table in version.tables where ranges.contains(where: { $0.overlaps(table.info) }) {
                try await run(MergeJob(inputs: [table], level: table.info.level))
            }
            var edit = VersionEdit()
            edit.finished = Set(ranges)
            try await publish(edit)
        }
    }

    /// The same in the background, when there was nothing new since it last looked.
    func reclaimIfQuiet() async throws(VOSError) {
        let last = destroyed.last
        defer { destroyedMark = last }
        if last != nil, last == destroyedMark { try await reclaimDestroyed() }
    }
}

extension DTX {
    /// Whether it writes an array whose records are not single bytes.
    fileprivate var hasRecords: Bool { operations.contains { $0.record.recordSize != 1 } }
}
