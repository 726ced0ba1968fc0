internal import BasicContainers
internal import DrayFabric
internal import DrayRuntime

extension Context {
    /// Peers that a context may call.
    static let peersMax = 1 << 18

    // MARK: - Who is called

    /// The peer that a destination means; makes it known when it is new.
    func peerNumber(of destination: Destination) throws(RPCError) -> Int32 {
        switch destination {
        case .rank(let rank, let tag):
            if groupGeneration != group.generation {
                peersByRank = [:]
                groupGeneration = group.generation
            }
            let key = UInt64(rank) << 32 | UInt64(tag)
            if let number = peersByRank[key] { return number }
            guard let address = group.address(rank: rank, tag: tag) else { throw .staleGroup }
            let number = try peerNumber(at: address)
            peersByRank[key] = number
            return number
        case .member(_, _, let address):
            return try peerNumber(at: address)
        case .address(let address):
            if links[lastPeer].address == address { return Int32(lastPeer) }
            let number = try peerNumber(at: address)
            lastPeer = Int(number)
            return number
        }
    }

    private func peerNumber(at address: FabricAddress) throws(RPCError) -> Int32 {
        if let number = peersByAddress[address] { return number }
        guard links.count < Context.peersMax else { throw .overloaded }
        let handle: Peer
        do throws(FabricError) {
            handle = try endpoint.insert(address)
        } catch {
            counts.addressesFailed += 1
            throw .fabric(error)
        }
        let number = tracker.addPeer()
        links.append(
            PeerLink(address: address, handle: handle, eagerLimit: Context.eagerLimitMin))
        peersByAddress[address] = number
        return number
    }

    /// Makes the context its own first peer and first caller.
    func addSelf() {
        let session = sessions.open(
            instance: instance, address: address, handle: nil, eagerLimit: options.eagerLimit,
            now: pollTime)
        guard let session else { preconditionFailure("sessionsMax must be positive") }
        selfPeer = tracker.addSelf(instance: instance, session: session)
        links.append(
            PeerLink(address: address, handle: nil, eagerLimit: options.eagerLimit))
        peersByAddress[address] = selfPeer
    }

    /// Where to send to a peer; nil is ourselves.
    func handle(of peer: Int) throws(RPCError) -> Peer? {
        if let handle = links[peer].handle { return handle }
        guard peer != Int(selfPeer) else { return nil }
        do throws(FabricError) {
            let handle = try endpoint.insert(links[peer].address)
            links[peer].handle = handle
            return handle
        } catch {
            counts.addressesFailed += 1
            throw .fabric(error)
        }
    }

    // MARK: - Connections

    /// The fabric says that a peer cannot be reached, or (`isGone`) a failure detector says that
    /// it is gone. `isRefused`: nothing is sent to it any more, and nobody listens there.
    func connectionLost(_ peer: Int32, isGone: Bool = false, isRefused: Bool = false) {
        counts.peersLost += 1
        renewConnection(peer)
        var actions: [CallAction] = []
        tracker.lost(peer, isGone: isGone, now: pollTime, into: &actions)
        perform(actions)
        // A failure detector may be wrong, or right while bytes of the dead are still on their
        // way: our connection must have ended, too.
        guard !isGone, quarantine.holds(peer) else { return }
        if isRefused || endpoint.listening(at: links[Int(peer)].address) == .refused {
            releaseQuarantine(of: peer)
        }
    }

    /// The next message to a peer goes over a new connection.
    func renewConnection(_ peer: Int32) {
        guard peer != selfPeer else { return }
        links[Int(peer)].epoch &+= 1
        if let handle = links[Int(peer)].handle {
            cutOff(peer, handle)
            endpoint.remove(handle)
        }
        links[Int(peer)].handle = nil
    }

    /// Presents us to a peer, or asks whether it is still the one we know.
    func sendHello(to peer: Int32, nonce: UInt64) {
        armMaintenance(now: pollTime)
        guard !faults.fails(.peerHello) else { return }
        counts.hellosSent += 1
        let hello = HelloMessage(
            address: address, instance: instance, eagerLimit: UInt32(options.eagerLimit),
            session: tracker.peers[Int(peer)].session)
        var header = WireHeader()
        header.kind = .hello
        header.slot = UInt32(peer)
        header.requestID = nonce
        // The next one is due by then.
        sendControl(header, hello, to: peer, lifetime: CallTracker.probeIntervalMax)
    }

    /// Sends a message without body to a peer that we call. Nobody waits for it.
    func sendControl(_ header: WireHeader, to peer: Int32) {
        sendControl(header, EmptyMessage(), to: peer)
    }

    func sendControl<Body: ByteCodable>(
        _ header: WireHeader, _ body: Body, to peer: Int32, lifetime: UInt64 = 5_000_000_000
    ) {
        guard !isClosed, let send = sends.take() else { return }
        do throws(RPCError) {
            let handle = try handle(of: Int(peer))
            var header = header
            fillControl(send, body, &header)
            post(
                send, header: header, to: handle,
                purpose: SendPurpose(
                    kind: .toPeer, owner: UInt32(peer), generation: links[Int(peer)].epoch),
                expires: pollTime &+ lifetime)
        } catch {
            // The address cannot be used: as if the message had been lost.
            sends.give(send)
        }
    }

    /// Encodes a control message; those always fit.
    func fillControl<Body: ByteCodable>(_ send: UInt32, _ body: Body, _ header: inout WireHeader) {
        let slot = unsafe sends.memory(send)
        let room = unsafe UnsafeMutableRawBufferPointer(rebasing: slot[WireHeader.size...])
        var body = body
        var coder = unsafe ByteCoder(encodingInto: room)
        do throws(DecodingFailure) {
            try body.code(with: &coder)
        } catch {
            preconditionFailure("a control message cannot be encoded: \(error)")
        }
        precondition(coder.fits, "a control message is too long")
        header.bodyLength = UInt32(coder.count)
        header.bodyChecksum = unsafe CRC32C.checksum(
            of: UnsafeRawBufferPointer(rebasing: room[0..<coder.count]))
    }

    // MARK: - Their answers

    func receivedHelloReply(_ header: WireHeader, _ message: HeldMessage) {
        let reply: HelloReply
        do throws(DecodingFailure) {
            guard isIntact(header, message) else { throw .invalidValue }
            reply = try unsafe HelloReply(decoding: message.body)
        } catch {
            counts.dropped += 1
            return
        }
        var actions: [CallAction] = []
        let old = header.slot < UInt32(links.count) ? tracker.peers[Int(header.slot)].instance : 0
        let known = tracker.answered(
            peer: header.slot, nonce: header.requestID, instance: reply.instance,
            session: reply.session, credits: reply.credits, now: pollTime, into: &actions)
        guard known else {
            counts.dropped += 1
            return
        }
        links[Int(header.slot)].eagerLimit = min(options.eagerLimit, Int(reply.eagerLimit))
        if old != 0, old != reply.instance { counts.peersLost += 1 }
        perform(actions)
        peerLives(Int32(header.slot))
        inquire(header.slot)
        askForMemory(Int32(header.slot))
    }

    /// Asks a peer that is there whether it has the requests that are long under way.
    private func inquire(_ peer: UInt32) {
        let overdue = tracker.overdue(peer, now: pollTime)
        guard peer != UInt32(selfPeer), !overdue.isEmpty else { return }
        var header = WireHeader()
        header.kind = .inquiry
        header.slot = peer
        header.session = tracker.peers[Int(peer)].session
        sendControl(
            header, InquiryMessage(requests: overdue), to: Int32(peer),
            lifetime: CallTracker.probeIntervalMax)
    }

    /// A peer does not have some of the requests that we asked it for.
    func receivedAbsent(_ header: WireHeader, _ message: HeldMessage) {
        guard let inquiry = inquiry(header, message) else { return }
        var actions: [CallAction] = []
        tracker.absent(
            inquiry.requests, peer: header.slot, session: header.session, now: pollTime,
            into: &actions)
        perform(actions)
    }

    /// A peer does not want some of the replies that we asked it for.
    func receivedRecalled(_ header: WireHeader, _ message: HeldMessage) {
        guard let inquiry = inquiry(header, message), header.slot < UInt32(links.count),
            tracker.peers[Int(header.slot)].phase == .ready,
            tracker.peers[Int(header.slot)].session == header.session
        else { return }
        unwanted(inquiry.requests, by: Int32(header.slot))
    }

    /// The body of an inquiry or its answer; nil when it makes no sense.
    func inquiry(_ header: WireHeader, _ message: HeldMessage) -> InquiryMessage? {
        do throws(DecodingFailure) {
            guard isIntact(header, message) else { throw .invalidValue }
            return try unsafe InquiryMessage(decoding: message.body)
        } catch {
            counts.dropped += 1
            return nil
        }
    }

    /// The server forgot us; `requestID` is its instance.
    func receivedGoodbye(_ header: WireHeader) {
        var actions: [CallAction] = []
        tracker.dismissed(
            session: header.session, instance: header.requestID, now: pollTime, into: &actions)
        perform(actions)
    }
}
