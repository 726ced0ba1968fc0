internal import CaRT
internal import DrayChecksums
internal import DrayPlacement
internal import DrayProtocol
public import DrayRuntime

/// Reads and changes of several objects that happen at once or not at all: `Container.transaction`.
///
/// Serialisable, and strictly so: a transaction that has committed happened at one moment between
/// its beginning and its end, and no other change or transaction came in between. What it reads
/// belongs to one moment too (its snapshot), even if it is restarted later. It sees its own
/// changes of single values. Objects of a container at an epoch are read as they were, beside all
/// that. Changes are kept here and sent when the transaction commits, together
/// at most 1 MiB of data.
public struct Transaction: Sendable {
    let state: XStreamBound<TransactionState>
    let cluster: Cluster

    /// The single value, or nil when there is none. With a condition, not after the transaction
    /// has changed anything else below the dkey itself.
    ///
    /// - Throws: `notFound` when the condition does not hold. `conflict` when something that was
    ///   read has changed: let it pass, and the transaction begins again.
    public func get(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8],
        condition: DrayObject.ReadCondition = .none
    ) async throws(DrayError) -> [UInt8]? {
        try object.checkKeys(dkey: dkey, akey: akey)
        return try await reading { (core, state) throws(DrayError) in
            if object.container.epoch != nil {
                return try await core.get(object, dkey: dkey, akey: akey, condition: condition)
            }
            if let own = try state.written(object, dkey: dkey, akey: akey),
                own != nil || condition == .none
            {
                return own
            }
            try state.check(condition, object, dkey: dkey)
            return try await core.get(
                object, dkey: dkey, akey: akey, condition: condition, in: state)
        }
    }

    /// `range.count` bytes of the array from `range.lowerBound` on. What was never written is zero.
    /// Not after the transaction has written to the array itself; with a condition, not after it
    /// has changed anything below the dkey.
    ///
    /// - Throws: `notFound` when the condition does not hold, `conflict` as `get`.
    public func read(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8], range: Range<UInt64>,
        condition: DrayObject.ReadCondition = .none
    ) async throws(DrayError) -> [UInt8] {
        try await read(
            object, dkey: dkey, akey: akey, range: range, recordSize: 1, condition: condition)
    }

    private func read(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8], range: Range<UInt64>,
        recordSize: UInt32, condition: DrayObject.ReadCondition
    ) async throws(DrayError) -> [UInt8] {
        try object.checkKeys(dkey: dkey, akey: akey)
        guard range.count <= ObjectLimits.dataMax else {
            throw DrayError(
                .invalidArgument,
                "a transaction reads at most \(ObjectLimits.dataMax) bytes at once")
        }
        guard !range.isEmpty else { return [] }
        return try await reading { (core, state) throws(DrayError) in
            let isPast = object.container.epoch != nil
            if !isPast {
                _ = try state.written(object, dkey: dkey, akey: akey)
                try state.check(condition, object, dkey: dkey)
            }
            let buffer = IOBuffer(count: range.count)
            try await core.read(
                object, dkey: dkey, akey: akey, offset: range.lowerBound, buffer: buffer,
                range: 0..<range.count, recordSize: recordSize, condition: condition,
                in: isPast ? nil : state)
            return buffer.array(0..<range.count)
        }
    }

    /// Records of an array; else as for an array of bytes.
    public func read(
        _ array: RecordArray, records: Range<UInt64>, condition: DrayObject.ReadCondition = .none
    ) async throws(DrayError) -> [UInt8] {
        try await read(
            array.object, dkey: array.dkey, akey: array.akey, range: try array.bytes(of: records),
            recordSize: array.recordSize, condition: condition)
    }

    /// At most `limit` dkeys of a range, in its order, after `key`, and whether there are more. Not
    /// after the transaction has changed the object itself.
    public func listDkeys(
        _ object: DrayObject, in range: KeyRange = .all, after key: [UInt8]? = nil,
        limit: Int = 1000
    ) async throws(DrayError) -> (keys: [[UInt8]], more: Bool) {
        try object.checkBounds(range, key)
        return try await reading { (core, state) throws(DrayError) in
            if object.container.epoch != nil {
                return try await core.listDkeys(object, in: range, after: key, limit: limit)
            }
            guard !state.hasWritten(object) else {
                throw DrayError(
                    .invalidArgument, "a transaction cannot list an object that it has changed")
            }
            return try await core.listDkeys(
                object, in: range, after: key, limit: limit, for: state)
        }
    }

    /// Stores a single value when the transaction commits, if the condition holds then.
    public func put(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8], value: [UInt8],
        condition: DrayObject.Condition = .none
    ) async throws(DrayError) {
        var operation = ObjectOperation()
        operation.kind = .updateSingle
        operation.condition = condition.wire
        operation.dkey = dkey
        operation.akey = akey
        try await add(object, operation, value)
    }

    /// Writes `bytes` into the array of bytes, from byte `offset` on, when the transaction commits,
    /// if the condition holds then. No bytes are no write.
    public func write(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8], offset: UInt64, bytes: [UInt8],
        condition: DrayObject.Condition = .none
    ) async throws(DrayError) {
        guard !bytes.isEmpty else { return }
        var operation = ObjectOperation()
        operation.kind = .updateArray
        operation.condition = condition.wire
        operation.dkey = dkey
        operation.akey = akey
        operation.offset = offset
        try await add(object, operation, bytes)
    }

    /// Writes whole records into an array, from `record` on; else as for an array of bytes.
    public func write(
        _ array: RecordArray, at record: UInt64, bytes: [UInt8],
        condition: DrayObject.Condition = .none
    ) async throws(DrayError) {
        let offset = try array.offset(of: record, byteCount: bytes.count)
        guard !bytes.isEmpty else { return }
        var operation = ObjectOperation()
        operation.kind = .updateArray
        operation.condition = condition.wire
        operation.dkey = array.dkey
        operation.akey = array.akey
        operation.offset = offset
        operation.recordSize = array.recordSize
        try await add(array.object, operation, bytes)
    }

    /// Removes what stands under the akey, or under the whole dkey when `akey` is nil, when the
    /// transaction commits, if the condition holds then. Conditions as for `DrayObject.remove`.
    public func remove(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8]? = nil,
        condition: DrayObject.Condition = .none
    ) async throws(DrayError) {
        var operation = ObjectOperation()
        operation.kind = akey == nil ? .punchDkey : .punchAkey
        operation.condition = condition.wire
        operation.dkey = dkey
        operation.akey = akey ?? []
        try await add(object, operation, [])
    }

    /// Removes a whole object when the transaction commits. With `.update` there must be something
    /// in it, which is looked up now: not after the transaction has changed the object itself.
    ///
    /// - Throws: `notFound` when the condition does not hold, `invalidArgument` for others,
    ///   `conflict` as `get`.
    public func punch(
        _ object: DrayObject, condition: DrayObject.Condition = .none
    ) async throws(DrayError) {
        switch condition {
        case .none: break
        case .update:
            // One redundancy group may be empty where others are not.
            guard try await !listDkeys(object, limit: 1).keys.isEmpty else {
                throw DrayError(.notFound, "there is nothing in object \(object.id)")
            }
        case .insert, .insertDkey, .updateDkey:
            throw DrayError(.invalidArgument, "an object has no such condition")
        }
        var operation = ObjectOperation()
        operation.kind = .punchObject
        try await add(object, operation, [])
    }

    private func add(
        _ object: DrayObject, _ operation: ObjectOperation, _ data: [UInt8]
    ) async throws(DrayError) {
        try object.check(operation)
        try await cluster.onCore { core throws(DrayError) in try core.checkWritable(object) }
        let (_, overflow) = operation.offset.addingReportingOverflow(UInt64(data.count))
        guard !overflow else { throw DrayError(.invalidArgument, "offset out of range") }
        let write = TransactionState.Write(object, operation, data)
        let state = state
        try await cluster.onCore { _ throws(DrayError) in try state.value.add(write) }
    }

    private func reading<Value: Sendable>(
        _ body: @escaping @Sendable (ClientCore, TransactionState) async throws(DrayError) -> Value
    ) async throws(DrayError) -> Value {
        let state = state
        return try await cluster.onCore { core throws(DrayError) in
            do throws(DrayError) {
                return try await body(core, state.value)
            } catch {
                if error.code == .conflict { state.value.hasConflict = true }
                throw error
            }
        }
    }
}

extension Container {
    /// Runs `body` as a transaction: all that it changes happens at once, or nothing does.
    ///
    /// When something that it has read was changed by others before it could commit, `body` runs
    /// again, after a pause that grows; so it should do nothing else than read and change through
    /// the transaction. Objects of other containers and pools of the cluster may take part.
    ///
    /// - Throws: what `body` throws; then nothing was changed. `exists` and `notFound` when a
    ///   condition does not hold. `unavailable` and `timedOut` as for other changes.
    public func transaction<Value: Sendable>(
        _ body: (Transaction) async throws -> Value
    ) async throws -> Value {
        let cluster = pool.cluster
        let container = self
        let end = await cluster.onCore { core in core.operationEnd(in: container) }
        var attempts = 0
        while true {
            let state = await cluster.onCore { core in
                XStreamBound(TransactionState(until: end), to: core.xstream)
            }
            do {
                let value = try await body(Transaction(state: state, cluster: cluster))
                try await cluster.onCore { core throws(DrayError) in
                    try await core.commit(state.value)
                }
                return value
            } catch let error as DrayError where error.code == .conflict {
                let attempt = attempts
                attempts += 1
                let pause = await cluster.onCore { core in core.pause(attempt, until: end) }
                guard let pause, !Task.isCancelled else {
                    let code: DrayError.Code = Task.isCancelled ? .cancelled : .timedOut
                    var last = DrayError(
                        code, "the transaction conflicts with others all the time; \(error)",
                        cause: error.cause)
                    last.mayHaveHappened = false
                    throw last
                }
                await cluster.onCore { core in await core.xstream.sleep(for: pause) }
            }
        }
    }
}

extension DrayObject {
    /// One change of several that happen together.
    public struct Change: Sendable {
        let operation: ObjectOperation
        let data: [UInt8]

        /// Stores a single value of at most `valueMax` bytes.
        public static func put(
            dkey: [UInt8], akey: [UInt8], value: [UInt8], condition: Condition = .none
        ) -> Change {
            var operation = ObjectOperation()
            operation.kind = .updateSingle
            operation.condition = condition.wire
            operation.dkey = dkey
            operation.akey = akey
            return Change(operation: operation, data: value)
        }

        /// Writes `bytes`, which are not empty, into the array of bytes, from byte `offset` on.
        public static func write(
            dkey: [UInt8], akey: [UInt8], offset: UInt64, bytes: [UInt8],
            condition: Condition = .none
        ) -> Change {
            var operation = ObjectOperation()
            operation.kind = .updateArray
            operation.condition = condition.wire
            operation.dkey = dkey
            operation.akey = akey
            operation.offset = offset
            return Change(operation: operation, data: bytes)
        }

        /// Writes whole records, at least one, into an array of records of `recordSize` bytes,
        /// from `record` on.
        public static func write(
            dkey: [UInt8], akey: [UInt8], recordSize: UInt32, at record: UInt64, bytes: [UInt8],
            condition: Condition = .none
        ) -> Change {
            var operation = ObjectOperation()
            operation.kind = .updateArray
            operation.condition = condition.wire
            operation.dkey = dkey
            operation.akey = akey
            let (offset, overflow) = record.multipliedReportingOverflow(by: UInt64(recordSize))
            // An offset that nothing fits behind is refused.
            operation.offset = overflow ? .max : offset
            operation.recordSize = recordSize
            return Change(operation: operation, data: bytes)
        }

        /// Removes what stands under the akey, or under the whole dkey when `akey` is nil.
        /// Conditions as for `DrayObject.remove`.
        public static func remove(
            dkey: [UInt8], akey: [UInt8]? = nil, condition: Condition = .none
        ) -> Change {
            var operation = ObjectOperation()
            operation.kind = akey == nil ? .punchDkey : .punchAkey
            operation.condition = condition.wire
            operation.dkey = dkey
            operation.akey = akey ?? []
            return Change(operation: operation, data: [])
        }
    }

    /// Makes several changes at once: all of them, or, when a condition does not hold, none.
    ///
    /// - Throws: `exists` or `notFound` for conditions, and what `put` throws.
    public func update(_ changes: [Change]) async throws(DrayError) {
        guard !changes.isEmpty else { return }
        let object = self
        for change in changes { try check(change.operation) }
        try await container.pool.cluster.onCore { core throws(DrayError) in
            let state = TransactionState(until: core.operationEnd(in: object.container))
            for change in changes {
                try state.add(TransactionState.Write(object, change.operation, change.data))
            }
            try await core.commit(state, isRestarted: true)
        }
    }
}

extension ClientCore {
    /// Commits a transaction. Throws `conflict` when it has to begin again.
    func commit(_ state: TransactionState, isRestarted: Bool = false) async throws(DrayError) {
        guard !state.hasConflict else {
            throw DrayError(.conflict, "something that the transaction has read has changed")
        }
        let (request, data, first) = try state.request(self)
        guard let first else { return }
        guard !state.writes.isEmpty else {
            try await validate(request, first, until: state.end)
            return
        }
        guard !data.isEmpty else {
            try await submit(request, .none, first, isRestarted: isRestarted, until: state.end)
            return
        }
        let buffer = try makeBuffer(count: data.count)
        unsafe data.withUnsafeBytes { unsafe buffer.bytes.copyMemory(from: $0) }
        try await submit(
            request, .pooled(buffer, count: data.count), first, isRestarted: isRestarted,
            until: state.end)
    }

    /// Asks the leaders of what a transaction without changes has read whether it is all still so.
    /// All was read before the first of them is asked, so then all of it was so at one moment.
    private func validate(
        _ request: ObjectUpdateRequest, _ object: DrayObject, until end: OperationEnd
    ) async throws(DrayError) {
        let map = object.container.pool.record.map
        _ = try await gather(request.parts) { (core, part) throws(DrayError) in
            var message = request
            message.parts = [part]
            let question = message
            guard
                let leader = core.layouts.layout(
                    of: part.target.object, pool: part.target.pool, in: map
                )?.leader(ofGroup: Int(part.group))
            else { throw DrayError(.internalError, "a layout is not known any more") }
            try await core.retrying(core.subject(object), until: end) {
                (deadline) async throws(RPCError) in
                _ = try await core.context.call(
                    ObjectProtocol.validate, question,
                    to: .rank(leader.rank, tag: leader.tag), deadline: deadline)
            }
        }
    }

    /// The pause before a transaction begins again, after so many; nil when its time is over.
    func pause(_ attempts: Int, until end: OperationEnd) -> Duration? {
        var backoff = Backoff()
        var pause = Duration.zero
        for _ in 0...min(attempts, 8) { pause = backoff.next(using: &entropy) }
        return xstream.now + pause < end.time ? pause : nil
    }
}
