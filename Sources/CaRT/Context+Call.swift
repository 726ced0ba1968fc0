internal import BasicContainers
internal import DequeModule
internal import DrayFabric
internal import DrayRuntime

/// What is fixed when a call begins.
struct CallTicket {
    var slot: Int32
    var generation: UInt32
    var peer: Int32
    /// The number of its request.
    var requestID: UInt64
    /// Monotonic nanoseconds.
    var begin: UInt64
    /// Wall clock, nanoseconds since 1970.
    var deadline: UInt64
    var destinationRank: UInt32
    var destinationTag: UInt32
    var options: CallOptions
    /// Nobody waits for a reply.
    var isOneWay = false
    /// The peer shall say where the time went.
    var isTraced = false

    /// The call's name in the mailbox of cancellations.
    var token: UInt64 { UInt64(slot) << 32 | UInt64(generation) }
}

/// A call that will watch for its task's cancellation from `time` on.
struct WatchedCall {
    var slot: Int32
    var generation: UInt32
    /// Monotonic nanoseconds.
    var time: UInt64
}

extension Context {
    /// Sends `request` and waits for the reply.
    ///
    /// - Parameters:
    ///   - procedure: what is to be done; the peer has a handler for it.
    ///   - request: its message. At most `ContextOptions.messageSizeMax` bytes with the payload.
    ///   - destination: by whom.
    ///   - payload: raw bytes that travel beside the encoded request. Must stay valid and
    ///     unchanged until the call returns (an `IOBuffer`'s or `RegisteredBuffer`'s bytes do).
    ///   - exposing: the memory that the request's descriptors name. When the call ends early by
    ///     its deadline or cancellation, it returns only after the peer has said that it uses the
    ///     memory no more, for five seconds at most (or at once: `CallOptions.leavesMemory`). When
    ///     it ends without the peer's word, the handles are quarantined: the memory stays allocated
    ///     and exposed until it is certain that the peer uses it no more, or the context closes.
    ///   - deadline: travels with the request; the peer refuses it when it comes too late.
    ///   - trace: follows the request through every process; 0 begins a new one.
    ///   - options: how the request is treated on its way.
    ///   - parents: requests that the call is made for. Those of them that are traced learn where
    ///     its time went, and with `trace` 0 it has the trace of the first.
    ///   - onReplyPayload: gets the reply's raw bytes, valid during the call of the closure only.
    ///     Not called when there are none.
    /// - Throws: whatever the handler threw, or how the call failed.
    @safe public func call<Q, R>(
        _ procedure: Procedure<Q, R>, _ request: Q, to destination: Destination,
        payload: UnsafeRawBufferPointer? = nil, exposing: [BulkHandle] = [],
        deadline: Deadline = .standard, trace: UInt64 = 0, options: CallOptions = CallOptions(),
        for parents: [RequestContext] = [],
        onReplyPayload: ((UnsafeRawBufferPointer) -> Void)? = nil
    ) async throws(RPCError) -> R {
        let isTraced = tracer != nil || parents.contains(where: \.isTraced)
        let trace = trace == 0 ? parents.first?.trace ?? 0 : trace
        let ticket: CallTicket
        do throws(RPCError) {
            ticket = try beginCall(
                destination, deadline, exposes: !exposing.isEmpty, isTraced: isTraced, options)
        } catch {
            guard error == .staleGroup, needsLookUp(destination) else { throw error }
            let deadline = try await lookUpMember(destination, deadline)
            ticket = try beginCall(
                destination, deadline, exposes: !exposing.isEmpty, isTraced: isTraced, options)
        }
        let slot = Int(ticket.slot)
        var spill: BulkHandle?
        // The suspensions stand here, and in no function of their own, for speed.
        var hasWaited = false
        if !Task.isCancelled {
            watch(ticket)
            while !unattended[slot], tracker.slots[slot].phase != .ended {
                if tracker.slots[slot].phase == .granted {
                    spill = unsafe sendRequest(
                        ticket, opcode: procedure.opcode, request, payload: payload, trace: trace,
                        now: hasWaited ? xstream.now.nanoseconds : ticket.begin)
                } else {
                    hasWaited = true
                    if spin(ticket) { continue }
                    await SuspendedTask.suspend { waiters[slot] = $0 }
                }
            }
        }
        if tracker.slots[slot].phase != .ended {
            let (mailbox, xstream) = (cancelMailbox, xstream)
            await withTaskCancellationHandler {
                while tracker.slots[slot].phase != .ended {
                    if tracker.slots[slot].phase == .granted {
                        spill = unsafe sendRequest(
                            ticket, opcode: procedure.opcode, request, payload: payload,
                            trace: trace, now: xstream.now.nanoseconds)
                    } else {
                        await SuspendedTask.suspend { waiters[slot] = $0 }
                    }
                }
            } onCancel: {
                mailbox.post(ticket.token)
                xstream.submit {}
            }
        }
        var (message, status, flags) = try endedCall(ticket, exposing: exposing, spill: spill)
        let timings = takeTimings(ticket)
        spill = nil
        if flags.contains(.spilled) { message = try await fetchReply(message, ticket) }
        defer { release(message.source) }
        try checkStatus(status, message)
        if message.payloadLength > 0, let onReplyPayload = unsafe onReplyPayload {
            unsafe onReplyPayload(message.payload)
        }
        guard timings == nil, !flags.contains(.nested) else {
            let (reply, calls): (R, _) = try unsafe decodeNested(message.body, flags)
            record(ticket, timings, procedure, calls, for: parents)
            return reply
        }
        return try unsafe decodeReply(message.body)
    }

    /// Sends a request that has no reply, and waits until it is with the fabric. Whether it arrives
    /// nobody says; a handler runs at most once.
    ///
    /// - Parameters:
    ///   - procedure: what is to be done; the reply of its handler is dropped.
    ///   - request: its message.
    ///   - destination: by whom.
    ///   - payload: raw bytes that travel beside the encoded request. Together they must fit into
    ///     the peer's eager limit.
    ///   - deadline: how long to wait for credits; travels with the request.
    ///   - trace: follows the request through every process; 0 begins a new one.
    ///   - options: how the request is treated on its way.
    /// - Throws: why it was not sent: `.messageTooLong` when it does not go inline.
    @safe public func send<Q, R>(
        _ procedure: Procedure<Q, R>, _ request: Q, to destination: Destination,
        payload: UnsafeRawBufferPointer? = nil, deadline: Deadline = .standard, trace: UInt64 = 0,
        options: CallOptions = CallOptions()
    ) async throws(RPCError) {
        var ticket: CallTicket
        do throws(RPCError) {
            ticket = try beginCall(
                destination, deadline, exposes: false, isTraced: false, options)
        } catch {
            guard error == .staleGroup, needsLookUp(destination) else { throw error }
            let deadline = try await lookUpMember(destination, deadline)
            ticket = try beginCall(
                destination, deadline, exposes: false, isTraced: false, options)
        }
        ticket.isOneWay = true
        let slot = Int(ticket.slot)
        let (mailbox, xstream, token) = (cancelMailbox, xstream, ticket.token)
        while tracker.slots[slot].phase == .waiting {
            await withTaskCancellationHandler {
                await SuspendedTask.suspend { waiters[slot] = $0 }
            } onCancel: {
                mailbox.post(token)
                xstream.submit {}
            }
        }
        if tracker.slots[slot].phase == .granted {
            _ = unsafe sendRequest(
                ticket, opcode: procedure.opcode, request, payload: payload, trace: trace,
                now: xstream.now.nanoseconds)
        }
        if tracker.slots[slot].phase == .inFlight { endCall(ticket.slot, .sent) }
        let outcome = outcomes[slot]
        outcomes[slot] = .pending
        tracker.close(ticket.slot)
        if case .failed(let error) = outcome {
            countFailure(error)
            throw error
        }
    }

    private func checkStatus(_ status: UInt16, _ message: HeldMessage) throws(RPCError) {
        guard status != StatusCode.success.rawValue else { return }
        counts.callsFailed += 1
        counts.errorRepliesReceived += 1
        throw unsafe RPCError(status: status, body: message.body)
    }

    private func decodeReply<R: ByteCodable>(_ body: UnsafeRawBufferPointer) throws(RPCError) -> R {
        do throws(DecodingFailure) {
            return try unsafe R(decoding: body)
        } catch {
            counts.callsFailed += 1
            throw .badMessage
        }
    }

    /// Decodes a traced reply, and what its handler says of its own calls.
    private func decodeNested<R: Message>(
        _ body: UnsafeRawBufferPointer, _ flags: MessageFlags
    ) throws(RPCError) -> (R, [NestedCall]) {
        guard flags.contains(.nested) else { return (try unsafe decodeReply(body), []) }
        let nested: NestedReply<R> = try unsafe decodeReply(body)
        return (nested.reply, nested.calls)
    }

    /// What the peer said of the time of a call that is over, and when the request was sent.
    private func takeTimings(_ ticket: CallTicket) -> (told: ReplyTimings, sentAt: UInt64)? {
        // A peer may tell who did not ask.
        guard !replyTimings.isEmpty, let told = replyTimings.removeValue(forKey: ticket.slot),
            ticket.isTraced
        else { return nil }
        return (told, tracker.slots[Int(ticket.slot)].sentAt)
    }

    /// A traced call is over: whoever wants to know learns where its time went.
    private func record<Q, R>(
        _ ticket: CallTicket, _ timings: (told: ReplyTimings, sentAt: UInt64)?,
        _ procedure: Procedure<Q, R>, _ calls: [NestedCall], for parents: [RequestContext]
    ) {
        guard let timings else { return }
        let trace = timings.told.trace(
            begun: ticket.begin, sent: timings.sentAt, sentWall: timings.sentAt &+ wallOffset,
            ended: xstream.now.nanoseconds)
        let own = NestedCall(opcode: procedure.opcode, name: procedure.name, trace: trace)
        tracer?.record(own, calls)
        for parent in parents { parent.add(own, calls) }
    }

    /// Waits for a moment without a suspension. Returns whether there is something to do about the
    /// call.
    @inline(__always)
    private func spin(_ ticket: CallTicket) -> Bool {
        let slot = Int(ticket.slot)
        return xstream.spin(from: Instant(nanoseconds: max(ticket.begin, pollTime))) {
            guard !unattended[slot] else { return false }
            let phase = tracker.slots[slot].phase
            return phase != .granted && phase != .ended
        }
    }

    // MARK: - Cancellation

    /// How long, in nanoseconds, a call goes on before it watches for its task's cancellation.
    ///
    /// A cancellation handler costs two asynchronous functions more and two locks of the task, and
    /// most calls are over before this.
    static let watchAfter: UInt64 = 1_000_000

    /// Makes sure that the call gets a cancellation handler if it is not over soon.
    private func watch(_ ticket: CallTicket) {
        unattended[Int(ticket.slot)] = false
        watched.append(
            WatchedCall(
                slot: ticket.slot, generation: ticket.generation,
                time: ticket.begin &+ Context.watchAfter))
        if watched.count == 1 { arm(at: ticket.begin &+ Context.watchAfter) }
    }

    /// Lets the calls that have taken long watch for cancellation.
    func attend() {
        while !watched.isEmpty {
            let call = watched[0]
            let slot = Int(call.slot)
            let isOver =
                tracker.slots[slot].generation != call.generation || !tracker.isOpen(call.slot)
            // Those that are over go at once: the timer shall not fire for each of them.
            guard isOver || call.time <= pollTime else { return }
            _ = watched.removeFirst()
            if isOver { continue }
            unattended[slot] = true
            resume(call.slot)
        }
    }

    // MARK: - Begin

    /// Opens a call: it may be sent at once, or waits.
    private func beginCall(
        _ destination: Destination, _ deadline: Deadline, exposes: Bool, isTraced: Bool,
        _ options: CallOptions
    ) throws(RPCError) -> CallTicket {
        guard !isClosing else { throw .closed }
        let peer = try peerNumber(of: destination)
        let now = xstream.now.nanoseconds
        let (end, wallEnd) = times(of: deadline, now: now)
        let slot: Int32
        let admission = tracker.open(
            peer: peer, deadline: end, exposes: exposes, leavesMemory: options.leavesMemory,
            now: now, priority: options.priority, isFirst: options.isFirst)
        switch admission {
        case .send(let opened): slot = opened
        case .wait(let opened): slot = opened
        case .greet(let opened, let nonce):
            slot = opened
            prepareSlot(slot)
            sendHello(to: peer, nonce: nonce)
        case .overloaded:
            counts.callsFailed += 1
            counts.callsRefused += 1
            throw .overloaded
        }
        prepareSlot(slot)
        arm(at: end)
        armMaintenance(now: now)
        var ticket = CallTicket(
            slot: slot, generation: tracker.slots[Int(slot)].generation, peer: peer,
            requestID: tracker.slots[Int(slot)].requestID, begin: now, deadline: wallEnd,
            destinationRank: WireHeader.anyRank, destinationTag: WireHeader.anyRank,
            options: options, isTraced: isTraced)
        switch destination {
        case .rank(let rank, let tag), .member(let rank, let tag, _):
            ticket.destinationRank = rank
            ticket.destinationTag = tag
        case .address:
            break
        }
        return ticket
    }

    /// Makes room for the slot's waiting task and outcome.
    private func prepareSlot(_ slot: Int32) {
        while outcomes.count <= Int(slot) {
            outcomes.append(.pending)
            waiters.append(nil)
            unattended.append(false)
        }
    }

    /// A deadline by the monotonic clock and by the wall clock.
    func times(of deadline: Deadline, now: UInt64) -> (UInt64, UInt64) {
        let duration: UInt64
        switch deadline {
        case .standard: duration = timeout.nanosecondsClamped
        case .unlimited: duration = .max
        case .after(let time): duration = time.nanosecondsClamped
        case .at(let wall):
            let wallNow = now &+ wallOffset
            duration = wall > wallNow ? wall - wallNow : 0
        }
        let (end, overflow) = now.addingReportingOverflow(duration)
        let limited = overflow ? UInt64.max / 2 : end
        return (limited, limited &+ wallOffset)
    }

    /// Resumes the task of a call, if it is suspended.
    private func resume(_ slot: Int32) {
        guard let waiter = waiters[Int(slot)] else { return }
        waiters[Int(slot)] = nil
        waiter.resume()
    }

    // MARK: - Send

    /// Encodes and posts the request of a granted call. Returns the exposure of what was too large
    /// to go inline.
    private func sendRequest<Q: Message>(
        _ ticket: CallTicket, opcode: UInt32, _ request: Q, payload: UnsafeRawBufferPointer?,
        trace: UInt64, now: UInt64
    ) -> BulkHandle? {
        let peer = Int(tracker.slots[Int(ticket.slot)].peer)
        guard let send = sends.take() else {
            endCall(ticket.slot, .failed(.overloaded))
            return nil
        }
        var header = WireHeader()
        header.kind = .request
        header.opcode = opcode
        header.destinationRank = ticket.destinationRank
        header.destinationTag = ticket.destinationTag
        header.session = tracker.peers[peer].session
        header.slot = UInt32(ticket.slot)
        header.slotGeneration = ticket.generation
        header.requestID = tracker.slots[Int(ticket.slot)].requestID
        header.deadline = ticket.deadline
        header.trace = trace == 0 ? header.requestID : trace
        header.groupVersion = ticket.options.groupVersion
        do throws(RPCError) {
            let handle = try handle(of: peer)
            let spill = try unsafe fill(
                send, request, payload: payload, limit: links[peer].eagerLimit, session: nil,
                &header)
            if ticket.isOneWay {
                // Nobody would say when the memory is free again.
                guard spill == nil else { throw .messageTooLong }
                header.flags.insert(.oneWay)
            }
            header.flags.priority = ticket.options.priority
            if ticket.isTraced { header.flags.insert(.traced) }
            if spill != nil {
                tracker.exposes(ticket.slot)
                counts.spills += 1
            }
            tracker.sent(ticket.slot, now: now)
            if now != ticket.begin {
                counts.callsDelayed += 1
                times.delay.record(nanoseconds: now &- ticket.begin)
            }
            counts.requestsSent += 1
            post(
                send, header: header, to: handle,
                purpose: SendPurpose(
                    kind: .toPeer, owner: UInt32(peer), generation: links[peer].epoch),
                expires: ticket.deadline &- wallOffset)
            sendGathered()
            return spill
        } catch {
            sends.give(send)
            endCall(ticket.slot, .failed(error))
            return nil
        }
    }

    /// How long, in nanoseconds, a reply or control message may be refused by the provider.
    private static let controlLifetime: UInt64 = 5_000_000_000

    /// Writes the header in front of what was filled in, and posts the message.
    func post(
        _ send: UInt32, header: WireHeader, to handle: Peer?, purpose: SendPurpose,
        expires: UInt64? = nil
    ) {
        var header = header
        header.sourceRank = rank ?? WireHeader.anyRank
        // As of the last poll, which is as good: a stamp only has to be larger than those before.
        header.stamp = clock.now(physical: wallTime)
        let memory = unsafe sends.memory(send)
        unsafe header.encode(to: memory.baseAddress.unsafelyUnwrapped)
        let length = WireHeader.size + Int(header.bodyLength) + Int(header.payloadLength)
        post(
            send, length: length, to: handle, purpose: purpose,
            expires: expires ?? pollTime &+ Context.controlLifetime)
    }

    /// Encodes `message` and copies `payload` into a send slot; when they exceed `limit`, into
    /// memory that is exposed to the peer. Sets the header's lengths, flags and checksum.
    /// `session` is that of a reply's caller; nil: the message is a request.
    func fill<M: Message>(
        _ send: UInt32, _ message: M, payload: UnsafeRawBufferPointer?, limit: Int,
        session: Int?, _ header: inout WireHeader
    ) throws(RPCError) -> BulkHandle? {
        let slot = unsafe sends.memory(send)
        let room = unsafe UnsafeMutableRawBufferPointer(
            rebasing: slot[WireHeader.size..<WireHeader.size + limit])
        let payload = unsafe payload ?? UnsafeRawBufferPointer(start: nil, count: 0)
        let bodyLength = try unsafe encode(message, into: room)
        let total = bodyLength + payload.count
        guard total <= limit else {
            return try unsafe spill(
                message, bodyLength: bodyLength, payload: payload, into: room, session: session,
                &header)
        }
        if payload.count > 0 {
            unsafe UnsafeMutableRawBufferPointer(rebasing: room[bodyLength..<total])
                .copyMemory(from: payload)
        }
        header.bodyLength = UInt32(bodyLength)
        header.payloadLength = UInt32(total - bodyLength)
        header.bodyChecksum = unsafe CRC32C.checksum(
            of: UnsafeRawBufferPointer(rebasing: room[0..<total]))
        return nil
    }

    /// Encodes and returns the size, which may exceed `room`: then it has to be done again.
    private func encode<M: ByteCodable>(
        _ message: M, into room: UnsafeMutableRawBufferPointer
    ) throws(RPCError) -> Int {
        var message = message
        var coder = unsafe ByteCoder(encodingInto: room)
        do throws(DecodingFailure) {
            try message.code(with: &coder)
        } catch {
            throw .badMessage
        }
        return coder.count
    }

    /// Puts a large message into exposed memory and its descriptor into `room`.
    private func spill<M: Message>(
        _ message: M, bodyLength: Int, payload: UnsafeRawBufferPointer,
        into room: UnsafeMutableRawBufferPointer, session: Int?, _ header: inout WireHeader
    ) throws(RPCError) -> BulkHandle {
        let total = bodyLength + payload.count
        guard total <= options.messageSizeMax else { throw .messageTooLong }
        var charge: ReplyCharge?
        if let session { charge = try chargeReply(total, session: session) }
        let buffer = try makeBuffer(count: total)
        buffer.charge = charge
        let bytes = unsafe buffer.bytes
        _ = try unsafe encode(message, into: bytes)
        unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[bodyLength...])
            .copyMemory(from: payload)
        let handle = try charge == nil ? expose(buffer, access: .remoteRead) : exposeReply(buffer)
        let descriptor = SpillDescriptor(
            memory: handle.descriptor, bodyLength: UInt32(bodyLength),
            payloadLength: UInt32(payload.count),
            checksum: unsafe CRC32C.checksum(of: UnsafeRawBufferPointer(bytes)),
            identifier: session == nil ? 0 : spills.next)
        let length = try unsafe encode(descriptor, into: room)
        header.flags = .spilled
        header.bodyLength = UInt32(length)
        header.payloadLength = 0
        header.bodyChecksum = unsafe CRC32C.checksum(
            of: UnsafeRawBufferPointer(rebasing: room[0..<length]))
        return handle
    }

    // MARK: - End

    /// Ends a call: its task goes on, and whoever waited for its credit.
    func endCall(_ slot: Int32, _ outcome: CallOutcome) {
        let granted = tracker.end(slot)
        outcomes[Int(slot)] = outcome
        resume(slot)
        if granted >= 0 { resume(granted) }
    }

    /// The result of a call that is over. Frees its slot.
    private func endedCall(
        _ ticket: CallTicket, exposing: [BulkHandle], spill: BulkHandle?
    ) throws(RPCError) -> (HeldMessage, status: UInt16, MessageFlags) {
        let outcome = outcomes[Int(ticket.slot)]
        outcomes[Int(ticket.slot)] = .pending
        tracker.close(ticket.slot)
        switch outcome {
        case .pending:
            preconditionFailure("a call went on without an outcome")
        case .failed(let error):
            countFailure(error)
            throw error
        case .abandoned(let error):
            isolate(
                exposing + (spill.map { [$0] } ?? []), from: ticket.peer,
                request: tracker.slots[Int(ticket.slot)].requestID,
                instance: tracker.slots[Int(ticket.slot)].instance)
            // Nobody else knows it.
            if let spill { withdraw(spill) }
            countFailure(error)
            throw error
        case .sent:
            preconditionFailure("a call ended like a request without reply")
        case .reply(let message, let status, let flags):
            counts.repliesReceived += 1
            // As of the poll that brought the reply: no clock is read for it.
            if pollTime > ticket.begin {
                times.call.record(nanoseconds: pollTime &- ticket.begin)
            }
            return (message, status, flags)
        }
    }

    private func countFailure(_ error: RPCError) {
        counts.callsFailed += 1
        if error == .timedOut { counts.timedOut += 1 }
        if error == .cancelled { counts.cancelled += 1 }
    }

    /// A reply arrived.
    func receivedReply(_ header: WireHeader, _ message: HeldMessage) {
        // Through the pointer: a look through `tracker` copies it here.
        guard
            unsafe state.pointee.tracker.matches(
                slot: header.slot, generation: header.slotGeneration, requestID: header.requestID)
        else {
            counts.dropped += 1
            counts.lateReplies += 1
            answeredForMemory(header.requestID)
            dropReply(header, message)
            return
        }
        let slot = Int32(header.slot)
        // A peer whose clock is ahead: the reply is good, its stamp is not.
        if !observe(header.stamp) { counts.dropped += 1 }
        if let error = tracker.slots[Int(slot)].error {
            dropReply(header, message)
            endCall(slot, .failed(error))
        } else if isIntact(header, message) {
            if header.flags.contains(.traced) { replyTimings[slot] = ReplyTimings(header) }
            if header.flags.contains(.spilled) { fetching.insert(header.requestID) }
            endCall(slot, .reply(message, status: header.status, header.flags))
        } else {
            release(message.source)
            endCall(slot, .failed(.badMessage))
        }
    }

    /// Fetches a reply that is too large to travel inline, and tells its sender.
    private func fetchReply(
        _ message: HeldMessage, _ ticket: CallTicket
    ) async throws(RPCError) -> HeldMessage {
        let spill: SpillDescriptor
        do throws(DecodingFailure) {
            spill = try unsafe SpillDescriptor(decoding: message.body)
        } catch {
            release(message.source)
            fetching.remove(ticket.requestID)
            throw .badMessage
        }
        release(message.source)
        let fetched: HeldMessage
        do throws(RPCError) {
            fetched = try await fetch(spill, deadline: .at(ticket.deadline))
        } catch {
            releaseReply(spill, ticket, isFetched: false)
            // The memory went with the process or context that had it.
            throw error == .fabric(.badKey) ? .unreachable : error
        }
        releaseReply(spill, ticket, isFetched: true)
        return fetched
    }

    /// A reply that nobody waits for. If it is large, its sender need not wait until we fetch it:
    /// the peer who has the memory, and in whose session with us the reply came.
    private func dropReply(_ header: WireHeader, _ message: HeldMessage) {
        defer { release(message.source) }
        guard header.flags.contains(.spilled), isIntact(header, message),
            let spill = try? unsafe SpillDescriptor(decoding: message.body),
            let peer = peersByAddress[spill.memory.owner],
            tracker.peers[Int(peer)].session == header.session
        else { return }
        sendRelease(
            SpillRelease(session: header.session, number: spill.identifier, request: nil), to: peer)
    }

    /// Tells the peer of a call that it may forget its reply, once nothing is read from there.
    private func releaseReply(_ spill: SpillDescriptor, _ ticket: CallTicket, isFetched: Bool) {
        let peer = ticket.peer
        // Whoever names the memory of others, with a number of theirs, has nothing to forget; nor
        // has another life of the peer, whose numbers are others.
        guard spill.memory.owner == links[Int(peer)].address,
            spill.memory.instance == tracker.peers[Int(peer)].instance
        else {
            fetching.remove(ticket.requestID)
            return
        }
        let release = SpillRelease(
            session: tracker.peers[Int(peer)].session, number: spill.identifier,
            request: ticket.requestID)
        if !isFetched, let index = bulks.abandonedRead(spill.memory.key, from: peer) {
            bulks.operations[index].release = release
        } else {
            sendRelease(release, to: peer)
        }
    }

    /// Reads a spilled message from its sender's memory.
    func fetch(_ spill: SpillDescriptor, deadline: Deadline) async throws(RPCError) -> HeldMessage {
        let total = Int(spill.memory.length)
        guard total <= options.messageSizeMax else { throw .messageTooLong }
        let buffer = try makeBuffer(count: total)
        try await bulkGet(spill.memory, into: buffer, range: 0..<total, deadline: deadline)
        let bytes = unsafe UnsafeRawBufferPointer(buffer.bytes)
        guard unsafe CRC32C.checksum(of: bytes) == spill.checksum else { throw .badMessage }
        return unsafe HeldMessage(
            source: .buffer(buffer), start: bytes.baseAddress.unsafelyUnwrapped,
            bodyLength: Int(spill.bodyLength), payloadLength: Int(spill.payloadLength))
    }

    // MARK: - Giving up

    /// Handles the cancellations of tasks.
    func takeCancellations() -> Int {
        let tokens = cancelMailbox.take()
        var actions: [CallAction] = []
        let now = xstream.now.nanoseconds
        for token in tokens {
            guard token >> 63 == 0 else {
                cancelBulk(token)
                continue
            }
            let slot = Int32(truncatingIfNeeded: token >> 32)
            guard tracker.slots[Int(slot)].generation == UInt32(truncatingIfNeeded: token)
            else { continue }
            tracker.giveUp(slot, .cancelled, now: now, into: &actions)
        }
        perform(actions)
        return tokens.count
    }

    /// Does what the tracker decided.
    func perform(_ actions: [CallAction]) {
        for action in actions {
            switch action {
            case .grant(let slot):
                resume(slot)
            case .end(let slot, let error):
                guard tracker.isOpen(slot) else { continue }
                endCall(slot, .failed(error))
            case .sendCancel(let slot):
                sendCancel(slot)
            case .quarantine(let slot, let error):
                guard tracker.isOpen(slot) else { continue }
                endCall(slot, .abandoned(error))
            case .hello(let peer, let nonce, let reconnect):
                if reconnect { renewConnection(peer) }
                sendHello(to: peer, nonce: nonce)
            }
        }
        if !actions.isEmpty, tracker.nextDeadline != .max { arm(at: tracker.nextDeadline) }
    }

    private func sendCancel(_ slot: Int32) {
        let peer = tracker.slots[Int(slot)].peer
        var header = WireHeader()
        header.kind = .cancel
        header.session = tracker.peers[Int(peer)].session
        header.slot = UInt32(slot)
        header.slotGeneration = tracker.slots[Int(slot)].generation
        header.requestID = tracker.slots[Int(slot)].requestID
        sendControl(header, to: peer)
    }

    /// The peer has nothing of a cancelled call under way.
    func receivedCancelled(_ header: WireHeader) {
        guard
            tracker.matches(
                slot: header.slot, generation: header.slotGeneration, requestID: header.requestID)
        else { return answeredForMemory(header.requestID) }
        guard let error = tracker.slots[Int(header.slot)].error else { return }
        endCall(Int32(header.slot), .failed(error))
    }
}
