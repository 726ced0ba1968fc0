internal import CaRT
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime
internal import DrayTransactions
internal import Logging
internal import VOS

/// Leading a transaction: begin here, send its parts to the other members while this target does
/// its own, decide, and answer the client.
extension TransactionService {
    /// Who does what in one transaction.
    private struct Plan {
        /// This target first.
        var members: [TargetAddress]
        /// The parts of each member.
        var parts: [TargetAddress: [PreparePart]] = [:]
        /// Members that lead a redundancy group.
        var leaders: Set<TargetAddress> = []
    }

    /// Runs a transaction to its end and returns its epoch.
    ///
    /// Throws `.aborted`, `.conflict` and the errors of conditions when nothing happened; an error
    /// of the device when the outcome will be known after a restart.
    func lead(
        _ request: ObjectUpdateRequest, _ call: RequestContext
    ) async throws(RPCError) -> UInt64 {
        let plan = try plan(request)
        let ownParts = plan.parts[own] ?? []
        try checkReads(ownParts, call)
        let work = try LocalWork(ownParts, bulk: request.bulk, call, on: target)
        defer { work.end() }
        var wishes = DTXRequest(
            id: request.transaction, members: TransactionMembers(plan.members).encoded(),
            isLeader: true)
        fill(&wishes, ownParts, work, snapshot: request.snapshot)
        // Who will hold keys elsewhere must not wait for any here.
        if plan.leaders.count == 1 { wishes.patience = target.patience(call) }
        let dtx: DTX
        do throws(VOSError) {
            dtx = try await vos.begin(wishes) { target.clock.now() }
        } catch {
            throw RPCError(error)
        }
        leading.insert(dtx.id)
        defer { leading.remove(dtx.id) }
        let run = TransactionRun(dtx, members: plan.members, deadline: call.deadline)
        for (place, member) in plan.members.enumerated().dropFirst() {
            sendPart(place, member, request, plan, run, work, call)
        }
        await prepareOwn(run, work)
        await run.wait()
        return try await finish(run, plan, call)
    }

    private func plan(_ request: ObjectUpdateRequest) throws(RPCError) -> Plan {
        var plan = Plan(members: [own])
        var seen: Set<TargetAddress> = [own]
        var offset = 0
        for (index, part) in request.parts.enumerated() {
            guard !part.operations.isEmpty || !part.reads.isEmpty else {
                throw .service(.invalidArgument, "a part of a transaction without operations")
            }
            let group = try target.members(of: part)
            guard let leader = group.first, index > 0 || leader == own else {
                throw .service(.staleMap, "the redundancy group is led by another target")
            }
            plan.leaders.insert(leader)
            // What was only read concerns nobody but the leader of the group.
            for member in part.operations.isEmpty ? group.prefix(1) : group {
                if seen.insert(member).inserted { plan.members.append(member) }
                var prepare = PreparePart()
                prepare.part = part
                if member != leader { prepare.part.reads = [] }
                prepare.leads = member == leader
                prepare.dataOffset = UInt32(clamping: offset)
                plan.parts[member, default: []].append(prepare)
            }
            offset += part.length
        }
        guard offset <= ObjectLimits.dataMax else {
            throw .service(
                .invalidArgument, "a transaction carries at most \(ObjectLimits.dataMax) bytes")
        }
        return plan
    }

    /// Sends a member its parts, and notes its answer.
    private func sendPart(
        _ place: Int, _ member: TargetAddress, _ request: ObjectUpdateRequest, _ plan: Plan,
        _ run: TransactionRun, _ work: LocalWork, _ call: RequestContext
    ) {
        var prepare = PrepareRequest()
        prepare.transaction = request.transaction
        prepare.epoch = run.dtx.epoch
        prepare.members = TransactionMembers(plan.members)
        prepare.snapshot = request.snapshot
        prepare.parts = plan.parts[member] ?? []
        prepare.bulk = request.bulk
        prepare.committed = takeNews(for: member, max: PrepareRequest.committedMax)
        let wall = target.world.clock.wallNanoseconds
        let latest = wall + TransactionService.prepareTimeout.nanosecondsClamped
        let message = prepare
        let context = call.context
        xstream.spawn { [self] in
            do throws(RPCError) {
                _ = try await context.call(
                    TransactionProtocol.prepare, message,
                    to: .rank(member.rank, tag: member.tag), payload: unsafe work.payload,
                    deadline: .at(min(call.deadline, latest)), trace: call.trace)
                acknowledged(message.committed, by: member)
                await run.note(.prepared(place), self)
            } catch {
                giveBack(message.committed, for: member)
                run.blame(error, member)
                await run.note(.failed(place), self)
            }
        }
    }

    private func prepareOwn(_ run: TransactionRun, _ work: LocalWork) async {
        do throws(RPCError) {
            try await work.bringData()
        } catch {
            run.blame(error, nil)
            await drop(run.dtx)
            await run.note(.failed(0), self)
            return
        }
        do throws(VOSError) {
            try await vos.prepare(run.dtx, work.changes)
            withExtendedLifetime(work) {}
            await run.note(.prepared(0), self)
        } catch {
            run.blame(RPCError(error), nil)
            await run.note(.failed(0), self)
        }
    }

    private func finish(
        _ run: TransactionRun, _ plan: Plan, _ call: RequestContext
    ) async throws(RPCError) -> UInt64 {
        switch run.machine.state {
        case .committed:
            committed[run.dtx.id] = (run.machine, plan.members)
            tell(run.dtx.id, plan.members, urgent: plan.leaders)
            return run.dtx.epoch
        case .completed: return run.dtx.epoch
        case .aborted:
            tellAborted(run.dtx.id, plan.members)
            throw run.failure ?? .service(.aborted, "the transaction was aborted")
        case .aborting:
            // The device failed: the next start will tell.
            throw run.failure ?? .service(.device, "the decision cannot be written")
        case .preparing, .failing: preconditionFailure("a transaction ended undecided")
        }
    }
}

/// One transaction whose client waits.
final class TransactionRun {
    let dtx: DTX
    /// Of the client: wall clock, nanoseconds since 1970.
    private let deadline: UInt64
    private(set) var machine: LeaderMachine
    /// What to tell the client when it is aborted.
    private(set) var failure: RPCError?
    private var waiter: SuspendedTask?
    private var isOver = false

    init(_ dtx: DTX, members: [TargetAddress], deadline: UInt64) {
        self.dtx = dtx
        self.deadline = deadline
        machine = LeaderMachine(count: members.count)
    }

    /// Suspends until the transaction is decided.
    func wait() async {
        guard !isOver else { return }
        await SuspendedTask.suspend { waiter = $0 }
    }

    /// Notes why it cannot be committed: the first error that says more than that somebody does not
    /// answer. `member` is nil for the leader itself.
    func blame(_ error: RPCError, _ member: TargetAddress?) {
        if case .application(let code, _) = error, code != ServiceCode.aborted.rawValue,
            code != ServiceCode.unavailable.rawValue, code != ServiceCode.staleMap.rawValue
        {
            failure = error
            return
        }
        let who = member.map { "engine \($0.rank)" } ?? "the engine"
        let what =
            switch error {
            case .unreachable, .timedOut, .peerRestarted: "\(who) does not answer"
            default: "\(who): \(error)"
            }
        failure = failure ?? .service(.aborted, what)
    }

    func note(_ event: LeaderMachine.Event, _ service: TransactionService) async {
        var actions: [LeaderMachine.Action] = []
        // A client that has given up must not find its change applied after its next one.
        if case .prepared = event, service.target.world.clock.wallNanoseconds >= deadline {
            failure = failure ?? .service(.aborted, "it took longer than the client waits")
            actions = machine.on(.expired)
        }
        actions += machine.on(event)
        for action in actions {
            switch action {
            case .commit: service.vos.commit(dtx)
            case .complete: service.vos.complete(dtx.id)
            case .abort:
                do throws(VOSError) {
                    try await service.vos.abort(dtx)
                } catch {
                    failure = RPCError(error)
                    end()
                    return
                }
                await note(.abortIsDurable, service)
                return
            case .replyAborted, .tellAborted, .tellCommitted: continue
            }
        }
        if machine.isDecided { end() }
    }

    private func end() {
        isOver = true
        let waiter = waiter
        self.waiter = nil
        waiter?.resume()
    }
}
