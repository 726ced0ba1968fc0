internal import BIO
internal import CaRT
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime
internal import DrayTransactions
internal import Logging
internal import VOS

/// Finding out what became of transactions that are prepared and undecided.
extension TransactionService {
    /// Looks for the outcome until it is known. Does nothing when that is under way.
    func resolve(_ dtx: DTX) {
        guard !isStopped, !leading.contains(dtx.id), resolving.insert(dtx.id).inserted else {
            return
        }
        guard let members = members(dtx.members), let place = members.firstIndex(of: own) else {
            resolving.remove(dtx.id)
            return
        }
        xstream.spawn { [self] in
            let end = xstream.now + TransactionService.resendWindow
            while !isStopped, dtx.phase == .prepared {
                let mayBeForwarded = dtx.isLeader && xstream.now < end
                await tryToResolve(dtx, members, own: place) { asked in
                    await ask(asked, dtx, members, own: place, mayBeForwarded: mayBeForwarded)
                }
                guard dtx.phase == .prepared else { break }
                let jitter = entropy.below(
                    TransactionService.retryPause.nanosecondsClamped)
                await xstream.sleep(
                    for: TransactionService.retryPause + .nanoseconds(Int64(jitter)))
            }
            resolving.remove(dtx.id)
        }
    }

    /// Asks once; `ask` gets the places of those to be asked.
    func tryToResolve(
        _ dtx: DTX, _ members: [TargetAddress], own place: Int,
        ask: ([Int]) async -> [ResolutionMachine.Event]
    ) async {
        // What the leader has written last may be there or not: the next start will tell.
        guard !dtx.isLeader || !target.blocks.isOutOfService else { return }
        var machine = ResolutionMachine(own: place, count: members.count)
        var actions = machine.start()
        while let action = actions.first {
            actions.removeFirst()
            switch action {
            case .ask(let asked):
                for event in await ask(asked) {
                    actions += machine.on(event)
                }
            case .commit:
                guard dtx.phase == .prepared else { return }
                vos.commit(dtx)
                log.info("transaction \(dtx.id) was found to be committed")
                guard dtx.isLeader else { return }
                guard members.count > 1 else {
                    vos.complete(dtx.id)
                    return
                }
                noteCommit(
                    dtx.id,
                    Commit(
                        machine: LeaderMachine(committedBy: members.count), members: members,
                        urgent: MemberSet(1..<members.count)))
            case .abort:
                guard dtx.phase == .prepared else { return }
                log.info("transaction \(dtx.id) was found to be aborted")
                await drop(dtx)
                if dtx.isLeader { tellAborted(dtx.id, members) }
            case .wait: return
            }
        }
    }

    /// Asks members at once what they know.
    private func ask(
        _ asked: [Int], _ dtx: DTX, _ members: [TargetAddress], own place: Int,
        mayBeForwarded: Bool
    ) async -> [ResolutionMachine.Event] {
        await gatherAnswers(of: asked, members) {
            [peerTimeout] (member, context, destination) async throws(RPCError) -> QueryReply in
            var query = QueryRequest()
            query.transaction = dtx.id
            query.epoch = dtx.epoch
            query.asksAsLeader = place == 0
            query.asksLeader = member == 0
            query.mayBeForwarded = mayBeForwarded
            return try await context.call(
                TransactionProtocol.query, query, to: destination,
                deadline: .after(peerTimeout))
        }
    }

    /// Calls members at once; `call` gets the place of one, and where it is.
    private func gatherAnswers(
        of asked: [Int], _ members: [TargetAddress],
        _ call: @escaping (Int, Context, Destination) async throws(RPCError) -> QueryReply
    ) async -> [ResolutionMachine.Event] {
        guard let context else { return asked.map { .silent($0) } }
        let gather = Gather<ResolutionMachine.Event>(count: asked.count)
        for (index, member) in asked.enumerated() {
            let address = members[member]
            xstream.spawn {
                do throws(RPCError) {
                    let reply = try await call(
                        member, context, .rank(address.rank, tag: address.tag))
                    let answer = ResolutionMachine.Answer(rawValue: reply.answer)
                    gather.finish(
                        index, with: answer.map { .answered(member, $0) } ?? .silent(member))
                } catch {
                    gather.finish(index, with: .silent(member))
                }
            }
        }
        return await gather.results()
    }

    // MARK: - Sent again

    /// Goes on with a transaction that its client has sent again, and that is prepared here since
    /// before a restart: asks the other members what they have of it, and sends it to those that
    /// may lack it. Returns its epoch.
    ///
    /// Throws `.aborted` when a member has not got it and never will, `.busy` while another request
    /// does the same, or somebody has not answered.
    func forward(
        _ request: ObjectUpdateRequest, _ dtx: DTX, _ call: RequestContext
    ) async throws(RPCError) -> UInt64 {
        guard dtx.isLeader, dtx.phase == .prepared, leading.insert(dtx.id).inserted else {
            throw busy
        }
        defer { leading.remove(dtx.id) }
        let plan = try plan(request)
        guard members(dtx.members) == plan.members else { throw busy }
        let payload = try Payload(of: call)
        // As when it was led first: members may read the client's memory.
        try call.ignoreCancellation()
        await tryToResolve(dtx, plan.members, own: 0) { asked in
            await send(request, again: dtx, to: asked, plan, payload, call)
        }
        switch vos.state(of: dtx.id) {
        case .committed(let epoch): return epoch
        case .aborted: throw aborted
        case .active, .unknown: throw busy
        }
    }

    /// Sends members their parts once more. All data goes to each: this is rare.
    private func send(
        _ request: ObjectUpdateRequest, again dtx: DTX, to asked: [Int], _ plan: Plan,
        _ payload: Payload, _ call: RequestContext
    ) async -> [ResolutionMachine.Event] {
        let limit =
            target.worldClock.wallNanoseconds
            + TransactionService.prepareTimeout.nanosecondsClamped
        return await gatherAnswers(of: asked, plan.members) {
            [self] (place, context, destination) async throws(RPCError) -> QueryReply in
            let prepare = prepareRequest(
                place, request, plan, epoch: dtx.epoch, members: TransactionMembers(plan.members),
                call)
            let reply = try await context.call(
                TransactionProtocol.forward, prepare, to: destination,
                payload: unsafe payload.bytes, deadline: .at(min(call.deadline, limit)),
                trace: call.trace)
            withExtendedLifetime(payload) {}
            return reply
        }
    }

    /// Ends a transaction that its client has sent again and will not send any more: an earlier
    /// attempt that comes late is not applied, not even after a restart. Throws `.busy` when one
    /// has come just now.
    func end(_ id: UniqueID) async throws(RPCError) {
        do throws(VOSError) {
            try await vos.refuse(id, epoch: target.clock.now())
        } catch {
            throw RPCError(error)
        }
        guard case .aborted = vos.state(of: id) else { throw busy }
    }

    // MARK: - Telling and answering

    /// Tells members, once, that a transaction was aborted. Who does not hear of it will ask.
    func tellAborted(_ id: UniqueID, _ members: [TargetAddress]) {
        guard let context else { return }
        var request = DecideRequest()
        request.aborted = [id]
        for member in members.dropFirst() {
            let decision = request
            xstream.spawn { [log, peerTimeout] in
                do throws(RPCError) {
                    _ = try await context.call(
                        TransactionProtocol.decide, decision,
                        to: .rank(member.rank, tag: member.tag),
                        deadline: .after(peerTimeout))
                } catch {
                    log.info("target \(member) was not told of an abort: \(error)")
                }
            }
        }
    }

    /// Says what is known here of a transaction.
    func query(_ request: QueryRequest) async throws(RPCError) -> QueryReply {
        var reply = QueryReply()
        reply.answer = try await answer(to: request).rawValue
        return reply
    }

    private func answer(
        to request: QueryRequest
    ) async throws(RPCError) -> ResolutionMachine.Answer {
        let id = request.transaction
        switch vos.state(of: id) {
        case .committed:
            // Nobody hears of a commit that is not on stable storage: see `noteCommit`.
            try await flush()
            return .committed
        case .aborted:
            // Not before it is on stable storage: this target might prepare it after a restart, or
            // find that it has done so when its device failed.
            try await flush()
            return .aborted
        case .active(let dtx):
            guard dtx.phase == .prepared, !dtx.isLeader else { return .undecided }
            // Another attempt is here: of a leader that was restarted, has nothing of it, and got
            // the transaction again. This target will not prepare the one that is asked about.
            return dtx.epoch == request.epoch ? .prepared : .aborted
        case .unknown:
            // The leader remembers a commit until everybody knows of it.
            if request.asksLeader { return .aborted }
            // And tells of one only when it has written it down: it would not have to ask.
            if request.asksAsLeader, request.epoch <= vos.transactionHorizon { return .aborted }
            guard request.epoch > vos.transactionHorizon, !request.mayBeForwarded else {
                return .undecided
            }
            do throws(VOSError) {
                try await vos.refuse(id, epoch: request.epoch)
            } catch {
                throw RPCError(error)
            }
            return .aborted
        }
    }
}
