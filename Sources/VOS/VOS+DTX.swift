internal import BIO
public import DrayRuntime

/// Distributed transactions: prepare, commit, abort.
extension VOS {
    // MARK: - State

    /// What is known here of a transaction.
    public func state(of id: UniqueID) -> DTXState {
        if let dtx = dtxs[id] { return .active(dtx) }
        if let epoch = transactions.outcome(id) ?? completions[id]?.epoch {
            return .committed(epoch: epoch)
        }
        return transactions.isAborted(id) ? .aborted : .unknown
    }

    /// The transactions that are prepared here and undecided, in the order of the log.
    public var undecided: [DTX] {
        dtxs.values.filter { $0.phase == .prepared }.sorted { $0.sequence < $1.sequence }
    }

    /// The log records of what is prepared, in the order of the log, as long as no abort is
    /// durable.
    var preparedRecords: [(sequence: UInt64, record: [UInt8])] {
        dtxs.values.filter { $0.phase == .prepared || $0.isAborting }
            .sorted { $0.sequence < $1.sequence }.map { ($0.sequence, $0.record) }
    }

    /// The committed transactions that this target leads and that others may not know of yet, with
    /// their members, in the order of their epochs.
    public var uncompleted: [(id: UniqueID, epoch: UInt64, members: [UInt8])] {
        completions.map { ($0.key, $0.value.epoch, $0.value.members) }
            .sorted { ($0.1, $0.0.high, $0.0.low) < ($1.1, $1.0.high, $1.0.low) }
    }

    /// Called with the transactions that hold what somebody has to wait for.
    public var onBlocked: ((DTX) -> Void)? {
        get { blockedHandler }
        set {
            blockedHandler = newValue
            locks.onWait = { [weak self] key in self?.reportHolders(of: key) }
        }
    }

    private func reportHolders(of key: UInt64) {
        guard let handler = blockedHandler, !dtxs.isEmpty else { return }
        for dtx in undecided where dtx.locks.contains(where: { $0.key == key }) { handler(dtx) }
    }

    // MARK: - Begin

    /// Locks the keys, checks conditions and conflicts of what this target leads, and gives the
    /// transaction its epoch: what `stamp` says once the locks are held.
    ///
    /// Throws `.duplicateInProgress`, `.conflict`, `.undecided` when another transaction holds a
    /// key for longer than the request's patience, `.exists`, `.notFound`, `.recordSizeMismatch`,
    /// and what `update` throws for bad arguments.
    public func begin(
        _ request: DTXRequest, stamp: () -> UInt64
    ) async throws(VOSError) -> DTX {
        for index in request.parts.indices { try check(request.parts[index].update) }
        guard request.members.count <= VOSLimits.membersLengthMax else {
            throw .badArgument("a transaction of too many members")
        }
        try begin()
        defer { end() }
        guard case .unknown = state(of: request.id), !inProgress.contains(request.id) else {
            throw .duplicateInProgress(request.id)
        }
        let wishes = DTXWishes(request)
        guard wishes.locks.count + wishes.followed.count <= VOSLimits.locksMax,
            request.parts.count <= VOSLimits.locksMax
        else {
            throw .badArgument(
                "a transaction of more than \(VOSLimits.locksMax) keys, with the objects")
        }
        let dtx = DTX(id: request.id, members: request.members, isLeader: request.isLeader)
        dtxs[request.id] = dtx
        do throws(VOSError) {
            if let patience = request.patience {
                guard await locks.acquire(wishes.locks, until: patience) else { throw .undecided }
            } else {
                guard locks.tryAcquire(wishes.locks) else {
                    for lock in wishes.locks { reportHolders(of: lock.key) }
                    throw .conflict
                }
            }
            // The leader of their redundancy group has ordered these.
            let followed = locks.adopt(wishes.followed)
            dtx.locks = wishes.locks.isEmpty ? followed : wishes.locks + followed
            do throws(VOSError) {
                try await admit(dtx, request, wishes, stamp: stamp)
            } catch {
                locks.release(dtx.locks)
                throw error
            }
            return dtx
        } catch {
            dtxs[request.id] = nil
            dtx.phase = .aborted
            throw error
        }
    }

    /// With the locks held: conflicts, conditions, the epoch.
    private func admit(
        _ dtx: DTX, _ request: DTXRequest, _ wishes: DTXWishes, stamp: () -> UInt64
    ) async throws(VOSError) {
        for read in wishes.reads {
            guard stamps.isUnchanged(object: read.object, dkey: read.dkey, since: request.snapshot)
            else { throw .conflict }
        }
        // The locks keep what was looked at as it is.
        for (operation, path) in wishes.conditions { try await checkCondition(operation, path) }
        dtx.epoch = stamp()
        guard dtx.epoch > aggregatedEpoch else {
            throw .epochTooOld(epoch: dtx.epoch, oldest: aggregatedEpoch + 1)
        }
        // Aggregation stays below it while record sizes are looked up.
        epochsInFlight.append(dtx.epoch)
        do throws(VOSError) {
            if request.parts.contains(where: { $0.leads && mayMismatch($0.update) }) {
                try await checkRecordSizes(
                    of: request.parts.filter(\.leads).map(\.update), epoch: dtx.epoch)
            }
            for write in wishes.writes {
                guard stamps.mayWrite(object: write.object, dkey: write.dkey, at: dtx.epoch) else {
                    throw .conflict
                }
            }
        } catch {
            removeInFlight(dtx.epoch)
            throw error
        }
        for write in wishes.writes {
            stamps.didWrite(object: write.object, dkey: write.dkey, at: dtx.epoch)
        }
        for read in wishes.reads {
            stamps.didRead(object: read.object, dkey: read.dkey, at: dtx.epoch)
        }
    }

    // MARK: - Prepare

    /// Writes the values and the record of a transaction that was begun. Durable when it returns.
    /// `updates` are those of the request, their data in place.
    ///
    /// When it throws, the transaction has ended here, and nothing is left of it; but when the
    /// device has failed, it may be prepared after the next start, unless `flushOutcomes` returns.
    public func prepare(_ dtx: DTX, _ updates: [Update]) async throws(VOSError) {
        precondition(dtx.phase == .begun)
        dtx.phase = .preparing
        do throws(VOSError) {
            try begin()
            defer { end() }
            try await log(dtx, updates)
        } catch {
            dtx.operations = []
            didAbort(dtx)
            throw error
        }
    }

    private func log(_ dtx: DTX, _ updates: [Update]) async throws(VOSError) {
        var blocks = RecordBlocks(
            mayBeWritten: updates.count == 1 && updates[0].operations.count == 1)
        do throws(VOSError) {
            let object = updates.map { IndexKey.object($0.pool, $0.container, $0.object) }
            for (update, object) in zip(updates, object) {
                for operation in update.operations {
                    let (dkey, akey) = operation.body.names
                    let path = NamePath(object: object, dkey: dkey, akey: akey)
                    let record = try await place(
                        operation, path, epoch: dtx.epoch, stream: update.stream, in: &blocks)
                    dtx.operations.append(
                        PreparedOperation(key: path.key(for: record), record: record))
                }
            }
            let bytes = LogRecord.encode(dtx, updates, prepared: dtx.operations)
            guard bytes.count <= VOSLimits.recordLengthMax else {
                throw .badArgument(
                    "a transaction of \(bytes.count) bytes of keys and small values, where "
                        + "\(VOSLimits.recordLengthMax) are the most")
            }
            dtx.record = bytes
            try await append(bytes, blocks) { [self] sequence in
                lastSequence = sequence
                didPrepare(dtx, sequence: sequence)
            }
        } catch {
            await cancel(blocks)
            throw error
        }
    }

    /// Nothing of it is durable. The log will say that it never will be.
    private func didAbort(_ dtx: DTX) {
        transactions.add(dtx.id, epoch: dtx.epoch, isCommitted: false)
        finish(dtx, .aborted)
        outcomes.append(DTXOutcome(kind: .aborted, id: dtx.id, epoch: dtx.epoch))
    }

    func didPrepare(_ dtx: DTX, sequence: UInt64) {
        dtx.phase = .prepared
        dtx.sequence = sequence
        dtxs[dtx.id] = dtx
        preparedBytes += dtx.record.count
    }

    /// The locks and the place of a transaction are free again.
    private func finish(_ dtx: DTX, _ phase: DTX.Phase) {
        if dtx.phase == .prepared { preparedBytes -= dtx.record.count }
        dtx.phase = phase
        dtx.record = []
        dtxs[dtx.id] = nil
        removeInFlight(dtx.epoch)
        locks.release(dtx.locks)
    }

    // MARK: - Decide

    /// Makes a prepared transaction visible. The decision is final: everybody who takes part has
    /// prepared, or the leader has said so. It is logged with whatever is logged next, or by
    /// `flushOutcomes`.
    public func commit(_ dtx: DTX) {
        precondition(dtx.phase == .prepared, "only what is prepared can be committed")
        applyCommit(dtx)
        finish(dtx, .committed)
        outcomes.append(DTXOutcome(kind: .committed, id: dtx.id, epoch: dtx.epoch))
    }

    func applyCommit(_ dtx: DTX) {
        apply(dtx.operations, sequence: dtx.sequence)
        transactions.add(dtx.id, epoch: dtx.epoch)
        if dtx.isLeader, !dtx.members.isEmpty {
            completions[dtx.id] = Completion(epoch: dtx.epoch, members: dtx.members)
        }
    }

    /// Ends a transaction without a change. Of one that is prepared, this is durable when it
    /// returns; until then its keys stay locked. Throws when the device fails.
    public func abort(_ dtx: DTX) async throws(VOSError) {
        switch dtx.phase {
        case .begun: didAbort(dtx)
        case .prepared:
            try begin()
            defer { end() }
            dtx.phase = .aborted
            dtx.isAborting = true
            let outcome = DTXOutcome(kind: .aborted, id: dtx.id, epoch: dtx.epoch)
            do throws(VOSError) {
                try await append(LogRecord.encodeOutcomes([outcome])) { [self] sequence in
                    lastSequence = sequence
                    preparedBytes -= dtx.record.count
                    dtx.isAborting = false
                    applyAbort(dtx)
                    finish(dtx, .aborted)
                }
            } catch {
                dtx.phase = .prepared
                dtx.isAborting = false
                throw error
            }
        case .preparing, .committed, .aborted:
            preconditionFailure("a transaction that is \(dtx.phase) cannot be aborted")
        }
    }

    func applyAbort(_ dtx: DTX) {
        transactions.add(dtx.id, epoch: dtx.epoch, isCommitted: false)
        freeBlocks(of: dtx)
    }

    private func freeBlocks(of dtx: DTX) {
        freeAfterFlush(dtx.blocks)
        dtx.operations = []
    }

    /// Gives back blocks that the last log record has taken from a transaction.
    private func freeAfterFlush(_ blocks: [BlockExtent]) {
        guard !blocks.isEmpty else { return }
        abortedBlocks.append(AbortedBlocks(sequence: lastSequence, blocks: blocks))
    }

    /// Notes that a transaction which is not here must never be prepared here. Durable when it
    /// returns.
    public func refuse(_ id: UniqueID, epoch: UInt64) async throws(VOSError) {
        if case .unknown = state(of: id) {
            transactions.add(id, epoch: epoch, isCommitted: false)
            outcomes.append(DTXOutcome(kind: .aborted, id: id, epoch: epoch))
        }
        // Also what somebody else has refused a moment ago.
        try await flushOutcomes()
    }

    /// Everybody who takes part knows that the transaction was committed.
    public func complete(_ id: UniqueID) {
        guard let completion = completions.removeValue(forKey: id) else { return }
        outcomes.append(DTXOutcome(kind: .completed, id: id, epoch: completion.epoch))
    }

    /// Returns when every decision so far is on stable storage.
    public func flushOutcomes() async throws(VOSError) {
        guard !outcomes.isEmpty || outcomesUnderWay > 0 else { return }
        try begin()
        defer { end() }
        // Behind whatever is under way.
        try await append(LogRecord.encodeOutcomes([])) { [self] in lastSequence = $0 }
    }

    /// The most outcomes in one log record.
    static let outcomesPerRecord = 512

    /// Hands the decisions to the log, in front of what is appended next.
    func enqueueOutcomes() throws(BIOError) {
        while !outcomes.isEmpty {
            let count = min(outcomes.count, VOS.outcomesPerRecord)
            let part = Array(outcomes[0..<count])
            try store.enqueue(LogRecord.encodeOutcomes(part)) { [self] sequence in
                lastSequence = sequence
                outcomesUnderWay -= 1
                guard let onCommitsDurable else { return }
                let commits = part.filter { $0.kind == .committed }.map(\.id)
                if !commits.isEmpty { onCommitsDurable(commits) }
            }
            outcomesUnderWay += 1
            outcomes.removeFirst(count)
        }
    }

    // MARK: - Recovery

    /// What a log record says that became of transactions.
    func replay(_ outcomes: [DTXOutcome]) {
        for outcome in outcomes {
            switch outcome.kind {
            case .committed:
                if let dtx = dtxs.removeValue(forKey: outcome.id) {
                    preparedBytes -= dtx.record.count
                    dtx.phase = .committed
                    applyCommit(dtx)
                } else {
                    transactions.add(outcome.id, epoch: outcome.epoch)
                }
            case .aborted:
                if let dtx = dtxs.removeValue(forKey: outcome.id) {
                    preparedBytes -= dtx.record.count
                    dtx.phase = .aborted
                    freeBlocks(of: dtx)
                }
                transactions.add(outcome.id, epoch: outcome.epoch, isCommitted: false)
            case .completed: completions[outcome.id] = nil
            }
        }
    }

    /// After the log: what is undecided holds its keys and its epoch again.
    func adoptUndecided() {
        for dtx in undecided {
            locks.adopt(dtx.locks)
            epochsInFlight.append(dtx.epoch)
        }
    }

    /// Takes the changes that are garbage now out of what is undecided.
    func removeUndecided(_ range: DestroyedRange) {
        for dtx in undecided where range.epochs.contains(dtx.epoch) {
            var kept: [PreparedOperation] = []
            for operation in dtx.operations {
                if range.contains(operation.key) {
                    freeAfterFlush(operation.record.blocks)
                } else {
                    kept.append(operation)
                }
            }
            guard kept.count < dtx.operations.count else { continue }
            dtx.operations = kept
            // The next checkpoint must not bring them back.
            preparedBytes -= dtx.record.count
            dtx.record = LogRecord.encode(dtx)
            preparedBytes += dtx.record.count
        }
    }

    /// Whether anything undecided has changes between two keys.
    func hasUndecided(from: IndexKey.Bytes, to: IndexKey.Bytes) -> Bool {
        undecided.contains { $0.isAnything(in: from, to) }
    }

    // MARK: - Reads of transactions

    /// Whether what was read at `snapshot` is still the newest. Waits for updates under way first.
    /// Throws `.conflict` when it is not, `.undecided` when that takes longer than `patience`.
    public func validate(
        _ reads: [DTXRequest.Read], snapshot: UInt64, patience: Instant
    ) async throws(VOSError) {
        try begin()
        defer { end() }
        for read in reads {
            let object = IndexKey.object(read.pool, read.container, read.object)
            let path = NamePath(object: object, dkey: read.dkey, akey: nil)
            let isSettled =
                read.dkey == nil
                ? await locks.waitForUpdates(ofObject: object, until: patience)
                : await locks.waitForUpdates(of: path, until: patience)
            guard isSettled else { throw .undecided }
            let dkey = read.dkey == nil ? nil : KeyLocks.dkey(path.bytes, length: path.dkeyEnd)
            guard
                stamps.isUnchanged(object: KeyLocks.object(object), dkey: dkey, since: snapshot)
            else { throw .conflict }
        }
    }

    /// What was read or written up to `epoch` is not known any more: after a restart.
    public func setStampFloor(_ epoch: UInt64) { stamps.floor = max(stamps.floor, epoch) }

    /// Notes a read at `epoch` before it waits for the updates under way: what comes while it does,
    /// or as soon as they are decided, does not get an epoch up to that one.
    func noteRead(
        _ object: UInt64, _ dkey: UInt64?, at epoch: UInt64, _ isolation: ReadIsolation
    ) {
        guard isolation != .none else { return }
        stamps.didRead(object: object, dkey: dkey, at: epoch)
    }

    /// Throws `.conflict` when a read at `epoch` is part of a transaction and something newer is
    /// there already. The updates under way have been waited for.
    func checkRead(
        _ object: UInt64, _ dkey: UInt64?, at epoch: UInt64, _ isolation: ReadIsolation
    ) throws(VOSError) {
        guard isolation == .serializable else { return }
        guard stamps.isUnchanged(object: object, dkey: dkey, since: epoch) else { throw .conflict }
    }
}

extension DTX {
    /// Whether any of its changes is between two keys.
    func isAnything(in from: IndexKey.Bytes, _ to: IndexKey.Bytes) -> Bool {
        operations.contains { $0.isIn(from, to) }
    }
}

extension PreparedOperation {
    fileprivate func isIn(_ from: IndexKey.Bytes, _ to: IndexKey.Bytes) -> Bool {
        IndexKey.compare(key, from) >= 0 && IndexKey.compare(key, to) < 0
    }
}

/// What a transaction was committed with, until everybody knows.
struct Completion {
    var epoch: UInt64
    var members: [UInt8]
}

/// The locks, stamps and conditions that a request needs.
struct DTXWishes {
    /// A key by its hashes; without a dkey, the object.
    struct Key {
        var object: UInt64
        var dkey: UInt64?
    }

    /// Of what this target leads.
    private(set) var locks: [KeyLocks.Request] = []
    /// Of the rest: it only lets readers wait.
    private(set) var followed: [KeyLocks.Request] = []
    private(set) var writes: [Key] = []
    private(set) var reads: [Key] = []
    private(set) var conditions: [(Operation, NamePath)] = []

    init(_ request: DTXRequest) {
        for index in request.parts.indices {
            if request.parts[index].leads {
                addLed(request.parts[index].update)
            } else {
                addFollowed(request.parts[index].update)
            }
        }
        for read in request.reads { add(read) }
        KeyLocks.order(&locks)
        KeyLocks.order(&followed)
    }

    private mutating func addFollowed(_ update: Update) {
        let object = IndexKey.object(update.pool, update.container, update.object)
        let objectKey = KeyLocks.object(object)
        followed.append(KeyLocks.Request(key: objectKey, mode: .write))
        for operation in update.operations {
            let path = NamePath(object: object, dkey: operation.body.names.dkey, akey: nil)
            guard path.dkeyEnd > 0 else {
                followed.append(KeyLocks.Request(key: objectKey, mode: .alone))
                continue
            }
            let key = KeyLocks.dkey(path.bytes, length: path.dkeyEnd)
            // Should this target lead soon, what it has prepared keeps its record size.
            let mode: KeyLocks.Mode = operation.hasRecords ? .alone : .write
            followed.append(KeyLocks.Request(key: key, mode: mode))
        }
    }

    private mutating func addLed(_ update: Update) {
        let object = IndexKey.object(update.pool, update.container, update.object)
        let objectKey = KeyLocks.object(object)
        var isWhole = false
        for operation in update.operations {
            let (dkey, akey) = operation.body.names
            let path = NamePath(object: object, dkey: dkey, akey: akey)
            if operation.condition != .none { conditions.append((operation, path)) }
            guard path.dkeyEnd > 0 else {
                isWhole = true
                writes.append(Key(object: objectKey, dkey: nil))
                continue
            }
            let key = KeyLocks.dkey(path.bytes, length: path.dkeyEnd)
            let isAlone = operation.isExclusive || operation.isPunch
            locks.append(KeyLocks.Request(key: key, mode: isAlone ? .alone : .write))
            if !isAlone { addParts(of: operation, path) }
            writes.append(Key(object: objectKey, dkey: key))
        }
        locks.append(KeyLocks.Request(key: objectKey, mode: isWhole ? .alone : .write))
    }

    /// Of an array, the same bytes are written by one transaction at a time: another one that is
    /// later may be decided earlier, and come to another replica earlier. A reader there would see
    /// the later one without the earlier one below it, where they overlap in part. A single value
    /// hides all of an earlier one; a punch, which does not, has its dkey alone.
    ///
    /// Once more two levels: whoever writes all of a part has it alone; whoever writes some of it
    /// has those of its pieces alone.
    private mutating func addParts(of operation: Operation, _ path: NamePath) {
        guard case .array(_, _, let offset, _, let value) = operation.body else { return }
        let end = offset + UInt64(max(1, unsafe value.bytes.count))
        for part in offset / KeyLocks.partBytes...(end - 1) / KeyLocks.partBytes {
            let start = part * KeyLocks.partBytes
            let isWhole = offset <= start && end - start >= KeyLocks.partBytes
            let key = KeyLocks.part(part, of: path.bytes, length: path.akeyEnd)
            locks.append(KeyLocks.Request(key: key, mode: isWhole ? .alone : .write))
            if isWhole { continue }
            let first = max(offset, start) / KeyLocks.pieceBytes
            let last = min(end - 1, start + (KeyLocks.partBytes - 1)) / KeyLocks.pieceBytes
            for piece in first...last {
                let key = KeyLocks.piece(piece, of: path.bytes, length: path.akeyEnd)
                locks.append(KeyLocks.Request(key: key, mode: .alone))
            }
        }
    }

    private mutating func add(_ read: DTXRequest.Read) {
        let object = IndexKey.object(read.pool, read.container, read.object)
        let objectKey = KeyLocks.object(object)
        guard let dkey = read.dkey else {
            locks.append(KeyLocks.Request(key: objectKey, mode: .read))
            reads.append(Key(object: objectKey, dkey: nil))
            return
        }
        let path = NamePath(object: object, dkey: dkey, akey: nil)
        let dkeyKey = KeyLocks.dkey(path.bytes, length: path.dkeyEnd)
        locks.append(KeyLocks.Request(key: objectKey, mode: .readBelow))
        locks.append(KeyLocks.Request(key: dkeyKey, mode: .read))
        reads.append(Key(object: objectKey, dkey: dkeyKey))
    }
}

/// Blocks that an aborted transaction had, and the log record that says so.
struct AbortedBlocks {
    let sequence: UInt64
    let blocks: [BlockExtent]
}
