internal import CaRT
internal import DequeModule
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime
internal import DrayTransactions
internal import Logging
internal import VOS

/// The transactions that one target takes part in: as their leader, as a member, and finding out
/// what became of those that were left undecided. The shell around the state machines of
/// `DrayTransactions`. Confined to its xstream.
final class TransactionService {
    unowned let target: TargetService
    let vos: VOS
    let xstream: XStream
    let log: Logger
    @safe @exclusivity(unchecked) var entropy: Entropy

    /// Transactions that this target leads right now, and whose clients wait.
    @safe @exclusivity(unchecked) var leading: Set<UniqueID> = []
    /// A transaction that is committed, and that some members do not know of yet.
    struct Commit {
        var machine: LeaderMachine
        var members: [TargetAddress]
        /// Places of members that keep keys locked until they know.
        var urgent: MemberSet = []
    }

    @safe @exclusivity(unchecked) var committed: [UniqueID: Commit] = [:]
    /// What each member is to be told, in order.
    @safe @exclusivity(unchecked) var news: [TargetAddress: Deque<UniqueID>] = [:]
    /// Members that are being told.
    @safe @exclusivity(unchecked) var telling: Set<TargetAddress> = []
    @safe @exclusivity(unchecked) var isTellingScheduled = false
    /// What each member is to be asked to prepare, gathered for a moment.
    @safe @exclusivity(unchecked) var outgoing: [TargetAddress: [OutgoingPrepare]] = [:]
    /// The leaders' tasks that wait until that has left.
    @safe @exclusivity(unchecked) var asking: [SuspendedTask] = []
    /// Members' transactions whose prepare is under way, and that were aborted meanwhile.
    @safe @exclusivity(unchecked) var doomed: Set<UniqueID> = []
    /// Transactions whose outcome is being looked for.
    @safe @exclusivity(unchecked) var resolving: Set<UniqueID> = []
    /// What was prepared for others, oldest first, and when.
    @safe @exclusivity(unchecked) var waiting = Deque<(since: Instant, id: UniqueID)>()
    @safe @exclusivity(unchecked) var isStopped = false

    /// How long a member may take to prepare.
    static let prepareTimeout: Duration = .seconds(2)
    /// How long a member may take to answer anything else, unless the configuration says so.
    private static let peerTimeout: Duration = .seconds(1)
    let peerTimeout: Duration
    /// How long a commit may wait for company on its way to the members. One that keeps the keys
    /// of a redundancy group's leader locked does not wait.
    static let newsDelay: Duration = .milliseconds(50)
    /// How long an undecided transaction waits for its leader before it asks.
    var decisionTimeout: Duration { peerTimeout }
    /// How long a request waits for keys that others hold.
    static let patience: Duration = .seconds(1)
    /// The pause between attempts to find out about a transaction, or to tell of it.
    static let retryPause: Duration = .milliseconds(200)
    /// How long a leader that was restarted asks members without a promise of those that have
    /// nothing of a transaction: its client may send it again. Longer than a client pauses.
    static let resendWindow: Duration = .milliseconds(500)

    init(_ target: TargetService) {
        self.target = target
        vos = target.vos
        xstream = target.xstream
        peerTimeout = target.configuration.peerTimeout ?? TransactionService.peerTimeout
        log = target.world.log.logger(.engine)
        entropy = target.world.entropy.fork("transactions-\(target.index)")
    }

    var context: Context? { target.context }
    var own: TargetAddress { target.address }

    func serve(on context: Context) {
        context.register(TransactionProtocol.prepare) {
            (request, call) async throws(RPCError) -> PrepareBatchReply in
            try await self.prepare(request, call)
        }
        context.register(TransactionProtocol.decide) {
            (request, _) async throws(RPCError) -> EmptyMessage in
            try await self.decide(request)
        }
        context.register(TransactionProtocol.query) {
            (request, _) async throws(RPCError) -> QueryReply in
            try await self.query(request)
        }
        context.register(TransactionProtocol.forward) {
            (request, call) async throws(RPCError) -> QueryReply in
            try await self.receiveForwarded(request, call)
        }
        vos.onBlocked = { [unowned self] dtx in
            if !leading.contains(dtx.id) { resolve(dtx) }
        }
        vos.onCommitsDurable = { [unowned self] ids in
            for id in ids { tell(id) }
        }
        resume()
        xstream.spawn { await self.watch() }
    }

    /// Writes down what is decided. Nothing may be started any more.
    func stop() async {
        isStopped = true
        do throws(VOSError) {
            try await vos.flushOutcomes()
        } catch {
            log.warning("the decisions of transactions cannot be written: \(error)")
        }
    }

    /// After a restart: goes on with what the process before has left. Keys of what is undecided
    /// are locked until that is done.
    private func resume() {
        for completion in vos.uncompleted {
            guard let members = members(completion.members), members.count > 1 else {
                vos.complete(completion.id)
                continue
            }
            committed[completion.id] = Commit(
                machine: LeaderMachine(committedBy: members.count), members: members)
            tell(completion.id)
        }
        for dtx in vos.undecided { resolve(dtx) }
    }

    /// Asks for the outcome of what has waited long.
    private func watch() async {
        while !isStopped {
            await xstream.sleep(for: TransactionService.retryPause)
            let now = xstream.now
            while let first = waiting.first,
                first.since + decisionTimeout <= now
            {
                waiting.removeFirst()
                if case .active(let dtx) = vos.state(of: first.id), dtx.phase == .prepared {
                    resolve(dtx)
                }
            }
        }
    }

    /// Decodes the members of a transaction.
    func members(_ bytes: [UInt8]) -> [TargetAddress]? {
        do throws(DecodingFailure) {
            return try TransactionMembers(decoding: bytes).targets
        } catch {
            log.error("the members of a transaction cannot be read: \(error)")
            return nil
        }
    }

    // MARK: - Telling members of commits

    /// Notes a commit. Members are told once it is on stable storage here: so a leader that finds a
    /// transaction prepared after a restart knows that nobody was told of a commit, and whoever has
    /// forgotten the transaction by then has not got it.
    func noteCommit(_ id: UniqueID, _ commit: Commit) {
        committed[id] = commit
        if commit.urgent == [] || commit.urgent == [0] {
            scheduleTelling()
        } else {
            xstream.spawn { [self] in await flushCommits() }
        }
    }

    private func flushCommits() async {
        do throws(VOSError) {
            try await vos.flushOutcomes()
        } catch {
            log.error("commits cannot be written: \(error)")
        }
    }

    /// A commit is on stable storage: members are to be told, those that keep keys locked at once.
    private func tell(_ id: UniqueID) {
        guard let commit = committed[id] else { return }
        for (place, member) in commit.members.enumerated().dropFirst() {
            news[member, default: []].append(id)
            if commit.urgent.contains(place) { tellNow(member) }
        }
        scheduleTelling()
    }

    private func scheduleTelling(after delay: Duration = TransactionService.newsDelay) {
        guard !isTellingScheduled, !committed.isEmpty else { return }
        isTellingScheduled = true
        xstream.schedule(at: xstream.now + delay) { [self] in
            isTellingScheduled = false
            xstream.spawn { [self] in
                await flushCommits()
                // In a fixed order: a dictionary's differs from process to process.
                for member in news.keys.sorted() { tellNow(member) }
            }
        }
    }

    /// Takes what can travel to a member with something else.
    func takeNews(for member: TargetAddress, max count: Int) -> [UniqueID] {
        // Taken out, so that it is changed in place.
        guard var queue = news.updateValue([], forKey: member), !queue.isEmpty else { return [] }
        let part = Array(queue.prefix(count))
        queue.removeFirst(part.count)
        news[member] = queue
        return part
    }

    /// A member has not heard: it is told again, and of what there is since then.
    func giveBack(_ ids: [UniqueID], for member: TargetAddress) {
        if !ids.isEmpty { news[member, default: []].prepend(contentsOf: ids) }
        guard news[member]?.isEmpty == false else { return }
        scheduleTelling(after: TransactionService.retryPause)
    }

    private func tellNow(_ member: TargetAddress) {
        guard !isStopped, news[member]?.isEmpty == false, telling.insert(member).inserted else {
            return
        }
        xstream.spawn { [self] in
            var request = DecideRequest()
            request.committed = takeNews(for: member, max: DecideRequest.transactionsMax)
            do throws(RPCError) {
                guard let context else { throw .closed }
                _ = try await context.call(
                    TransactionProtocol.decide, request, to: .rank(member.rank, tag: member.tag),
                    deadline: .after(peerTimeout))
                telling.remove(member)
                acknowledged(request.committed, by: member)
                if news[member]?.isEmpty == false { scheduleTelling() }
            } catch {
                telling.remove(member)
                giveBack(request.committed, for: member)
            }
        }
    }

    /// A member has these commits on stable storage.
    func acknowledged(_ ids: [UniqueID], by member: TargetAddress) {
        for id in ids {
            guard let place = committed[id]?.members.firstIndex(of: member) else { continue }
            for action in committed[id]?.machine.on(.acknowledged(place)) ?? [] {
                precondition(action == .complete, "a commit leads to nothing but its completion")
                vos.complete(id)
                committed[id] = nil
            }
        }
    }

    // MARK: - Member

    /// Prepares each transaction of a batch; their records share the flushes of the log.
    private func prepare(
        _ batch: PrepareBatchRequest, _ call: RequestContext
    ) async throws(RPCError) -> PrepareBatchReply {
        for id in batch.committed { try commit(id) }
        let payload = try Payload(of: call)
        var reply = PrepareBatchReply()
        guard batch.requests.count > 1 else {
            for request in batch.requests {
                reply.outcomes.append(await outcome(of: request, payload, call))
            }
            try await settle(batch, reply)
            return reply
        }
        let gather = Gather<PrepareOutcome>(count: batch.requests.count)
        for (index, request) in batch.requests.enumerated() {
            xstream.spawn { [self] in
                gather.finish(index, with: await outcome(of: request, payload, call))
            }
        }
        reply.outcomes = await gather.results()
        try await settle(batch, reply)
        return reply
    }

    /// What was prepared has taken the commits with it to stable storage; else they go there now.
    private func settle(
        _ batch: PrepareBatchRequest, _ reply: PrepareBatchReply
    ) async throws(RPCError) {
        guard !batch.committed.isEmpty, !reply.outcomes.contains(where: { $0.code == 0 }) else {
            return
        }
        try await flush()
    }

    private func outcome(
        of request: PrepareRequest, _ payload: Payload, _ call: RequestContext
    ) async -> PrepareOutcome {
        var outcome = PrepareOutcome()
        do throws(RPCError) {
            let start = Int(request.payloadOffset)
            let end = start + Int(request.payloadLength)
            guard end <= payload.range.count else {
                throw .service(.invalidArgument, "the payload does not fit the transactions")
            }
            try await prepare(request, Payload(payload.buffer, start..<end), call)
        } catch .application(let code, let message) {
            outcome.code = code
            outcome.message = String(message.prefix(PrepareOutcome.messageMax / 4))
        } catch {
            outcome.code = ServiceCode.aborted.rawValue
            outcome.message = "\(error)"
        }
        return outcome
    }

    /// Brings this target's parts of a transaction to stable storage.
    private func prepare(
        _ request: PrepareRequest, _ payload: Payload, _ call: RequestContext
    ) async throws(RPCError) {
        if target.faults.isArmed {
            try await target.faults.pass(.enginePrepare, on: xstream)
        }
        var machine = participant(request.transaction)
        switch machine.on(.prepare).first {
        case .startPrepare: break
        case .replyPrepared:
            guard case .active(let dtx) = vos.state(of: request.transaction),
                dtx.epoch == request.epoch
            else { throw aborted }
            try await flush()
            return
        case .replyFailed, .commit, .abort, .refuse, .acknowledge, .report, .protest, nil:
            throw aborted
        }
        try await startPrepare(request, payload, call)
    }

    /// The same of a transaction that is not here.
    private func startPrepare(
        _ request: PrepareRequest, _ payload: Payload, _ call: RequestContext
    ) async throws(RPCError) {
        guard request.members.targets.dropFirst().contains(own) else {
            throw .service(.invalidArgument, "this target has no part in the transaction")
        }
        // It came so late that nobody here would remember if it had been refused.
        guard request.epoch > vos.transactionHorizon else { throw aborted }
        for index in request.parts.indices {
            let group = try target.members(of: request.parts[index].part)
            guard group.contains(own), request.parts[index].leads == (group.first == own) else {
                throw .service(.staleMap, "the object's shard is not here")
            }
        }
        try checkReads(request.parts)
        guard let contexts = target.contexts else { throw .closed }
        let deadline = min(request.deadline, call.deadline)
        let work = try LocalWork(
            request.parts, bulk: request.bulk, payload: payload, until: deadline, on: target,
            reaching: contexts.context(network: Int(request.network)))
        defer { work.end() }
        var wishes = DTXRequest(
            id: request.transaction, members: request.members.encoded(), isLeader: false)
        fill(&wishes, request.parts, work, snapshot: request.snapshot)
        // However it ends, it is not under way any more.
        defer { doomed.remove(request.transaction) }
        let dtx: DTX
        do throws(VOSError) {
            dtx = try await vos.begin(wishes) { request.epoch }
        } catch {
            throw RPCError(error)
        }
        do throws(RPCError) {
            try await work.bringData(for: call)
            guard target.worldClock.wallNanoseconds < deadline else { throw .timedOut }
        } catch {
            await drop(dtx)
            throw error
        }
        do throws(VOSError) {
            try await vos.prepare(dtx, work.changes)
            withExtendedLifetime(work) {}
        } catch {
            throw RPCError(error)
        }
        if doomed.contains(dtx.id) {
            await drop(dtx)
            throw aborted
        }
        waiting.append((xstream.now, dtx.id))
    }

    /// Says what is here of a transaction that its client has sent again, after preparing it if it
    /// was not here. Who could not has promised by its answer that it never will.
    private func receiveForwarded(
        _ request: PrepareRequest, _ call: RequestContext
    ) async throws(RPCError) -> QueryReply {
        var machine = participant(request.transaction)
        if machine.on(.forward).first == .startPrepare {
            do throws(RPCError) {
                try await startPrepare(request, try Payload(of: call), call)
            } catch {
                log.info("transaction \(request.transaction) cannot be prepared late: \(error)")
            }
        }
        var question = QueryRequest()
        question.transaction = request.transaction
        question.epoch = request.epoch
        question.asksAsLeader = true
        return try await query(question)
    }

    var aborted: RPCError { .service(.aborted, "the transaction was aborted") }
    var busy: RPCError { .service(.busy, "the same request is being served") }

    /// What was read must have been read from this incarnation.
    func checkReads(_ parts: [PreparePart]) throws(RPCError) {
        for index in parts.indices where parts[index].leads {
            for read in parts[index].part.reads
            where target.contexts?.contains(instance: read.instance) != true {
                throw .service(.conflict, "the engine was restarted since the transaction has read")
            }
        }
    }

    /// Translates parts for the store.
    func fill(
        _ wishes: inout DTXRequest, _ parts: [PreparePart], _ work: LocalWork, snapshot: UInt64
    ) {
        wishes.snapshot = snapshot
        wishes.parts.reserveCapacity(parts.count)
        for index in parts.indices {
            let leads = parts[index].leads
            if !work.updates[index].operations.isEmpty {
                wishes.parts.append(DTXRequest.Part(work.updates[index], leads: leads))
            }
            guard leads else { continue }
            let target = parts[index].part.target
            for read in parts[index].part.reads {
                wishes.reads.append(
                    DTXRequest.Read(
                        pool: target.pool, container: target.container, object: target.object,
                        dkey: read.dkey))
            }
        }
    }

    /// Ends what was begun or prepared. Its outcome needs nobody's word: it will never be
    /// committed.
    func drop(_ dtx: DTX) async {
        do throws(VOSError) {
            try await vos.abort(dtx)
        } catch {
            log.error("a transaction cannot be aborted: \(error)")
        }
    }

    private func participant(_ id: UniqueID) -> ParticipantMachine {
        switch vos.state(of: id) {
        case .unknown: ParticipantMachine(.unknown)
        case .committed: ParticipantMachine(.committed)
        case .aborted: ParticipantMachine(.aborted)
        case .active(let dtx):
            switch dtx.phase {
            case .begun, .preparing: ParticipantMachine(doomed.contains(id) ? .doomed : .preparing)
            case .prepared: ParticipantMachine(.prepared)
            case .committed: ParticipantMachine(.committed)
            case .aborted: ParticipantMachine(.aborted)
            }
        }
    }

    /// The leader says that the transaction is committed.
    private func commit(_ id: UniqueID) throws(RPCError) {
        var machine = participant(id)
        for action in machine.on(.commit) {
            switch action {
            case .commit:
                guard case .active(let dtx) = vos.state(of: id), !dtx.isLeader else { continue }
                vos.commit(dtx)
            case .protest:
                let state = participant(id).state
                log.error("transaction \(id) is said to be committed, and is \(state)")
                throw .service(.invalidArgument, "the transaction cannot be committed here")
            case .acknowledge, .startPrepare, .replyPrepared, .replyFailed, .abort, .refuse,
                .report:
                continue
            }
        }
    }

    private func abort(_ id: UniqueID) async throws(RPCError) {
        var machine = participant(id)
        for action in machine.on(.abort) {
            switch action {
            case .abort:
                guard case .active(let dtx) = vos.state(of: id), !dtx.isLeader,
                    dtx.phase == .prepared
                else { continue }
                await drop(dtx)
            case .refuse:
                do throws(VOSError) {
                    try await vos.refuse(id, epoch: target.clock.now())
                } catch {
                    throw RPCError(error)
                }
            case .acknowledge:
                if machine.state == .doomed { doomed.insert(id) }
            case .protest:
                log.error("transaction \(id) is said to be aborted, and is committed")
                throw .service(.invalidArgument, "the transaction is committed here")
            case .commit, .startPrepare, .replyPrepared, .replyFailed, .report: continue
            }
        }
    }

    private func decide(_ request: DecideRequest) async throws(RPCError) -> EmptyMessage {
        for id in request.committed { try commit(id) }
        for id in request.aborted { try await abort(id) }
        try await flush()
        return EmptyMessage()
    }

    func flush() async throws(RPCError) {
        do throws(VOSError) {
            try await vos.flushOutcomes()
        } catch {
            throw RPCError(error)
        }
    }
}
