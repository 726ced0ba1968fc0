internal import CaRT
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime
internal import DrayTransactions
internal import Logging
internal import VOS

/// Leading a transaction: begin here, send the other members their parts, do this target's own
/// meanwhile, decide, and answer the client.
extension TransactionService {
    /// Who does what in one transaction.
    struct Plan {
        /// This target first.
        var members: [TargetAddress]
        /// The parts of each member, by its place.
        var parts: [[PreparePart]] = [[]]
        /// Places of members that lead a redundancy group.
        var leaders: MemberSet = []
        /// Where members are, once there are many.
        private var places: [TargetAddress: Int] = [:]

        init(_ own: TargetAddress) {
            members = [own]
        }

        /// The place of a member, which may be a new one.
        mutating func place(of member: TargetAddress) -> Int {
            if members.count <= 16 {
                if let known = members.firstIndex(of: member) { return known }
            } else {
                if places.isEmpty {
                    for (place, member) in members.enumerated() { places[member] = place }
                }
                if let known = places[member] { return known }
                places[member] = members.count
            }
            members.append(member)
            parts.append([])
            return members.count - 1
        }
    }

    /// Runs a transaction to its end and returns its epoch.
    ///
    /// Throws `.aborted`, `.conflict` and the errors of conditions when nothing happened; an error
    /// of the device when the outcome will be known after a restart.
    func lead(
        _ request: ObjectUpdateRequest, _ call: RequestContext
    ) async throws(RPCError) -> UInt64 {
        let plan = try plan(request)
        let ownParts = plan.parts[0]
        try checkReads(ownParts)
        let payload = try Payload(of: call)
        let work = try LocalWork(
            ownParts, bulk: request.bulk, payload: payload, until: call.deadline, on: target,
            reaching: call.context)
        defer { work.end() }
        let members = TransactionMembers(plan.members)
        var wishes = DTXRequest(
            id: request.transaction, members: members.encoded(), isLeader: true)
        fill(&wishes, ownParts, work, snapshot: request.snapshot)
        // Who will hold keys elsewhere must not wait for any here.
        if plan.leaders == [0] { wishes.patience = target.patience(call) }
        // Members will be asked to prepare, and read the client's memory: until all is decided,
        // nothing stops half way.
        try call.ignoreCancellation()
        let dtx: DTX
        do throws(VOSError) {
            dtx = try await vos.begin(wishes) { target.clock.now() }
        } catch {
            throw RPCError(error)
        }
        leading.insert(dtx.id)
        defer { leading.remove(dtx.id) }
        let run = TransactionRun(dtx, members: members, call: call)
        if plan.members.count > 1 { await askMembers(request, plan, run, payload) }
        await prepareOwn(run, work)
        await run.wait()
        return try await finish(run, plan, call)
    }

    func plan(_ request: ObjectUpdateRequest) throws(RPCError) -> Plan {
        var plan = Plan(own)
        var offset = 0
        for (index, part) in request.parts.enumerated() {
            guard !part.operations.isEmpty || !part.reads.isEmpty else {
                throw .service(.invalidArgument, "a part of a transaction without operations")
            }
            let group = try target.members(of: part)
            guard let leader = group.first, index > 0 || leader == own else {
                throw .service(.staleMap, "the redundancy group is led by another target")
            }
            plan.leaders.insert(plan.place(of: leader))
            // What was only read concerns nobody but the leader of the group.
            for member in part.operations.isEmpty ? group.prefix(1) : group {
                let place = plan.place(of: member)
                var prepare = PreparePart()
                prepare.part = part
                if member != leader { prepare.part.reads = [] }
                prepare.leads = member == leader
                prepare.dataOffset = UInt32(clamping: offset)
                plan.parts[place].append(prepare)
            }
            offset += part.length
        }
        guard offset <= ObjectLimits.dataMax else {
            throw .service(
                .invalidArgument, "a transaction carries at most \(ObjectLimits.dataMax) bytes")
        }
        return plan
    }

    // MARK: - Batches

    /// Puts the members' parts into their next batches, and lets those leave before it returns:
    /// what the members do takes longer than this target's own part.
    private func askMembers(
        _ request: ObjectUpdateRequest, _ plan: Plan, _ run: TransactionRun, _ payload: Payload
    ) async {
        for (place, member) in plan.members.enumerated().dropFirst() {
            let prepare = prepareRequest(
                place, request, plan, epoch: run.dtx.epoch, members: run.members, run.call)
            outgoing[member, default: []].append(
                OutgoingPrepare(request: prepare, payload: payload, run: run, place: place))
        }
        // Whoever comes first sends what has gathered.
        if asking.isEmpty { xstream.spawn { [self] in await sendGathered() } }
        await SuspendedTask.suspend { asking.append($0) }
    }

    /// What a member is sent: all but where its data is in the payload.
    func prepareRequest(
        _ place: Int, _ request: ObjectUpdateRequest, _ plan: Plan, epoch: UInt64,
        members: TransactionMembers, _ call: RequestContext
    ) -> PrepareRequest {
        var prepare = PrepareRequest()
        prepare.transaction = request.transaction
        prepare.epoch = epoch
        prepare.deadline = call.deadline
        prepare.members = members
        prepare.snapshot = request.snapshot
        prepare.parts = plan.parts[place]
        prepare.bulk = request.bulk
        prepare.network = UInt8(clamping: target.contexts?.network(of: call.context) ?? 0)
        return prepare
    }

    /// The most rounds of the xstream that batches wait for more.
    private static let gatheringRoundsMax = 8

    /// Sends the batches of all members, then lets those go on who wait for that.
    private func sendGathered() async {
        // Each round of the xstream may bring more: a lone transaction waits for one, which is
        // short.
        var count = 0
        for _ in 0..<TransactionService.gatheringRoundsMax {
            guard asking.count > count, asking.count < PrepareBatchRequest.requestsMax else {
                break
            }
            count = asking.count
            await xstream.yield()
        }
        let gathered = asking
        asking = []
        // In a fixed order: a dictionary's differs from process to process.
        for member in outgoing.keys.sorted() {
            guard let entries = outgoing.removeValue(forKey: member) else { continue }
            xstream.spawn { [self] in await sendBatches(entries, to: member) }
        }
        // They leave when the round of the xstream is over.
        await xstream.yield()
        for task in gathered { task.resume() }
    }

    private func sendBatches(_ entries: [OutgoingPrepare], to member: TargetAddress) async {
        var entries = entries
        while !entries.isEmpty {
            var count = 0
            var bytes = 0
            while count < min(entries.count, PrepareBatchRequest.requestsMax),
                bytes < PrepareBatchRequest.payloadMax
            {
                bytes += entries[count].payload.range.count
                count += 1
            }
            let batch = Array(entries[0..<count])
            entries.removeFirst(count)
            if entries.isEmpty {
                await send(batch, to: member)
            } else {
                xstream.spawn { [self] in await send(batch, to: member) }
            }
        }
    }

    /// Asks a member to prepare, and notes its answers.
    private func send(_ entries: [OutgoingPrepare], to member: TargetAddress) async {
        var message = PrepareBatchRequest()
        message.committed = takeNews(for: member, max: PrepareBatchRequest.committedMax)
        var bytes = 0
        var latest: UInt64 = 0
        message.requests.reserveCapacity(entries.count)
        for entry in entries {
            entry.request.payloadOffset = UInt32(bytes)
            entry.request.payloadLength = UInt32(entry.payload.range.count)
            bytes += entry.payload.range.count
            latest = max(latest, entry.request.deadline)
            message.requests.append(entry.request)
        }
        // So that the client hears before its deadline of a member that does not answer.
        let now = target.worldClock.wallNanoseconds
        let left = latest > now ? latest - now : 0
        let limit =
            now + min(left - left / 8, TransactionService.prepareTimeout.nanosecondsClamped)
        do throws(RPCError) {
            guard let context else { throw .closed }
            let data = try gatherPayload(entries, count: bytes, context)
            let reply = try await context.call(
                TransactionProtocol.prepare, message, to: .rank(member.rank, tag: member.tag),
                payload: unsafe data.bytes, deadline: .at(limit),
                trace: entries.first?.run.call.trace ?? 0,
                for: entries.compactMap { $0.run.call.isTraced ? $0.run.call : nil })
            acknowledged(message.committed, by: member)
            guard reply.outcomes.count == entries.count else { throw .badMessage }
            for (entry, outcome) in zip(entries, reply.outcomes) {
                if outcome.code == 0 {
                    await entry.run.note(.prepared(entry.place), self)
                } else {
                    fail(
                        entry, member,
                        .application(code: outcome.code, message: outcome.message))
                }
            }
            withExtendedLifetime(data) {}
        } catch {
            giveBack(message.committed, for: member)
            for entry in entries { fail(entry, member, error) }
        }
    }

    /// A member has not prepared. The abort goes into the log while others of the batch go on.
    private func fail(_ entry: OutgoingPrepare, _ member: TargetAddress, _ error: RPCError) {
        entry.run.blame(error, member)
        xstream.spawn { [self] in await entry.run.note(.failed(entry.place), self) }
    }

    /// The data of a batch in one piece.
    private func gatherPayload(
        _ entries: [OutgoingPrepare], count: Int, _ context: Context
    ) throws(RPCError) -> Payload {
        guard count > 0 else { return Payload(nil, 0..<0) }
        if entries.count == 1 { return entries[0].payload }
        let buffer = try context.makeBuffer(count: count)
        var start = 0
        for entry in entries {
            let bytes = unsafe entry.payload.bytes
            unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[start...])
                .copyMemory(from: bytes)
            start += bytes.count
        }
        return Payload(buffer, 0..<count)
    }

    // MARK: - Own part

    private func prepareOwn(_ run: TransactionRun, _ work: LocalWork) async {
        do throws(RPCError) {
            try await work.bringData(for: run.call)
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
            // When the device has failed, it may be prepared all the same after the next start:
            // nobody may hear of an abort that the log does not know.
            do throws(VOSError) {
                try await vos.flushOutcomes()
            } catch {
                run.leaveUndecided(error)
                return
            }
            await run.note(.failed(0), self)
        }
    }

    private func finish(
        _ run: TransactionRun, _ plan: Plan, _ call: RequestContext
    ) async throws(RPCError) -> UInt64 {
        switch run.machine.state {
        case .committed:
            noteCommit(
                run.dtx.id,
                Commit(machine: run.machine, members: plan.members, urgent: plan.leaders))
            return run.dtx.epoch
        case .completed: return run.dtx.epoch
        case .aborted:
            tellAborted(run.dtx.id, plan.members)
            throw run.failure ?? .service(.aborted, "the transaction was aborted")
        case .preparing, .failing, .aborting:
            // The device failed: the next start will tell.
            throw run.failure ?? .service(.device, "the decision cannot be written")
        }
    }
}

/// A member's parts of a transaction, on their way into a batch.
final class OutgoingPrepare {
    /// Where its data begins in the batch is filled in when that is sent.
    @safe @exclusivity(unchecked) var request: PrepareRequest
    let payload: Payload
    let run: TransactionRun
    let place: Int

    init(request: PrepareRequest, payload: Payload, run: TransactionRun, place: Int) {
        self.request = request
        self.payload = payload
        self.run = run
        self.place = place
    }
}

/// One transaction whose client waits.
final class TransactionRun {
    let dtx: DTX
    let members: TransactionMembers
    /// What the client asked for.
    let call: RequestContext
    @safe @exclusivity(unchecked) private(set) var machine: LeaderMachine
    /// What to tell the client when it is aborted.
    @safe @exclusivity(unchecked) private(set) var failure: RPCError?
    @safe @exclusivity(unchecked) private var waiter: SuspendedTask?
    @safe @exclusivity(unchecked) private var isOver = false

    init(_ dtx: DTX, members: TransactionMembers, call: RequestContext) {
        self.dtx = dtx
        self.members = members
        self.call = call
        machine = LeaderMachine(count: members.targets.count)
    }

    /// Of the client: wall clock, nanoseconds since 1970.
    var deadline: UInt64 { call.deadline }

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
        // A client that has given up must not find its change applied after its next one.
        if case .prepared = event, service.target.worldClock.wallNanoseconds >= deadline {
            failure = failure ?? .service(.aborted, "it took longer than the client waits")
            await perform(machine.on(.expired) + machine.on(event), service)
        } else {
            await perform(machine.on(event), service)
        }
    }

    private func perform(
        _ actions: [LeaderMachine.Action], _ service: TransactionService
    ) async {
        for action in actions {
            switch action {
            case .commit: service.vos.commit(dtx)
            case .complete: service.vos.complete(dtx.id)
            case .abort:
                do throws(VOSError) {
                    try await service.vos.abort(dtx)
                } catch {
                    leaveUndecided(error)
                    return
                }
                await note(.abortIsDurable, service)
                return
            case .replyAborted, .tellAborted, .tellCommitted: continue
            }
        }
        if machine.isDecided { end() }
    }

    /// The device failed, and with it the decision.
    func leaveUndecided(_ error: VOSError) {
        failure = RPCError(error)
        end()
    }

    private func end() {
        isOver = true
        let waiter = waiter
        self.waiter = nil
        waiter?.resume()
    }
}
