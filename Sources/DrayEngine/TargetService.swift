internal import CaRT
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime
internal import Logging
internal import VOS

/// One target: the object protocol on its store. Confined to its xstream.
final class TargetService {
    private let index: Int
    private let configuration: EngineConfiguration
    private let world: World
    private let clock: HybridLogicalClock
    private let xstream: XStream
    let vos: VOS
    private(set) var context: Context?

    /// What the target knows of pools and containers, as the system xstream gave it last.
    private var pools: [UniqueID: PoolRecord] = [:]
    private var containers: [UniqueID: ContainerRecord] = [:]
    /// Bytes of updates under way, which a pool's usage does not count yet.
    private(set) var promised: [UniqueID: UInt64] = [:]

    init(
        index: Int, _ configuration: EngineConfiguration, world: World,
        clock: HybridLogicalClock, xstream: XStream
    ) async throws(EngineError) {
        self.index = index
        self.configuration = configuration
        self.world = world
        self.clock = clock
        self.xstream = xstream
        vos = try await openStore(
            configuration, target: UInt32(index), world: world, xstream: xstream)
        clock.advance(past: vos.newestEpoch)
    }

    /// Opens the context. From here on requests are answered.
    func serve() throws(EngineError) {
        let context = try openContext(
            configuration, tag: UInt32(index) + 1, world: world, clock: clock, xstream: xstream)
        context.register(ObjectProtocol.update) {
            (request, call) async throws(RPCError) -> ObjectUpdateReply in
            try await self.update(request, call)
        }
        context.register(ObjectProtocol.fetch) {
            (request, call) async throws(RPCError) -> ObjectFetchReply in
            try await self.fetch(request, call)
        }
        context.register(ObjectProtocol.enumerate) {
            (request, _) async throws(RPCError) -> ObjectEnumerateReply in
            try await self.enumerate(request)
        }
        self.context = context
        xstream.spawn { await self.vos.runBackground() }
    }

    func stop() async {
        await context?.close()
        context = nil
        await vos.close()
    }

    // MARK: - Metadata

    /// Takes over new metadata, and removes what was destroyed.
    func install(_ metadata: ClusterMetadata) {
        pools = Dictionary(uniqueKeysWithValues: metadata.pools.map { ($0.id, $0) })
        containers = Dictionary(uniqueKeysWithValues: metadata.containers.map { ($0.id, $0) })
        for destroyed in metadata.destroyed {
            xstream.spawn { await self.remove(destroyed) }
        }
    }

    private func remove(_ destroyed: DestroyedRecord) async {
        do throws(VOSError) {
            if destroyed.container == .zero {
                try await vos.destroyPool(destroyed.pool)
            } else {
                try await vos.destroyContainer(
                    pool: destroyed.pool, container: destroyed.container)
            }
        } catch {
            world.log.logger(.engine).error(
                "cannot remove a destroyed container or pool: \(error)")
        }
    }

    /// How full the target is; `used` by one pool, or by all when it is zero.
    func status(pool: UniqueID) -> TargetStatus {
        var status = TargetStatus()
        let space = vos.space
        status.capacity = space.total
        status.free = space.free
        status.used =
            pool == .zero
            ? status.capacity - min(status.capacity, status.free)
            : vos.usage(pool: pool).bytes
        return status
    }

    private func pool(of target: ObjectTarget) throws(RPCError) -> PoolRecord {
        guard let pool = pools[target.pool] else {
            throw .service(.notFound, "the pool does not exist (any more)")
        }
        guard let container = containers[target.container], container.pool == target.pool else {
            throw .service(.notFound, "the container does not exist (any more)")
        }
        guard target.mapVersion == pool.map.version else {
            throw .service(.staleMap, "the pool has changed")
        }
        return pool
    }

    // MARK: - Update

    private func update(
        _ request: ObjectUpdateRequest, _ call: RequestContext
    ) async throws(RPCError) -> ObjectUpdateReply {
        let pool = try pool(of: request.target)
        var reply = ObjectUpdateReply()
        // A resend of what was applied already gets the same answer.
        if let epoch = vos.transactionOutcome(request.transaction) {
            reply.epoch = epoch
            return reply
        }
        let length = try checkedLength(of: request, in: pool)
        promised[pool.id, default: 0] += UInt64(length)
        defer { promised[pool.id, default: 0] -= UInt64(length) }
        var data: RegisteredBuffer?
        if length > 0 {
            let buffer = try call.context.makeBuffer(count: length)
            try await pull(request, call, into: buffer, length: length)
            data = buffer
        }
        let operations = try operations(of: request, data: data)
        // A caller that has given up must not find its change applied after its next one.
        guard world.clock.wallNanoseconds < call.deadline else { throw .timedOut }
        do throws(VOSError) {
            reply.epoch = try await vos.update(
                Update(
                    pool: request.target.pool, container: request.target.container,
                    object: request.target.object, epoch: clock.now(),
                    transaction: request.transaction, operations: operations))
        } catch {
            throw RPCError(error)
        }
        withExtendedLifetime(data) {}
        return reply
    }

    /// The bytes of data of all operations together, after checking every limit and the quota.
    private func checkedLength(
        of request: ObjectUpdateRequest, in pool: PoolRecord
    ) throws(RPCError) -> Int {
        guard !request.operations.isEmpty else {
            throw .service(.invalidArgument, "an update without operations")
        }
        var length = 0
        for operation in request.operations {
            length += Int(operation.length)
            let chunks =
                (Int(operation.length) + ObjectLimits.checksumChunk - 1)
                / ObjectLimits.checksumChunk
            guard operation.checksums.count == chunks else {
                throw .service(.invalidArgument, "checksums do not fit the data")
            }
            let (_, overflow) = operation.offset.addingReportingOverflow(
                UInt64(operation.length))
            guard !overflow else { throw .service(.invalidArgument, "offset out of range") }
        }
        guard length <= ObjectLimits.dataMax else {
            throw .service(
                .invalidArgument, "an update carries at most \(ObjectLimits.dataMax) bytes")
        }
        if length > 0 {
            let used = vos.usage(pool: pool.id).bytes + promised[pool.id, default: 0]
            guard used + UInt64(length) <= pool.sizePerTarget else {
                throw .service(
                    .noSpace,
                    "pool \(pool.label) is full on target \(configuration.rank)."
                        + "\(index): \(used) of \(pool.sizePerTarget) bytes are used")
            }
        }
        return length
    }

    /// Brings the data from the request's payload or the client's memory.
    private func pull(
        _ request: ObjectUpdateRequest, _ call: RequestContext, into buffer: RegisteredBuffer,
        length: Int
    ) async throws(RPCError) {
        if let bulk = request.bulk {
            guard bulk.length >= UInt64(length) else {
                throw .service(.invalidArgument, "the exposed memory is too small")
            }
            try await call.context.bulkGet(bulk, into: buffer, range: 0..<length)
        } else {
            guard unsafe call.payload.count == length else {
                throw .service(.invalidArgument, "the payload does not fit the operations")
            }
            unsafe buffer.bytes.copyMemory(from: call.payload)
            call.releasePayload()
        }
    }

    private func operations(
        of request: ObjectUpdateRequest, data: RegisteredBuffer?
    ) throws(RPCError) -> [Operation] {
        var operations: [Operation] = []
        operations.reserveCapacity(request.operations.count)
        var start = 0
        for operation in request.operations {
            let end = start + Int(operation.length)
            let bytes =
                unsafe data.map { unsafe UnsafeRawBufferPointer(rebasing: $0.bytes[start..<end]) }
                ?? UnsafeRawBufferPointer(start: nil, count: 0)
            start = end
            let value = unsafe ValueBytes(bytes, checksums: operation.checksums)
            let body: Operation.Body
            switch operation.kind {
            case .updateSingle:
                body = .single(dkey: operation.dkey, akey: operation.akey, value)
            case .updateArray:
                guard operation.length > 0 else {
                    throw .service(.invalidArgument, "an array is written by at least one byte")
                }
                body = .array(
                    dkey: operation.dkey, akey: operation.akey, offset: operation.offset, value)
            case .punchAkey: body = .punchAkey(dkey: operation.dkey, akey: operation.akey)
            case .punchDkey: body = .punchDkey(operation.dkey)
            case .punchObject: body = .punchObject
            }
            let condition: Operation.Condition =
                switch operation.condition {
                case .none: .none
                case .insert: .insert
                case .update: .update
                }
            operations.append(Operation(body, condition: condition))
        }
        return operations
    }

    // MARK: - Fetch

    private func fetch(
        _ request: ObjectFetchRequest, _ call: RequestContext
    ) async throws(RPCError) -> ObjectFetchReply {
        _ = try pool(of: request.target)
        guard request.length <= UInt32(ObjectLimits.dataMax) else {
            throw .service(
                .invalidArgument, "a fetch returns at most \(ObjectLimits.dataMax) bytes")
        }
        guard request.bulk.map({ $0.length >= UInt64(request.length) }) ?? true else {
            throw .service(.invalidArgument, "the exposed memory is too small")
        }
        let (_, overflow) = request.offset.addingReportingOverflow(UInt64(request.length))
        guard !overflow else { throw .service(.invalidArgument, "offset out of range") }
        let target = Fetch(
            pool: request.target.pool, container: request.target.container,
            object: request.target.object, dkey: request.dkey, akey: request.akey,
            epoch: clock.now())
        var reply = ObjectFetchReply()
        let buffer = try call.context.makeBuffer(count: max(1, Int(request.length)))
        let result: FetchResult
        do throws(VOSError) {
            if request.kind == .arrayEnd {
                reply.size = try await vos.arrayEnd(target)
                reply.found = reply.size > 0
                return reply
            }
            let into = unsafe UnsafeMutableRawBufferPointer(
                rebasing: buffer.bytes[0..<Int(request.length)])
            if request.kind == .single {
                result = unsafe try await vos.fetchSingle(target, into: into)
            } else {
                result = unsafe try await vos.fetchArray(
                    target, offset: request.offset, length: Int(request.length), into: into,
                    findingEnd: false)
            }
        } catch {
            if case .notFound = error { return reply }
            throw RPCError(error)
        }
        reply.found = true
        reply.size = request.kind == .single ? result.size : UInt64(result.byteCount)
        reply.checksums = result.checksums
        // A transfer that fails reaches the client as what it is, and is tried again there.
        try await give(buffer, count: result.byteCount, to: request, call)
        return reply
    }

    /// Sends what was read: into the client's memory, or beside the reply.
    private func give(
        _ buffer: RegisteredBuffer, count: Int, to request: ObjectFetchRequest,
        _ call: RequestContext
    ) async throws(RPCError) {
        guard count > 0 else { return }
        if let bulk = request.bulk {
            try await call.context.bulkPut(bulk, from: buffer, range: 0..<count)
        } else {
            unsafe call.setReplyPayload(
                UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<count]), keeping: buffer)
        }
    }

    // MARK: - Enumeration

    private func enumerate(
        _ request: ObjectEnumerateRequest
    ) async throws(RPCError) -> ObjectEnumerateReply {
        _ = try pool(of: request.target)
        let limit = Int(min(request.limit, UInt32(ObjectLimits.pageMax)))
        var reply = ObjectEnumerateReply()
        guard limit > 0 else { return reply }
        do throws(VOSError) {
            let page =
                if let dkey = request.dkey {
                    try await vos.listAkeys(
                        pool: request.target.pool, container: request.target.container,
                        object: request.target.object, dkey: dkey, after: request.after,
                        limit: limit, epoch: clock.now())
                } else {
                    try await vos.listDkeys(
                        pool: request.target.pool, container: request.target.container,
                        object: request.target.object, after: request.after, limit: limit,
                        epoch: clock.now())
                }
            reply.keys = page.keys
            reply.more = page.next != nil
            return reply
        } catch {
            throw RPCError(error)
        }
    }
}

extension RPCError {
    /// An error of the service, as the client gets it.
    static func service(_ code: ServiceCode, _ message: String) -> RPCError {
        .application(code: code.rawValue, message: message)
    }

    /// What a client is told of an error of the store.
    init(_ error: VOSError) {
        switch error {
        case .notFound: self = .service(.notFound, "there is no such key")
        case .exists: self = .service(.exists, "the key exists already")
        case .noSpace(let requested, let free):
            self = .service(
                .noSpace, "the target is full: \(requested) bytes wanted, \(free) free")
        case .corrupt(let location, let what):
            self = .service(
                .corrupt,
                "stored data is damaged (\(location.byteCount) bytes at offset "
                    + "\(location.offset)): \(what)")
        case .damaged(let what): self = .service(.corrupt, "the index is damaged: \(what)")
        case .keyTooLong(let length, let maximum):
            self = .service(
                .invalidArgument, "a key has at most \(maximum) bytes, this one \(length)")
        case .valueTooLong(let length, let maximum):
            self = .service(
                .invalidArgument, "a value has at most \(maximum) bytes, this one \(length)")
        case .checksumMismatch:
            self = .service(.busy, "the data was damaged on its way")
        case .badArgument(let what): self = .service(.invalidArgument, what)
        case .device(let error):
            self = .service(.device, DeviceProblem.describe(error))
        case .duplicateInProgress: self = .service(.busy, "the same request is being served")
        case .epochTooOld:
            self = .service(.tooOld, "that version is not kept any more")
        case .closed: self = .service(.unavailable, "the engine is stopping")
        }
    }
}
