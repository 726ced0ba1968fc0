public import CaRT
internal import DrayFabric
public import DrayProtocol
public import DrayRuntime

/// How to find a cluster: the address of the system context (tag 0) of any of its engines.
public struct ClusterDescription: Sendable, Hashable {
    /// Addresses such as `ofi+tcp://127.0.0.1:31416`. One that answers is enough.
    public var addresses: [String]

    /// What the client's own endpoint listens on; its provider must be the engines'. Empty: where
    /// the engine at the first address reaches it.
    public var clientAddress: String

    /// How the client uses the network: its interfaces, and what its context is made with. The
    /// provider is the engines'. Nil: as the defaults of `FabricConfiguration` are.
    public var fabric: FabricConfiguration?

    /// How long an operation tries before it gives up: resends and waiting for engines that come
    /// back included.
    public var operationTimeout: Duration

    public init(
        addresses: [String], clientAddress: String = "",
        operationTimeout: Duration = .seconds(30)
    ) {
        self.addresses = addresses
        self.clientAddress = clientAddress
        self.operationTimeout = operationTimeout
    }
}

/// A connection to a cluster. Safe from any task of any thread.
///
/// What is guaranteed: when a changing call returns, the change is on stable storage at all
/// replicas and everybody sees it. When it throws, `DrayError.mayHaveHappened` says whether it may
/// have happened: whole or not at all, and a read that returns shows which for good. Resends are
/// applied once. `docs/consistency.md` says what holds in the presence of which failures.
public final class Cluster: Sendable {
    let core: XStreamBound<ClientCore>
    private let ownsXStream: Bool

    /// The xstream that this client's calls run on. Tasks started there (`run`) save the way
    /// between threads.
    public var xstream: XStream { core.xstream }

    private init(core: XStreamBound<ClientCore>, ownsXStream: Bool) {
        self.core = core
        self.ownsXStream = ownsXStream
    }

    /// Connects from an ordinary process: over libfabric, with the kernel's clock and randomness.
    ///
    /// - Throws: what `connect(to:world:timeout:)` throws.
    public static func connect(
        to description: ClusterDescription, timeout: Duration = .seconds(10)
    ) async throws(DrayError) -> Cluster {
        try await connect(to: description, world: .libfabric(), timeout: timeout)
    }

    /// Connects: asks the first engine that answers who is in the cluster.
    ///
    /// - Throws: `invalidArgument` for an address that cannot be understood, `unavailable` when
    ///   no engine answers before `timeout`.
    public static func connect(
        to description: ClusterDescription, world: World, timeout: Duration = .seconds(10)
    ) async throws(DrayError) -> Cluster {
        let xstream = world.makeXStream(name: "dray-client")
        let core = try await xstream.run { () async throws(DrayError) -> XStreamBound<ClientCore> in
            let core = try ClientCore(description: description, world: world, xstream: xstream)
            try await core.connect(timeout: timeout)
            return XStreamBound(core, to: xstream)
        }
        return Cluster(core: core, ownsXStream: true)
    }

    /// Runs `body` as a task on the client's xstream: calls it makes need no thread switch.
    public func run<Value: Sendable, Failure: Error>(
        _ body: sending @escaping () async throws(Failure) -> Value
    ) async throws(Failure) -> Value {
        try await xstream.run(body)
    }

    /// Ends the connection. Calls under way end with `cancelled`.
    public func close() async {
        await onCore { core in await core.close() }
        xstream.stop()
    }

    /// Collects from now on where the time of the client's calls goes.
    public func startTracing() async {
        await onCore { core in core.context.tracer = CallTracer() }
    }

    /// Where the time of calls went since `startTracing`, by procedure.
    public var callTraces: [CallTracer.Summary] {
        get async { await onCore { core in core.context.tracer?.summaries ?? [] } }
    }

    // MARK: - Engines and pools

    /// The engines of the cluster, by rank.
    public var engines: [EngineRecord] {
        get async { await onCore { core in core.engines } }
    }

    /// How every engine is; nil for one that does not answer within `timeout`.
    public func status(
        timeout: Duration = .seconds(2)
    ) async -> [(engine: EngineRecord, status: EngineStatusReply?)] {
        await onCore { core in await core.status(pool: .zero, timeout: timeout) }
    }

    /// The metrics of every engine, or only of those in `ranks`, or why it did not give them within
    /// `timeout`.
    public func metrics(
        ranks: Set<UInt32>? = nil, timeout: Duration = .seconds(5)
    ) async -> [(engine: EngineRecord, reply: Result<MetricsReply, DrayError>)] {
        await ask(ranks, ManagementProtocol.metrics, EmptyMessage(), timeout)
    }

    /// Reads or changes the log masks and injected faults of every engine, or only of those in
    /// `ranks`: how each is set afterwards, or why it is not, within `timeout`.
    public func tune(
        _ request: TuneRequest = TuneRequest(), ranks: Set<UInt32>? = nil,
        timeout: Duration = .seconds(5)
    ) async -> [(engine: EngineRecord, reply: Result<TuneReply, DrayError>)] {
        await ask(ranks, ManagementProtocol.tune, request, timeout)
    }

    /// Begins or ends the scrubbing of every engine's stores, or only of those in `ranks`, or asks
    /// how it goes: how it goes then, or why that is not known, within `timeout`.
    public func scrub(
        _ request: ScrubRequest = ScrubRequest(), ranks: Set<UInt32>? = nil,
        timeout: Duration = .seconds(5)
    ) async -> [(engine: EngineRecord, reply: Result<ScrubReply, DrayError>)] {
        await ask(ranks, ManagementProtocol.scrub, request, timeout)
    }

    private func ask<Q, R>(
        _ ranks: Set<UInt32>?, _ procedure: Procedure<Q, R>, _ request: Q, _ timeout: Duration
    ) async -> [(engine: EngineRecord, reply: Result<R, DrayError>)] {
        await onCore { core in
            await core.askEngines(ranks, procedure, request, timeout: timeout)
        }
    }

    /// Creates a pool of `size` raw bytes over all targets.
    ///
    /// - Throws: `exists`, `noSpace`, `invalidArgument` for a bad label or size, `unavailable`
    ///   when an engine does not answer.
    @discardableResult
    public func createPool(label: String, size: UInt64) async throws(DrayError) -> Pool {
        let record = try await onCore { core throws(DrayError) in
            var change = MetadataChange()
            change.kind = .createPool
            change.pool = core.newID()
            change.label = label
            change.size = size
            let metadata = try await core.change(change, subject: "pool \(label)")
            return try core.pool(label, in: metadata)
        }
        return Pool(record: record, cluster: self)
    }

    /// Every pool, by label.
    public func pools() async throws(DrayError) -> [Pool] {
        let metadata = try await onCore { core throws(DrayError) in try await core.refresh() }
        return metadata.pools.sorted { $0.label < $1.label }
            .map { Pool(record: $0, cluster: self) }
    }

    /// The pool with this label. Throws `notFound`.
    public func pool(_ label: String) async throws(DrayError) -> Pool {
        let record = try await onCore { core throws(DrayError) in
            try core.pool(label, in: try await core.refresh())
        }
        return Pool(record: record, cluster: self)
    }

    /// Destroys a pool with everything in it. Throws `notFound`.
    public func destroyPool(_ label: String) async throws(DrayError) {
        try await onCore { core throws(DrayError) in
            var change = MetadataChange()
            change.kind = .destroyPool
            change.pool = try core.pool(label, in: try await core.refresh()).id
            _ = try await core.change(change, subject: "pool \(label)")
        }
    }

    // MARK: -

    /// Runs `body` with the core, on its xstream; without a detour when the caller is there.
    func onCore<Value: Sendable, Failure: Error>(
        _ body: @escaping @Sendable (ClientCore) async throws(Failure) -> Value
    ) async throws(Failure) -> Value {
        if core.xstream.isCurrent { return try await body(core.value) }
        let core = core
        return try await core.xstream.run { () async throws(Failure) -> Value in
            try await body(core.value)
        }
    }
}
