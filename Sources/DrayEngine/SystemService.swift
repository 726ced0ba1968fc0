internal import BIO
internal import CaRT
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime
internal import Logging
internal import VOS

/// The system context of an engine (tag 0): management for clients, and this engine's copy of
/// the metadata. Confined to its xstream.
final class SystemService {
    let configuration: EngineConfiguration
    let world: World
    let clock: HybridLogicalClock
    let xstream: XStream
    let vos: VOS
    /// What the store stands on.
    let blocks: BlockStore
    let monitor: NVMeMonitor
    let started: Instant
    private(set) var contexts: EngineContexts?
    private(set) var targets: [XStreamBound<TargetService>] = []
    /// Those that are out of service because their device is missing.
    private(set) var lostTargets: [XStreamBound<LostTarget>] = []
    /// Nil until the engine serves.
    private(set) var membership: XStreamBound<MembershipService>?
    /// Made when somebody first asks for the metrics.
    var publisher: MetricPublisher<EngineMetrics>?
    var storagePublisher: StoragePublisher?
    private var entropy: Entropy
    let log: Logger

    private var acceptor: MetadataAcceptor
    /// Held from the check of a ballot until what it carries is stored.
    private let acceptorLock = AsyncLock()
    /// Whether somebody gives up what is held for snapshots that were not made.
    var isReleasing = false
    /// Whether something was held since that began.
    var isReleaseWanted = false

    /// How long one engine may take to answer another about metadata.
    static let peerTimeout: Duration = .seconds(2)
    /// How often an engine is asked that was not reached.
    static let attemptsMax = 2
    /// Rounds of proposing before a change gives up.
    static let roundsMax = 16

    init(
        _ configuration: EngineConfiguration, _ devices: EngineDevices, world: World,
        clock: HybridLogicalClock, xstream: XStream
    ) async throws(EngineError) {
        self.configuration = configuration
        self.world = world
        self.clock = clock
        self.xstream = xstream
        started = xstream.now
        entropy = world.entropy.fork("system")
        log = world.log.logger(.engine)
        monitor = NVMeMonitor(
            devices.allPaths, rank: configuration.rank, world: world, xstream: xstream)
        (vos, blocks) = try await openStore(
            devices, target: DevicePartitions.systemTarget, world: world, xstream: xstream)
        acceptor = MetadataAcceptor()
        acceptor = try await load()
    }

    /// Hands the metadata to the targets, and remembers them for later versions.
    func publish(
        to targets: [XStreamBound<TargetService>], without lost: [XStreamBound<LostTarget>]
    ) async {
        self.targets = targets
        lostTargets = lost
        await publish()
    }

    /// From here on, status says who is alive.
    func watch(_ membership: XStreamBound<MembershipService>) {
        self.membership = membership
    }

    func serve() throws(EngineError) {
        let contexts = try EngineContexts(
            configuration, tag: 0, world: world, clock: clock, xstream: xstream)
        self.contexts = contexts
        for context in contexts.all { register(on: context) }
        xstream.spawn { await self.vos.runBackground() }
        xstream.spawn { await self.catchUp() }
        xstream.spawn { await self.releaseLater() }
        monitor.start()
    }

    func stop() async {
        monitor.stop()
        await contexts?.close()
        contexts = nil
        await vos.close()
    }

    private func register(on context: Context) {
        context.register(ManagementProtocol.clusterMap) {
            (_, _) async throws(RPCError) -> ClusterMapReply in self.clusterMap()
        }
        context.register(ManagementProtocol.status) {
            (request, _) async throws(RPCError) -> EngineStatusReply in
            await self.status(pool: request.pool)
        }
        context.register(ManagementProtocol.metadata) {
            (_, _) async throws(RPCError) -> ClusterMetadata in
            await self.readNewest().metadata.withoutSecrets
        }
        context.register(ManagementProtocol.change) {
            (request, call) async throws(RPCError) -> ClusterMetadata in
            // What some engines have accepted is brought to all, and what was held is released.
            try call.ignoreCancellation()
            return try await self.change(request).withoutSecrets
        }
        context.register(ManagementProtocol.metrics) {
            (_, _) async throws(RPCError) -> MetricsReply in
            try await self.metrics()
        }
        context.register(ManagementProtocol.tune) {
            (request, _) async throws(RPCError) -> TuneReply in
            try self.tune(request)
        }
        context.register(ManagementProtocol.scrub) {
            (request, _) async throws(RPCError) -> ScrubReply in
            await self.scrub(request)
        }
        context.register(ManagementProtocol.open) {
            (request, _) async throws(RPCError) -> ContainerOpenReply in
            try await self.open(request)
        }
        registerSnapshots(on: context)
        context.register(MetadataProtocol.prepare) {
            (request, _) async throws(RPCError) -> MetadataPrepareReply in
            await self.prepare(request)
        }
        context.register(MetadataProtocol.accept) {
            (request, _) async throws(RPCError) -> MetadataAcceptReply in
            try await self.accept(request)
        }
    }

    // MARK: - Management

    private func clusterMap() -> ClusterMapReply {
        var reply = ClusterMapReply()
        reply.cluster = configuration.cluster
        reply.engines = configuration.engines
        return reply
    }

    private func status(pool: UniqueID) async -> EngineStatusReply {
        var reply = EngineStatusReply()
        reply.rank = configuration.rank
        reply.process = world.processID
        reply.uptimeNanoseconds = xstream.now.since(started).nanosecondsClamped
        reply.targets = Array(repeating: TargetStatus(), count: configuration.targetCount)
        for target in targets {
            let (index, status) = await target.xstream.run {
                (target.value.index, target.value.status(pool: pool))
            }
            reply.targets[index] = status
        }
        if let membership {
            reply.members = await membership.xstream.run { membership.value.members }
        }
        return reply
    }

    // MARK: - Acceptor

    /// After what is being stored: whoever is promised something now must see it, as it may become
    /// the newest after all.
    private func prepare(_ request: MetadataPrepareRequest) async -> MetadataPrepareReply {
        await acceptorLock.withLock {
            var reply = acceptor.prepare(request.ballot)
            reply.stamp = clock.now()
            return reply
        }
    }

    /// Stores metadata durably, publishes it to the targets, and says so; or refuses.
    private func accept(
        _ request: MetadataAcceptRequest
    ) async throws(RPCError) -> MetadataAcceptReply {
        try await acceptorLock.withLock { () async throws(RPCError) -> MetadataAcceptReply in
            var reply = MetadataAcceptReply()
            if acceptor.mayAccept(request.ballot) {
                if world.faults.isArmed {
                    try await world.faults.pass(.metadataStore, on: xstream)
                }
                do throws(VOSError) {
                    try await store(request)
                } catch {
                    throw RPCError(error)
                }
                acceptor.didStore(request.ballot, request.metadata)
                await publish()
                reply.accepted = true
            }
            reply.highest = acceptor.promised
            return reply
        }
    }

    /// Runs `body` while no metadata are being stored.
    func whileMetadataRest<Value>(_ body: () async -> Value) async -> Value {
        await acceptorLock.withLock { await body() }
    }

    private func publish() async {
        let metadata = acceptor.metadata
        let stamp = acceptor.accepted.stamp
        for target in targets {
            await target.xstream.run { target.value.install(metadata, acceptedAt: stamp) }
        }
    }

    // The metadata stands in the system partition's store as one value.
    private static let object = ObjectID(high: 0, low: 1)
    private static let dkey = Array("metadata".utf8)
    private static let akey = Array("accepted".utf8)

    private func store(_ request: MetadataAcceptRequest) async throws(VOSError) {
        let bytes = StoredMetadata.bytes(of: request)
        let buffer = IOBuffer(copying: bytes)
        let value = unsafe ValueBytes(
            UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<bytes.count]))
        _ = try await vos.update(
            Update(
                pool: .zero, container: .zero, object: SystemService.object,
                epoch: clock.now(), transaction: .zero,
                operations: [
                    Operation(
                        .single(dkey: SystemService.dkey, akey: SystemService.akey, value))
                ]))
        withExtendedLifetime(buffer) {}
    }

    private func load() async throws(EngineError) -> MetadataAcceptor {
        let buffer = IOBuffer(count: VOSLimits.valueLengthMax)
        let bytes: [UInt8]
        do throws(VOSError) {
            let result = unsafe try await vos.fetchSingle(
                Fetch(
                    pool: .zero, container: .zero, object: SystemService.object,
                    dkey: SystemService.dkey, akey: SystemService.akey), into: buffer.bytes)
            clock.advance(past: result.epoch)
            bytes = buffer.array(0..<result.byteCount)
        } catch {
            if case .notFound = error { return MetadataAcceptor() }
            throw .store("metadata: \(error)")
        }
        let request = try StoredMetadata.decode(bytes)
        return MetadataAcceptor(accepted: request.ballot, metadata: request.metadata)
    }

    // MARK: - Proposer

    /// Asks all engines at once: what each answers, or why it does not.
    func ask<Q, R>(
        _ procedure: Procedure<Q, R>, _ request: Q,
        timeout: Duration = SystemService.peerTimeout
    ) async -> [Result<R, RPCError>] {
        guard let context = contexts?.primary else {
            return configuration.engines.map { _ in .failure(.closed) }
        }
        return await withTaskGroup(of: (Int, Result<R, RPCError>).self) { group in
            for (index, engine) in configuration.engines.enumerated() {
                let call = XStreamBound(context, to: xstream)
                let log = log
                group.addTask(executorPreference: xstream) {
                    var failure = RPCError.unreachable
                    // The first call after an engine was restarted may find the old one gone.
                    for _ in 0..<SystemService.attemptsMax {
                        do throws(RPCError) {
                            let reply = unsafe try await call.value.call(
                                procedure, request, to: .rank(engine.rank, tag: 0),
                                deadline: .after(timeout))
                            return (index, .success(reply))
                        } catch {
                            log.info("\(procedure.name) to engine \(engine.rank): \(error)")
                            failure = error
                        }
                        guard failure == .unreachable || failure == .peerRestarted else { break }
                    }
                    return (index, .failure(failure))
                }
            }
            var answers = [Result<R, RPCError>](
                repeating: .failure(.timedOut), count: configuration.engines.count)
            for await (index, answer) in group { answers[index] = answer }
            return answers
        }
    }

    /// The newest metadata of the engines that answer. Where they differ, the newest is brought
    /// to all before it is returned, so that a later read cannot go back.
    func readNewest() async -> MetadataPrepareReply {
        var newest = acceptor.prepare(Ballot())
        let replies = await ask(MetadataProtocol.prepare, MetadataPrepareRequest())
        let answers = replies.compactMap { try? $0.get() }
        for reply in answers where reply.accepted > newest.accepted { newest = reply }
        if answers.contains(where: { $0.accepted != newest.accepted }) {
            var request = MetadataAcceptRequest()
            request.ballot = newest.accepted
            request.metadata = newest.metadata
            _ = await ask(MetadataProtocol.accept, request)
        }
        return newest
    }

    /// After a start: takes over what was decided while this engine was away.
    private func catchUp() async {
        _ = await readNewest()
    }

    /// Makes a change on all engines.
    private func change(_ change: MetadataChange) async throws(RPCError) -> ClusterMetadata {
        log.info("coordinates \(change.kind) '\(change.label)'")
        switch change.kind {
        case .createPool:
            return try await agree(
                on: change, capacity: try await targetCapacity(),
                secret: world.secretBytes(PoolSecret.keyLength, for: "pool \(change.pool)"))
        case .createSnapshot: return try await createSnapshot(change)
        case .destroyPool, .createContainer, .destroyContainer, .destroySnapshot:
            return try await agree(on: change)
        }
    }

    /// Makes a change on all engines; without one, all agree anew on what there is. No ballot is
    /// later than `bound`.
    func agree(
        on change: MetadataChange?, capacity: UInt64 = .max, secret: [UInt8] = [],
        until bound: UInt64 = .max
    ) async throws(RPCError) -> ClusterMetadata {
        for round in 0..<SystemService.roundsMax {
            let ballot = Ballot(stamp: clock.now(), rank: configuration.rank)
            guard ballot.stamp <= bound else { break }
            if let metadata = try await propose(change, ballot, capacity, secret) {
                return metadata
            }
            // Another engine proposes at the same time: step aside for a moment.
            let pause = entropy.below(UInt64(10 + 10 * round)) + 1
            await xstream.sleep(for: .milliseconds(Int64(pause)))
        }
        throw .service(.unavailable, "too many changes of metadata at once; try again")
    }

    /// One round. Nil when another proposal was in the way.
    private func propose(
        _ change: MetadataChange?, _ ballot: Ballot, _ capacity: UInt64, _ secret: [UInt8]
    ) async throws(RPCError) -> ClusterMetadata? {
        var newest = MetadataPrepareReply()
        let promises = await ask(MetadataProtocol.prepare, MetadataPrepareRequest(ballot))
        for (engine, promise) in zip(configuration.engines, promises) {
            let promise = try answer(promise, of: engine)
            guard promise.promised else {
                _ = clock.observe(promise.highest.stamp)
                return nil
            }
            if promise.accepted > newest.accepted { newest = promise }
        }
        var request = MetadataAcceptRequest()
        request.ballot = ballot
        request.metadata = newest.metadata
        do throws(ClusterMetadata.Refusal) {
            if let change {
                try request.metadata.apply(
                    change, map: poolMap, capacity: capacity, secret: secret)
            }
        } catch {
            throw .service(error.code, error.message)
        }
        // Also when nothing changed: what was read may stand on some engines only.
        let answers = await ask(MetadataProtocol.accept, request)
        for (engine, reply) in zip(configuration.engines, answers) {
            guard try answer(reply, of: engine).accepted else { return nil }
        }
        return request.metadata
    }

    /// What an engine has answered, without which nothing can be changed.
    private func answer<R>(
        _ result: Result<R, RPCError>, of engine: EngineRecord
    ) throws(RPCError) -> R {
        do throws(RPCError) {
            return try result.get()
        } catch .application(let code, let message) where code == ServiceCode.device.rawValue {
            throw .service(.device, "engine \(engine.rank): \(message)")
        } catch {
            throw .service(
                .unavailable,
                "engine \(engine.rank) does not answer, and pools and containers "
                    + "change only when all engines do")
        }
    }

    /// The map of a pool over every target of the cluster.
    var poolMap: PoolMap {
        PoolMap(
            version: 1,
            engines: configuration.engines.map {
                PoolMap.Engine(rank: $0.rank, targetCount: $0.targetCount)
            })
    }

    /// The capacity of the smallest target of the cluster, in bytes.
    private func targetCapacity() async throws(RPCError) -> UInt64 {
        let replies = await ask(ManagementProtocol.status, PoolReference())
        var capacity = UInt64.max
        for (engine, reply) in zip(configuration.engines, replies) {
            for (index, target) in try answer(reply, of: engine).targets.enumerated() {
                guard target.capacity > 0 else {
                    throw .service(
                        .unavailable,
                        "target \(engine.rank).\(index) is out of service, and a pool is over all "
                            + "targets")
                }
                capacity = min(capacity, target.capacity)
            }
        }
        return capacity
    }
}
