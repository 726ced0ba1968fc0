internal import BasicContainers
internal import DrayFabric

/// Memory of calls that are over, whose peers have not said that they use it no more, and large
/// replies whose callers have not.
///
/// What proves that they do not: the peer's answer to the request (late, or to the question about
/// it), a caller's word that it has fetched the reply or never will, another life of the peer, the
/// end of its process, and the end of the connection where the provider says that it reaches
/// nothing any more.
extension Context {
    /// Keeps what a call exposed to `peer`, whose life at that time was `instance`.
    func isolate(
        _ handles: [BulkHandle], from peer: Int32, request: UInt64, instance: UInt64
    ) {
        // Nothing reaches the memory of an endpoint that is closed.
        guard !isClosed, !handles.isEmpty else { return }
        // That life of the peer may be over since.
        guard tracker.peers[Int(peer)].instance == instance else { return }
        for handle in handles {
            if !handle.isQuarantined { counts.quarantinedBytes += handle.range.count }
            handle.quarantines += 1
            quarantine.hold(handle, request: request, peer: peer, instance: instance)
        }
        tracker.owes(peer, true, now: pollTime)
        armMaintenance(now: pollTime)
    }

    /// Keeps a reply that its caller has not fetched. Returns false when that cannot be asked now.
    /// Either way its caller is charged for it.
    func isolate(_ spill: SpillTable<BulkHandle>.Spill) -> Bool {
        let (handle, caller) = (spill.memory, spill.caller)
        // Nothing of the fabric reads for ourselves: whoever comes late finds no such key.
        guard caller.instance != instance else { return true }
        guard let peer = try? peerNumber(of: .address(caller.address)) else { return false }
        // We may know an earlier life of the caller only; what that has answered is no proof. Once:
        // the answers to what it is asked from now on are.
        if tracker.peers[Int(peer)].instance != caller.instance,
            !quarantine.holds(peer, as: caller.instance)
        {
            tracker.disregardHellos(of: peer)
        }
        handle.quarantines += 1
        quarantine.hold(
            handle, request: spill.request.number, reply: spill.number, peer: peer,
            instance: caller.instance)
        // Nobody else knows it.
        withdraw(handle)
        tracker.owes(peer, true, now: pollTime)
        armMaintenance(now: pollTime)
        return true
    }

    /// The peer has answered for a request that is over here.
    func answeredForMemory(_ request: UInt64) {
        guard !quarantine.isEmpty else { return }
        release(quarantine.answered(request))
    }

    /// The caller with this entry in the table of sessions has fetched a reply, or does not want
    /// it.
    func released(_ reply: UInt64, by session: Int) {
        guard !quarantine.isEmpty, let peer = peersByAddress[sessions.sessions[session].address]
        else { return }
        release(quarantine.released(reply, by: peer, sessions.sessions[session].instance))
    }

    /// The caller with this entry in the table of sessions does not want the reply to a request.
    func unwanted(_ request: UInt64, by session: Int) {
        guard !quarantine.isEmpty, let peer = peersByAddress[sessions.sessions[session].address]
        else { return }
        release(quarantine.unwanted([request], by: peer, sessions.sessions[session].instance))
    }

    /// A peer fetches no replies to these requests, now or later.
    func unwanted(_ requests: [UInt64], by peer: Int32) {
        guard !quarantine.isEmpty else { return }
        let instance = tracker.peers[Int(peer)].instance
        release(quarantine.unwanted(Set(requests), by: peer, instance))
    }

    /// The peer has said who it is.
    func peerLives(_ peer: Int32) {
        guard !quarantine.isEmpty else { return }
        release(quarantine.lives(peer, as: tracker.peers[Int(peer)].instance))
    }

    /// The peer's process has ended, and our connection with it.
    func releaseQuarantine(of peer: Int32) {
        release(quarantine.isGone(peer))
    }

    /// Ends the connection to a peer that owes an answer, where that helps.
    func cutOff(_ peer: Int32, _ handle: Peer) {
        guard quarantine.holds(peer), endpoint.disconnect(handle) else { return }
        // Only what can be deregistered at once, before the peer comes back.
        let shared = Set(
            quarantine.entries.filter { $0.peer != peer }.map { ObjectIdentifier($0.memory) })
        release(
            quarantine.isCutOff(peer) {
                $0.isWithdrawn && !shared.contains(ObjectIdentifier($0))
            })
    }

    /// Asks a peer that is there about the requests that it has not answered for, and about the
    /// replies that it has not fetched.
    func askForMemory(_ peer: Int32) {
        guard quarantine.holds(peer) else { return }
        for request in quarantine.requests(of: peer, max: InquiryMessage.requestsMax) {
            var header = WireHeader()
            header.kind = .cancel
            header.session = tracker.peers[Int(peer)].session
            // The call has no slot any more.
            header.slot = .max
            header.requestID = request
            sendControl(header, to: peer)
        }
        let replied = quarantine.replied(to: peer, max: InquiryMessage.requestsMax)
        guard !replied.isEmpty else { return }
        var header = WireHeader()
        header.kind = .recall
        header.session = tracker.peers[Int(peer)].session
        header.slot = UInt32(peer)
        sendControl(
            header, InquiryMessage(requests: replied), to: peer,
            lifetime: CallTracker.probeIntervalMax)
    }

    /// The endpoint is closed.
    func endQuarantine() {
        release(quarantine.removeAll())
    }

    private func release(_ entries: [QuarantineTable<BulkHandle>.Entry]) {
        for entry in entries {
            let handle = entry.memory
            handle.quarantines -= 1
            guard !handle.isQuarantined else { continue }
            if entry.reply == nil { counts.quarantinedBytes -= handle.range.count }
            if handle.isWithdrawn {
                exposures.end(handle.registration, key: handle.descriptor.key)
            }
        }
        for peer in Set(entries.map(\.peer)).sorted() where !quarantine.holds(peer) {
            tracker.owes(peer, false, now: pollTime)
        }
    }
}
