internal import BasicContainers
internal import DrayFabric
internal import DrayRuntime
internal import Logging

extension Context {
    /// Idle sessions that one round of maintenance ends.
    private static let sweepMax = 64

    /// A caller presents itself, or asks whether we are still the ones it knows.
    func receivedHello(_ header: WireHeader, _ message: HeldMessage) {
        let hello: HelloMessage
        do throws(DecodingFailure) {
            guard isIntact(header, message) else { throw .invalidValue }
            hello = try unsafe HelloMessage(decoding: message.body)
        } catch {
            counts.dropped += 1
            return
        }
        if let peer = peersByAddress[hello.address] { tracker.heard(peer, now: pollTime) }
        guard !isClosing, let session = session(for: hello),
            let index = sessions.find(session), let send = sends.take()
        else {
            counts.dropped += 1
            return
        }
        let reply = HelloReply(
            instance: instance, session: session, credits: options.credits,
            eagerLimit: UInt32(options.eagerLimit))
        var answer = WireHeader()
        answer.kind = .helloReply
        answer.slot = header.slot
        answer.requestID = header.requestID
        fillControl(send, reply, &answer)
        post(
            send, header: answer, to: sessions.sessions[index].handle,
            purpose: SendPurpose(
                kind: .toCaller, owner: session.index, generation: session.generation))
        armMaintenance(now: pollTime)
    }

    /// The session of the caller that said `hello`: the one it has, or a new one.
    private func session(for hello: HelloMessage) -> SessionID? {
        if let known = sessions.find(instance: hello.instance) {
            let index = Int(known.index)
            if sessions.sessions[index].address == hello.address { return known }
            // The same instance elsewhere: nobody honest does that. Our own is not for the taking.
            guard !sessions.sessions[index].isSelf else { return nil }
            dropSession(known, says: false)
        }
        if let old = sessions.find(address: hello.address) {
            guard !sessions.sessions[Int(old.index)].isSelf else { return nil }
            // The caller restarted.
            dropSession(old, says: false)
        }
        if let victim = sessions.victim() { dropSession(victim, says: true) }
        do throws(FabricError) {
            guard sessions.count < sessions.sessionsMax else { return nil }
            let handle = try endpoint.insert(hello.address)
            return sessions.open(
                instance: hello.instance, address: hello.address, handle: handle,
                eagerLimit: min(options.eagerLimit, Int(hello.eagerLimit)), now: pollTime)
        } catch {
            counts.addressesFailed += 1
            logger.info("a hello names an address that cannot be used: \(error)")
            return nil
        }
    }

    /// Ends a session. Its requests are cancelled; `says` tells the caller.
    func dropSession(_ id: SessionID, says: Bool) {
        guard let index = sessions.find(id), !sessions.sessions[index].isSelf else { return }
        for position in activeRequests.indices {
            if let request = activeRequests[position], request.session == id { cancel(request) }
        }
        guard let handle = sessions.close(id) else { return }
        guard says, !isClosed, let send = sends.take() else {
            endpoint.remove(handle)
            return
        }
        var header = WireHeader()
        header.kind = .goodbye
        header.session = id
        header.requestID = instance
        fillControl(send, EmptyMessage(), &header)
        post(
            send, header: header, to: handle,
            purpose: SendPurpose(kind: .goodbye, owner: 0, generation: 0))
    }

    /// Ends sessions that were idle for long.
    func sweepSessions() {
        let idle = options.sessionIdle.nanosecondsClamped
        guard sessions.count > 1, pollTime > idle else { return }
        for _ in 0..<Context.sweepMax {
            guard let session = sessions.idle(before: pollTime - idle) else { return }
            dropSession(session, says: true)
        }
    }
}
