internal import CaRT
internal import DrayFabric
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime

/// The client, confined to its xstream: one context, the cluster map, and the retry loop.
final class ClientCore {
    let xstream: XStream
    let context: Context
    private let bootstrap: [FabricAddress]
    var entropy: Entropy
    private(set) var engines: [EngineRecord] = []
    var layouts = LayoutCache()
    /// Targets that did not answer lately, and until when they are asked last.
    var suspects: [TargetAddress: Instant] = [:]
    private let operationTimeout: Duration

    init(
        description: ClusterDescription, world: World, xstream: XStream
    ) throws(DrayError) {
        self.xstream = xstream
        operationTimeout = description.operationTimeout
        guard !description.addresses.isEmpty else {
            throw DrayError(.invalidArgument, "the cluster has no addresses")
        }
        var bootstrap: [FabricAddress] = []
        for text in description.addresses {
            do throws(FabricError) {
                bootstrap.append(try FabricAddress(parsing: text))
            } catch {
                throw DrayError(
                    .invalidArgument,
                    "\(text) is not an address (\(error)); "
                        + "expected something like ofi+tcp://127.0.0.1:31416")
            }
        }
        let clock = HybridLogicalClock(clock: world.clock)
        (context, self.bootstrap) = try ClientCore.open(
            description, bootstrap, world: world, xstream: xstream,
            options: description.fabric?.contextOptions(clock: clock)
                ?? ContextOptions(clock: clock))
        // A world may hold several clients.
        entropy = world.entropy.fork("client \(context.instance)")
    }

    /// Opens the client's context over the first network that it can use. Returns those addresses
    /// of engines that it reaches.
    private static func open(
        _ description: ClusterDescription, _ bootstrap: [FabricAddress], world: World,
        xstream: XStream, options: ContextOptions
    ) throws(DrayError) -> (Context, [FabricAddress]) {
        var failure: DrayError?
        for provider in providers(description, bootstrap) {
            let addresses = bootstrap.filter { $0.provider == provider }
            let address = try address(description, reaching: addresses[0], world)
            do throws(RPCError) {
                let context = try Context(
                    world: world, xstream: xstream, address: address, options: options)
                return (context, addresses)
            } catch {
                failure = failure ?? DrayError(error, "client endpoint")
            }
        }
        throw failure ?? DrayError(.invalidArgument, "the cluster has no addresses")
    }

    /// The providers that engines can be reached with, the one to try first first: those that were
    /// asked for, in that order, or else as the addresses name them. Shared memory, which may be
    /// another machine's, comes last then.
    private static func providers(
        _ description: ClusterDescription, _ bootstrap: [FabricAddress]
    ) -> [String] {
        var asked: [String] = []
        if !description.clientAddress.isEmpty {
            asked = [String(description.clientAddress.prefix { $0 != ":" })]
        } else if let fabric = description.fabric, fabric.values[.provider]?.source != .default {
            asked = fabric.providers
        }
        let known = bootstrap.map(\.provider)
        let others =
            known.filter { !FabricAddress.isNamed($0) } + known.filter(FabricAddress.isNamed)
        var seen: Set<String> = []
        return (asked.filter(known.contains) + others).filter { seen.insert($0).inserted }
    }

    /// Where the client listens, so that an engine can reach it.
    private static func address(
        _ description: ClusterDescription, reaching engine: FabricAddress, _ world: World
    ) throws(DrayError) -> String {
        guard description.clientAddress.isEmpty else { return description.clientAddress }
        do throws(FabricConfigurationError) {
            return try description.fabric?.address(ofClient: 0, provider: engine.provider)
                ?? world.fabric.listenAddress(toReach: engine)
        } catch {
            throw DrayError(.invalidArgument, "\(error)")
        }
    }

    func close() async {
        await context.close()
    }

    /// A fresh random identity.
    func newID() -> UniqueID { UniqueID.random(using: &entropy) }

    /// The identity of the next transaction: unique by client and time. The time tells engines
    /// whether they may have forgotten it.
    func newTransaction() -> UniqueID {
        UniqueID(high: context.instance, low: context.clock.now())
    }

    /// When an operation that begins now ends; one in a container may have a time of its own.
    func operationEnd(in container: Container? = nil) -> OperationEnd {
        let timeout = container?.timeout ?? operationTimeout
        let wall = context.clock.now()
        return OperationEnd(
            time: xstream.now + timeout, deadline: .at(wall + timeout.nanosecondsClamped))
    }

    // MARK: - Cluster map

    /// Asks the bootstrap addresses in turn until one answers.
    func connect(timeout: Duration) async throws(DrayError) {
        let end = xstream.now + timeout
        var last = RPCError.timedOut
        var backoff = Backoff()
        while true {
            for address in bootstrap {
                do throws(RPCError) {
                    let map = try await context.call(
                        ManagementProtocol.clusterMap, EmptyMessage(), to: .address(address),
                        deadline: .after(min(.seconds(1), timeout)))
                    try install(map, from: address)
                    return
                } catch {
                    last = error
                }
            }
            guard xstream.now < end else { break }
            await xstream.sleep(for: backoff.next(using: &entropy))
        }
        throw DrayError(last, "cluster")
    }

    private func install(
        _ map: ClusterMapReply, from answering: FabricAddress
    ) throws(RPCError) {
        var members: [Group.Member] = []
        let network = ClientCore.network(of: answering, in: map)
        for engine in map.engines {
            var addresses: [FabricAddress] = []
            for text in texts(of: engine, network: network) {
                do throws(FabricError) {
                    addresses.append(try FabricAddress(parsing: text))
                } catch {
                    throw .badMessage
                }
            }
            members.append(Group.Member(rank: engine.rank, addresses: addresses))
        }
        do throws(GroupError) {
            try context.group.apply(.replace(members), version: context.group.version + 1)
        } catch {
            throw .badMessage
        }
        engines = map.engines.sorted { $0.rank < $1.rank }
    }

    /// The network in which an engine listens at `address`; nil where it goes by another name.
    private static func network(of address: FabricAddress, in map: ClusterMapReply) -> Int? {
        for engine in map.engines {
            let bases = engine.networks.map { $0.first.flatMap { try? FabricAddress(parsing: $0) } }
            if let network = bases.firstIndex(of: address) { return network }
        }
        return nil
    }

    /// The addresses of an engine on the network that the client uses: the one over which an engine
    /// has answered, or else the first one with the client's provider.
    private func texts(of engine: EngineRecord, network: Int?) -> [String] {
        let networks = engine.networks
        func isOurs(_ addresses: [String]) -> Bool {
            addresses.first?.hasPrefix(context.address.provider + ":") == true
        }
        if let network, network < networks.count, isOurs(networks[network]) {
            return networks[network]
        }
        return networks.first(where: isOurs) ?? engine.addresses
    }

    // MARK: - Calls

    /// Calls until it succeeds, fails for good, or the operation's time is over. What failed in
    /// a way that says nothing about the outcome is sent again, with the same content.
    func retrying<Value>(
        _ subject: @autoclosure () -> String, engine: UInt32? = nil,
        until end: OperationEnd? = nil, epoch: UInt64? = nil,
        _ body: (Deadline) async throws(RPCError) -> Value
    ) async throws(DrayError) -> Value {
        let end = end ?? operationEnd()
        var backoff = Backoff()
        var earlier: RPCError?
        while true {
            do throws(RPCError) {
                return try await body(end.deadline)
            } catch {
                if let epoch, ClientCore.isTooOld(error) {
                    throw DrayError(tooOldAt: epoch, subject(), cause: error)
                }
                guard ClientCore.mayRetry(error), !Task.isCancelled,
                    await pause(&backoff, until: end)
                else {
                    throw DrayError(
                        ClientCore.cause(error, after: earlier), subject(), engine: engine)
                }
                earlier = error
            }
        }
    }

    /// Waits before the next attempt. False when no time is left for one.
    func pause(_ backoff: inout Backoff, until end: OperationEnd) async -> Bool {
        let pause = backoff.next(using: &entropy)
        await xstream.sleep(until: min(xstream.now + pause, end.time))
        return xstream.now < end.time
    }

    static func mayRetry(_ error: RPCError) -> Bool {
        switch error {
        case .unreachable, .peerRestarted, .overloaded, .noReply: true
        case .application(let code, _):
            code == ServiceCode.busy.rawValue || code == ServiceCode.staleMap.rawValue
                || code == ServiceCode.undecided.rawValue
        case .timedOut, .cancelled, .unknownProcedure, .protocolVersion, .badMessage,
            .wrongRank, .wrongTag, .staleGroup, .groupVersion, .clockSkew, .fabric, .closed,
            .messageTooLong:
            false
        }
    }

    /// Why an operation failed whose last attempt ended with `error`: the attempt for which no time
    /// was left says less than the one before.
    static func cause(_ error: RPCError, after earlier: RPCError?) -> RPCError {
        error == .timedOut ? earlier ?? error : error
    }

    /// Calls the system context of some engine, another one at each attempt.
    func callAnyEngine<Q, R>(
        _ procedure: Procedure<Q, R>, _ request: Q, subject: String, until end: OperationEnd? = nil
    ) async throws(DrayError) -> R {
        var next = Int(entropy.below(UInt64(max(1, engines.count))))
        let engines = engines
        // Whether an attempt may have been served whose answer is not known.
        var isUnknown = false
        do throws(DrayError) {
            return try await retrying(subject, until: end) {
                (deadline) async throws(RPCError) -> R in
                let rank = engines[next % engines.count].rank
                next += 1
                do throws(RPCError) {
                    return unsafe try await context.call(
                        procedure, request, to: .rank(rank, tag: 0), deadline: deadline)
                } catch {
                    if ClientCore.isUnknown(error) { isUnknown = true }
                    throw error
                }
            }
        } catch {
            var error = error
            if isUnknown { error.mayHaveHappened = true }
            throw error
        }
    }

    /// Whether an attempt with this error may have been served.
    static func isUnknown(_ error: RPCError) -> Bool {
        switch error {
        case .unreachable, .peerRestarted, .noReply, .timedOut: true
        default: false
        }
    }

    // MARK: - Metadata

    /// The newest metadata.
    func refresh() async throws(DrayError) -> ClusterMetadata {
        try await callAnyEngine(
            ManagementProtocol.metadata, EmptyMessage(), subject: "cluster metadata")
    }

    /// Makes a change and returns the metadata after it.
    func change(
        _ change: MetadataChange, subject: String
    ) async throws(DrayError) -> ClusterMetadata {
        try await callAnyEngine(ManagementProtocol.change, change, subject: subject)
    }

    func pool(_ label: String, in metadata: ClusterMetadata) throws(DrayError) -> PoolRecord {
        guard let record = metadata.pool(label: label) else {
            let known = metadata.pools.map(\.label).sorted().prefix(8).joined(separator: ", ")
            throw DrayError(
                .notFound,
                "there is no pool '\(label)'"
                    + (known.isEmpty
                        ? "; create one with: dray pool create \(label) --size 1GiB"
                        : "; there is: \(known)"))
        }
        return record
    }

    func container(
        _ label: String, of pool: PoolRecord, in metadata: ClusterMetadata
    ) throws(DrayError) -> ContainerRecord {
        guard let record = metadata.container(label: label, pool: pool.id) else {
            throw missing(label, of: pool)
        }
        return record
    }

    private func missing(_ label: String, of pool: PoolRecord) -> DrayError {
        DrayError(
            .notFound,
            "there is no container '\(label)' in pool '\(pool.label)'; "
                + "create it with: dray container create \(pool.label)/\(label)")
    }

    /// Opens the container with this label.
    func open(
        _ label: String, of pool: PoolRecord, _ access: ContainerAccess
    ) async throws(DrayError) -> OpenedContainer {
        guard Label.problem(with: label) == nil,
            let container = try await openAll(of: pool, label: label, access).first
        else { throw missing(label, of: pool) }
        return container
    }

    /// Opens every container, or those with a label.
    func openAll(
        of pool: PoolRecord, label: String? = nil, _ access: ContainerAccess
    ) async throws(DrayError) -> [OpenedContainer] {
        var request = ContainerOpenRequest()
        request.pool = pool.id
        request.label = label
        request.access = access
        return try await callAnyEngine(
            ManagementProtocol.open, request, subject: "pool \(pool.label)"
        ).containers
    }

    /// Asks every engine how it is, at once.
    func status(
        pool: UniqueID, timeout: Duration
    ) async -> [(engine: EngineRecord, status: EngineStatusReply?)] {
        let gather = Gather<EngineStatusReply?>(count: engines.count)
        for (index, engine) in engines.enumerated() {
            xstream.spawn { [context] in
                var status: EngineStatusReply?
                do throws(RPCError) {
                    status = unsafe try await context.call(
                        ManagementProtocol.status, PoolReference(pool),
                        to: .rank(engine.rank, tag: 0), deadline: .after(timeout))
                } catch {
                    status = nil
                }
                gather.finish(index, with: status)
            }
        }
        return zip(engines, await gather.results()).map { ($0, $1) }
    }

    /// Asks the system contexts of all engines, or of those in `ranks`, all at once.
    func askEngines<Q, R>(
        _ ranks: Set<UInt32>?, _ procedure: Procedure<Q, R>, _ request: Q, timeout: Duration
    ) async -> [(engine: EngineRecord, reply: Result<R, DrayError>)] {
        let engines = engines.filter { ranks?.contains($0.rank) ?? true }
        let gather = Gather<Result<R, DrayError>>(count: engines.count)
        for (index, engine) in engines.enumerated() {
            xstream.spawn { [context] in
                do throws(RPCError) {
                    let reply = unsafe try await context.call(
                        procedure, request, to: .rank(engine.rank, tag: 0),
                        deadline: .after(timeout), options: CallOptions(priority: .high))
                    gather.finish(index, with: .success(reply))
                } catch {
                    gather.finish(
                        index, with: .failure(DrayError(error, "engine \(engine.rank)")))
                }
            }
        }
        return zip(engines, await gather.results()).map { ($0, $1) }
    }

    func usage(of pool: PoolRecord) async throws(DrayError) -> PoolUsage {
        let statuses = await status(pool: pool.id, timeout: .seconds(5))
        var usage = PoolUsage(size: pool.size, used: 0, targets: [])
        for engine in pool.map.engines {
            guard let status = statuses.first(where: { $0.engine.rank == engine.rank })?.status,
                status.targets.count >= Int(engine.targetCount)
            else {
                throw DrayError(
                    .unavailable,
                    "engine \(engine.rank) does not answer; see: dray cluster status")
            }
            for target in 0..<engine.targetCount {
                let figures = status.targets[Int(target)]
                usage.used += figures.used
                usage.targets.append(
                    PoolUsage.Target(
                        address: TargetAddress(rank: engine.rank, target: target),
                        size: pool.sizePerTarget, used: figures.used, deviceFree: figures.free))
            }
        }
        return usage
    }

    // MARK: - Layout

    /// The layout of an object, from the cache.
    func layout(of object: DrayObject) throws(DrayError) -> ObjectLayout {
        let pool = object.container.pool
        guard let layout = layouts.layout(of: object.id, pool: pool.id, in: pool.record.map) else {
            throw DrayError(
                .invalidArgument, "object \(object.id) was not made for pool \(pool.label)")
        }
        return layout
    }
}

/// Pauses between attempts: doubling from 2 ms to 250 ms, each with jitter.
struct Backoff {
    static let first: Duration = .milliseconds(2)
    static let longest: Duration = .milliseconds(250)

    private var pause = Backoff.first

    mutating func next(using entropy: inout Entropy) -> Duration {
        defer { pause = min(pause * 2, Backoff.longest) }
        let jitter = entropy.below(pause.nanosecondsClamped / 2 + 1)
        return pause / 2 + .nanoseconds(Int64(jitter))
    }
}
