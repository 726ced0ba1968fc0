import BIO
import DrayRuntime
import Testing

@testable import VOS

/// Random updates and transactions, which are decided later or in another life of the process,
/// compared with a model, across checkpoints, aggregation and kills at any moment.
@Suite struct DTXModelTests {
    static let dkeys = ModelTests.dkeys
    static let objects = ModelTests.objects

    /// What was asked for.
    struct Job {
        var id: UniqueID
        var epoch: UInt64
        var changes: [Model.Change]
        var isTransaction: Bool

        /// Whether the job keeps readers from a key.
        func holds(_ object: ObjectID, _ dkey: [UInt8]) -> Bool {
            changes.contains { $0.object == object && ($0.dkey == nil || $0.dkey == dkey) }
        }
    }

    final class Run {
        let target: SimulatedTarget
        var entropy: Entropy
        var model = Model()
        var epoch: UInt64 = 1000
        var number: UInt64 = 0
        /// Prepared, undecided.
        var pending: [Job] = []
        /// Commits that were told, and may not be durable.
        var told: [Job] = []
        /// What is under way: it may be there after a kill, or not.
        var current: Job?
        /// What an abort is under way of.
        var aborting: Job?
        /// Committed as the leader, until completed.
        var uncompleted: Set<UniqueID> = []
        var prepared = 0
        var decided = 0
        var refused = 0
        var kills = 0

        init(seed: UInt64) {
            var options = VOSOptions()
            options.inlineThreshold = seed % 3 == 0 ? 4096 : 200
            if seed % 2 == 0 { options.makeSmall() }
            target = SimulatedTarget(seed: seed, blocks: 1500, logBlocks: 32, options: options)
            entropy = Entropy(seed: seed).fork("transactions")
        }

        func pick<Value>(_ values: [Value]) -> Value {
            values[Int(entropy.below(UInt64(values.count)))]
        }

        func take(_ jobs: inout [Job]) -> Job? {
            jobs.isEmpty ? nil : jobs.remove(at: Int(entropy.below(UInt64(jobs.count))))
        }

        /// Whether something undecided is about one of the objects.
        func hasAny(of objects: [ObjectID]) -> Bool {
            pending.contains { $0.changes.contains { objects.contains($0.object) } }
        }

        func isHeld(_ object: ObjectID, _ dkey: [UInt8]) -> Bool {
            pending.contains { $0.holds(object, dkey) }
        }
    }

    @Test(arguments: 0..<16 as Range<UInt64>)
    func storeEqualsModel(seed: UInt64) {
        let run = Run(seed: seed)
        for _ in 0..<6 {
            // A random moment that the device sees, or the end of the stretch.
            let isKilled = run.entropy.chance(2, in: 3)
            let boundary = Int(run.entropy.below(400))
            let isClosed = run.entropy.chance(1, in: 2)
            let finished = run.target.run {
                let vos = try await run.target.open()
                try await vos.checkInvariants()
                try self.reconcile(vos, run)
                try await self.compare(vos, run)
                if isKilled { run.target.devices.crash(atBoundary: boundary) }
                for step in 0..<60 {
                    try await self.step(vos, run)
                    if step % 10 == 9 { try await vos.checkInvariants() }
                }
                run.target.devices.crash(atBoundary: nil)
                try await self.compare(vos, run)
                try await vos.checkInvariants()
                if isClosed { await run.target.close(vos) }
            }
            #expect(finished || isKilled)
            if !finished { run.kills += 1 }
            run.target.devices.crash(atBoundary: nil)
            run.target.restart()
        }
        #expect(run.prepared > 20 && run.decided > 10)
    }

    // MARK: - After a restart

    /// Finds out what is left of what was under way, and says again what was said before.
    private func reconcile(_ vos: VOS, _ run: Run) throws {
        if let job = run.current {
            switch vos.state(of: job.id) {
            case .active: run.pending.append(job)
            case .committed(let epoch):
                #expect(!job.isTransaction && epoch == job.epoch)
                run.model.changes += job.changes
            case .aborted: #expect(job.isTransaction)
            case .unknown: break
            }
        }
        run.current = nil
        if let job = run.aborting, case .active = vos.state(of: job.id) { run.pending.append(job) }
        run.aborting = nil
        for job in run.told {
            switch vos.state(of: job.id) {
            case .committed(let epoch): #expect(epoch == job.epoch)
            case .active(let dtx): vos.commit(dtx)
            case .aborted, .unknown: Issue.record("a commit is lost")
            }
        }
        #expect(Set(vos.undecided.map(\.id)) == Set(run.pending.map(\.id)))
        #expect(vos.undecided.count == run.pending.count)
        // What was completed in vain is completed again.
        for (id, _, _) in vos.uncompleted where !run.uncompleted.contains(id) { vos.complete(id) }
        #expect(Set(vos.uncompleted.map(\.id)) == run.uncompleted)
    }

    // MARK: - Steps

    private func step(_ vos: VOS, _ run: Run) async throws {
        switch run.entropy.below(20) {
        case 0:
            try await vos.checkpoint()
            run.told = []
        case 1:
            let back = run.entropy.below(60)
            try await vos.aggregate(upTo: run.epoch - min(run.epoch, back))
        case 2:
            try await vos.flushOutcomes()
            run.told = []
        case 3:
            if let id = run.uncompleted.sorted().first {
                vos.complete(id)
                run.uncompleted.remove(id)
            }
        case 4...9: try await decide(vos, run)
        case 10...14 where run.pending.count < 6: try await transaction(vos, run)
        default: try await update(vos, run)
        }
    }

    private func decide(_ vos: VOS, _ run: Run) async throws {
        guard let job = run.take(&run.pending) else { return }
        let dtx = try vos.prepared(job.id)
        run.decided += 1
        if run.entropy.chance(2, in: 3) {
            vos.commit(dtx)
            run.told.append(job)
            run.model.changes += job.changes
            if dtx.isLeader { run.uncompleted.insert(job.id) }
        } else {
            run.aborting = job
            try await vos.abort(dtx)
            run.aborting = nil
            run.told = []
            #expect(vos.outcome(of: job.id) == "aborted")
        }
    }

    /// Random changes of one object, or of both.
    private func changes(_ run: Run, of objects: [ObjectID]) -> [DTXChange] {
        var changes: [DTXChange] = []
        for object in objects {
            for _ in 0..<1 + run.entropy.below(2) {
                let count = run.entropy.below(run.entropy.chance(1, in: 3) ? 12_000 : 100)
                let bytes = [UInt8].pattern(Int(count) + 1, seed: run.entropy.next())
                let body: DTXChange.Body =
                    switch run.entropy.below(16) {
                    case 0: .punchObject
                    case 1: .punchDkey
                    case 2: .punchAkey
                    case 3...9: .single(bytes)
                    default: .array(run.entropy.below(20_000), bytes)
                    }
                var change = DTXChange(
                    dkey: run.pick(Self.dkeys), akey: run.pick(ModelTests.akeys), body: body,
                    object: object)
                if run.entropy.chance(1, in: 5) {
                    change.condition = run.entropy.chance(1, in: 2) ? .insert : .update
                }
                changes.append(change)
            }
        }
        return changes
    }

    private func job(_ run: Run, _ changes: [DTXChange], isTransaction: Bool) -> Job {
        run.epoch += 1 + run.entropy.below(5)
        run.number += 1
        let epoch = run.epoch
        let modelled = changes.map { change in
            var modelled = Model.Change(
                object: change.object, dkey: change.dkey, akey: change.akey, epoch: epoch,
                body: .punch)
            switch change.body {
            case .punchObject:
                modelled.dkey = nil
                modelled.akey = nil
            case .punchDkey: modelled.akey = nil
            case .punchAkey: break
            case .single(let bytes): modelled.body = .single(bytes)
            case .array(let offset, let bytes, _): modelled.body = .extent(offset, bytes)
            }
            return modelled
        }
        return Job(
            id: .dtx(run.number), epoch: run.epoch, changes: modelled,
            isTransaction: isTransaction)
    }

    /// What a condition that does not hold makes of it.
    private func refusal(_ changes: [DTXChange], _ job: Job, _ model: Model) -> VOSError? {
        for (change, modelled) in zip(changes, job.changes) where change.condition != .none {
            let exists =
                if let dkey = modelled.dkey {
                    model.exists(change.object, dkey, modelled.akey, .max)
                } else {
                    !model.dkeys(change.object, .max).isEmpty
                }
            if change.condition == .insert, exists { return .exists }
            if change.condition == .update, !exists { return .notFound }
        }
        return nil
    }

    private func transaction(_ vos: VOS, _ run: Run) async throws {
        let objects = run.entropy.chance(1, in: 3) ? Self.objects : [run.pick(Self.objects)]
        let changes = changes(run, of: objects)
        let job = job(run, changes, isTransaction: true)
        let refusal = refusal(changes, job, run.model)
        let isLeader = run.entropy.chance(1, in: 2)
        run.current = job
        var failure: VOSError?
        do throws(VOSError) {
            try await vos.prepare(job.id, changes, epoch: job.epoch, isLeader: isLeader)
        } catch {
            failure = error
        }
        run.current = nil
        switch failure {
        case nil:
            #expect(refusal == nil)
            run.told = []
            run.pending.append(job)
            run.prepared += 1
        case .conflict:
            // Somebody else has the object, at least.
            #expect(run.hasAny(of: objects))
            run.refused += 1
        case .exists, .notFound: #expect(refusal == failure)
        case .noSpace:
            #expect(vos.outcome(of: job.id) == "aborted")
            try await vos.aggregate(upTo: run.epoch)
        case let other?: throw other
        }
    }

    private func update(_ vos: VOS, _ run: Run) async throws {
        let object = run.pick(Self.objects)
        let changes = changes(run, of: [object])
        let job = job(run, changes, isTransaction: false)
        let refusal = refusal(changes, job, run.model)
        let work = DTXWork(job.id, changes)
        var update = work.updates[0]
        update.epoch = job.epoch
        run.current = job
        var failure: VOSError?
        do throws(VOSError) {
            try await vos.update(update, patience: run.target.xstream.now + .microseconds(20))
        } catch {
            failure = error
        }
        withExtendedLifetime(work) {}
        run.current = nil
        switch failure {
        case nil:
            #expect(refusal == nil)
            run.model.changes += job.changes
            run.told = []
        case .undecided:
            #expect(run.hasAny(of: [object]))
            run.refused += 1
        case .exists, .notFound: #expect(refusal == failure)
        case .noSpace: try await vos.aggregate(upTo: run.epoch)
        case let other?: throw other
        }
    }

    // MARK: - Comparison

    private func compare(_ vos: VOS, _ run: Run) async throws {
        for epoch in [.max, max(vos.aggregatedEpoch, run.epoch - run.entropy.below(50))] {
            for object in Self.objects {
                for dkey in Self.dkeys {
                    let isHeld = run.isHeld(object, dkey)
                    for akey in ModelTests.akeys {
                        var fetch = Fetch(
                            pool: Names.pool, container: Names.container, object: object,
                            dkey: dkey, akey: akey, epoch: epoch)
                        fetch.patience = run.target.xstream.now + .microseconds(1)
                        try await compare(vos, run, fetch, isHeld: isHeld)
                    }
                }
            }
        }
    }

    private func compare(_ vos: VOS, _ run: Run, _ fetch: Fetch, isHeld: Bool) async throws {
        let model = run.model
        let (object, dkey, akey) = (fetch.object, fetch.dkey, fetch.akey)
        let buffer = IOBuffer(count: 64 << 10)
        var single: [UInt8]?
        do {
            let result = try await vos.fetchSingle(fetch, into: buffer.bytes)
            #expect(!isHeld)
            single = buffer.array(0..<result.byteCount)
        } catch .undecided {
            #expect(isHeld)
            return
        } catch .notFound {
            #expect(!isHeld)
        }
        // Compared outside of the expectations, which would print them.
        let isSame = single == model.single(object, dkey, akey, fetch.epoch)
        #expect(isSame)
        let array = model.array(object, dkey, akey, fetch.epoch)
        let all = try await vos.getArray(
            dkey, akey, 0..<UInt64(array.count), epoch: fetch.epoch, object: object)
        #expect(all.size == UInt64(array.count))
        let isSameArray = all.bytes == array
        #expect(isSameArray)
    }
}
