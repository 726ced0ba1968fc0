internal import BasicContainers
internal import DequeModule
internal import DrayRuntime

extension Context {
    // MARK: - Registration

    /// Answers requests of `procedure` by a task for each.
    ///
    /// An error the handler throws reaches the caller as it is. Registering a procedure twice
    /// traps. When the caller gives up, the task is cancelled: calls, transfers and sleeps of the
    /// handler end early, unless it has said `RequestContext.ignoreCancellation()`.
    public func register<Q, R>(
        _ procedure: Procedure<Q, R>,
        _ handler: @escaping (Q, RequestContext) async throws(RPCError) -> R
    ) {
        procedures.add(procedure.opcode) { request, context in
            let message: Q
            do throws(RPCError) {
                message = try context.decode(request)
            } catch {
                return context.fail(error, request)
            }
            context.xstream.spawnWithTask { task in
                defer { request.leave() }
                do throws(RPCError) {
                    try request.enter(task)
                    request.begin()
                    request.context.reply(try await handler(message, request), to: request)
                } catch {
                    request.context.fail(error, request)
                }
            }
        }
    }

    /// Answers requests of `procedure` in the progress loop: for handlers that are short and wait
    /// for nothing. No task is made.
    public func registerSynchronous<Q, R>(
        _ procedure: Procedure<Q, R>,
        _ handler: @escaping (Q, RequestContext) throws(RPCError) -> R
    ) {
        procedures.add(procedure.opcode) { request, context in
            do throws(RPCError) {
                let message: Q = try context.decode(request)
                request.begin()
                context.reply(try handler(message, request), to: request)
            } catch {
                context.fail(error, request)
            }
        }
    }

    /// Answers requests of `procedure` later: the handler keeps the `DeferredReply` and uses it
    /// when the answer is known. Dropping it unused reaches the caller as `.noReply`.
    public func registerDeferred<Q, R>(
        _ procedure: Procedure<Q, R>, _ handler: @escaping (Q, DeferredReply<R>) -> Void
    ) {
        procedures.add(procedure.opcode) { request, context in
            do throws(RPCError) {
                let message: Q = try context.decode(request)
                request.begin()
                handler(message, DeferredReply(request))
            } catch {
                context.fail(error, request)
            }
        }
    }

    /// The request's message. Not an optional one, whose type would be looked up for each request.
    private func decode<Q: Message>(_ request: RequestContext) throws(RPCError) -> Q {
        do throws(DecodingFailure) {
            let message = try unsafe Q(decoding: request.body)
            request.bodyWasRead(by: self)
            return message
        } catch {
            throw .badMessage
        }
    }

    // MARK: - Requests

    /// A request arrived.
    func receivedRequest(_ header: WireHeader, _ message: HeldMessage) {
        counts.requestsReceived += 1
        guard let session = sessions.find(header.session) else {
            // We cannot answer who we do not know; the caller finds out by its next hello.
            counts.dropped += 1
            release(message.source)
            return
        }
        guard !sessions.isCancelled(header.requestID, of: session) else {
            counts.dropped += 1
            release(message.source)
            return
        }
        if let error = refusal(of: header, message) {
            release(message.source)
            refuse(header, error)
            return
        }
        let handler: ProcedureTable.Handler
        switch procedures.find(header.opcode) {
        case .success(let found): handler = found
        case .failure(let error):
            release(message.source)
            refuse(header, error)
            return
        }
        sessions.touch(session, now: pollTime)
        var request = requestContext(
            header, message, instance: sessions.sessions[session].instance)
        activate(request)
        if counts.requestsReceived % ContextTimes.timedRequests == 0 || request.isTraced {
            request.arrivedAt = pollTime
        }
        if request.priority != .high, let strike = faults.strike(.cartHandler) {
            strikeHandler(strike, request, header, handler)
        } else if isGated(header.opcode) {
            arrive(entry(request, header, handler))
        } else if header.flags.contains(.spilled) {
            pull(request, handler)
        } else {
            handler.answer(request, self)
            // Most handlers that answer at once keep nothing.
            if request.isAnswered, isKnownUniquelyReferenced(&request) {
                request.retire()
                spareRequest = request
            }
        }
    }

    private func requestContext(
        _ header: WireHeader, _ message: HeldMessage, instance: UInt64
    ) -> RequestContext {
        guard let request = spareRequest else {
            return RequestContext(header, message, context: self, instance: instance)
        }
        spareRequest = nil
        request.reuse(header, message, context: self, instance: instance)
        return request
    }

    /// An injected fault: the request fails, or its handler is late.
    private func strikeHandler(
        _ strike: FaultStrike, _ request: RequestContext, _ header: WireHeader,
        _ handler: ProcedureTable.Handler
    ) {
        switch strike {
        case .fail(let fault): fail(RPCError(fault), request)
        case .wait(let delay):
            xstream.spawnWithTask { [self] task in
                do throws(RPCError) {
                    defer { request.leave() }
                    try request.enter(task)
                    try await request.sleep(for: delay)
                    guard !isClosing else { throw .closed }
                } catch {
                    return fail(error, request)
                }
                if isGated(header.opcode) {
                    arrive(entry(request, header, handler))
                } else {
                    begin(request, handler, isSpilled: header.flags.contains(.spilled))
                }
            }
        }
    }

    private func entry(
        _ request: RequestContext, _ header: WireHeader, _ handler: ProcedureTable.Handler
    ) -> RequestGate.Entry {
        RequestGate.Entry(
            request: request, handler: handler, opcode: header.opcode,
            isSpilled: header.flags.contains(.spilled))
    }

    /// The handler's turn has come.
    func begin(_ request: RequestContext, _ handler: ProcedureTable.Handler, isSpilled: Bool) {
        if isSpilled { pull(request, handler) } else { handler.answer(request, self) }
    }

    /// Why a request is not even decoded.
    private func refusal(of header: WireHeader, _ message: HeldMessage) -> RPCError? {
        if isClosing { return .closed }
        if header.deadline < wallTime {
            counts.expired += 1
            return .timedOut
        }
        if header.destinationRank != WireHeader.anyRank, header.destinationRank != rank {
            return .wrongRank
        }
        if header.destinationTag != WireHeader.anyRank, header.destinationTag != options.tag {
            return .wrongTag
        }
        if header.groupVersion != 0, header.groupVersion != group.version { return .groupVersion }
        if !observe(header.stamp) { return .clockSkew }
        let active = activeRequests.count - freeActive.count
        let held = receives.heldCount > options.heldReceivesMax && mayHold(header)
        if active >= activeRequestsMax(header.flags.priority) || held {
            counts.overloaded += 1
            return .overloaded
        }
        return isIntact(header, message) ? nil : .badMessage
    }

    /// Whether a request may have its receive for long: for its payload, or because its handler
    /// begins late.
    private func mayHold(_ header: WireHeader) -> Bool {
        header.payloadLength > 0 || isGated(header.opcode)
            || (faults.isArmed && header.flags.priority != .high)
    }

    /// The requests that may be worked on when another one of this priority comes.
    private func activeRequestsMax(_ priority: RequestPriority) -> Int {
        switch priority {
        case .low: max(1, options.activeRequestsMax * 3 / 4)
        case .normal: options.activeRequestsMax
        case .high: options.activeRequestsMax + max(1, options.activeRequestsMax / 8)
        }
    }

    private func activate(_ request: RequestContext) {
        if let position = freeActive.popLast() {
            activeRequests[Int(position)] = request
            request.position = position
        } else {
            request.position = Int32(activeRequests.count)
            activeRequests.append(request)
        }
    }

    private func deactivate(_ request: RequestContext) {
        request.end()
        request.finish(by: self)
        activeRequests[Int(request.position)] = nil
        freeActive.append(request.position)
        sessions.finished(request.session)
        if gate != nil { leaveGate(request) }
    }

    /// Fetches a request that was too large to travel inline, then handles it.
    private func pull(_ request: RequestContext, _ handler: ProcedureTable.Handler) {
        let spill: SpillDescriptor
        do throws(DecodingFailure) {
            spill = try unsafe SpillDescriptor(decoding: request.body)
        } catch {
            fail(.badMessage, request)
            return
        }
        request.releasePayload()
        let bytes = Int(spill.memory.length)
        guard bytes <= options.messageSizeMax else {
            fail(.messageTooLong, request)
            return
        }
        guard pulledBytes + bytes <= Context.pulledBytesMax else {
            counts.overloaded += 1
            fail(.overloaded, request)
            return
        }
        pulledBytes += bytes
        xstream.spawnWithTask { [self] task in
            defer { request.leave() }
            do throws(RPCError) {
                try request.enter(task)
                request.replaceMessage(try await fetch(spill, deadline: .at(request.deadline)))
                pulledBytes -= bytes
                handler.answer(request, self)
            } catch {
                pulledBytes -= bytes
                // Our own `abort` is none of the caller's doing: it may try again.
                fail(error == .cancelled ? .overloaded : error, request)
            }
        }
    }

    // MARK: - Answers

    /// Answers a request. Does nothing when it was answered.
    func reply<R: Message>(_ message: R, to request: RequestContext) {
        guard bulks.abandonedReads == 0 || !request.isCancelled || !isCallerRead(request) else {
            return fail(request.cancellationError, request)
        }
        guard request.claimAnswer() else { return }
        defer { deactivate(request) }
        guard !request.isOneWay else { return }
        guard let (session, send) = replySlot(request.session) else {
            counts.repliesDropped += 1
            return
        }
        var header = answerHeader(
            .reply, session: request.session, slot: request.slot,
            slotGeneration: request.slotGeneration, requestID: request.requestID)
        header.trace = request.trace
        do throws(RPCError) {
            // Nobody would fetch what does not go inline.
            guard !request.isUnwanted else { throw .cancelled }
            let limit = sessions.sessions[session].eagerLimit
            let spill: BulkHandle?
            if request.nested.isEmpty {
                spill = try unsafe fill(
                    send, message, payload: request.replyPayload, limit: limit,
                    session: session, &header)
            } else {
                spill = try fillNested(
                    send, message, request, limit: limit, session: session, &header)
            }
            if let spill {
                counts.spills += 1
                keep(spill, for: request, session: session)
            }
            if request.isTraced { request.timings.store(in: &header) }
            postReply(send, header, session: session)
        } catch {
            sends.give(send)
            sendFailure(error, header)
        }
    }

    /// Encodes a reply, and what its handler says of its own calls.
    ///
    /// Never inlined: where the types of this are looked up, they are for every reply.
    @inline(never)
    private func fillNested<R: Message>(
        _ send: UInt32, _ message: R, _ request: RequestContext, limit: Int, session: Int,
        _ header: inout WireHeader
    ) throws(RPCError) -> BulkHandle? {
        let spill = try unsafe fill(
            send, NestedReply(request.nested, message), payload: request.replyPayload,
            limit: limit, session: session, &header)
        header.flags.insert(.nested)
        return spill
    }

    /// Answers a request with an error. Does nothing when it was answered.
    func fail(_ error: RPCError, _ request: RequestContext) {
        guard request.claimAnswer() else { return }
        guard bulks.abandonedReads == 0 || !isCallerRead(request) else {
            bulks.heldFailures.append((request, error))
            // No handler works on it, or will.
            if gate != nil { leaveGate(request) }
            return
        }
        sendFailure(error, to: request)
    }

    /// Tells the caller of a request how that has failed; it is over.
    private func sendFailure(_ error: RPCError, to request: RequestContext) {
        guard !request.isOneWay else {
            deactivate(request)
            return
        }
        var header = answerHeader(
            .reply, session: request.session, slot: request.slot,
            slotGeneration: request.slotGeneration, requestID: request.requestID)
        header.trace = request.trace
        sendFailure(error, header)
        deactivate(request)
    }

    /// Whether the fabric still reads memory of the caller for a handler that has stopped to wait.
    /// The caller takes a failure for the word that its memory is its own again. Also when its
    /// session is over: it asks in the next one whether the request is.
    private func isCallerRead(_ request: RequestContext) -> Bool {
        !request.isOneWay && bulks.hasAbandonedRead(of: request.sourceInstance)
    }

    /// An abandoned read is over: what waited for it is said.
    func releaseHeldFailures() {
        let held = bulks.heldFailures
        bulks.heldFailures = []
        for (request, error) in held {
            if isCallerRead(request) {
                bulks.heldFailures.append((request, error))
            } else {
                sendFailure(error, to: request)
            }
        }
    }

    /// Answers a request that no handler will see.
    private func refuse(_ request: WireHeader, _ error: RPCError) {
        guard !request.flags.contains(.oneWay) else {
            counts.dropped += 1
            return
        }
        sendFailure(
            error,
            answerHeader(
                .reply, session: request.session, slot: request.slot,
                slotGeneration: request.slotGeneration, requestID: request.requestID))
    }

    private func answerHeader(
        _ kind: MessageKind, session: SessionID, slot: UInt32, slotGeneration: UInt32,
        requestID: UInt64
    ) -> WireHeader {
        var header = WireHeader()
        header.kind = kind
        header.session = session
        header.slot = slot
        header.slotGeneration = slotGeneration
        header.requestID = requestID
        return header
    }

    private func sendFailure(_ error: RPCError, _ answer: WireHeader) {
        guard let (session, send) = replySlot(answer.session) else {
            counts.repliesDropped += 1
            return
        }
        var header = answer
        let (code, body) = error.wire
        header.status = code.rawValue
        header.flags = []
        if let body {
            fillControl(send, body, &header)
        } else {
            fillControl(send, EmptyMessage(), &header)
        }
        counts.errorRepliesSent += 1
        postReply(send, header, session: session)
    }

    /// The caller's entry and a slot for a reply to it; nil when nothing can be sent to it: it is
    /// gone, or takes nothing.
    private func replySlot(_ id: SessionID) -> (session: Int, send: UInt32)? {
        guard !isClosed, let session = sessions.find(id) else { return nil }
        guard sessions.sessions[session].unsent < Context.unsentMax, !isBusyWithGone(session),
            let send = sends.take()
        else { return nil }
        return (session, send)
    }

    /// Whether a transfer with the memory of a caller that was taken for gone is still under way.
    /// An answer would tell it that none is.
    private func isBusyWithGone(_ session: Int) -> Bool {
        bulks.goneCount > 0 && bulks.isBusyWithGone(sessions.sessions[session].instance)
    }

    private func postReply(_ send: UInt32, _ header: WireHeader, session: Int) {
        counts.repliesSent += 1
        post(
            send, header: header, to: sessions.sessions[session].handle,
            purpose: SendPurpose(
                kind: .reply, owner: header.session.index, generation: header.session.generation))
        sendGathered()
    }

    // MARK: - Spilled replies

    /// How long a reply waits for a caller who has no deadline, or a late one, before the caller is
    /// asked. Whoever lives and wants it fetches it at once; a word that it is not wanted may get
    /// lost.
    static let spillTime: Duration = .seconds(60)

    /// Charges a caller for a reply of `count` bytes that does not go inline.
    func chargeReply(_ count: Int, session: Int) throws(RPCError) -> ReplyCharge {
        let charge = replyAccount.charge(
            BufferPool.size(of: count), to: sessions.sessions[session].address)
        guard let charge else {
            counts.repliesDropped += 1
            // Not `.overloaded`: the handler has run.
            throw .noReply
        }
        return charge
    }

    private func keep(_ handle: BulkHandle, for request: RequestContext, session: Int) {
        // A little longer than the caller waits: its own read ends by the same deadline.
        let grace: UInt64 = 1_000_000_000
        spills.keep(
            handle, for: .init(session: request.session, number: request.requestID),
            of: .init(
                address: sessions.sessions[session].address, instance: request.sourceInstance),
            until: min(
                request.deadline &- wallOffset &+ grace,
                pollTime &+ Context.spillTime.nanosecondsClamped))
        armMaintenance(now: pollTime)
    }

    /// The caller has fetched its reply, or does not want it any more.
    func receivedRelease(_ header: WireHeader) {
        guard let index = sessions.find(header.session) else { return }
        spills.release(header.requestID, of: header.session)
        released(header.requestID, by: index)
    }

    /// A server asks whether we may still fetch its replies. We may while the call is open, and
    /// while the reply is read.
    func receivedRecall(_ header: WireHeader, _ message: HeldMessage) {
        guard sessions.find(header.session) != nil, let inquiry = inquiry(header, message),
            !inquiry.requests.isEmpty
        else { return }
        let inFlight = tracker.inFlight(Set(inquiry.requests))
        answer(
            .recalled, header,
            inquiry.requests.filter { !inFlight.contains($0) && !fetching.contains($0) })
    }

    // MARK: - Cancelled requests

    func receivedCancel(_ header: WireHeader) {
        guard let index = sessions.find(header.session) else { return }
        let instance = sessions.sessions[index].instance
        for position in activeRequests.indices {
            // Of whichever session: the caller may have lost the one that the request came in.
            guard let request = activeRequests[position], request.sourceInstance == instance,
                request.requestID == header.requestID
            else { continue }
            // Its reply tells the caller that nothing is under way any more.
            request.isUnwanted = true
            cancel(request)
            return
        }
        // Who has given up before the reply came does not fetch it.
        spills.release(.init(session: header.session, number: header.requestID))
        unwanted(header.requestID, by: index)
        sessions.cancel(header.requestID, of: index)
        guard let (session, send) = replySlot(header.session) else { return }
        var answer = answerHeader(
            .cancelled, session: header.session, slot: header.slot,
            slotGeneration: header.slotGeneration, requestID: header.requestID)
        fillControl(send, EmptyMessage(), &answer)
        post(
            send, header: answer, to: sessions.sessions[session].handle,
            purpose: SendPurpose(
                kind: .reply, owner: header.session.index, generation: header.session.generation))
    }

    // MARK: - Lost requests

    /// A caller asks whether we have its requests. What a connection lost when it broke would keep
    /// it waiting until its deadline.
    func receivedInquiry(_ header: WireHeader, _ message: HeldMessage) {
        // A reply that has not left is no lost one.
        guard let index = sessions.find(header.session),
            sessions.sessions[index].unsent == 0,
            let inquiry = inquiry(header, message)
        else { return }
        var known: Set<UInt64> = []
        for position in activeRequests.indices {
            guard let request = activeRequests[position], request.session == header.session
            else { continue }
            known.insert(request.requestID)
        }
        answer(.absent, header, inquiry.requests.filter { !known.contains($0) })
    }

    /// Answers a question about requests with some of them; with none, it does not.
    private func answer(_ kind: MessageKind, _ header: WireHeader, _ requests: [UInt64]) {
        guard !requests.isEmpty, let (session, send) = replySlot(header.session) else { return }
        var answer = answerHeader(
            kind, session: header.session, slot: header.slot, slotGeneration: 0, requestID: 0)
        fillControl(send, InquiryMessage(requests: requests), &answer)
        post(
            send, header: answer, to: sessions.sessions[session].handle,
            purpose: SendPurpose(
                kind: .toCaller, owner: header.session.index,
                generation: header.session.generation))
    }
}
