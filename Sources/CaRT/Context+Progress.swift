internal import BasicContainers
internal import DequeModule
internal import DrayFabric
public import DrayRuntime

extension Context: PollSource {
    /// Handles up to 256 completions, and whatever waits in queues.
    public func poll() -> Int {
        guard !isClosed else { return 0 }
        var events = 0
        if cancelMailbox.isFilled { events += takeCancellations() }
        if !loopback.isEmpty { events += deliverLoopback() }
        sendOutbox(isRoundOver: true)
        // After what others wait for.
        if receives.hasFree { postFreeReceives() }
        let count = unsafe endpoint.poll(into: completions)
        guard count > 0 else { return events }
        refreshTime(xstream.roundTime)
        receives.growIfBusy(events: count)
        // Completions make room for what was refused.
        if hasRefused { retryRefused() }
        for index in 0..<count {
            unsafe complete(completions[index])
            if isClosed { break }
        }
        // What handlers have answered at once.
        sendOutbox(isRoundOver: true)
        return events + count
    }

    public func prepareToBlock() -> BlockReadiness {
        guard !isClosed else { return .idle }
        if !loopback.isEmpty || !outbox.isEmpty || cancelMailbox.isFilled { return .busy }
        if receives.hasFree { return .busy }
        if options.progress == .busy { return .busy }
        return endpoint.prepareToBlock()
    }

    private func complete(_ completion: Completion) {
        let token = OperationToken(rawValue: completion.token)
        switch token.kind {
        case .receive:
            guard completion.error == nil else {
                // Nothing arrived: the buffer is as good as before.
                counts.dropped += 1
                receives.arrived(token.index)
                release(.receive(token.index))
                return
            }
            receives.arrived(token.index)
            guard !faults.fails(.cartReceive) else {
                release(.receive(token.index))
                return
            }
            let memory = unsafe UnsafeRawBufferPointer(receives.memory(token.index))
            let length = min(completion.length, memory.count)
            unsafe deliverAll(
                UnsafeRawBufferPointer(rebasing: memory[0..<length]), in: token.index)
        case .send:
            sendCompleted(token.index, error: completion.error)
            sends.give(token.index)
        case .bulk:
            bulkCompleted(token.index, error: completion.error)
        case nil:
            preconditionFailure("a completion without an operation")
        }
    }

    // MARK: - Sending

    /// Sends the message in send slot `slot` at the end of the round of the xstream, together with
    /// others to the same place: a system call costs as much as handling the message.
    ///
    /// Whatever goes wrong is handled as if the message had been sent and lost. A message that the
    /// provider refuses until `expires` (monotonic nanoseconds) is given up.
    func post(
        _ slot: UInt32, length: Int, to handle: Peer?, purpose: SendPurpose, expires: UInt64
    ) {
        let open = openSend(purpose)
        if let open, add(slot, length: length, purpose, to: open) {
            sends.slots[Int(open)].expires = max(sends.slots[Int(open)].expires, expires)
            sends.give(slot)
            return
        }
        sends.slots[Int(slot)].expires = expires
        sends.slots[Int(slot)].purpose = purpose
        sends.slots[Int(slot)].length = length
        sends.slots[Int(slot)].handle = handle
        sends.slots[Int(slot)].messages = 1
        if purpose.isToCaller { sessions.countUnsent(purpose.session, by: 1) }
        guard handle != nil else {
            loopback.append(slot)
            xstream.signalSources()
            return
        }
        sends.slots[Int(slot)].isOpen = true
        sends.slots[Int(slot)].room = WireHeader.size + eagerLimit(purpose)
        setOpenSend(slot, purpose)
        if outbox.isEmpty { xstream.signalSources() }
        outbox.append(slot)
    }

    /// The slot that messages to the same place are gathered in; nil when there is none.
    private func openSend(_ purpose: SendPurpose) -> UInt32? {
        let open: UInt32?
        switch purpose.kind {
        case .toPeer: open = links[Int(purpose.owner)].openSend
        case .reply, .toCaller: open = sessions.sessions[Int(purpose.owner)].openSend
        case .goodbye: return nil
        }
        guard let open, sends.slots[Int(open)].isOpen else { return nil }
        let owner = sends.slots[Int(open)].purpose
        guard owner.owner == purpose.owner, owner.generation == purpose.generation,
            (owner.kind == .toPeer) == (purpose.kind == .toPeer)
        else { return nil }
        return open
    }

    private func setOpenSend(_ slot: UInt32, _ purpose: SendPurpose) {
        switch purpose.kind {
        case .toPeer: links[Int(purpose.owner)].openSend = slot
        case .reply, .toCaller: sessions.setOpenSend(slot, of: Int(purpose.owner))
        case .goodbye: break
        }
    }

    private func eagerLimit(_ purpose: SendPurpose) -> Int {
        switch purpose.kind {
        case .toPeer: links[Int(purpose.owner)].eagerLimit
        case .reply, .toCaller: sessions.sessions[Int(purpose.owner)].eagerLimit
        case .goodbye: 0
        }
    }

    /// Copies a message behind those that wait in `open`; false when there is no room.
    private func add(
        _ slot: UInt32, length: Int, _ purpose: SendPurpose, to open: UInt32
    ) -> Bool {
        let end = sends.slots[Int(open)].length
        let start = WireHeader.aligned(end)
        guard start + length <= sends.slots[Int(open)].room else {
            sends.slots[Int(open)].isOpen = false
            return false
        }
        let memory = unsafe sends.memory(open)
        let gap = unsafe UnsafeMutableRawBufferPointer(rebasing: memory[end..<start])
        unsafe gap.initializeMemory(as: UInt8.self, repeating: 0)
        unsafe UnsafeMutableRawBufferPointer(rebasing: memory[start..<start + length])
            .copyMemory(from: UnsafeRawBufferPointer(rebasing: sends.memory(slot)[0..<length]))
        sends.slots[Int(open)].length = start + length
        sends.slots[Int(open)].messages += 1
        if sends.slots[Int(open)].messages == endpoint.gatheredMax {
            sends.slots[Int(open)].isOpen = false
            unsafe state.pointee.hasGathered = true
        }
        return true
    }

    /// Sends what nothing can be added to any more, so that the peer works on it while we do the
    /// rest of the round. Called where a connection may be found lost.
    @inline(__always)
    func sendGathered() {
        if unsafe state.pointee.hasGathered { sendOutbox(isRoundOver: false) }
    }

    /// Hands to the fabric what has gathered.
    private func sendOutbox(isRoundOver: Bool) {
        unsafe state.pointee.hasGathered = false
        guard !outbox.isEmpty, !isClosed, unsafe !state.pointee.isSending else { return }
        unsafe state.pointee.isSending = true
        defer { unsafe state.pointee.isSending = false }
        // A connection that is lost meanwhile may add to it.
        var index = 0
        var keptCount = 0
        while index < outbox.count {
            let slot = outbox[index]
            index += 1
            if !isRoundOver, sends.slots[Int(slot)].isOpen {
                outbox[keptCount] = slot
                keptCount += 1
                continue
            }
            sends.slots[Int(slot)].isOpen = false
            if isObsolete(sends.slots[Int(slot)].purpose) {
                sends.give(slot)
            } else if !trySend(slot) {
                retrySends.append(slot)
                armRetry()
            }
        }
        outbox.removeLast(outbox.count - keptCount)
    }

    // MARK: - What the provider refused

    /// How long, in nanoseconds, until what was refused is tried again if nothing completes
    /// before. A provider may refuse for as long as a peer is dead.
    static let retryInterval: UInt64 = 1_000_000

    var hasRefused: Bool { !retrySends.isEmpty || bulks.hasRefused || receives.needsRetry }

    /// Makes sure that what was refused is tried again.
    func armRetry() {
        guard retryAt == .max else { return }
        retryAt = xstream.now.nanoseconds + Context.retryInterval
        arm(at: retryAt)
    }

    /// Offers everything that was refused once more. One dead peer must not hold up the others, so
    /// all get their turn.
    func retryRefused() {
        _ = receives.retry()
        retryRefusedSends()
        retryRefusedBulks()
    }

    /// Returns false when the provider wants it again later.
    private func trySend(_ slot: UInt32) -> Bool {
        guard let handle = sends.slots[Int(slot)].handle else { return true }
        if faults.isArmed, let isOver = strikeSend(slot) { return isOver }
        let length = sends.slots[Int(slot)].length
        let message = unsafe UnsafeRawBufferPointer(
            rebasing: sends.memory(slot)[0..<length])
        do throws(FabricError) {
            try unsafe endpoint.send(
                message, in: sends.registration(slot).pointer.pointee, to: handle,
                token: OperationToken(.send, slot).rawValue)
            counts.messagesSent += 1
        } catch .tryAgain {
            counts.sendsRefused += 1
            return false
        } catch {
            sendCompleted(slot, error: error)
            sends.give(slot)
        }
        return true
    }

    /// An injected fault: the fabric refuses a message (false), or it is gone (true). Nil: none.
    private func strikeSend(_ slot: UInt32) -> Bool? {
        var error: FabricError?
        switch faults.strike(.fabricSend) {
        case nil:
            guard faults.fails(.cartSend) else { return nil }
        case .fail(.unreachable): error = .unreachable(code: 0)
        case .fail, .wait: return false
        }
        sendCompleted(slot, error: error)
        sends.give(slot)
        return true
    }

    private func retryRefusedSends() {
        for _ in 0..<retrySends.count {
            guard let slot = retrySends.popFirst() else { break }
            if isObsolete(sends.slots[Int(slot)].purpose) {
                sends.give(slot)
            } else if sends.slots[Int(slot)].expires <= pollTime {
                // Nobody waits for it any more, or the peer has been unreachable for long.
                sendExpired(slot)
            } else if !trySend(slot) {
                retrySends.append(slot)
                refusedAgain(sends.slots[Int(slot)].purpose)
            } else if sends.slots[Int(slot)].purpose.kind == .toPeer {
                links[Int(sends.slots[Int(slot)].purpose.owner)].askAt = 0
            }
        }
    }

    /// How long, in nanoseconds, messages to a peer are refused before the fabric is asked whether
    /// anybody listens there: longer than a new connection takes.
    private static let askAfter: UInt64 = 20_000_000
    /// Until it is asked again, while it does not know.
    private static let askAgain: UInt64 = 5_000_000
    /// Until it is asked again, when somebody listens and takes nothing.
    private static let askLater: UInt64 = 500_000_000

    /// A peer does not take what is sent to it: it may be busy, or gone. Over TCP a provider
    /// refuses in both cases, and nobody should wait for one that is gone until his deadline.
    private func refusedAgain(_ purpose: SendPurpose) {
        guard purpose.kind == .toPeer else { return }
        let peer = Int(purpose.owner)
        if links[peer].askAt == 0 { links[peer].askAt = pollTime &+ Context.askAfter }
        guard links[peer].askAt <= pollTime else { return }
        switch endpoint.listening(at: links[peer].address) {
        case .accepted: links[peer].askAt = pollTime &+ Context.askLater
        case .unknown: links[peer].askAt = pollTime &+ Context.askAgain
        case .refused:
            // The next message to it is refused for the same reason: ask at once.
            links[peer].askAt = pollTime
            connectionLost(Int32(peer), isRefused: true)
        }
    }

    /// Whether a message was for a connection or session that is gone, and its handle with it.
    private func isObsolete(_ purpose: SendPurpose) -> Bool {
        switch purpose.kind {
        case .toPeer: links[Int(purpose.owner)].epoch != purpose.generation
        case .reply, .toCaller:
            sessions.find(purpose.session) == nil
        case .goodbye: false
        }
    }

    /// A message was refused until its time was over.
    private func sendExpired(_ slot: UInt32) {
        let purpose = sends.slots[Int(slot)].purpose
        switch purpose.kind {
        case .toPeer: counts.sendsFailed += 1  // Deadlines decide about calls.
        case .reply, .toCaller, .goodbye: sendCompleted(slot, error: .unreachable(code: 0))
        }
        sends.give(slot)
    }

    /// The accounts of a message that was sent, or was not.
    func sendCompleted(_ slot: UInt32, error: FabricError?) {
        let purpose = sends.slots[Int(slot)].purpose
        if error != nil { counts.sendsFailed += 1 }
        switch purpose.kind {
        case .toPeer:
            guard error != nil, links[Int(purpose.owner)].epoch == purpose.generation else { break }
            connectionLost(Int32(purpose.owner))
        case .reply, .toCaller:
            sessions.countUnsent(purpose.session, by: -1)
            if error != nil { dropSession(purpose.session, says: false) }
        case .goodbye:
            if let handle = sends.slots[Int(slot)].handle { endpoint.remove(handle) }
        }
    }

    // MARK: - Receiving

    private func deliverLoopback() -> Int {
        let count = loopback.count
        refreshTime(xstream.roundTime)
        for _ in 0..<count {
            guard let slot = loopback.popFirst() else { break }
            sendCompleted(slot, error: nil)
            let length = sends.slots[Int(slot)].length
            let message = unsafe UnsafeRawBufferPointer(
                rebasing: sends.memory(slot)[0..<length])
            guard let header = unsafe WireHeader(decoding: message) else {
                preconditionFailure("a message to ourselves cannot be read")
            }
            unsafe deliver(header, message, from: .loopback(slot))
        }
        return count
    }

    /// Takes the messages that came together in a receive.
    private func deliverAll(_ bytes: UnsafeRawBufferPointer, in receive: UInt32) {
        var start = 0
        repeat {
            let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[start...])
            guard let header = unsafe WireHeader(decoding: rest) else {
                // Nobody knows where the next one would begin.
                counts.dropped += 1
                break
            }
            start += WireHeader.aligned(header.messageLength)
            let isLast = start >= bytes.count
            if !isLast { receives.hold(receive) }
            unsafe deliver(header, rest, from: .receive(receive))
            if isLast { return }
        } while !isClosed
        release(.receive(receive))
    }

    private func deliver(
        _ header: WireHeader, _ message: UnsafeRawBufferPointer, from source: HeldMessage.Source
    ) {
        guard let start = message.baseAddress else {
            preconditionFailure("a message with a header has a first byte")
        }
        let held = unsafe HeldMessage(
            source: source, start: start + WireHeader.size, bodyLength: Int(header.bodyLength),
            payloadLength: Int(header.payloadLength))
        switch header.kind {
        case .request:
            receivedRequest(header, held)
            return
        case .reply:
            receivedReply(header, held)
            return
        case .hello: receivedHello(header, held)
        case .helloReply: receivedHelloReply(header, held)
        case .cancel: receivedCancel(header)
        case .cancelled: receivedCancelled(header)
        case .release: receivedRelease(header)
        case .goodbye: receivedGoodbye(header)
        case .inquiry: receivedInquiry(header, held)
        case .absent: receivedAbsent(header, held)
        case .recall: receivedRecall(header, held)
        case .recalled: receivedRecalled(header, held)
        }
        release(source)
    }

    /// The message is used no more.
    func release(_ source: HeldMessage.Source) {
        switch source {
        case .receive(let index):
            guard !isClosed else { return }
            if !receives.hasFree { xstream.signalSources() }
            receives.release(index)
        case .loopback(let slot): sends.give(slot)
        case .buffer: break
        }
    }

    private func postFreeReceives() {
        receives.postFree()
        if receives.needsRetry { armRetry() }
    }

    /// Whether body and payload are what was sent.
    func isIntact(_ header: WireHeader, _ message: HeldMessage) -> Bool {
        unsafe CRC32C.checksum(of: message.content) == header.bodyChecksum
    }
}
