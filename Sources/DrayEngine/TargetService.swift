internal import BIO
internal import CaRT
internal import DrayChecksums
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime
internal import Logging
internal import VOS

/// One target: the object protocol on its store. Confined to its xstream.
final class TargetService {
    let index: Int
    let configuration: EngineConfiguration
    let world: World
    /// That of `world`, by itself: to take it out of there would copy all of the world.
    let worldClock: WorldClock
    /// Those of `world`, likewise.
    let faults: FaultTable
    let clock: HybridLogicalClock
    let xstream: XStream
    let vos: VOS
    /// What the store stands on.
    let blocks: BlockStore
    /// Made when somebody first asks for the metrics.
    private var storagePublisher: StoragePublisher?
    @safe @exclusivity(unchecked) private(set) var contexts: EngineContexts?
    /// The one that other engines are called from.
    @safe @exclusivity(unchecked) private(set) var context: Context?
    @safe @exclusivity(unchecked) private(set) var transactions: TransactionService!
    @safe @exclusivity(unchecked) var layouts = LayoutCache()

    /// What the target knows of pools and containers, as the system xstream gave it last.
    @safe @exclusivity(unchecked) private var pools: Set<UniqueID> = []
    @safe @exclusivity(unchecked) private var containers: [UniqueID: TargetContainer] = [:]
    @safe @exclusivity(unchecked) private var snapshots: [SnapshotRecord] = []
    /// Bytes of updates under way, which a pool's usage does not count yet.
    @safe @exclusivity(unchecked) var promised: [UniqueID: UInt64] = [:]

    init(
        index: Int, _ configuration: EngineConfiguration, _ devices: EngineDevices, world: World,
        clock: HybridLogicalClock, xstream: XStream
    ) async throws(EngineError) {
        self.index = index
        self.configuration = configuration
        self.world = world
        worldClock = world.clock
        faults = world.faults
        self.clock = clock
        self.xstream = xstream
        (vos, blocks) = try await openStore(
            devices, target: UInt32(index), world: world, xstream: xstream)
        clock.advance(past: vos.newestEpoch)
        // Nobody knows any more what was read before.
        vos.setStampFloor(clock.now())
        transactions = TransactionService(self)
    }

    /// Which target this is.
    var address: TargetAddress {
        TargetAddress(rank: configuration.rank, target: UInt32(index))
    }

    /// Brings what this target counts to the world's factory.
    func publishMetrics() {
        contexts?.publishMetrics()
        var publisher =
            storagePublisher
            ?? StoragePublisher(
                blocks, world: world, rank: configuration.rank, target: "\(index)")
        publisher.publish(blocks, vos)
        storagePublisher = publisher
    }

    /// Opens the contexts. From here on requests are answered.
    func serve() throws(EngineError) {
        let contexts = try EngineContexts(
            configuration, tag: UInt32(index) + 1, world: world, clock: clock, xstream: xstream)
        for context in contexts.all { register(on: context) }
        self.contexts = contexts
        context = contexts.primary
        transactions.serve(on: contexts.primary)
        xstream.spawn { await self.vos.runBackground() }
    }

    private func register(on context: Context) {
        context.register(ObjectProtocol.update) {
            (request, call) async throws(RPCError) -> ObjectUpdateReply in
            try await self.update(request, call)
        }
        context.register(ObjectProtocol.fetch) {
            (request, call) async throws(RPCError) -> ObjectFetchReply in
            try await self.fetch(request, call)
        }
        context.register(ObjectProtocol.enumerate) {
            (request, call) async throws(RPCError) -> ObjectEnumerateReply in
            try await self.enumerate(request, call)
        }
        context.register(ObjectProtocol.validate) {
            (request, call) async throws(RPCError) -> EmptyMessage in
            try await self.validate(request, call)
        }
        context.register(ObjectProtocol.inspect) {
            (request, call) async throws(RPCError) -> ObjectInspectReply in
            try await self.inspect(request, call)
        }
        context.register(ObjectProtocol.listObjects) {
            (request, call) async throws(RPCError) -> ObjectListReply in
            try await self.listObjects(request, call)
        }
    }

    func stop() async {
        await contexts?.close()
        contexts = nil
        context = nil
        await transactions.stop()
        await vos.close()
    }

    // MARK: - Metadata

    /// Takes over new metadata, which were accepted at `stamp`, and removes what was destroyed.
    func install(_ metadata: ClusterMetadata, acceptedAt stamp: UInt64) {
        let records = Dictionary(uniqueKeysWithValues: metadata.pools.map { ($0.id, $0) })
        let secrets = Dictionary(uniqueKeysWithValues: metadata.secrets.map { ($0.pool, $0) })
        pools = Set(records.keys)
        containers = [:]
        for record in metadata.containers {
            guard let pool = records[record.pool], let secret = secrets[record.pool] else {
                continue
            }
            containers[record.id] = TargetContainer(record, in: pool, secret)
        }
        snapshots = metadata.snapshots
        for destroyed in metadata.destroyed {
            xstream.spawn { await self.remove(destroyed) }
        }
        xstream.spawn { await self.reconcileSnapshots(acceptedAt: stamp) }
    }

    /// The snapshots of the containers that there are.
    var namedSnapshots: [SnapshotReference] {
        snapshots.compactMap { snapshot in
            containers[snapshot.container].map { container in
                SnapshotReference(
                    pool: container.pool.id, container: container.record.id,
                    epoch: snapshot.epoch)
            }
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

    private func find(_ target: ObjectTarget) throws(RPCError) -> TargetContainer {
        guard let container = containers[target.container], container.pool.id == target.pool else {
            let what = pools.contains(target.pool) ? "container" : "pool"
            throw .service(.notFound, "the \(what) does not exist (any more)")
        }
        return container
    }

    func container(of target: ObjectTarget) throws(RPCError) -> ContainerRecord {
        try find(target).record
    }

    func pool(of target: ObjectTarget) throws(RPCError) -> PoolRecord {
        let container = try find(target)
        try container.check(mapVersion: target.mapVersion)
        return container.pool
    }

    /// Throws unless a client's request is for a container that is there, and that the client has
    /// opened for what the request needs.
    func check(_ target: ObjectTarget, for access: ContainerAccess) throws(RPCError) {
        let container = try find(target)
        try container.check(mapVersion: target.mapVersion)
        try container.check(target.capability, for: access)
    }

    // MARK: - Fetch

    private func fetch(
        _ request: ObjectFetchRequest, _ call: RequestContext
    ) async throws(RPCError) -> ObjectFetchReply {
        if faults.isArmed { try await faults.pass(.engineObject, on: xstream) }
        try check(request)
        var target = Fetch(request)
        target.patience = patience(call)
        var reply = ObjectFetchReply()
        if target.isolation == .serializable { reply.instance = call.context.instance }
        let buffer = try makeBuffer(count: max(1, Int(request.length)), of: call.context)
        let into = unsafe UnsafeMutableRawBufferPointer(
            rebasing: buffer.bytes[0..<Int(request.length)])
        let found: Found
        do throws(VOSError) {
            (found, reply.snapshot) = try await reading(
                at: request.snapshot, or: request.epoch
            ) {
                (epoch) throws(VOSError) in
                target.epoch = epoch
                do throws(VOSError) {
                    switch request.kind {
                    case .single:
                        return .value(unsafe try await vos.findSingle(target, into: into))
                    case .array:
                        let result = unsafe try await vos.fetchArray(
                            target, offset: request.offset, length: Int(request.length),
                            into: into, findingEnd: false)
                        return .value(result)
                    case .arrayEnd: return .shape(try await vos.arrayShape(target))
                    }
                } catch .notFound {
                    return .refused
                }
            }
        } catch {
            throw RPCError(error)
        }
        switch found {
        case .refused: reply.isRefused = true
        case .value(nil): break
        case .value(let result?):
            reply.found = true
            reply.size = request.kind == .single ? result.size : UInt64(result.byteCount)
            reply.recordSize = result.recordSize
            reply.checksums = result.checksums
            // A transfer that fails reaches the client as what it is, and is tried again there.
            try await give(buffer, count: result.byteCount, to: request, call)
        case .shape(let shape):
            reply.size = shape.end
            reply.recordSize = shape.recordSize
            reply.found = shape.end > 0
        }
        return reply
    }

    /// Pooled memory of a context that the store's devices know as well: mostly a device reads into
    /// it, or writes from it.
    func makeBuffer(count: Int, of context: Context) throws(RPCError) -> RegisteredBuffer {
        let buffer = try context.makeBuffer(count: count)
        if count >= BlockDevice.blockSize { blocks.register(buffer.buffer) }
        return buffer
    }

    /// What a fetch comes to.
    private enum Found {
        /// Its condition does not hold.
        case refused
        /// Nil: there is no such value.
        case value(FetchResult?)
        case shape(ArrayShape)
    }

    /// Throws when anything about a request is wrong.
    private func check(_ request: ObjectFetchRequest) throws(RPCError) {
        try check(request.target, for: .readOnly)
        try observe(snapshot: request.snapshot)
        try observe(epoch: request.epoch)
        try checkKeys(request.target.object, dkey: request.dkey, akey: request.akey)
        guard request.length <= UInt32(ObjectLimits.dataMax) else {
            throw .service(
                .invalidArgument, "a fetch returns at most \(ObjectLimits.dataMax) bytes")
        }
        guard request.bulk.map({ $0.length >= UInt64(request.length) }) ?? true else {
            throw .service(.invalidArgument, "the exposed memory is too small")
        }
        let (_, overflow) = request.offset.addingReportingOverflow(UInt64(request.length))
        guard !overflow else { throw .service(.invalidArgument, "offset out of range") }
    }

    /// Sends what was read: into the client's memory, or beside the reply.
    private func give(
        _ buffer: RegisteredBuffer, count: Int, to request: ObjectFetchRequest,
        _ call: RequestContext
    ) async throws(RPCError) {
        guard count > 0 else { return }
        if let bulk = request.bulk {
            try await call.context.bulkPut(
                bulk, from: buffer, range: 0..<count, deadline: .at(call.deadline), for: call)
        } else {
            unsafe call.setReplyPayload(
                UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<count]), keeping: buffer)
        }
    }

    // MARK: - Enumeration

    private func enumerate(
        _ request: ObjectEnumerateRequest, _ call: RequestContext
    ) async throws(RPCError) -> ObjectEnumerateReply {
        if faults.isArmed { try await faults.pass(.engineObject, on: xstream) }
        try check(request.target, for: .readOnly)
        try observe(snapshot: request.snapshot)
        try observe(epoch: request.epoch)
        if let dkey = request.dkey { try checkKeys(request.target.object, dkey: dkey) }
        let limit = Int(min(request.limit, UInt32(ObjectLimits.pageMax)))
        var reply = ObjectEnumerateReply()
        guard limit > 0 else { return reply }
        let patience = patience(call)
        let isolation = ReadIsolation(snapshot: request.snapshot, epoch: request.epoch)
        if isolation == .serializable { reply.instance = call.context.instance }
        let target = request.target
        do throws(VOSError) {
            let page: (keys: [[UInt8]], next: [UInt8]?)
            (page, reply.snapshot) = try await reading(
                at: request.snapshot, or: request.epoch
            ) {
                (epoch) throws(VOSError) in
                if let dkey = request.dkey {
                    try await vos.listAkeys(
                        pool: target.pool, container: target.container, object: target.object,
                        dkey: dkey, in: request.range, after: request.after, limit: limit,
                        bytesMax: ObjectLimits.pageBytesMax, epoch: epoch, patience: patience,
                        isolation: isolation)
                } else {
                    try await vos.listDkeys(
                        pool: target.pool, container: target.container, object: target.object,
                        in: request.range, after: request.after, limit: limit,
                        bytesMax: ObjectLimits.pageBytesMax, epoch: epoch, patience: patience,
                        isolation: isolation)
                }
            }
            reply.keys = page.keys
            reply.more = page.next != nil
            return reply
        } catch {
            throw RPCError(error)
        }
    }

    // MARK: - Reads of transactions

    /// How long a request may wait for what others hold: a while, and no longer than that the
    /// caller hears of it before its deadline.
    func patience(_ call: RequestContext) -> Instant {
        let wall = worldClock.wallNanoseconds
        let left = call.deadline > wall ? call.deadline - wall : 0
        let longest = TransactionService.patience.nanosecondsClamped
        return xstream.now + .nanoseconds(Int64(min(left - left / 8, longest)))
    }

    /// Moves our clock beyond the snapshot of a transaction, so that no later update gets an epoch
    /// before it.
    func observe(snapshot: UInt64) throws(RPCError) {
        guard snapshot > 0, snapshot != ObjectFetchRequest.now else { return }
        guard clock.observe(snapshot) else { throw .clockSkew }
    }

    /// The same for who reads without a transaction at an epoch of the past.
    func observe(epoch: UInt64) throws(RPCError) {
        guard epoch > 0 else { return }
        guard epoch < .max, clock.observe(epoch) else {
            throw .service(.invalidArgument, "epoch \(epoch) is in the future")
        }
    }

    /// How often the first read of a transaction tries to find an epoch that nothing is newer than.
    private static let snapshotAttemptsMax = 8

    /// Reads at the snapshot of a transaction; at one that is chosen here, if it has none; if there
    /// is no transaction (`snapshot` is 0), at `epoch`, or now if that is 0. Returns the snapshot.
    private func reading<Value>(
        at snapshot: UInt64, or epoch: UInt64, _ body: (UInt64) async throws(VOSError) -> Value
    ) async throws(VOSError) -> (Value, UInt64) {
        guard snapshot > 0 else {
            guard epoch > 0 else { return (try await body(clock.now()), 0) }
            // A client's clock may be ahead of ours. After a restart everything counts as read up
            // to that time, so what is read now must lie before it.
            let wall = worldClock.wallNanoseconds
            let ahead = epoch > wall ? epoch - wall : 0
            if ahead > 0 { await xstream.sleep(for: .nanoseconds(Int64(clamping: ahead))) }
            return (try await body(epoch), 0)
        }
        guard snapshot == ObjectFetchRequest.now else {
            do throws(VOSError) {
                return (try await body(snapshot), snapshot)
            } catch .epochTooOld {
                // A transaction that takes so long begins again.
                throw .conflict
            }
        }
        for _ in 1..<TargetService.snapshotAttemptsMax {
            let epoch = clock.now()
            do throws(VOSError) {
                return (try await body(epoch), epoch)
            } catch .conflict {
                // What it waited for is newer.
            }
        }
        let epoch = clock.now()
        return (try await body(epoch), epoch)
    }
}

extension ReadIsolation {
    /// Of a request with the snapshot of a transaction or the epoch that the client chose; 0: none.
    fileprivate init(snapshot: UInt64, epoch: UInt64) {
        self = snapshot > 0 ? .serializable : epoch > 0 ? .repeatable : .none
    }
}

extension Fetch {
    /// What a request reads from, without its epoch.
    init(_ request: ObjectFetchRequest) {
        self.init(
            pool: request.target.pool, container: request.target.container,
            object: request.target.object, dkey: request.dkey, akey: request.akey)
        isolation = ReadIsolation(snapshot: request.snapshot, epoch: request.epoch)
        checksumType = request.checksumType
        if request.kind != .single { recordSize = request.recordSize }
        condition =
            switch request.condition {
            case .none: .none
            case .dkeyExists: .dkeyExists
            case .akeyExists: .akeyExists
            }
    }
}

extension RPCError {
    /// An error of the service, as the client gets it.
    static func service(_ code: ServiceCode, _ message: String) -> RPCError {
        .application(code: code.rawValue, message: message)
    }

    private static func bytes(_ count: UInt32) -> String {
        count == 1 ? "1 byte" : "\(count) bytes"
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
                .corrupt, "stored data is damaged: \(what); \(location.objectText)")
        case .damaged(let what): self = .service(.corrupt, "the index is damaged: \(what)")
        case .keyTooLong(let length, let maximum):
            self = .service(
                .invalidArgument, "a key has at most \(maximum) bytes, this one \(length)")
        case .valueTooLong(let length, let maximum):
            self = .service(
                .invalidArgument, "a value has at most \(maximum) bytes, this one \(length)")
        case .checksumMismatch:
            self = .service(.busy, "the data was damaged on its way")
        case .recordSizeMismatch(let stored, let given):
            self = .service(
                .invalidArgument,
                "the array has records of \(RPCError.bytes(stored)), not of "
                    + "\(RPCError.bytes(given)); once it is punched it can have others")
        case .badArgument(let what): self = .service(.invalidArgument, what)
        case .device(let error):
            self = .service(.device, DeviceProblem.describe(error))
        case .duplicateInProgress: self = .service(.busy, "the same request is being served")
        case .conflict:
            self = .service(.conflict, "something that the transaction uses has changed")
        case .undecided:
            self = .service(
                .undecided, "it is not known yet what became of an earlier change of the key")
        case .epochTooOld:
            self = .service(.tooOld, "that version is not kept any more")
        case .closed: self = .service(.unavailable, "the engine is stopping")
        }
    }
}
