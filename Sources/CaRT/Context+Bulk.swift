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
        return try expose(buffer.buffer, range, access, owner: buffer)
    }

    /// Lets peers read or write `range` of `buffer` under a fresh key until `withdraw`.
    /// The handle keeps the buffer. The range must not be empty.
    public func expose(
        _ buffer: IOBuffer, range: Range<Int>? = nil, access: MemoryAccess
    ) throws(RPCError) -> BulkHandle {
        try expose(buffer, range ?? 0..<buffer.count, access, owner: buffer)
    }

    private func expose(
        _ buffer: IOBuffer, _ range: Range<Int>, _ access: MemoryAccess, owner: AnyObject
    ) throws(RPCError) -> BulkHandle {
        guard !isClosed else { throw .closed }
        precondition(!range.isEmpty && range.lowerBound >= 0 && range.upperBound <= buffer.count)
        let registration: Registration
        do throws(FabricError) {
            registration = try Registration(buffer, range: range, at: endpoint, access: access)
        } catch {
            throw RPCError(error)
        }
        var descriptor = BulkDescriptor()
        descriptor.owner = address
        descriptor.instance = instance
        descriptor.address = unsafe registration.pointer.pointee.remoteAddress
        descriptor.length = UInt64(range.count)
        descriptor.key = unsafe registration.pointer.pointee.key
        exposures.begin(registration, key: descriptor.key, range: range, access: access)
        return BulkHandle(
            descriptor: descriptor, registration: registration, range: range, access: access,
            owner: owner, exposures: exposures)
    }

    /// Ends an exposure. Harmless when it has ended, or is quarantined. Call it after the call
    /// that named the descriptor returned: the fabric does not stop a transfer that is under way.
    public func withdraw(_ handle: BulkHandle) {
        guard !handle.isQuarantined else { return }
        exposures.end(handle.registration, key: handle.descriptor.key)
    }

    // MARK: - Transfers

    /// Copies from a peer's exposed memory, starting at `offset` of it, into `range` of `buffer`.
    ///
    /// Cancelling the task does not stop a transfer. One that is not over by its deadline throws
    /// `.timedOut` and keeps the buffer until the fabric is done with it.
    /// - Throws: `.fabric(.badKey)` when the descriptor does not cover the range, or is not valid
    ///   any more.
    public func bulkGet(
        _ descriptor: BulkDescriptor, offset: Int = 0, into buffer: RegisteredBuffer,
        range: Range<Int>, deadline: Deadline = .standard
    ) async throws(RPCError) {
        try await transfer(.read, descriptor, offset, buffer, range, deadline)
    }

    /// Copies `range` of `buffer` to a peer's exposed memory, starting at `offset` of it.
    ///
    /// Returns when the peer's processor sees the bytes. Otherwise as `bulkGet`.
    public func bulkPut(
        _ descriptor: BulkDescriptor, offset: Int = 0, from buffer: RegisteredBuffer,
        range: Range<Int>, deadline: Deadline = .standard
    ) async throws(RPCError) {
        try await transfer(.write, descriptor, offset, buffer, range, deadline)
    }

    private func transfer(
        _ kind: BulkOperation.Kind, _ descriptor: BulkDescriptor, _ offset: Int,
        _ buffer: RegisteredBuffer, _ range: Range<Int>, _ deadline: Deadline
    ) async throws(RPCError) {
        precondition(range.lowerBound >= 0 && range.upperBound <= buffer.count)
        guard !isClosed else { throw .closed }
        guard offset >= 0, UInt64(offset) <= descriptor.length,
            UInt64(range.count) <= descriptor.length - UInt64(offset),
            !descriptor.address.addingReportingOverflow(descriptor.length).overflow
        else { throw .fabric(.badKey) }
        guard !range.isEmpty else { return }
        // Part by part where the fabric moves no more at a time.
        let part = endpoint.transferSizeMax
        if range.count > part {
            let end = Deadline.at(times(of: deadline, now: xstream.now.nanoseconds).1)
            for start in stride(from: 0, to: range.count, by: part) {
                let lower = range.lowerBound + start
                try await transfer(
                    kind, descriptor, offset + start, buffer,
                    lower..<min(lower + part, range.upperBound), end)
            }
            return
        }
        let remote = descriptor.address + UInt64(offset)
        if descriptor.owner == address, descriptor.instance == instance {
            try copyLocally(kind, descriptor.key, remote, buffer, range)
            return
        }
        let peer = try peerNumber(of: .address(descriptor.owner))
        _ = try handle(of: Int(peer))
        let now = xstream.now.nanoseconds
        let operation = BulkOperation(
            kind: kind, peer: peer, remote: RemoteMemory(address: remote, key: descriptor.key),
            buffer: buffer, range: range, deadline: times(of: deadline, now: now).0)
        guard let index = bulks.open(operation) else { throw .overloaded }
        arm(at: operation.deadline)
        postBulk(index)
        if !bulks.operations[Int(index)].isDone {
            await SuspendedTask.suspend { bulks.operations[Int(index)].waiter = $0 }
        }
        let error = bulks.operations[Int(index)].error
        // Not done: the deadline came first. The completion will free the operation.
        if bulks.operations[Int(index)].isDone { bulks.close(index) }
        if let error { throw error }
        counts.bulkBytes += range.count
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
        counts.bulkBytes += range.count
    }

    /// Hands a transfer to the fabric, now or when the provider takes it.
    private func postBulk(_ index: UInt32) {
        if !tryBulk(index) {
            bulks.refused.append(index)
            armRetry()
        }
    }

    /// Returns false when the provider wants it again later.
    private func tryBulk(_ index: UInt32) -> Bool {
        let operation = bulks.operations[Int(index)]
        guard let buffer = operation.buffer, operation.error == nil else {
            // Its deadline passed while it waited to be posted: nothing is under way.
            bulks.close(index)
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
        let position = Int(index)
        guard bulks.operations[position].error == nil else {
            // The caller left when the deadline passed.
            bulks.close(index)
            return
        }
        bulks.operations[position].error = error
        bulks.operations[position].isDone = true
        bulks.operations[position].buffer = nil
        let waiter = bulks.operations[position].waiter
        bulks.operations[position].waiter = nil
        waiter?.resume()
    }

    /// Transfers whose deadline has passed: their callers go, their memory stays.
    func expireBulks() {
        for index in bulks.expired(now: pollTime) {
            let waiter = bulks.operations[Int(index)].waiter
            bulks.operations[Int(index)].error = .timedOut
            bulks.operations[Int(index)].waiter = nil
            waiter?.resume()
        }
    }

    /// The endpoint is closed: no transfer will complete.
    func failBulks(_ error: RPCError) {
        for index in bulks.operations.indices {
            let waiter = bulks.operations[index].waiter
            bulks.operations[index].error = error
            bulks.operations[index].isDone = true
            bulks.operations[index].waiter = nil
            bulks.operations[index].buffer = nil
            waiter?.resume()
        }
    }
}
