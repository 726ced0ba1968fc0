package import DrayRuntime
package import VOS

/// What whoever used a store knows of it: what was acknowledged, and what may have happened.
///
/// A value, so that a crash at any moment can be looked at with what was known at that moment.
package struct StoreJournal: Sendable {
    /// What became of a distributed transaction.
    package struct Fate: Sendable {
        package var update: StoreUpdate
        /// What it was prepared with: it holds these keys, though changes may be discarded.
        package var held: [StoreChange]
        package var isLeader = false
        package var isPrepared = false
        package var isCommitTold = false
        package var isCommitDurable = false
        package var isAbortBegun = false
        package var isAborted = false
        package var isCompletionTold = false
        package var isCompletionDurable = false

        /// Nothing more can become of it.
        var isFinished: Bool {
            isAborted || isCommitDurable && (!isLeader || isCompletionDurable)
        }

        /// Prepared, as far as anybody knows, and not decided.
        package var isPending: Bool { isPrepared && !isCommitTold && !isAbortBegun }
    }

    /// What can be read: everything that is acknowledged. Commits are visible before they are
    /// durable.
    package private(set) var model = StoreModel()
    /// Updates that were begun and not acknowledged, in order.
    package private(set) var underWay: [(number: Int, update: StoreUpdate)] = []
    /// Updates that were acknowledged, by transaction.
    package private(set) var acknowledged: [UniqueID: StoreUpdate] = [:]
    /// In the order in which they were begun.
    package private(set) var fates: [Fate] = []
    /// What is discarded at once.
    package struct Discard: Hashable, Sendable {
        package var container: UniqueID
        /// Nil: all of them.
        package var object: ObjectID?
        package var epochs: ClosedRange<UInt64>

        package init(
            _ container: UniqueID, _ object: ObjectID? = nil, _ epochs: ClosedRange<UInt64>
        ) {
            (self.container, self.object, self.epochs) = (container, object, epochs)
        }
    }

    /// What was begun to be discarded, and not acknowledged.
    package private(set) var discarding: [Discard] = []
    /// Containers whose destruction was begun and not acknowledged.
    package private(set) var destroying: [UniqueID] = []
    /// Snapshots by container: those that were taken and not given up.
    private var snapshots: [UniqueID: Set<UInt64>] = [:]
    /// Snapshots whose taking or giving up was begun and not acknowledged.
    private var unsettledSnapshots: [UniqueID: Set<UInt64>] = [:]
    /// Transactions that were refused before they came.
    private var refused: [UniqueID: Bool] = [:]
    /// Grows with each change.
    package private(set) var version = 0
    private var number = 0

    package init() {}

    // MARK: - Updates

    /// An update is begun. Returns its number for what follows.
    package mutating func begin(_ update: StoreUpdate) -> Int {
        version += 1
        number += 1
        underWay.append((number, update))
        return number
    }

    /// It was acknowledged, or has thrown and so changed nothing.
    package mutating func end(_ number: Int, isApplied: Bool) {
        version += 1
        guard let index = underWay.firstIndex(where: { $0.number == number }) else {
            preconditionFailure("an update that was not begun has ended")
        }
        let update = underWay.remove(at: index).update
        if isApplied { acknowledge(update) }
    }

    private mutating func acknowledge(_ update: StoreUpdate) {
        model.apply(update)
        if update.transaction != .zero { acknowledged[update.transaction] = update }
    }

    package mutating func beginDestruction(of container: UniqueID) {
        version += 1
        destroying.append(container)
    }

    package mutating func endDestruction(of container: UniqueID) {
        version += 1
        destroying.removeAll { $0 == container }
        model.destroy(container: container)
        snapshots[container] = nil
        unsettledSnapshots[container] = nil
        for index in fates.indices where fates[index].update.container == container {
            fates[index].update.changes = []
        }
    }

    package mutating func beginDiscard(_ discard: Discard) {
        version += 1
        discarding.append(discard)
    }

    /// It was acknowledged, or has thrown and so changed nothing.
    package mutating func endDiscard(_ discard: Discard, isApplied: Bool) {
        version += 1
        discarding.removeAll { $0 == discard }
        guard isApplied else { return }
        model.discard(discard.container, discard.object, discard.epochs)
        for index in fates.indices
        where fates[index].update.container == discard.container
            && discard.epochs.contains(fates[index].update.epoch)
        {
            fates[index].update.changes.removeAll {
                discard.object == nil || discard.object == $0.object
            }
        }
    }

    // MARK: - Snapshots

    /// The epochs that snapshots of a container hold for certain, in order.
    package func snapshots(of container: UniqueID) -> [UInt64] {
        let unsettled = unsettledSnapshots[container] ?? []
        return (snapshots[container] ?? []).subtracting(unsettled).sorted()
    }

    /// A snapshot is being taken or given up.
    package mutating func beginSnapshot(of container: UniqueID, _ epoch: UInt64) {
        version += 1
        unsettledSnapshots[container, default: []].insert(epoch)
    }

    /// It is there, or it is not.
    package mutating func endSnapshot(
        of container: UniqueID, _ epoch: UInt64, isThere: Bool
    ) {
        version += 1
        unsettledSnapshots[container]?.remove(epoch)
        if isThere {
            snapshots[container, default: []].insert(epoch)
        } else {
            snapshots[container]?.remove(epoch)
        }
    }

    /// After a restart: finds out which snapshots there are. Returns what must not be.
    package mutating func resolveSnapshots(_ vos: VOS) -> String? {
        version += 1
        let known = Set(snapshots.keys).union(unsettledSnapshots.keys)
        let there = vos.allSnapshots.map(\.container)
        for container in known.union(there).sorted() where !destroying.contains(container) {
            let found = Set(vos.snapshots(pool: StoreNames.pool, container: container))
            let unsettled = unsettledSnapshots[container] ?? []
            let held = snapshots[container] ?? []
            guard found.subtracting(unsettled) == held.subtracting(unsettled) else {
                return "snapshots \(found.sorted()) of \(container), expected "
                    + "\(held.sorted()), \(unsettled.sorted()) unknown"
            }
            snapshots[container] = found
        }
        unsettledSnapshots = [:]
        return nil
    }

    // MARK: - Distributed transactions

    /// Decisions that the store was told.
    package struct Told: Sendable {
        package var commits: [UniqueID]
        package var completions: [UniqueID]
    }

    /// The decisions that were told so far: durable as soon as something that begins now is.
    package var told: Told {
        Told(
            commits: fates.filter { $0.isCommitTold && !$0.isCommitDurable }
                .map(\.update.transaction),
            completions: fates.filter { $0.isCompletionTold && !$0.isCompletionDurable }
                .map(\.update.transaction))
    }

    /// Something was logged that began after these were told.
    package mutating func settle(_ told: Told) {
        version += 1
        for index in fates.indices {
            let id = fates[index].update.transaction
            if told.commits.contains(id) { fates[index].isCommitDurable = true }
            if told.completions.contains(id) { fates[index].isCompletionDurable = true }
        }
    }

    /// Changes a fate.
    package mutating func change(_ id: UniqueID, _ body: (inout Fate) -> Void) {
        version += 1
        guard let index = fates.firstIndex(where: { $0.update.transaction == id }) else {
            preconditionFailure("a transaction that nobody knows")
        }
        body(&fates[index])
    }

    /// A prepared transaction is about to be committed.
    package mutating func tellCommit(of id: UniqueID) {
        change(id) { $0.isCommitTold = true }
        if let fate = fates.first(where: { $0.update.transaction == id }) {
            model.apply(fate.update)
        }
    }

    /// A transaction that was begun has failed without a trace.
    package mutating func dropFate(of id: UniqueID) {
        version += 1
        fates.removeAll { $0.update.transaction == id }
    }

    /// Forgets all but the last `count` of those fates that nothing more can happen to.
    package mutating func forgetFinished(keeping count: Int) {
        let finished = fates.filter(\.isFinished).dropLast(count).map(\.update.transaction)
        guard !finished.isEmpty else { return }
        version += 1
        fates.removeAll { finished.contains($0.update.transaction) }
    }

    package mutating func beginPreparation(_ update: StoreUpdate, isLeader: Bool) {
        version += 1
        fates.append(Fate(update: update, held: update.changes, isLeader: isLeader))
    }

    package mutating func refuse(_ id: UniqueID, isDurable: Bool) {
        version += 1
        refused[id] = isDurable
    }

    // MARK: - After a restart

    /// Finds out what became of the updates that were under way, when nothing is undecided any
    /// more. Returns what must not be, in words.
    ///
    /// `traces`: what was in the store before it was opened, as far as anybody looked.
    package mutating func resolve(
        _ vos: VOS, _ epochs: [UInt64], _ traces: Set<StoreTrace> = []
    ) async throws(VOSError) -> String? {
        version += 1
        for (id, update) in acknowledged.sorted(by: { $0.key < $1.key }) {
            let outcome = vos.transactionOutcome(id)
            if outcome == nil, update.epoch <= vos.transactionHorizon { continue }
            guard outcome == update.epoch else {
                return "an acknowledged transaction of epoch \(update.epoch) is "
                    + "\(outcome.map(String.init) ?? "forgotten")"
            }
        }
        for (id, isDurable) in refused.sorted(by: { $0.key < $1.key }) {
            if case .aborted = vos.state(of: id) { continue }
            guard !isDurable else { return "a refused transaction may come" }
        }
        var unknown: [StoreUpdate] = []
        for (_, update) in underWay {
            guard update.transaction != .zero else {
                unknown.append(update)
                continue
            }
            guard let epoch = vos.transactionOutcome(update.transaction) else { continue }
            guard epoch == update.epoch else {
                return "an update of epoch \(update.epoch) was applied at \(epoch)"
            }
            acknowledge(update)
        }
        underWay = []
        return unknown.isEmpty ? nil : try await guess(unknown, vos, epochs, traces)
    }

    /// Which of some updates that have no transaction are there. Undecided transactions must not
    /// hold their keys.
    private mutating func guess(
        _ unknown: [StoreUpdate], _ vos: VOS, _ epochs: [UInt64], _ traces: Set<StoreTrace>
    ) async throws(VOSError) -> String? {
        precondition(unknown.count <= 4, "too many updates of unknown outcome")
        // At its own epoch each shows whether it is there, though something newer may hide it.
        let readable = (epochs + unknown.map(\.epoch)).filter { $0 >= vos.aggregatedEpoch }
        // A punch of what was not there cannot be read, but hides what comes with an older epoch.
        let traced = unknown.indices.reduce(0) { choice, index in
            traces.isDisjoint(with: unknown[index].traces) ? choice : choice | 1 << index
        }
        var first: String?
        for choice in [traced] + (0..<1 << unknown.count) {
            var candidate = self
            for (index, update) in unknown.enumerated() where choice >> index & 1 == 1 {
                candidate.acknowledge(update)
            }
            var comparison = StoreComparison(
                vos, candidate.model, entropy: Entropy(seed: UInt64(choice)))
            guard let found = try await candidate.difference(&comparison, at: readable) else {
                self = candidate
                return nil
            }
            if first == nil { first = found }
        }
        return "neither with nor without what was under way: \(first ?? "")"
    }

    /// What is not as it should be at some epochs, and in the snapshots, in words.
    package func difference(
        _ comparison: inout StoreComparison, at epochs: [UInt64]
    ) async throws(VOSError) -> String? {
        if let found = try await comparison.difference(at: epochs) { return found }
        for container in model.containerNames {
            for epoch in snapshots(of: container) {
                guard let found = try await comparison.difference(container, epoch) else {
                    continue
                }
                return "\(found), in the snapshot of epoch \(epoch)"
            }
        }
        return nil
    }

    /// Finds out what became of the distributed transactions. Returns what must not be.
    package mutating func resolveFates(_ vos: VOS) -> String? {
        for fate in fates {
            let id = fate.update.transaction
            let isUncompleted = vos.uncompleted.contains { $0.id == id }
            switch vos.state(of: id) {
            case .unknown:
                // It may have been forgotten after it was decided. One whose abort was under way
                // may be gone altogether, which comes to the same.
                let isForgotten = fate.update.epoch <= vos.transactionHorizon && fate.isCommitTold
                guard isForgotten || fate.isAbortBegun || !fate.isPrepared else {
                    return "\(id) is unknown, and was prepared"
                }
                guard !fate.isAborted || fate.update.epoch <= vos.transactionHorizon else {
                    return "\(id) is unknown, and was aborted"
                }
                dropFate(of: id)
                guard !isUncompleted else { return "\(id) is to be completed, and is unknown" }
                continue
            case .active(let dtx):
                guard dtx.phase == .prepared, dtx.epoch == fate.update.epoch else {
                    return "\(id) is \(dtx.phase)"
                }
                guard !fate.isCommitDurable, !fate.isAborted else {
                    return "\(id) is undecided again"
                }
                if fate.isCommitTold { model.revert(fate.update) }
                change(id) { fate in
                    fate.isPrepared = true
                    fate.isCommitTold = false
                    fate.isCompletionTold = false
                }
            case .committed(let epoch):
                guard fate.isCommitTold, epoch == fate.update.epoch else {
                    return "\(id) is committed at \(epoch), and nobody said so"
                }
                guard !fate.isLeader || isUncompleted || fate.isCompletionTold else {
                    return "the completion of \(id) is lost"
                }
                guard !isUncompleted || !fate.isCompletionDurable else {
                    return "\(id) is to be completed again"
                }
                change(id) { fate in
                    fate.isCommitDurable = true
                    if fate.isLeader {
                        fate.isCompletionTold = !isUncompleted
                        fate.isCompletionDurable = !isUncompleted
                    }
                }
            case .aborted:
                guard fate.isAbortBegun || !fate.isPrepared else {
                    return "\(id) is aborted, and nobody said so"
                }
                change(id) { $0.isAborted = true }
            }
            if case .committed = vos.state(of: id) { continue }
            guard !isUncompleted else { return "\(id) is to be completed, and is not committed" }
        }
        let known = Set(fates.filter { $0.isPrepared }.map(\.update.transaction))
        guard vos.undecided.allSatisfy({ known.contains($0.id) }) else {
            return "a transaction is prepared that nobody knows"
        }
        return nil
    }
}
