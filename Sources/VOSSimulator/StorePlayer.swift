internal import BIO
package import DrayRuntime
package import VOS

/// Uses the store of a simulated process and keeps the journal: what scenarios are written with.
package final class StorePlayer {
    package let process: SimulatedStore
    package var journal: StoreJournal
    /// What must not be, in words.
    package private(set) var violations: [String] = []
    private var open: VOS?
    /// What was in the closed store.
    private var traces: Set<StoreTrace> = []
    private var transactions: UInt64 = 0
    package var entropy: Entropy
    let buffers = ReadBuffers()

    package init(_ process: SimulatedStore, journal: StoreJournal = StoreJournal(), seed: UInt64) {
        self.process = process
        self.journal = journal
        entropy = Entropy(seed: seed).fork("player")
        transactions = seed << 20
    }

    package var vos: VOS {
        guard let open else { preconditionFailure("the store is not open") }
        return open
    }

    package func violate(_ what: String) { violations.append(what) }

    // MARK: - Life

    package func openStore() async throws(VOSError) { open = try await process.open() }

    package func closeStore() async {
        await process.close(vos)
        open = nil
    }

    package func reopen() async throws(VOSError) {
        await closeStore()
        try await openStore()
    }

    /// Looks at the closed store as `dray vos check` does: nothing may be wrong. `isCrashed`: but a
    /// copy of the superblock, which was being written.
    package func inspect(isCrashed: Bool) async throws {
        let report = try await process.inspect { [self] entry in
            traces.insert(StoreTrace(entry.name))
        }
        for finding in report.findings where !isCrashed || finding.part != .superblock {
            violate("the closed store: \(finding.part.rawValue): \(finding.what)")
        }
    }

    /// Runs all bodies at once, and waits for them.
    package func together(_ bodies: [() async throws -> Void]) async {
        var running = bodies.count
        for body in bodies {
            process.xstream.spawn { [self] in
                do {
                    try await body()
                } catch {
                    violate("\(error)")
                }
                running -= 1
            }
        }
        while running > 0 { await process.xstream.sleep(for: .microseconds(5)) }
    }

    // MARK: - Changes

    package func freshTransaction() -> UniqueID {
        transactions += 1
        return UniqueID(high: 0x7a, low: transactions)
    }

    /// An update with a transaction of its own, unless told otherwise.
    package func update(
        _ changes: [StoreChange], epoch: UInt64, isTransaction: Bool = true,
        container: UniqueID = StoreNames.container
    ) async throws(VOSError) {
        try await send(
            StoreUpdate(
                changes, epoch: epoch, transaction: isTransaction ? freshTransaction() : .zero,
                container: container))
    }

    /// `patience`: for keys that transactions hold.
    package func send(_ update: StoreUpdate, patience: Duration? = nil) async throws(VOSError) {
        let number = journal.begin(update)
        let told = journal.told
        do throws(VOSError) {
            let limit = patience.map { process.xstream.now + $0 }
            let epoch = try await vos.apply(update, patience: limit)
            if epoch != update.epoch { violate("applied at \(epoch), not \(update.epoch)") }
        } catch .device(let error) {
            // It may be there after the next start.
            throw .device(error)
        } catch {
            journal.end(number, isApplied: false)
            throw error
        }
        journal.end(number, isApplied: true)
        settle(told)
    }

    /// Something was logged that began when `told` was what had been told.
    private func settle(_ told: StoreJournal.Told) {
        guard !told.commits.isEmpty || !told.completions.isEmpty else { return }
        journal.settle(told)
    }

    /// One value of the usual object.
    package func put(
        _ dkey: UInt8, _ count: Int, epoch: UInt64, isTransaction: Bool = true
    ) async throws(VOSError) {
        try await update(
            [.value(dkey, count, seed: epoch)], epoch: epoch, isTransaction: isTransaction)
    }

    /// `isAlone`: no checkpoint is under way, which this one would only wait for.
    package func checkpoint(isAlone: Bool = true) async throws(VOSError) {
        let told = journal.told
        try await vos.checkpoint()
        if isAlone { settle(told) }
    }

    /// Scrubs the store once, or as far as it comes before `isEnough` says so. Nothing is damaged.
    package func scrub(rate: UInt64, until isEnough: () -> Bool) async {
        vos.startScrub(rate: rate)
        while vos.scrubStatus.current != nil {
            if isEnough() { vos.stopScrub() }
            await process.xstream.sleep(for: .microseconds(50))
        }
        for finding in vos.scrubStatus.findings { violate("scrubbing: \(finding)") }
    }

    package func destroy(_ container: UniqueID = StoreNames.container) async throws(VOSError) {
        journal.beginDestruction(of: container)
        try await vos.destroyContainer(pool: StoreNames.pool, container: container)
        journal.endDestruction(of: container)
    }

    package func discard(_ discard: StoreJournal.Discard) async throws(VOSError) {
        journal.beginDiscard(discard)
        let told = journal.told
        do throws(VOSError) {
            try await vos.discard(
                pool: StoreNames.pool, container: discard.container, object: discard.object,
                epochs: discard.epochs)
        } catch .device(let error) {
            // It may have happened after the next start.
            throw .device(error)
        } catch {
            journal.endDiscard(discard, isApplied: false)
            throw error
        }
        journal.endDiscard(discard, isApplied: true)
        settle(told)
    }

    // MARK: - Snapshots

    package func takeSnapshot(
        _ epoch: UInt64, container: UniqueID = StoreNames.container
    ) async throws(VOSError) {
        let isThere = journal.snapshots(of: container).contains(epoch)
        journal.beginSnapshot(of: container, epoch)
        let told = journal.told
        do throws(VOSError) {
            try await vos.takeSnapshot(pool: StoreNames.pool, container: container, epoch: epoch)
        } catch .device(let error) {
            // It may be there after the next start.
            throw .device(error)
        } catch {
            journal.endSnapshot(of: container, epoch, isThere: isThere)
            throw error
        }
        journal.endSnapshot(of: container, epoch, isThere: true)
        // One that is there already is not logged once more.
        if !isThere { settle(told) }
    }

    package func dropSnapshot(
        _ epoch: UInt64, container: UniqueID = StoreNames.container
    ) async throws(VOSError) {
        journal.beginSnapshot(of: container, epoch)
        let told = journal.told
        do throws(VOSError) {
            try await vos.dropSnapshot(pool: StoreNames.pool, container: container, epoch: epoch)
        } catch .device(let error) {
            throw .device(error)
        } catch {
            journal.endSnapshot(of: container, epoch, isThere: error != .notFound)
            throw error
        }
        journal.endSnapshot(of: container, epoch, isThere: false)
        settle(told)
    }

    // MARK: - Distributed transactions

    package static func dtx(_ number: UInt64) -> UniqueID { UniqueID(high: 0xd7, low: number) }

    /// Begins and prepares a transaction of a container's objects, at an epoch of its own.
    @discardableResult
    package func prepare(
        _ number: UInt64, _ changes: [StoreChange], epoch: UInt64, isLeader: Bool = true,
        container: UniqueID = StoreNames.container
    ) async throws(VOSError) -> UniqueID {
        let id = StorePlayer.dtx(number)
        let update = StoreUpdate(changes, epoch: epoch, transaction: id, container: container)
        let told = journal.told
        journal.beginPreparation(update, isLeader: isLeader)
        do throws(VOSError) {
            _ = try await vos.prepare(update, isLeader: isLeader)
        } catch {
            if case .aborted = vos.state(of: id) {
                journal.change(id) { $0.isAbortBegun = true }
            } else {
                journal.dropFate(of: id)
            }
            throw error
        }
        journal.change(id) { $0.isPrepared = true }
        settle(told)
        return id
    }

    package func commit(_ id: UniqueID) {
        guard case .active(let dtx) = vos.state(of: id) else { return violate("\(id) is not here") }
        journal.tellCommit(of: id)
        vos.commit(dtx)
    }

    package func abort(_ id: UniqueID) async throws(VOSError) {
        guard case .active(let dtx) = vos.state(of: id) else { return violate("\(id) is not here") }
        journal.change(id) { $0.isAbortBegun = true }
        let told = journal.told
        try await vos.abort(dtx)
        journal.change(id) { $0.isAborted = true }
        settle(told)
    }

    package func complete(_ id: UniqueID) {
        journal.change(id) { $0.isCompletionTold = true }
        vos.complete(id)
    }

    package func refuse(_ number: UInt64, epoch: UInt64) async throws(VOSError) {
        let id = StorePlayer.dtx(number)
        journal.refuse(id, isDurable: false)
        let told = journal.told
        try await vos.refuse(id, epoch: epoch)
        journal.refuse(id, isDurable: true)
        settle(told)
    }

    package func flushOutcomes() async throws(VOSError) {
        let told = journal.told
        try await vos.flushOutcomes()
        settle(told)
    }

    // MARK: - Looking

    /// Compares everything with the journal: at the end, at some of the epochs that there were, and
    /// in every snapshot.
    package func compare(epochs count: Int = 2) async throws(VOSError) {
        var comparison = StoreComparison(
            vos, journal.model, entropy: entropy.fork("compare"), buffers: buffers)
        if let found = try await journal.difference(&comparison, at: epochs(count)) {
            violate(found)
        }
    }

    /// The last epoch and up to `count` others that can be read.
    package func epochs(_ count: Int) -> [UInt64] {
        let bound = vos.aggregatedEpoch
        var all = journal.model.epochs.filter { $0 >= bound }.sorted()
        var epochs: [UInt64] = [.max]
        if bound > 0 { epochs.append(bound) }
        for _ in 0..<count where !all.isEmpty {
            epochs.append(all.remove(at: Int(entropy.below(UInt64(all.count)))))
        }
        return epochs
    }

    /// After a crash: finds out what the opened store has, and compares it with what may be.
    package func recover() async throws {
        try await checkInvariants(of: vos)
        try await decide()
        guard violations.isEmpty else { return }
        // What a destruction has left of a container may be anything.
        for container in journal.destroying { try await destroy(container) }
        // Once more is as good as once.
        for discard in journal.discarding { try await discardAgain(discard) }
        if let wrong = journal.resolveSnapshots(vos) { return violate(wrong) }
        // A flush may go on meanwhile: a crash in the middle must find the journal as it was.
        var resolved = journal
        if let wrong = try await resolved.resolve(vos, epochs(2), traces) { return violate(wrong) }
        journal = resolved
        try await compare()
    }

    private func discardAgain(_ discard: StoreJournal.Discard) async throws(VOSError) {
        do throws(VOSError) {
            try await self.discard(discard)
        } catch .epochTooOld {
            // Aggregation stays below it until it has happened.
            journal.endDiscard(discard, isApplied: true)
        } catch {
            throw error
        }
    }

    /// What was prepared is decided: as was said before the crash, or by chance.
    package func decide() async throws(VOSError) {
        let before = journal
        guard !vos.undecided.isEmpty || !before.fates.isEmpty else { return }
        // Updates come later: their values may be behind keys that are held.
        if let wrong = journal.resolveFates(vos) { return violate(wrong) }
        for dtx in vos.undecided {
            let fate = before.fates.first { $0.update.transaction == dtx.id }
            guard let fate else { return violate("\(dtx.id) is prepared, and nobody knows it") }
            if fate.isCommitTold || !fate.isAbortBegun && entropy.chance(1, in: 2) {
                commit(dtx.id)
            } else {
                try await abort(dtx.id)
            }
        }
    }

    /// Sends again what was sent before: nothing changes.
    package func resend() async throws(VOSError) {
        for (_, update) in journal.acknowledged.sorted(by: { $0.key < $1.key }) {
            // Where versions may be gone already it is too old, which is as good.
            // And what may be forgotten would be applied again.
            guard update.epoch > max(vos.aggregatedEpoch, vos.transactionHorizon) else { continue }
            let epoch = try await vos.apply(update)
            if epoch != update.epoch { violate("sent again, applied at \(epoch)") }
        }
    }

    /// After a crash there may be much on a small device that only aggregation frees. It runs on a
    /// full device, too, and there is room afterwards.
    private func putMakingRoom(
        _ dkey: UInt8, _ count: Int, epoch: UInt64, isTransaction: Bool = true
    ) async throws(VOSError) {
        do throws(VOSError) {
            try await put(dkey, count, epoch: epoch, isTransaction: isTransaction)
        } catch {
            guard case .noSpace = error else { throw error }
            try await vos.aggregate(upTo: epoch - 1)
            try await checkpoint()
            try await put(dkey, count, epoch: epoch, isTransaction: isTransaction)
        }
    }

    /// The store goes on: it takes updates, drops what is superseded, and still has everything.
    /// `makingRoom`: the device is so small that it may be full before something is dropped.
    package func goOn(makingRoom: Bool = false) async throws {
        let epoch = max(vos.aggregatedEpoch, journal.model.epochs.max() ?? 0) + 100
        if makingRoom {
            try await putMakingRoom(200, 9000, epoch: epoch)
            try await putMakingRoom(200, 100, epoch: epoch + 1, isTransaction: false)
        } else {
            try await put(200, 9000, epoch: epoch)
            try await put(200, 100, epoch: epoch + 1, isTransaction: false)
        }
        try await vos.aggregate(upTo: epoch + 1)
        try await checkpoint()
        try await checkInvariants(of: vos)
        try await compare(epochs: 0)
    }
}

extension StoreChange {
    /// A single value of `count` bytes of the usual object.
    package static func value(_ dkey: UInt8, _ count: Int, seed: UInt64) -> StoreChange {
        StoreChange(
            StoreNames.object, [dkey], [], .single(.pattern(count, seed: seed << 8 | UInt64(dkey))))
    }

    /// An extent of an array of the usual object.
    package static func extent(
        _ dkey: UInt8, at offset: UInt64, _ count: Int, seed: UInt64
    ) -> StoreChange {
        StoreChange(
            StoreNames.object, [dkey], [1],
            .extent(offset, .pattern(count, seed: seed << 8 | UInt64(dkey))))
    }
}
