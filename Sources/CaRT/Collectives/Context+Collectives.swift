internal import DrayFabric
internal import DrayRuntime

extension Context {
    // MARK: - Taking part

    /// Takes part in collectives of `procedure`.
    ///
    /// Each part runs as a task, which is cancelled when nobody waits for the reply any more; an
    /// error that the handler throws reaches the initiator as the failure of this rank.
    ///
    /// - Parameters:
    ///   - procedure: registered once at a context; all ranks that take part have it.
    ///   - preForward: runs first. When it throws, neither this rank nor any below it takes part,
    ///     and all of them fail with that error.
    ///   - postReply: runs once after the answer to the parent was sent, whatever it was.
    ///   - handle: this rank's own reply. Runs at most once for a collective, while the ranks below
    ///     have theirs under way.
    public func register<Q, R>(
        _ procedure: CollectiveProcedure<Q, R>,
        preForward: ((Q, CollectiveContext) async throws(RPCError) -> Void)? = nil,
        postReply: ((Q, CollectiveContext) -> Void)? = nil,
        _ handle: @escaping (Q, CollectiveContext) async throws(RPCError) -> R
    ) {
        let handlers = CollectiveHandlers(
            preForward: preForward, handle: handle, postReply: postReply)
        registerDeferred(procedure.procedure) { request, reply in
            let context = reply.request.context
            switch context.faults.strike(.collectivePart) {
            case nil: context.join(procedure, handlers, request, reply)
            case .fail(let fault): reply.fail(RPCError(fault))
            case .wait(let delay):
                context.xstream.spawn {
                    await context.xstream.sleep(for: delay)
                    guard !context.isClosing else { return reply.fail(.closed) }
                    context.join(procedure, handlers, request, reply)
                }
            }
        }
    }

    /// A parent asks us.
    private func join<Q, R>(
        _ procedure: CollectiveProcedure<Q, R>, _ handlers: CollectiveHandlers<Q, R>,
        _ request: CollectiveRequest, _ parent: DeferredReply<CollectiveAnswer>
    ) {
        do throws(RPCError) {
            try takePart(procedure, handlers, request, parent)
        } catch {
            parent.fail(error)
        }
    }

    private func takePart<Q, R>(
        _ procedure: CollectiveProcedure<Q, R>, _ handlers: CollectiveHandlers<Q, R>,
        _ request: CollectiveRequest, _ parent: DeferredReply<CollectiveAnswer>
    ) throws(RPCError) {
        counts.collectives.requestsReceived += 1
        guard let rank, request.ranks.rank(at: Int(request.position)) == rank
        else { throw .wrongRank }
        // An earlier life of this process may have taken part.
        guard request.id.stamp > openedStamp else { throw .peerRestarted }
        switch collectives.find(request.id) {
        case .running(let part):
            part.join(parent, bulk: request.bulk)
            return
        case .answered(let answer?):
            parent.reply(answer)
            return
        case .answered(nil): throw .noReply
        case nil: break
        }
        let message: Q
        do throws(DecodingFailure) {
            message = try Q(decoding: request.body)
        } catch {
            throw .badMessage
        }
        let now = xstream.now.nanoseconds
        let times = CollectiveTimes(
            deadline: parent.request.deadline &- wallOffset, now: now, wallOffset: wallOffset,
            depth: request.tree.depth(count: request.ranks.count))
        var relay: ChunkRelay?
        if let bulk = request.bulk {
            relay = try ChunkRelay(copying: bulk, deadline: times.answerAtWall, context: self)
        }
        let part = CollectivePart(
            procedure, message, request, times, context: self, tag: options.tag,
            trace: parent.request.trace, handlers: handlers, relay: relay)
        guard collectives.begin(request.id, part, now: now) else {
            relay?.close()
            throw .overloaded
        }
        counts.collectives.parts += 1
        part.join(parent, bulk: nil)
        part.begin()
    }

    /// Answers the questions of children that fetch bulk data.
    func registerCollectives() {
        registerDeferred(CollectiveProtocol.chunks) { question, reply in
            guard let relay = reply.request.context.relays[question.key] else {
                reply.fail(.cancelled)
                return
            }
            relay.asked(question.have, reply)
        }
    }

    // MARK: - Beginning

    /// Has every rank of a set run a procedure, along a tree, and joins their replies.
    ///
    /// Each rank asks its children by ordinary calls, and answers when all of them have. A rank
    /// that takes no part fails by itself; its parent asks its children in its place.
    ///
    /// - Parameters:
    ///   - procedure: the members have a handler for it.
    ///   - request: each rank's handler gets it.
    ///   - members: by the group as it is now. A rank that knows another version fails with
    ///     `.groupVersion`. We need not be among them.
    ///   - bulk: memory exposed for reading; every rank gets a copy (`CollectiveContext.bulk`).
    ///     Nobody reads it any more when this returns.
    ///   - deadline: of all ranks together. Those that are silent until then fail with `.timedOut`.
    ///   - options: the tree, the tag, and what a failure does.
    /// - Throws: when it could not begin (`.staleGroup`, `.closed`, `.messageTooLong`), or was
    ///   cancelled. Whatever fails later is in the result.
    public func broadcast<Q, R>(
        _ procedure: CollectiveProcedure<Q, R>, _ request: Q, to members: CollectiveMembers = .all,
        bulk: BulkHandle? = nil, deadline: Deadline = .standard,
        options: CollectiveOptions = CollectiveOptions()
    ) async throws(RPCError) -> CollectiveResult<R> {
        precondition(CollectiveBulk.chunkSizes.contains(options.chunkSize))
        guard !isClosing else { throw .closed }
        let ranks = try ranks(of: members)
        guard ranks.count > 0 else { return CollectiveResult() }
        var message = CollectiveRequest()
        message.id = CollectiveID(initiator: instance, stamp: clock.now())
        message.tree = options.tree
        message.isFailFast = options.isFailFast
        message.isForAnyVersion = options.isForAnyVersion
        message.ranks = ranks
        message.root = UInt32(rank.flatMap { ranks.position(of: $0) } ?? 0)
        message.body = request.encoded()
        guard message.body.count <= self.options.messageSizeMax else { throw .messageTooLong }
        let begun = xstream.now.nanoseconds
        let (end, _) = times(of: deadline, now: begun)
        counts.collectives.started += 1
        let part = CollectivePart(
            procedure, request, message,
            CollectiveTimes(deadline: end, answerAt: end, wallOffset: wallOffset), context: self,
            tag: options.tag, trace: options.trace == 0 ? message.id.stamp : options.trace,
            handlers: nil,
            relay: bulk.map { ChunkRelay($0, chunkSize: options.chunkSize, context: self) })
        let bound = XStreamBound(part, to: xstream)
        let xstream = xstream
        await withTaskCancellationHandler {
            await SuspendedTask.suspend { waiter in
                part.onEnd = { waiter.resume() }
                part.begin()
            }
        } onCancel: {
            xstream.submit { bound.value.cancel() }
        }
        guard !part.wasCancelled else {
            counts.collectives.cancelled += 1
            throw .cancelled
        }
        times.collective.record(nanoseconds: xstream.now.nanoseconds - begun)
        let result = result(part, ranks)
        counts.collectives.ranksSucceeded += result.succeeded
        counts.collectives.ranksFailed += result.failed
        if result.failed > 0 { counts.collectives.failed += 1 }
        return result
    }

    private func result<Q, R>(
        _ part: CollectivePart<Q, R>, _ ranks: RankSet
    ) -> CollectiveResult<R> {
        let outcome = part.outcome
        var result = CollectiveResult<R>()
        result.succeeded = outcome.succeeded
        result.reply = outcome.succeeded > 0 ? outcome.reply : nil
        result.failed = outcome.failures.total
        result.failures = outcome.failures.listed.map {
            CollectiveFailure(rank: ranks.rank(at: $0.position), error: $0.error)
        }
        return result
    }

    /// The ranks that are meant, by the group as it is now.
    func ranks(of members: CollectiveMembers) throws(RPCError) -> RankSet {
        let ranks: RankSet
        switch members {
        case .all: ranks = RankSet(group.members.lazy.map(\.rank))
        case .including(let included):
            for rank in included where group.member(rank) == nil { throw .staleGroup }
            ranks = RankSet(included)
        case .excluding(let excluded):
            let excluded = Set(excluded)
            ranks = RankSet(group.members.lazy.map(\.rank).filter { !excluded.contains($0) })
        }
        return ranks
    }
}
