internal import DequeModule
internal import DrayFabric
public import DrayRuntime

extension Context: PollSource {
    /// Handles up to 256 completions, and whatever waits in queues.
    public func poll() -> Int {
        guard !isClosed else { return 0 }
        var events = 0
        if cancelMailbox.isFilled { events += takeCancellations() }
        if !retrySends.isEmpty { events += retryRefusedSends() }
        if bulks.hasRefused { events += retryRefusedBulks() }
        if receives.needsRetry { events += receives.retry() }
        if !loopback.isEmpty { events += deliverLoopback() }
        let count = unsafe endpoint.poll(into: completions)
        guard count > 0 else { return events }
        refreshTime()
        for index in 0..<count {
            unsafe complete(completions[index])
            if isClosed { break }
        }
        return events + count
    }

    public func prepareToBlock() -> BlockReadiness {
        guard !isClosed else { return .idle }
        if !loopback.isEmpty || !retrySends.isEmpty || bulks.hasRefused || receives.needsRetry
            || cancelMailbox.isFilled
        {
            return .busy
        }
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
                receives.release(token.index)
                return
            }
            receives.arrived(token.index)
            let memory = unsafe UnsafeRawBufferPointer(receives.memory(token.index))
            let length = min(completion.length, memory.count)
            unsafe deliver(
                UnsafeRawBufferPointer(rebasing: memory[0..<length]), from: .receive(token.index))
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

    /// Hands the message in send slot `slot` to the fabric, or to ourselves.
    ///
    /// Whatever goes wrong is handled as if the message had been sent and lost.
    func post(_ slot: UInt32, length: Int, to handle: Peer?, purpose: SendPurpose) {
        sends.slots[Int(slot)].purpose = purpose
        sends.slots[Int(slot)].length = length
        sends.slots[Int(slot)].handle = handle
        guard handle != nil else {
            loopback.append(slot)
            xstream.signalSources()
            return
        }
        // Refused messages go first.
        guard retrySends.isEmpty else {
            retrySends.append(slot)
            return
        }
        if !trySend(slot) { retrySends.append(slot) }
    }

    /// Returns false when the provider wants it again later.
    private func trySend(_ slot: UInt32) -> Bool {
        guard let handle = sends.slots[Int(slot)].handle else { return true }
        let length = sends.slots[Int(slot)].length
        let message = unsafe UnsafeRawBufferPointer(
            rebasing: sends.memory(slot)[0..<length])
        do throws(FabricError) {
            try unsafe endpoint.send(
                message, in: sends.registration(slot).pointer.pointee, to: handle,
                token: OperationToken(.send, slot).rawValue)
        } catch .tryAgain {
            return false
        } catch {
            sendCompleted(slot, error: error)
            sends.give(slot)
        }
        return true
    }

    private func retryRefusedSends() -> Int {
        var sent = 0
        while let slot = retrySends.first, sent < Context.completionsMax {
            guard trySend(slot) else { break }
            retrySends.removeFirst()
            sent += 1
        }
        return sent
    }

    /// The accounts of a message that was sent, or was not.
    func sendCompleted(_ slot: UInt32, error: FabricError?) {
        let purpose = sends.slots[Int(slot)].purpose
        let session = SessionID(index: purpose.owner, generation: purpose.generation)
        switch purpose.kind {
        case .toPeer:
            guard error != nil, links[Int(purpose.owner)].epoch == purpose.generation else { break }
            connectionLost(Int32(purpose.owner))
        case .reply:
            sessions.countUnsent(session, by: -1)
            if error != nil { dropSession(session, says: false) }
        case .toCaller:
            if error != nil { dropSession(session, says: false) }
        case .goodbye:
            if let handle = sends.slots[Int(slot)].handle { endpoint.remove(handle) }
        }
    }

    // MARK: - Receiving

    private func deliverLoopback() -> Int {
        let count = loopback.count
        refreshTime()
        for _ in 0..<count {
            guard let slot = loopback.popFirst() else { break }
            sendCompleted(slot, error: nil)
            let length = sends.slots[Int(slot)].length
            let message = unsafe UnsafeRawBufferPointer(
                rebasing: sends.memory(slot)[0..<length])
            unsafe deliver(message, from: .loopback(slot))
        }
        return count
    }

    /// Takes a message as it came from the wire. Bytes that make no sense are dropped.
    private func deliver(_ message: UnsafeRawBufferPointer, from source: HeldMessage.Source) {
        guard let header = unsafe WireHeader(decoding: message), let start = message.baseAddress
        else {
            counts.dropped += 1
            release(source)
            return
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
        }
        release(source)
    }

    /// The message is used no more.
    func release(_ source: HeldMessage.Source) {
        switch source {
        case .receive(let index):
            if !isClosed { receives.release(index) }
        case .loopback(let slot): sends.give(slot)
        case .buffer: break
        }
    }

    /// Whether body and payload are what was sent.
    func isIntact(_ header: WireHeader, _ message: HeldMessage) -> Bool {
        unsafe CRC32C.checksum(of: message.content) == header.bodyChecksum
    }
}
