internal import CaRT
internal import DrayChecksums
internal import DrayFabric
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime

/// Reads of objects: from the leader of the redundancy group, from another replica when it does
/// not answer; inline or bulk; checksums.
extension ClientCore {
    // MARK: - Failover

    /// How long one replica may take before the next one is asked.
    private static let replicaTimeout: Duration = .seconds(1)
    /// How long a replica that did not answer is asked last.
    private static let suspicionTime: Duration = .seconds(1)

    /// Calls one replica after another until one answers, or the operation's time is over. Reads of
    /// transactions ask the leader alone.
    private func reading<Value>(
        _ object: DrayObject, group: Int, in transaction: TransactionState? = nil,
        _ body: (Destination, Deadline) async throws(RPCError) -> Value
    ) async throws(DrayError) -> Value {
        let epoch = object.container.epoch
        // Others may not have yet what has an epoch of a moment ago, unless a snapshot waited.
        let leaderOnly = transaction != nil || epoch != nil && !object.container.isHeld
        let end = transaction?.end ?? operationEnd(in: object.container)
        let members = Array(try layout(of: object).members(ofGroup: group))
        var backoff = Backoff()
        // The last replica that was damaged; the device that it names is one of its engine.
        var damage: (error: RPCError, engine: UInt32)?
        var earlier: RPCError?
        while true {
            var failure = RPCError.unreachable
            var engine = members[0].rank
            var areTooOld = epoch != nil
            for member in leaderOnly ? [members[0]] : trustedFirst(members) {
                var deadline = end.deadline
                if members.count > 1, !leaderOnly {
                    let limit = xstream.now + ClientCore.replicaTimeout
                    if limit < end.time { deadline = .after(ClientCore.replicaTimeout) }
                }
                do throws(RPCError) {
                    return try await body(.rank(member.rank, tag: member.tag), deadline)
                } catch {
                    failure = error
                    engine = member.rank
                }
                if !ClientCore.isTooOld(failure) { areTooOld = false }
                if ClientCore.isDamage(failure) { damage = (failure, member.rank) }
                guard members.count > 1 else { break }
                if ClientCore.isSilence(failure) {
                    suspects[member] = xstream.now + ClientCore.suspicionTime
                }
                guard ClientCore.mayAskAnother(failure), xstream.now < end.time, !Task.isCancelled
                else {
                    throw DrayError(
                        ClientCore.cause(failure, after: earlier), subject(object), engine: engine)
                }
            }
            if areTooOld, let epoch {
                throw DrayError(tooOldAt: epoch, subject(object), cause: failure)
            }
            let isFinal =
                members.count == 1 || leaderOnly
                ? !ClientCore.mayRetry(failure) : damage != nil
            guard !isFinal, !Task.isCancelled, await pause(&backoff, until: end) else {
                if let damage {
                    throw DrayError(damage.error, "\(subject(object)), engine \(damage.engine)")
                }
                throw DrayError(
                    ClientCore.cause(failure, after: earlier), subject(object), engine: engine)
            }
            earlier = failure
        }
    }

    /// The members in their order, but those last that did not answer lately.
    private func trustedFirst(_ members: [TargetAddress]) -> [TargetAddress] {
        guard !suspects.isEmpty else { return members }
        let now = xstream.now
        suspects = suspects.filter { $0.value > now }
        return members.filter { suspects[$0] == nil } + members.filter { suspects[$0] != nil }
    }

    private static func isSilence(_ error: RPCError) -> Bool {
        switch error {
        case .unreachable, .timedOut, .peerRestarted, .closed: true
        default: false
        }
    }

    static func isTooOld(_ error: RPCError) -> Bool {
        guard case .application(let code, _) = error else { return false }
        return code == ServiceCode.tooOld.rawValue
    }

    private static func isDamage(_ error: RPCError) -> Bool {
        guard case .application(let code, _) = error else { return false }
        return code == ServiceCode.corrupt.rawValue || code == ServiceCode.device.rawValue
    }

    /// Whether another replica may do better.
    private static func mayAskAnother(_ error: RPCError) -> Bool {
        switch error {
        case .unreachable, .timedOut, .peerRestarted, .overloaded, .noReply, .closed, .fabric,
            .clockSkew:
            true
        case .application(let code, _):
            switch ServiceCode(rawValue: code) {
            case .busy, .undecided, .staleMap, .unavailable, .corrupt, .device, .tooOld: true
            case .notFound, .exists, .noSpace, .invalidArgument, .aborted, .conflict,
                .notPermitted, nil:
                false
            }
        case .cancelled, .unknownProcedure, .protocolVersion, .badMessage, .wrongRank, .wrongTag,
            .staleGroup, .groupVersion, .messageTooLong:
            false
        }
    }

    // MARK: - Fetch

    private func group(_ object: DrayObject, _ dkey: [UInt8]) throws(DrayError) -> Int {
        try layout(of: object).group(ofDkey: dkey)
    }

    func get(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8], condition: DrayObject.ReadCondition,
        in transaction: TransactionState? = nil
    ) async throws(DrayError) -> [UInt8]? {
        var request = ObjectFetchRequest()
        request.target = target(of: object)
        request.checksumType = object.container.checksumType
        request.kind = .single
        request.condition = condition.wire
        request.dkey = dkey
        request.akey = akey
        request.length = UInt32(ObjectLimits.inlineMax)
        var value: [UInt8] = []
        let first = unsafe try await fetch(request, object, transaction) { payload in
            unsafe value = [UInt8](copying: payload)
        }
        guard first.found else { return nil }
        guard first.size > UInt64(value.count) else { return value }
        // Too large for a message: once more, into memory that the target writes to.
        var capacity = Int(clamping: first.size)
        while true {
            guard capacity <= ObjectLimits.dataMax else {
                throw DrayError(.internalError, "\(subject(object)): impossible value size")
            }
            request.length = UInt32(capacity)
            let (reply, buffer) = try await fetchBulk(request, object, transaction)
            guard reply.found else { return nil }
            if reply.size <= UInt64(capacity) {
                let bytes = unsafe UnsafeRawBufferPointer(
                    rebasing: buffer.bytes[0..<Int(reply.size)])
                try unsafe verify(bytes, reply.checksums, object)
                return unsafe [UInt8](copying: bytes)
            }
            capacity = Int(clamping: reply.size)
        }
    }

    func read(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8], offset: UInt64, buffer: IOBuffer,
        range: Range<Int>, recordSize: UInt32 = 1, condition: DrayObject.ReadCondition,
        in transaction: TransactionState? = nil, progress: ((Int) -> Void)? = nil
    ) async throws(DrayError) {
        var request = ObjectFetchRequest()
        request.target = target(of: object)
        request.checksumType = object.container.checksumType
        request.kind = .array
        request.condition = condition.wire
        request.dkey = dkey
        request.akey = akey
        request.recordSize = recordSize
        let isReplicated = try layout(of: object).replicaCount > 1
        var start = range.lowerBound
        while start < range.upperBound {
            let end = min(range.upperBound, start + ObjectLimits.dataMax)
            request.offset = offset + UInt64(start - range.lowerBound)
            request.length = UInt32(end - start)
            let part = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[start..<end])
            if part.count <= ObjectLimits.inlineMax {
                var count = 0
                _ = unsafe try await fetch(request, object, transaction) { payload in
                    count = payload.count
                    if payload.count == part.count { unsafe part.copyMemory(from: payload) }
                }
                guard count == part.count else {
                    throw DrayError(.internalError, "\(subject(object)): short read")
                }
            } else if isReplicated {
                let (reply, bulk) = try await fetchBulk(request, object, transaction)
                let bytes = unsafe UnsafeRawBufferPointer(rebasing: bulk.bytes[0..<part.count])
                try unsafe verify(bytes, reply.checksums, object)
                unsafe part.copyMemory(from: bytes)
            } else {
                let handle = try expose(
                    .callers(buffer, start..<end), access: .remoteWrite, object)
                defer { context.withdraw(handle) }
                var bulkRequest = request
                bulkRequest.bulk = handle.descriptor
                let reply = unsafe try await fetch(
                    bulkRequest, object, transaction, exposing: handle)
                try unsafe verify(UnsafeRawBufferPointer(part), reply.checksums, object)
            }
            start = end
            progress?(start - range.lowerBound)
        }
    }

    /// The end of an array, in bytes, and its record size: 0 when there is none. Throws when it
    /// has another size than `recordSize`; 0: any.
    func arrayShape(
        _ object: DrayObject, dkey: [UInt8], akey: [UInt8], recordSize: UInt32,
        condition: DrayObject.ReadCondition = .none
    ) async throws(DrayError) -> (end: UInt64, recordSize: UInt32) {
        var request = ObjectFetchRequest()
        request.target = target(of: object)
        request.kind = .arrayEnd
        request.condition = condition.wire
        request.dkey = dkey
        request.akey = akey
        request.recordSize = recordSize
        let reply = unsafe try await fetch(request, object, nil)
        return (reply.size, reply.recordSize)
    }

    /// Fetches; `onPayload` gets the bytes that came with the reply, after their checksums were
    /// verified.
    private func fetch(
        _ request: ObjectFetchRequest, _ object: DrayObject, _ transaction: TransactionState?,
        exposing handle: BulkHandle? = nil,
        onPayload: ((UnsafeRawBufferPointer) -> Void)? = nil
    ) async throws(DrayError) -> ObjectFetchReply {
        var received: [UInt32] = []
        var request = request
        request.snapshot = transaction?.snapshotToAsk ?? 0
        request.epoch = object.container.epoch ?? 0
        let group = try group(object, request.dkey)
        let message = request
        let reply = try await reading(object, group: group, in: transaction) {
            (destination, deadline) async throws(RPCError) -> ObjectFetchReply in
            received = []
            // Who was asked before may still write there.
            guard handle?.isQuarantined != true else { throw .unreachable }
            return try await context.call(
                ObjectProtocol.fetch, message, to: destination,
                exposing: handle.map { [$0] } ?? [], deadline: deadline,
                onReplyPayload: unsafe onPayload.map { onPayload in
                    { payload in
                        unsafe received = message.checksumType.checksums(of: payload)
                        unsafe onPayload(payload)
                    }
                })
        }
        if handle == nil, received != reply.checksums { throw corrupt(object) }
        transaction?.didRead(
            object, group: group, dkey: request.dkey, snapshot: reply.snapshot,
            instance: reply.instance)
        try check(reply, request, object)
        return reply
    }

    /// Fetches into memory of the client's own: another piece for each replica that is asked, since
    /// one that did not answer may still write.
    private func fetchBulk(
        _ request: ObjectFetchRequest, _ object: DrayObject, _ transaction: TransactionState?
    ) async throws(DrayError) -> (ObjectFetchReply, RegisteredBuffer) {
        var request = request
        request.snapshot = transaction?.snapshotToAsk ?? 0
        request.epoch = object.container.epoch ?? 0
        let group = try group(object, request.dkey)
        let length = Int(request.length)
        let (reply, buffer) = try await reading(
            object, group: group, in: transaction
        ) {
            (destination, deadline) async throws(RPCError) -> (ObjectFetchReply, RegisteredBuffer)
            in
            let buffer = try context.makeBuffer(count: length)
            let handle = try context.expose(buffer, range: 0..<length, access: .remoteWrite)
            defer { context.withdraw(handle) }
            var message = request
            message.bulk = handle.descriptor
            let reply = try await context.call(
                ObjectProtocol.fetch, message, to: destination, exposing: [handle],
                deadline: deadline, options: CallOptions(leavesMemory: true))
            return (reply, buffer)
        }
        transaction?.didRead(
            object, group: group, dkey: request.dkey, snapshot: reply.snapshot,
            instance: reply.instance)
        try check(reply, request, object)
        return (reply, buffer)
    }

    /// Throws when the condition of a fetch does not hold.
    private func check(
        _ reply: ObjectFetchReply, _ request: ObjectFetchRequest, _ object: DrayObject
    ) throws(DrayError) {
        guard reply.isRefused else { return }
        let what = request.condition == .dkeyExists ? "dkey" : "akey"
        throw DrayError(.notFound, "\(subject(object)): there is no such \(what)")
    }

    private func verify(
        _ bytes: UnsafeRawBufferPointer, _ checksums: [UInt32], _ object: DrayObject
    ) throws(DrayError) {
        guard unsafe object.container.checksumType.checksums(of: bytes) == checksums else {
            throw corrupt(object)
        }
    }

    private func corrupt(_ object: DrayObject) -> DrayError {
        DrayError(.corrupt, "\(subject(object)): data was damaged on its way; try again")
    }

    // MARK: - Enumeration

    func listAkeys(
        _ object: DrayObject, dkey: [UInt8], in range: KeyRange, after: [UInt8]?, limit: Int
    ) async throws(DrayError) -> (keys: [[UInt8]], more: Bool) {
        var request = ObjectEnumerateRequest()
        request.target = target(of: object)
        request.dkey = dkey
        request.range = range
        request.after = after
        request.limit = UInt32(clamping: min(limit, ObjectLimits.pageMax))
        let reply = try await enumerate(request, group: try group(object, dkey), object, nil)
        return (reply.keys, reply.more)
    }

    /// A page of every redundancy group, merged. Keys beyond the end of any group's page are left
    /// for the next call, since that group may have some before them.
    func listDkeys(
        _ object: DrayObject, in range: KeyRange, after: [UInt8]?, limit: Int,
        for transaction: TransactionState? = nil
    ) async throws(DrayError) -> (keys: [[UInt8]], more: Bool) {
        var request = ObjectEnumerateRequest()
        request.target = target(of: object)
        request.range = range
        request.after = after
        request.limit = UInt32(clamping: min(limit, ObjectLimits.pageMax))
        var keys: [[UInt8]] = []
        var bound: [UInt8]?
        var more = false
        for page in try await enumerateAll(request, object, transaction) {
            keys += page.keys
            if page.more {
                more = true
                guard let last = page.keys.last else { continue }
                if bound.map({ range.precedes(last, $0) }) ?? true { bound = last }
            }
        }
        keys.sort { range.precedes($0, $1) }
        if let bound { keys.removeAll { range.precedes(bound, $0) } }
        if keys.count > limit {
            keys.removeLast(keys.count - limit)
            more = true
        }
        return (keys, more)
    }

    private func enumerateAll(
        _ request: ObjectEnumerateRequest, _ object: DrayObject, _ transaction: TransactionState?
    ) async throws(DrayError) -> [ObjectEnumerateReply] {
        let groups = try layout(of: object).groupCount
        if let transaction {
            // One after the other: the first chooses the snapshot.
            var pages: [ObjectEnumerateReply] = []
            for group in 0..<groups {
                pages.append(try await enumerate(request, group: group, object, transaction))
            }
            return pages
        }
        return try await gather(Array(0..<groups)) { (core, group) throws(DrayError) in
            try await core.enumerate(request, group: group, object, nil)
        }
    }

    private func enumerate(
        _ request: ObjectEnumerateRequest, group: Int, _ object: DrayObject,
        _ transaction: TransactionState?
    ) async throws(DrayError) -> ObjectEnumerateReply {
        var request = request
        request.snapshot = transaction?.snapshotToAsk ?? 0
        request.epoch = object.container.epoch ?? 0
        let message = request
        let reply = try await reading(object, group: group, in: transaction) {
            (destination, deadline) async throws(RPCError) -> ObjectEnumerateReply in
            try await context.call(
                ObjectProtocol.enumerate, message, to: destination, deadline: deadline)
        }
        transaction?.didRead(
            object, group: group, dkey: nil, snapshot: reply.snapshot, instance: reply.instance)
        return reply
    }
}

extension DrayError {
    /// What was visible at an epoch is not kept any more.
    init(tooOldAt epoch: UInt64, _ subject: String, cause: RPCError) {
        self.init(
            .tooOld,
            "\(subject): what was at epoch \(epoch) is not kept any more; "
                + "a snapshot would have kept it", cause: cause)
    }
}
