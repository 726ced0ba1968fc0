import CaRT
import Dray
import DrayFabric
import DrayPlacement
import DrayProtocol
import DrayRuntime
import DraySimulator
import DrayTransactions
import Testing

/// Changes that are sent again: applied once, with the same answer, or refused.
@Suite struct ResendTests {
    /// Sends a change whose leader is cut off from `member`, kills the leader when it has prepared,
    /// and lets it reach everybody. Returns an epoch after the change's own.
    private func killLeader(
        _ rig: TransactionRig, of change: TransactionRig.Change, without member: TargetAddress
    ) async -> UInt64 {
        let leader = Int(change.leader.rank)
        rig.cluster.fabric.partition([leader], [Int(member.rank)])
        rig.begin(change)
        // Long after the others have prepared; before it is told that nobody can be reached.
        await rig.sleep(.microseconds(500))
        rig.cluster.kill(rank: leader)
        // What it has sent again a moment ago must not get there after all.
        await rig.sleep(.milliseconds(1))
        rig.cluster.fabric.heal()
        return rig.context.clock.now()
    }

    /// The leader is killed when it and one of two members have prepared, and the client sends the
    /// change again: the leader gives the other one what it lacks, and it is the same change.
    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func whoLacksATransactionTakesItFromTheResend(seed: UInt64) {
        TransactionRig.run(seed: seed) { rig in
            let object = try await rig.makeObject(.rp3g1)
            try await object.put("old")
            let change = try rig.change([object], "new")
            let killed = await killLeader(rig, of: change, without: try object.layout()[2])
            try await rig.cluster.start(rank: Int(change.leader.rank))
            let outcome = try await rig.resend(change)
            guard case .epoch(let epoch) = outcome else {
                Issue.record("\(outcome)")
                return
            }
            #expect(epoch < killed)
            #expect(try await rig.resend(change) == outcome)
            #expect(try await object.text() == "new")
            #expect(try await object.verify().isEqual)
        }
    }

    /// When the client does not send it again, the change is aborted soon, and a resend that comes
    /// later is told so.
    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func aResendThatComesLateIsTooLate(seed: UInt64) {
        TransactionRig.run(seed: seed) { rig in
            let object = try await rig.makeObject(.rp3g1)
            try await object.put("old")
            let change = try rig.change([object], "new")
            _ = await killLeader(rig, of: change, without: try object.layout()[2])
            try await rig.cluster.start(rank: Int(change.leader.rank))
            let start = rig.cluster.simulation.now
            #expect(try await object.text() == "old")
            #expect(rig.cluster.simulation.now.since(start) < .milliseconds(1500))
            #expect(try await rig.resend(change) == .refused(.aborted))
            #expect(try await object.text() == "old")
            #expect(try await object.verify().isEqual)
        }
    }

    /// What happens to the keys of a member that lacks a transaction, while its leader is away.
    enum Meanwhile: CaseIterable {
        case nothing, write, read, restart
    }

    /// A member that leads a redundancy group itself takes what it lacks only if nothing there is
    /// later, neither a change nor what somebody has read: else nothing of it happens anywhere.
    @Test(arguments: Meanwhile.allCases)
    func aMemberWithSomethingLaterRefuses(meanwhile: Meanwhile) {
        TransactionRig.run { rig in
            let first = try await rig.makeObject(.s1)
            let leader = try first.layout()[0]
            let second = try await rig.makeObject(.s1, notLedBy: [leader.rank])
            let member = try second.layout()[0]
            for object in [first, second] { try await object.put("old") }
            let change = try rig.change([first, second], "new")
            let killed = await killLeader(rig, of: change, without: member)
            switch meanwhile {
            case .nothing: break
            case .write: try await second.put("later")
            case .read:
                let seen = try await rig.container.transaction { transaction in
                    try await transaction.get(
                        second, dkey: TransactionRig.key, akey: TransactionRig.key)
                }
                #expect(seen == Array("old".utf8))
            case .restart:
                rig.cluster.kill(rank: Int(member.rank))
                try await rig.cluster.start(rank: Int(member.rank))
            }
            try await rig.cluster.start(rank: Int(leader.rank))
            switch try await rig.resend(change) {
            case .epoch(let epoch): #expect(meanwhile == .nothing && epoch < killed)
            case .refused(let code): #expect(meanwhile != .nothing && code == .aborted)
            }
            let values = [try await first.text(), try await second.text()]
            switch meanwhile {
            case .nothing: #expect(values == ["new", "new"])
            case .write: #expect(values == ["old", "later"])
            case .read, .restart: #expect(values == ["old", "old"])
            }
        }
    }

    /// A leader that was killed as soon as it had answered is sent the change again while it
    /// reaches nobody: that is no reason to abort it. When it does, a member has heard of the
    /// commit, and the answer is the same.
    @Test func silenceIsNoRefusal() {
        TransactionRig.run { rig in
            let object = try await rig.makeObject(.rp3g1)
            let layout = try object.layout()
            let ranks = layout.map { Int($0.rank) }
            let change = try rig.change([object], "new")
            let outcome = try await rig.send(change)
            rig.cluster.kill(rank: ranks[0])
            try await rig.decide(change.id, isCommitted: true, at: layout[1])
            rig.cluster.fabric.partition([ranks[0]], Set(ranks.dropFirst()))
            try await rig.cluster.start(rank: ranks[0])
            #expect(try await rig.sendAgain(change) == .refused(.busy))
            // Longer than it is patient.
            await rig.sleep(.seconds(3))
            #expect(try await rig.sendAgain(change) == .refused(.busy))
            rig.cluster.fabric.heal()
            #expect(try await rig.resend(change) == outcome)
            #expect(try await object.text() == "new")
            #expect(try await object.verify().isEqual)
        }
    }

    /// What a member has of a transaction that is forwarded to it.
    enum Known: CaseIterable {
        case nothing, prepared, preparedAtAnotherEpoch, committed, aborted, forgotten
    }

    /// What a member says, and does, when a transaction is forwarded to it.
    @Test(arguments: [
        (Known.nothing, ResolutionMachine.Answer.prepared), (.prepared, .prepared),
        (.preparedAtAnotherEpoch, .aborted), (.committed, .committed), (.aborted, .aborted),
        (.forgotten, .aborted),
    ])
    func aMemberSaysWhatItHas(known: Known, expected: ResolutionMachine.Answer) {
        TransactionRig.run(engines: 1) { rig in
            let object = try await rig.makeObject(.s1)
            let target = try object.layout()[0]
            let id = UniqueID(high: 3, low: 1)
            let operations = [rig.put(object, TransactionRig.key, "new")]
            var request = try rig.prepareRequest(
                operations, of: object, id, epoch: rig.context.clock.now())
            switch known {
            case .nothing: break
            case .prepared, .preparedAtAnotherEpoch, .committed:
                #expect(try await rig.prepare(request, "new", at: target) == 0)
            case .aborted: try await rig.decide(id, isCommitted: false, at: target)
            case .forgotten: try await letForget(rig, object)
            }
            if known == .committed { try await rig.decide(id, isCommitted: true, at: target) }
            if known == .preparedAtAnotherEpoch { request.epoch = rig.context.clock.now() }
            #expect(try await rig.forward(request, "new", at: target) == expected)
            // It sticks to that.
            #expect(try await rig.forward(request, "new", at: target) == expected)
            try await rig.decide(id, isCommitted: expected != .aborted, at: target)
            #expect(try await object.text() == (expected == .aborted ? nil : "new"))
        }
    }

    // MARK: - Conflicts

    /// Two objects with text, led by targets of different engines.
    private func makePair(_ rig: TransactionRig) async throws -> [DrayObject] {
        let first = try await rig.makeObject(.s1)
        let second = try await rig.makeObject(.s1, notLedBy: [try first.layout()[0].rank])
        for object in [first, second] { try await object.put("old") }
        return [first, second]
    }

    /// Locks an object: its leader has prepared the punch of it for somebody who is not there.
    /// Returns the transaction.
    private func lock(_ object: DrayObject, _ rig: TransactionRig) async throws -> UniqueID {
        let id = UniqueID(high: 3, low: 1)
        var punch = ObjectOperation()
        punch.kind = .punchObject
        let request = try rig.prepareRequest(
            [punch], of: object, id, epoch: rig.context.clock.now())
        #expect(try await rig.prepare(request, "", at: try object.layout()[0]) == 0)
        return id
    }

    /// A resend that conflicts ends the transaction: an earlier attempt that comes only then is
    /// refused, though nothing is in its way any more.
    @Test(arguments: [false, true])
    func afterTheConflictOfAResendNoEarlierAttemptIsApplied(isRestarted: Bool) {
        TransactionRig.run { rig in
            let objects = try await makePair(rig)
            let change = try rig.change(objects, "new")
            let other = try rig.change(objects, "other")
            let holder = try await lock(objects[0], rig)
            #expect(try await rig.send(other) == .refused(.conflict))
            var resend = change
            resend.request.isResend = true
            #expect(try await rig.send(resend) == .refused(.aborted))
            if isRestarted {
                rig.cluster.kill(rank: Int(change.leader.rank))
                try await rig.cluster.start(rank: Int(change.leader.rank))
            }
            #expect(try await rig.resend(resend) == .refused(.aborted))
            try await rig.decide(holder, isCommitted: false, at: change.leader)
            #expect(try await rig.resend(change) == .refused(.aborted))
            for object in objects { #expect(try await object.text() == "old") }
            // Of the other one there was no earlier attempt.
            guard case .epoch = try await rig.resend(other) else {
                Issue.record("what has conflicted once is refused for good")
                return
            }
            for object in objects { #expect(try await object.text() == "other") }
        }
    }

    /// A transaction whose first attempt had no answer, and whose next one conflicts, begins anew.
    @Test func aClientSaysWhatIsAResend() {
        TransactionRig.run { rig in
            let objects = try await makePair(rig)
            let leader = try objects[0].layout()[0]
            let holder = try await lock(objects[0], rig)
            rig.cluster.kill(rank: Int(leader.rank))
            var runs = 0
            let task = rig.xstream.spawnCancellable {
                do {
                    try await rig.container.transaction { transaction in
                        runs += 1
                        for object in objects {
                            try await transaction.put(
                                object, dkey: TransactionRig.key, akey: TransactionRig.key,
                                value: Array("new".utf8))
                        }
                    }
                } catch {
                    Issue.record("\(error)")
                }
            }
            await rig.sleep(.milliseconds(50))
            #expect(runs == 1)
            try await rig.cluster.start(rank: Int(leader.rank))
            await rig.sleep(.seconds(2))
            #expect(runs > 1)
            try await rig.decide(holder, isCommitted: false, at: leader)
            await task.value
            for object in objects { #expect(try await object.text() == "new") }
        }
    }

    // MARK: - Age

    /// Lets all that has been so far become older than what engines remember.
    private func letForget(_ rig: TransactionRig, _ object: DrayObject) async throws {
        await rig.sleep(.seconds(1))
        try await object.put("last", [8])
        await rig.sleep(.seconds(65))
        try await object.put("next", [9])
    }

    /// A request whose data comes so late that the resend that was faster is forgotten is not
    /// applied again.
    @Test func whatGetsTooOldMeanwhileIsRefused() {
        TransactionRig.run { rig in
            let object = try await rig.makeObject(.s1)
            let change = try rig.change([object], "first")
            var fault = TuneRequest()
            fault.faults = ["cart.bulk,delay=80s,count=1"]
            for (_, reply) in await rig.container.pool.cluster.tune(fault) { _ = try reply.get() }
            let late = Gather<TransactionRig.Outcome?>(count: 1)
            rig.xstream.spawn {
                let outcome = try? await rig.send(exposing: change, timeout: .seconds(200))
                late.finish(0, with: outcome)
            }
            await rig.sleep(.seconds(1))
            guard case .epoch = try await rig.send(change) else {
                Issue.record("the resend waits for the data of another attempt")
                return
            }
            try await object.put("second")
            try await letForget(rig, object)
            #expect(await late.results() == [.refused(.tooOld)])
            #expect(try await object.text() == "second")
        }
    }

    /// A resend that is older than what the leader remembers is not applied again.
    @Test(arguments: [ObjectClass.s1, .rp3g1], [false, true])
    func whatIsTooOldIsRefused(objectClass: ObjectClass, isRestarted: Bool) {
        TransactionRig.run { rig in
            let object = try await rig.makeObject(objectClass)
            let change = try rig.change([object], "first")
            let outcome = try await rig.send(change)
            #expect(try await rig.send(change) == outcome)
            try await object.put("second")
            try await letForget(rig, object)
            if isRestarted {
                let rank = Int(change.leader.rank)
                rig.cluster.kill(rank: rank)
                try await rig.cluster.start(rank: rank)
            }
            #expect(try await rig.resend(change) == .refused(.tooOld))
            #expect(try await object.text() == "second")
        }
    }
}
