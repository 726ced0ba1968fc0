internal import DrayRuntime
internal import VOS

/// One user of a simulated store, with a container of its own.
final class StoreLane {
    private let player: StorePlayer
    private let simulation: StoreSimulation
    private let container: UniqueID
    private var entropy: Entropy
    private var generator: StoreGenerator

    /// How long a user waits for what a transaction holds.
    private static let patience: Duration = .microseconds(20)

    init(
        _ player: StorePlayer, simulation: StoreSimulation, index: UInt64, entropy: Entropy
    ) {
        self.player = player
        self.simulation = simulation
        self.entropy = entropy
        generator = StoreGenerator(entropy: entropy.fork("generator"))
        container = UniqueID(high: 0xbb, low: index)
    }

    private func pick<Value>(_ values: [Value]) -> Value {
        values[Int(entropy.below(UInt64(values.count)))]
    }

    /// Own transactions that are prepared and not decided.
    private var pending: [StoreJournal.Fate] {
        player.journal.fates.filter { $0.isPending && $0.update.container == container }
    }

    private func isHeld(_ object: ObjectID) -> Bool {
        pending.contains { $0.held.contains { $0.object == object } }
    }

    func step() async throws {
        switch entropy.below(100) {
        case 0...46: try await update()
        case 47...49: try await changeSnapshots()
        case 50...79: try await read()
        case 80...84: try await list()
        case 85...92: try await transaction()
        case 93...96: try await decide()
        case 97, 98: try await resend()
        default:
            if entropy.chance(1, in: 5) {
                try await destroy()
            } else {
                try await discard()
            }
        }
    }

    // MARK: - Changes

    /// What the first condition that does not hold makes of it.
    private func refusal(_ changes: [StoreChange]) -> VOSError? {
        for change in changes {
            if let refusal = player.journal.model.refusal(container, change) { return refusal }
        }
        return nil
    }

    private func update() async throws {
        let changes = generator.changes()
        let object = changes[0].object
        let refusal = refusal(changes)
        let epoch = simulation.nextEpoch(&entropy, isTransaction: false)
        let isMixed = player.journal.model.mixesRecordSizes(container, changes, epoch: epoch)
        let update = StoreUpdate(
            changes, epoch: epoch,
            transaction: entropy.chance(3, in: 4) ? player.freshTransaction() : .zero,
            container: container)
        let isHeld = isHeld(object)
        do throws(VOSError) {
            try await player.send(update, patience: isHeld ? StoreLane.patience : nil)
            simulation.report.updates += 1
            if let refusal { player.violate("an update that should end with \(refusal) did not") }
            if isMixed { player.violate("an update with records of another size") }
        } catch {
            simulation.report.refusals += 1
            try await judge(
                error, refusal, isMixed: isMixed, epoch: update.epoch, isHeld: isHeld)
        }
    }

    /// Whether an error may be.
    private func judge(
        _ error: VOSError, _ refusal: VOSError?, isMixed: Bool, epoch: UInt64, isHeld: Bool
    ) async throws {
        switch error {
        case .recordSizeMismatch(let stored, let given):
            simulation.report.mismatches += 1
            if !isMixed || refusal != nil || stored == given {
                player.violate("\(error), expected \(refusal.map { "\($0)" } ?? "success")")
            }
        case .exists, .notFound:
            if error != refusal {
                player.violate("\(error), expected \(refusal.map { "\($0)" } ?? "success")")
            }
        case .epochTooOld:
            if epoch > player.vos.aggregatedEpoch { player.violate("\(error) for \(epoch)") }
        case .undecided: if !isHeld { player.violate("\(error), and nothing is") }
        case .noSpace: try await simulation.didFill(player)
        default: throw error
        }
    }

    private func destroy() async throws {
        for fate in pending { try await player.abort(fate.update.transaction) }
        try await player.destroy(container)
        simulation.report.destructions += 1
    }

    /// The first epochs there are, the last, or some between; of what is undecided, too.
    private func discard() async throws {
        let newest = simulation.newestEpoch
        let first = newest - min(newest, entropy.below(60))
        let epochs: ClosedRange<UInt64> =
            switch entropy.below(3) {
            case 0: 0...newest - min(newest, entropy.below(600))
            case 1: first...UInt64.max
            default: first...first + entropy.below(20)
            }
        let object = entropy.chance(1, in: 2) ? nil : pick(generator.names.objects)
        do throws(VOSError) {
            try await player.discard(StoreJournal.Discard(container, object, epochs))
            simulation.report.epochsDiscarded += 1
        } catch .epochTooOld {
            if epochs.lowerBound <= 1 || epochs.lowerBound > player.vos.aggregatedEpoch {
                player.violate("epochs \(epochs) are too old to be discarded")
            }
        } catch .badArgument {
            if epochs.lowerBound <= 1 || epochs.upperBound == .max {
                player.violate("epochs \(epochs) cannot be discarded")
            }
        } catch .noSpace {
            try await simulation.didFill(player)
        } catch {
            throw error
        }
    }

    private func resend() async throws {
        let updates = player.journal.acknowledged.filter { $0.value.container == container }
        guard let (_, update) = updates.min(by: { $0.key < $1.key }) else { return }
        // The oldest, or one of the others: sorted, as the order of a dictionary is not repeated.
        var chosen = update
        if entropy.chance(1, in: 2) {
            let ids = updates.keys.sorted()
            chosen = updates[pick(ids)] ?? update
        }
        let vos = player.vos
        guard chosen.epoch > max(vos.aggregatedEpoch, vos.transactionHorizon) else { return }
        let epoch = try await vos.apply(chosen)
        if epoch != chosen.epoch { player.violate("sent again, applied at \(epoch)") }
    }

    // MARK: - Distributed transactions

    private func transaction() async throws {
        guard pending.count < 3 else { return }
        let all = entropy.chance(1, in: 3)
        let objects = all ? generator.names.objects : [pick(generator.names.objects)]
        let changes = objects.flatMap { object in
            (0...entropy.below(2)).map { _ in generator.change(object) }
        }
        let refusal = refusal(changes)
        let epoch = simulation.nextEpoch(&entropy, isTransaction: true)
        let isMixed = player.journal.model.mixesRecordSizes(container, changes, epoch: epoch)
        let isHeld = objects.contains { self.isHeld($0) }
        do throws(VOSError) {
            try await player.prepare(
                simulation.nextNumber(), changes, epoch: epoch,
                isLeader: entropy.chance(1, in: 2), container: container)
            simulation.report.transactions += 1
            if let refusal { player.violate("prepared, and should end with \(refusal)") }
            if isMixed { player.violate("prepared, with records of another size") }
        } catch .conflict {
            simulation.report.refusals += 1
            guard !isHeld else { return }
            // Keys of other users may share a place among the time stamps, and a later epoch stands
            // there: seldom.
            simulation.report.chanceConflicts += 1
            if simulation.newestEpoch <= epoch || simulation.report.hasStrangeConflicts {
                player.violate("a conflict with nobody")
            }
        } catch {
            simulation.report.refusals += 1
            try await judge(error, refusal, isMixed: isMixed, epoch: epoch, isHeld: isHeld)
        }
    }

    private func decide() async throws {
        let pending = pending
        guard !pending.isEmpty else {
            let uncompleted = player.journal.fates.filter {
                $0.isLeader && $0.isCommitTold && !$0.isCompletionTold
                    && $0.update.container == container
            }
            if let fate = uncompleted.first { player.complete(fate.update.transaction) }
            return
        }
        let id = pick(pending).update.transaction
        if entropy.chance(2, in: 3) { player.commit(id) } else { try await player.abort(id) }
    }

    // MARK: - Snapshots

    private var snapshots: [UInt64] { player.journal.snapshots(of: container) }

    /// The most snapshots of a container: each is compared after every start.
    private static let snapshotsMax = 3

    private func changeSnapshots() async throws {
        let held = snapshots
        if held.count >= StoreLane.snapshotsMax || !held.isEmpty && entropy.chance(1, in: 3) {
            try await player.dropSnapshot(pick(held), container: container)
            simulation.report.snapshotsDropped += 1
            return
        }
        let bound = player.vos.aggregatedEpoch
        let newest = simulation.newestEpoch
        let isOldest = entropy.chance(1, in: 4)
        let epoch = max(1, isOldest ? bound : newest - min(newest, entropy.below(60)))
        do throws(VOSError) {
            try await player.takeSnapshot(epoch, container: container)
            simulation.report.snapshotsTaken += 1
        } catch .epochTooOld {
            if epoch >= player.vos.aggregatedEpoch { player.violate("no snapshot of \(epoch)") }
        } catch .noSpace {
            try await simulation.didFill(player)
        } catch {
            throw error
        }
    }

    // MARK: - Reading

    private func someEpoch() -> UInt64 {
        let bound = player.vos.aggregatedEpoch
        let held = snapshots
        if !held.isEmpty, entropy.chance(1, in: 3) { return pick(held) }
        switch entropy.below(4) {
        case 0: return .max
        case 1: return max(1, bound)
        default: return max(bound, simulation.newestEpoch - entropy.below(150))
        }
    }

    private func read() async throws {
        let name = generator.name(container)
        let epoch = someEpoch()
        if isHeld(name.object) { return try await readHeld(name, epoch) }
        simulation.report.reads += 1
        try await compare(epoch) { comparison throws(VOSError) in
            try await comparison.difference(name, epoch)
        }
    }

    private func list() async throws {
        guard pending.isEmpty else { return try await decide() }
        simulation.report.lists += 1
        let epoch = someEpoch()
        try await compare(epoch) { [container] comparison throws(VOSError) in
            try await comparison.listDifference(container, epoch)
        }
    }

    private func compare(
        _ epoch: UInt64,
        _ body: (inout StoreComparison) async throws(VOSError) -> String?
    ) async throws {
        var comparison = StoreComparison(
            player.vos, player.journal.model, entropy: Entropy(seed: entropy.next()),
            buffers: player.buffers)
        comparison.readsDevice = entropy.chance(1, in: 4)
        do throws(VOSError) {
            if let found = try await body(&comparison) {
                player.violate("\(found), at epoch \(epoch)")
            }
        } catch .epochTooOld {
            judgeTooOld(epoch)
        } catch {
            throw error
        }
    }

    private func judgeTooOld(_ epoch: UInt64) {
        if epoch >= player.vos.aggregatedEpoch || snapshots.contains(epoch) {
            player.violate("epoch \(epoch) is too old")
        }
    }

    /// Something in the object is held, maybe this key: an answer is right, or there is none.
    private func readHeld(_ name: StoreName, _ epoch: UInt64) async throws {
        var fetch = name.fetch(epoch)
        fetch.patience = player.process.xstream.now + StoreLane.patience
        let expected = player.journal.model.single(name, epoch)
        let buffer = player.buffers.take()
        defer { player.buffers.give(buffer) }
        let isHeld = pending.contains { fate in
            fate.held.contains {
                $0.object == name.object && ($0.dkey == nil || $0.dkey == name.dkey)
            }
        }
        do throws(VOSError) {
            let result = try unsafe await player.vos.fetchSingle(fetch, into: buffer.bytes)
            if isHeld { player.violate("read of what is held: \(name)") }
            let isRight =
                expected.map { $0.epoch == result.epoch && $0.bytes.count == result.byteCount }
            if isRight != true { player.violate("beside what is held: \(name)") }
        } catch .undecided {
            if !isHeld { player.violate("undecided, and not held: \(name)") }
        } catch .notFound {
            if isHeld || expected != nil { player.violate("no value beside what is held") }
        } catch .epochTooOld {
            judgeTooOld(epoch)
        } catch {
            throw error
        }
    }
}
