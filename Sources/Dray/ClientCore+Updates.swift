internal import CaRT
internal import DrayChecksums
internal import DrayFabric
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime

/// Changes of objects: which redundancy group, inline or bulk, checksums, resends.
extension ClientCore {
    func target(of object: DrayObject) -> ObjectTarget {
        ObjectTarget(
            pool: object.container.pool.id, container: object.container.id, object: object.id,
            mapVersion: object.container.pool.record.map.version,
            capability: object.container.capability)
    }

    func subject(_ object: DrayObject) -> String {
        "object \(object.id) of \(object.container.pool.label)/\(object.container.label)"
    }

    /// Where the data of an update stands.
    enum UpdateData {
        case none
        case pooled(RegisteredBuffer, count: Int)
        case callers(IOBuffer, Range<Int>)

        var bytes: UnsafeRawBufferPointer {
            switch self {
            case .none: unsafe UnsafeRawBufferPointer(start: nil, count: 0)
            case .pooled(let buffer, let count):
                unsafe UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<count])
            case .callers(let buffer, let range):
                unsafe UnsafeRawBufferPointer(rebasing: buffer.bytes[range])
            }
        }
    }

    // MARK: - Single changes

    func put(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8], value: [UInt8],
        condition: ObjectOperation.Condition
    ) async throws(DrayError) {
        var operation = ObjectOperation()
        operation.kind = .updateSingle
        operation.condition = condition
        operation.dkey = dkey
        operation.akey = akey
        guard !value.isEmpty else {
            try await update(object, operation, .none)
            return
        }
        let buffer = try makeBuffer(count: value.count)
        unsafe value.withUnsafeBytes { unsafe buffer.bytes.copyMemory(from: $0) }
        try await update(object, operation, .pooled(buffer, count: value.count))
    }

    func write(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8], offset: UInt64, buffer: IOBuffer,
        range: Range<Int>, recordSize: UInt32 = 1, condition: ObjectOperation.Condition,
        progress: ((Int) -> Void)? = nil
    ) async throws(DrayError) {
        // Whole records, unless one is longer than what can be written at once.
        let isLong = Int(recordSize) > ObjectLimits.dataMax
        let most = ObjectLimits.dataMax - (isLong ? 0 : ObjectLimits.dataMax % Int(recordSize))
        var start = range.lowerBound
        while start < range.upperBound {
            let end = min(range.upperBound, start + most)
            var operation = ObjectOperation()
            operation.kind = .updateArray
            // The first part makes what was absent.
            operation.condition = start == range.lowerBound ? condition : .none
            operation.dkey = dkey
            operation.akey = akey
            operation.offset = offset + UInt64(start - range.lowerBound)
            operation.recordSize = recordSize
            try await update(object, operation, .callers(buffer, start..<end))
            start = end
            progress?(start - range.lowerBound)
        }
    }

    func punch(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8]?,
        condition: ObjectOperation.Condition
    ) async throws(DrayError) {
        var operation = ObjectOperation()
        operation.kind = akey == nil ? .punchDkey : .punchAkey
        operation.condition = condition
        operation.dkey = dkey
        operation.akey = akey ?? []
        try await update(object, operation, .none)
    }

    /// All redundancy groups in one transaction.
    func punchObject(_ object: DrayObject) async throws(DrayError) {
        var operation = ObjectOperation()
        operation.kind = .punchObject
        var request = ObjectUpdateRequest()
        for group in 0..<(try layout(of: object).groupCount) {
            var part = ObjectPart()
            part.target = target(of: object)
            part.group = UInt16(group)
            part.operations = [operation]
            request.parts.append(part)
        }
        try await submit(request, .none, object, isRestarted: true)
    }

    private func update(
        _ object: DrayObject, _ operation: ObjectOperation, _ data: UpdateData
    ) async throws(DrayError) {
        var part = ObjectPart()
        part.target = target(of: object)
        part.group = UInt16(try layout(of: object).group(ofDkey: operation.dkey))
        part.operations = [operation]
        unsafe part.operations[0].describe(data.bytes, object.container.checksumType)
        var request = ObjectUpdateRequest()
        request.parts = [part]
        try await submit(request, data, object, isRestarted: true)
    }

    // MARK: - Transactions

    /// Runs a transaction: again under the same identity while its outcome is unknown, as a new one
    /// when it was aborted.
    ///
    /// - Parameters:
    ///   - object: that of the first part; for messages, and to find the leader.
    ///   - isRestarted: whether a conflict is no concern of the caller's.
    func submit(
        _ request: ObjectUpdateRequest, _ data: UpdateData, _ object: DrayObject,
        isRestarted: Bool, until end: OperationEnd? = nil
    ) async throws(DrayError) {
        try checkWritable(object)
        let leader = try layout(of: object).leader(ofGroup: Int(request.parts[0].group))
        let destination = Destination.rank(leader.rank, tag: leader.tag)
        let count = unsafe data.bytes.count
        guard count > ObjectLimits.inlineMax else {
            try await attempt(
                request, object, leader, isRestarted: isRestarted,
                until: end ?? operationEnd(in: object.container)
            ) { (request, deadline) async throws(RPCError) in
                _ = try await context.call(
                    ObjectProtocol.update, request, to: destination,
                    payload: unsafe count > 0 ? data.bytes : nil, deadline: deadline)
            }
            return
        }
        let handle = try expose(data, access: .remoteRead, object)
        var request = request
        request.bulk = handle.descriptor
        do throws(DrayError) {
            try await attempt(
                request, object, leader, isRestarted: isRestarted,
                until: end ?? operationEnd(in: object.container)
            ) { (request, deadline) async throws(RPCError) in
                _ = try await context.call(
                    ObjectProtocol.update, request, to: destination, exposing: [handle],
                    deadline: deadline)
            }
            context.withdraw(handle)
        } catch {
            // Other members than the leader may read it still; whatever they read, they check it.
            retire(handle)
            throw error
        }
    }

    private func attempt(
        _ request: ObjectUpdateRequest, _ object: DrayObject, _ leader: TargetAddress,
        isRestarted: Bool, until end: OperationEnd,
        _ call: (ObjectUpdateRequest, Deadline) async throws(RPCError) -> Void
    ) async throws(DrayError) {
        var request = request
        request.transaction = newTransaction()
        // Whether an earlier attempt under this identity may have been served.
        var isUnknown = false
        var earlier: RPCError?
        // Whether the leader has answered any attempt.
        var isHeard = false
        var backoff = Backoff()
        while true {
            let failure: RPCError
            do throws(RPCError) {
                try await call(request, end.deadline)
                return
            } catch {
                failure = error
            }
            let next = UpdateRetry(after: failure, isRestarted: isRestarted, wasUnknown: isUnknown)
            guard next != .giveUp, !Task.isCancelled, await pause(&backoff, until: end) else {
                if next != .giveUp, UpdateRetry.isConflict(failure) {
                    throw conflictError(object, isUnknown: isUnknown)
                }
                throw updateError(
                    ClientCore.cause(failure, after: earlier), object, leader, isHeard: isHeard,
                    isUnknown: isUnknown || ClientCore.isUnknown(failure))
            }
            if case .application = failure { isHeard = true }
            // After a conflict, an attempt that gets no answer is what it is.
            earlier = UpdateRetry.isConflict(failure) ? nil : failure
            switch next {
            case .giveUp: break
            case .again: isUnknown = isUnknown || ClientCore.isUnknown(failure)
            case .asNew:
                request.transaction = newTransaction()
                isUnknown = false
            }
            request.isResend = isUnknown
        }
    }

    /// No time was left to begin again after a conflict.
    private func conflictError(_ object: DrayObject, isUnknown: Bool) -> DrayError {
        let code: DrayError.Code = Task.isCancelled ? .cancelled : .timedOut
        var result = DrayError(
            code, "\(subject(object)): others change the same keys all the time")
        result.mayHaveHappened = isUnknown
        return result
    }

    private func updateError(
        _ error: RPCError, _ object: DrayObject, _ leader: TargetAddress, isHeard: Bool,
        isUnknown: Bool
    ) -> DrayError {
        var result =
            error == .timedOut && !isHeard
            ? DrayError(silent: leader.rank, subject(object), cause: error)
            : DrayError(error, subject(object), engine: leader.rank)
        if isUnknown {
            result.mayHaveHappened = true
        } else if !ClientCore.isUnknown(error), case .application = error, result.code != .device {
            result.mayHaveHappened = false
        }
        return result
    }

    /// Throws when the object is seen as it was, or its container was opened for reading only.
    func checkWritable(_ object: DrayObject) throws(DrayError) {
        try object.container.checkWritable(subject(object))
        if let epoch = object.container.epoch {
            throw DrayError(
                .invalidArgument,
                "\(subject(object)): what was at epoch \(epoch) can only be read")
        }
    }

    // MARK: - Memory

    func makeBuffer(count: Int) throws(DrayError) -> RegisteredBuffer {
        do throws(RPCError) {
            return try context.makeBuffer(count: count)
        } catch {
            throw DrayError(error, "transfer buffer")
        }
    }

    func expose(
        _ data: UpdateData, access: MemoryAccess, _ object: DrayObject
    ) throws(DrayError) -> BulkHandle {
        do throws(RPCError) {
            switch data {
            case .none: preconditionFailure("there is nothing to expose")
            case .pooled(let buffer, let count):
                return try context.expose(buffer, range: 0..<count, access: access)
            case .callers(let buffer, let range):
                return try context.expose(buffer, range: range, access: access)
            }
        } catch {
            throw DrayError(error, subject(object))
        }
    }

    /// How long memory stays exposed that somebody may still use.
    static let retirement: Duration = .seconds(10)

    /// Ends an exposure when nobody can be using it any more.
    func retire(_ handle: BulkHandle) {
        xstream.schedule(at: xstream.now + ClientCore.retirement) { [context] in
            context.withdraw(handle)
        }
    }
}

/// When an operation ends, by both clocks.
struct OperationEnd {
    var time: Instant
    var deadline: Deadline
}
