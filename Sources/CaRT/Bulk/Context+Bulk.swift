internal import DequeModule
public import DrayFabric
public import DrayRuntime

extension Context {
    // MARK: - Memory

    /// Memory for transfers, from a pool by size class. At least `count` bytes, page aligned, not
    /// zeroed. Goes back to the pool when the last reference goes. `count` may be 0.
    public func makeBuffer(count: Int) throws(RPCError) -> RegisteredBuffer {
        precondition(count >= 0)
        return try RegisteredBuffer(count: count, pool: pool)
    }

    /// Lets peers read or write `range` of `buffer` under a fresh key until `withdraw`.
    /// The handle keeps the buffer. The range must not be empty.
    public func expose(
        _ buffer: RegisteredBuffer, range: Range<Int>? = nil, access: MemoryAccess
    ) throws(RPCError) -> BulkHandle {
        let range = range ?? 0..<buffer.count
        precondition(range.upperBound <= buffer.count)
        try admitExposure(range.count)
        return try makeExposure(buffer.buffer, range, access, owner: buffer)
    }

    /// Lets peers read or write `range` of `buffer` under a fresh key until `withdraw`.
    /// The handle keeps the buffer. The range must not be empty.
    public func expose(
        _ buffer: IOBuffer, range: Range<Int>? = nil, access: MemoryAccess
    ) throws(RPCError) -> BulkHandle {
        let range = range ?? 0..<buffer.count
        try admitExposure(range.count)
        return try makeExposure(buffer, range, access, owner: buffer)
    }

    /// What is exposed may come into quarantine, where there is room for so much.
    private func admitExposure(_ count: Int) throws(RPCError) {
        guard
            counts.quarantinedBytes == 0
                || count <= options.quarantinedBytesMax - counts.quarantinedBytes
        else { throw .overloaded }
    }

    private func makeExposure(
        _ buffer: IOBuffer, _ range: Range<Int>, _ access: MemoryAccess, owner: AnyObject
    ) throws(RPCError) -> BulkHandle {
        guard !isClosed else { throw .closed }
        precondition(!range.isEmpty && range.lowerBound >= 0 && range.upperBound <= buffer.count)
        let registration: Registration
        do throws(FabricError) {
            guard !faults.fails(.fabricRegister) else {
                throw .provider(code: 12, message: "no memory can be registered (injected)")
            }
            registration = try Registration(buffer, range: range, at: endpoint, access: access)
        } catch {
            counts.exposuresFailed += 1
            throw RPCError(error)
        }
        counts.exposuresMade += 1
        var descriptor = BulkDescriptor()
        descriptor.owner = address
        descriptor.instance = instance
        descriptor.address = unsafe registration.pointer.pointee.remoteAddress
        descriptor.length = UInt64(range.count)
        descriptor.key = unsafe registration.pointer.pointee.key
        descriptor.access = access
        exposures.begin(registration, key: descriptor.key, range: range, access: access)
        return BulkHandle(
            descriptor: descriptor, registration: registration, range: range, owner: owner,
            exposures: exposures)
    }

    /// A large reply, for its caller to fetch; charged for already.
    func exposeReply(_ buffer: RegisteredBuffer) throws(RPCError) -> BulkHandle {
        try makeExposure(buffer.buffer, 0..<buffer.count, .remoteRead, owner: buffer)
    }

    /// Ends an exposure; one that is quarantined, as soon as its peer uses it no more. Harmless
    /// when it has ended. Call it after the call that named the descriptor returned: the fabric
    /// does not stop a transfer that is under way.
    public func withdraw(_ handle: BulkHandle) {
        handle.isWithdrawn = true
        guard !handle.isQuarantined else { return }
        exposures.end(handle.registration, key: handle.descriptor.key)
    }

    // MARK: - Transfers

    /// Copies from a peer's exposed memory, starting at `offset` of it, into `range` of `buffer`.
    /// `request` is the one that it is done for, for its trace.
    ///
    /// The fabric stops no transfer. One that is not over by its deadline throws `.timedOut`, one
    /// whose task is cancelled `.cancelled`; both keep the buffer until the fabric is done with it,
    /// and what is in it until then may change. If the memory is that of a caller, it gets no
    /// failure for an answer before that.
    ///
    /// - Throws: `.fabric(.badKey)` when the descriptor does not cover the range, does not allow
    ///   it, or is not valid any more.
    public func bulkGet(
        _ descriptor: BulkDescriptor, offset: Int = 0, into buffer: RegisteredBuffer,
        range: Range<Int>, deadline: Deadline = .standard, for request: RequestContext? = nil
    ) async throws(RPCError) {
        try await transfer(.read, descriptor, offset, buffer, range, deadline, request)
    }

    /// Copies `range` of `buffer` to a peer's exposed memory, starting at `offset` of it.
    ///
    /// Returns when the peer's processor sees the bytes. One that is not over by its deadline, or
    /// whose task is cancelled, throws as `bulkGet` does, but only when the fabric is done: until
    /// then, the peer must not be told that its memory is its own again. It also throws when the
    /// peer is evicted; no answer goes to that peer before the fabric is done.
    public func bulkPut(
        _ descriptor: BulkDescriptor, offset: Int = 0, from buffer: RegisteredBuffer,
        range: Range<Int>, deadline: Deadline = .standard, for request: RequestContext? = nil
    ) async throws(RPCError) {
        try await transfer(.write, descriptor, offset, buffer, range, deadline, request)
    }

    private func transfer(
        _ kind: BulkOperation.Kind, _ descriptor: BulkDescriptor, _ offset: Int,
        _ buffer: RegisteredBuffer, _ range: Range<Int>, _ deadline: Deadline,
        _ request: RequestContext?
    ) async throws(RPCError) {
        guard !Task.isCancelled else { throw .cancelled }
        let begun = xstream.now.nanoseconds
        let end = times(of: deadline, now: begun).0
        defer { noteBulk(for: request, since: begun) }
        if faults.isArmed { try await pass(.cartBulk) }
        // Part by part where the fabric moves no more at a time.
        let sizeMax = endpoint.transferSizeMax
        var (start, offset) = (range.lowerBound, offset)
        repeat {
            let part = start..<min(range.upperBound, start + min(sizeMax, range.count))
            let begun = try begin(kind, descriptor, offset, buffer, part, deadline: end)
            if let begun { try await finish(begun) }
            start = part.upperBound
            offset += part.count
        } while start < range.upperBound
    }

    /// A transfer is over, however it ended: it is part of the trace of its request.
    func noteBulk(for request: RequestContext?, since begun: UInt64) {
        guard let request, request.isTraced else { return }
        request.bulkTime += xstream.now.nanoseconds - begun
    }

    /// Begins a transfer of at most `Endpoint.transferSizeMax` bytes that `finish` waits for; nil
    /// when it is over already.
    func begin(
        _ kind: BulkOperation.Kind, _ descriptor: BulkDescriptor, _ offset: Int,
        _ buffer: RegisteredBuffer, _ range: Range<Int>, deadline: UInt64
    ) throws(RPCError) -> UInt32? {
        precondition(range.lowerBound >= 0 && range.upperBound <= buffer.count)
        guard !isClosed else { throw .closed }
        guard offset >= 0, UInt64(offset) <= descriptor.length,
            UInt64(range.count) <= descriptor.length - UInt64(offset),
            !descriptor.address.addingReportingOverflow(descriptor.length).overflow,
            descriptor.access.contains(kind == .read ? .remoteRead : .remoteWrite)
        else { throw .fabric(.badKey) }
        guard !range.isEmpty else { return nil }
        let remote = descriptor.address + UInt64(offset)
        if descriptor.owner == address, descriptor.instance == instance {
            try copyLocally(kind, descriptor.key, remote, buffer, range)
            return nil
        }
        let peer = try peerNumber(of: .address(descriptor.owner))
        _ = try handle(of: Int(peer))
        let operation = BulkOperation(
            kind: kind, peer: peer, instance: descriptor.instance,
            remote: RemoteMemory(address: remote, key: descriptor.key), buffer: buffer,
            range: range, deadline: deadline)
        guard let index = bulks.open(operation) else { throw .overloaded }
        arm(at: deadline)
        postBulk(index)
        return index
    }

    /// Waits until a transfer is over, or its caller gives up.
    func finish(_ index: UInt32) async throws(RPCError) {
        let position = Int(index)
        let range = bulks.operations[position].range
        let kind = bulks.operations[position].kind
        if !bulks.operations[position].isDone,
            bulks.operations[position].error == nil || kind == .write
        {
            let (mailbox, xstream) = (cancelMailbox, xstream)
            let token = Context.cancelToken(
                bulk: index, generation: bulks.operations[position].generation)
            await withTaskCancellationHandler {
                await SuspendedTask.suspend { bulks.operations[position].waiter = $0 }
            } onCancel: {
                mailbox.post(token)
                xstream.submit {}
            }
        }
        let error = bulks.operations[position].error
        if bulks.operations[position].isDone {
            bulks.close(index)
        } else {
            bulks.operations[position].isAbandoned = true
            if kind == .read { bulks.abandonedReads += 1 }
        }
        if let error {
            counts.bulksFailed += 1
            throw error
        }
        countBulk(kind, range.count)
    }

    private func countBulk(_ kind: BulkOperation.Kind, _ bytes: Int) {
        switch kind {
        case .read: counts.bulkReads += 1
        case .write: counts.bulkWrites += 1
        }
        counts.bulkBytes += bytes
    }

    /// Names a transfer in the mailbox of cancellations, where calls have a smaller number.
    static func cancelToken(bulk index: UInt32, generation: UInt32) -> UInt64 {
        1 << 63 | UInt64(index) << 32 | UInt64(generation)
    }

    /// The task of the transfer that `token` names was cancelled.
    func cancelBulk(_ token: UInt64) {
        let index = UInt32(token >> 32 & 0x7fff_ffff)
        guard bulks.operations[Int(index)].generation == UInt32(truncatingIfNeeded: token) else {
            return
        }
        abandonBulk(index, .cancelled)
    }

    /// A transfer is not wanted any more. Whoever reads goes on at once, and the buffer stays until
    /// the fabric is done with it. Whoever writes goes on when the fabric is done: his answer tells
    /// the peer that its memory is its own again. Or when the peer is taken for gone: then it is
    /// told nothing before the fabric is done (`replySlot`).
    private func abandonBulk(_ index: UInt32, _ error: RPCError, isGone: Bool = false) {
        let position = Int(index)
        guard bulks.operations[position].peer >= 0, !bulks.operations[position].isDone else {
            return
        }
        if bulks.operations[position].error == nil { bulks.operations[position].error = error }
        if isGone { bulks.peerIsGone(position) }
        guard isGone || bulks.operations[position].kind == .read else { return }
        let waiter = bulks.operations[position].waiter
        bulks.operations[position].waiter = nil
        waiter?.resume()
    }

    /// Transfers with a peer are not wanted any more.
    func abandonBulks(with peers: Set<Int32>, _ error: RPCError, isGone: Bool) {
        for index in bulks.operations.indices where peers.contains(bulks.operations[index].peer) {
            abandonBulk(UInt32(index), error, isGone: isGone)
        }
    }

    /// A transfer of the context with itself.
    private func copyLocally(
        _ kind: BulkOperation.Kind, _ key: UInt64, _ remote: UInt64, _ buffer: RegisteredBuffer,
        _ range: Range<Int>
    ) throws(RPCError) {
        guard let exposure = exposures.find(key), remote >= exposure.address,
            exposure.access.contains(kind == .read ? .remoteRead : .remoteWrite)
        else { throw .fabric(.badKey) }
        let start = exposure.range.lowerBound + Int(remote - exposure.address)
        guard start + range.count <= exposure.range.upperBound else { throw .fabric(.badKey) }
        let own = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[range])
        let other = unsafe UnsafeMutableRawBufferPointer(
            rebasing: exposure.registration.buffer.bytes[start..<start + range.count])
        switch kind {
        case .read: unsafe own.copyMemory(from: UnsafeRawBufferPointer(other))
        case .write: unsafe other.copyMemory(from: UnsafeRawBufferPointer(own))
        }
        countBulk(kind, range.count)
    }

    /// Hands a transfer to the fabric, now or when the provider takes it, or when others are over.
    private func postBulk(_ index: UInt32) {
        guard bulks.inFlight < options.bulksMax else {
            counts.bulksDelayed += 1
            bulks.queued.append(index)
            return
        }
        bulks.inFlight += 1
        if !tryBulk(index) {
            bulks.refused.append(index)
            armRetry()
        }
    }

    /// A transfer is no more with the fabric: the next may begin.
    private func bulkLeft() {
        bulks.inFlight -= 1
        while bulks.inFlight < options.bulksMax, let next = bulks.queued.popFirst() {
            if bulks.operations[Int(next)].error != nil {
                // Its caller gave up while it waited.
                bulkIsOver(next)
            } else {
                postBulk(next)
            }
        }
    }

    /// Returns false when the provider wants it again later.
    private func tryBulk(_ index: UInt32) -> Bool {
        let operation = bulks.operations[Int(index)]
        guard let buffer = operation.buffer, operation.error == nil else {
            // Its caller gave up while it waited to be posted: nothing is under way.
            bulkIsOver(index)
            bulkLeft()
            return true
        }
        let token = OperationToken(.bulk, index).rawValue
        do throws(RPCError) {
            guard let peer = try handle(of: Int(operation.peer)) else { return true }
            let memory = unsafe UnsafeMutableRawBufferPointer(
                rebasing: buffer.bytes[operation.range])
            do throws(FabricError) {
                switch operation.kind {
                case .read:
                    try unsafe endpoint.read(
                        into: memory, in: buffer.registration.pointer.pointee, from: peer,
                        remote: operation.remote, token: token)
                case .write:
                    try unsafe endpoint.write(
                        UnsafeRawBufferPointer(memory),
                        in: buffer.registration.pointer.pointee, to: peer,
                        remote: operation.remote, token: token)
                }
            } catch .tryAgain {
                return false
            } catch {
                throw RPCError(error)
            }
        } catch {
            bulkEnded(index, error)
        }
        return true
    }

    func retryRefusedBulks() {
        for _ in 0..<bulks.refused.count {
            guard let index = bulks.refused.popFirst() else { break }
            if !tryBulk(index) { bulks.refused.append(index) }
        }
    }

    /// The fabric is done with a transfer.
    func bulkCompleted(_ index: UInt32, error: FabricError?) {
        bulkEnded(index, error.map { RPCError($0) })
    }

    private func bulkEnded(_ index: UInt32, _ error: RPCError?) {
        if bulks.operations[Int(index)].error == nil { bulks.operations[Int(index)].error = error }
        bulkIsOver(index)
        bulkLeft()
    }

    /// Nothing of a transfer is under way.
    private func bulkIsOver(_ index: UInt32) {
        let position = Int(index)
        guard !bulks.operations[position].isAbandoned else {
            let operation = bulks.operations[position]
            bulks.close(index)
            if let release = operation.release { sendRelease(release, to: operation.peer) }
            guard operation.kind == .read else { return }
            bulks.abandonedReads -= 1
            if !bulks.heldFailures.isEmpty { releaseHeldFailures() }
            return
        }
        bulks.operations[position].isDone = true
        bulks.operations[position].buffer = nil
        let waiter = bulks.operations[position].waiter
        bulks.operations[position].waiter = nil
        waiter?.resume()
    }

    /// Nothing is read of a large reply any more: says so.
    func sendRelease(_ release: SpillRelease, to peer: Int32) {
        if let request = release.request { fetching.remove(request) }
        var header = WireHeader()
        header.kind = .release
        header.session = release.session
        header.requestID = release.number
        sendControl(header, to: peer)
    }

    /// Transfers whose deadline has passed: their callers go, their memory stays.
    func expireBulks() {
        for index in bulks.expired(now: pollTime) {
            abandonBulk(index, .timedOut)
        }
    }

    /// The endpoint is closed: no transfer will complete.
    func failBulks(_ error: RPCError) {
        for index in bulks.operations.indices {
            guard bulks.operations[index].peer >= 0 else { continue }
            if bulks.operations[index].error == nil { bulks.operations[index].error = error }
            bulkIsOver(UInt32(index))
        }
    }
}
