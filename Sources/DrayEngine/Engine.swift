internal import BIO
internal import CaRT
internal import DrayFabric
internal import DrayProtocol
public import DrayRuntime
internal import VOS

/// An engine: the system xstream with management and metadata (tag 0), an xstream with a partition
/// of a device and a versioned object store for each target (tags 1 and up), and one that watches
/// the other engines (the tag after those). A target whose device is missing answers that it is.
public final class Engine: Sendable {
    /// What it was started with.
    public let configuration: EngineConfiguration

    let system: XStreamBound<SystemService>
    let targets: [XStreamBound<TargetService>]
    let lostTargets: [XStreamBound<LostTarget>]
    let membership: XStreamBound<MembershipService>

    private init(
        configuration: EngineConfiguration, system: XStreamBound<SystemService>,
        targets: [XStreamBound<TargetService>], lostTargets: [XStreamBound<LostTarget>],
        membership: XStreamBound<MembershipService>
    ) {
        self.configuration = configuration
        self.system = system
        self.targets = targets
        self.lostTargets = lostTargets
        self.membership = membership
    }

    /// Prepares the devices of an engine: every partition gets its superblock and an empty log.
    ///
    /// The metadata partition comes last, so devices are either wholly formatted or refused by
    /// `start`. Throws `.device(.foreign)`, and changes nothing, when there is anything on one of
    /// them; with `overwrite`, what was there is lost.
    public static func format(
        _ configuration: EngineConfiguration, world: World, overwrite: Bool = false
    ) async throws(EngineError) {
        if let problem = configuration.problem { throw .configuration(problem) }
        let xstream = world.makeXStream(name: "format")
        defer { xstream.stop() }
        try await xstream.run { () async throws(EngineError) in
            do throws(BIOError) {
                try await EngineDevices.format(
                    configuration, world: world, on: xstream, overwrite: overwrite)
            } catch {
                throw .device(error)
            }
        }
    }

    /// Starts an engine on formatted devices: recovers every store, then opens the contexts.
    /// Serving when it returns. Without a device other than the first, which has the engine's own
    /// store, it starts all the same, and that device's targets are out of service.
    public static func start(
        _ configuration: EngineConfiguration, world: World
    ) async throws(EngineError) -> Engine {
        if let problem = configuration.problem { throw .configuration(problem) }
        let clock = HybridLogicalClock(clock: world.clock)
        if let faults = configuration.faults { world.faults.set(faults) }
        let xstream = world.makeXStream(name: "dray-\(configuration.rank)-system")
        var started: [XStream] = [xstream]
        do throws(EngineError) {
            let (system, devices) = try await xstream.run {
                () async throws(EngineError) -> (XStreamBound<SystemService>, EngineDevices) in
                let devices = try await EngineDevices.find(
                    configuration, world: world, on: xstream)
                let service = try await SystemService(
                    configuration, devices, world: world, clock: clock, xstream: xstream)
                return (XStreamBound(service, to: xstream), devices)
            }
            var targets: [XStreamBound<TargetService>] = []
            var lost: [XStreamBound<LostTarget>] = []
            for index in 0..<configuration.targetCount {
                let xstream = world.makeXStream(name: "dray-\(configuration.rank)-\(index)")
                started.append(xstream)
                if let (path, problem) = devices.loss(of: UInt32(index)) {
                    lost.append(
                        await xstream.run {
                            let target = LostTarget(
                                index: index, configuration, path: path, problem, world: world,
                                clock: clock, xstream: xstream)
                            return XStreamBound(target, to: xstream)
                        })
                    continue
                }
                let target = try await xstream.run {
                    () async throws(EngineError) -> XStreamBound<TargetService> in
                    let service = try await TargetService(
                        index: index, configuration, devices, world: world, clock: clock,
                        xstream: xstream)
                    return XStreamBound(service, to: xstream)
                }
                targets.append(target)
            }
            try await serve(system, targets, lost)
            let watcher = world.makeXStream(name: "dray-\(configuration.rank)-swim")
            started.append(watcher)
            let membership = try await watch(
                configuration, world: world, clock: clock, xstream: watcher, system, targets)
            return Engine(
                configuration: configuration, system: system, targets: targets,
                lostTargets: lost, membership: membership)
        } catch {
            for xstream in started { xstream.stop() }
            throw error
        }
    }

    private static func serve(
        _ system: XStreamBound<SystemService>, _ targets: [XStreamBound<TargetService>],
        _ lost: [XStreamBound<LostTarget>]
    ) async throws(EngineError) {
        try await system.xstream.run { () async throws(EngineError) in
            await system.value.publish(to: targets, without: lost)
        }
        for target in lost {
            try await target.xstream.run { () async throws(EngineError) in
                try target.value.serve()
            }
        }
        for target in targets {
            try await target.xstream.run { () async throws(EngineError) in
                try target.value.serve()
            }
        }
        try await system.xstream.run { () async throws(EngineError) in
            try system.value.serve()
        }
    }

    /// Watches the other engines, and is watched, now that requests are served. The death of one
    /// ends what is under way to it.
    private static func watch(
        _ configuration: EngineConfiguration, world: World, clock: HybridLogicalClock,
        xstream: XStream, _ system: XStreamBound<SystemService>,
        _ targets: [XStreamBound<TargetService>]
    ) async throws(EngineError) -> XStreamBound<MembershipService> {
        let membership = try await xstream.run {
            () async throws(EngineError) -> XStreamBound<MembershipService> in
            let service = try MembershipService(
                configuration, world: world, clock: clock, xstream: xstream
            ) { rank in
                system.xstream.submit { system.value.contexts?.evict(rank: rank) }
                for target in targets {
                    target.xstream.submit { target.value.contexts?.evict(rank: rank) }
                }
            }
            return XStreamBound(service, to: xstream)
        }
        await system.xstream.run { system.value.watch(membership) }
        return membership
    }

    /// Stops serving, and closes every store.
    public func stop() async {
        let system = system
        let membership = membership
        await membership.xstream.run { await membership.value.stop() }
        await system.xstream.run { await system.value.stop() }
        for target in targets {
            await target.xstream.run { await target.value.stop() }
            target.xstream.stop()
        }
        for target in lostTargets {
            await target.xstream.run { await target.value.stop() }
            target.xstream.stop()
        }
        system.xstream.stop()
        membership.xstream.stop()
    }
}

/// The store of one target, or that of the metadata.
func openStore(
    _ devices: EngineDevices, target: UInt32, world: World, xstream: XStream
) async throws(EngineError) -> (vos: VOS, blocks: BlockStore) {
    let configuration = devices.configuration
    let store: BlockStore
    do throws(BIOError) {
        let place = try devices.open(target, world: world, on: xstream)
        store = try await BlockStore.open(
            place.device, partition: place.partition,
            identity: configuration.identity(target: target), metadata: place.metadata,
            on: xstream)
        store.faults = world.faults
    } catch {
        throw .device(error)
    }
    var options = VOSOptions()
    options.inlineThreshold = configuration.inlineThreshold
    options.cacheBytes = configuration.valueCacheBytes
    options.indexBytes = configuration.indexBytes
    options.scrubRate = configuration.scrubRate
    options.scrubInterval = configuration.scrubInterval
    if let retention = configuration.retention { options.retention = retention }
    if let age = configuration.transactionAge { options.transactionAge = age }
    do throws(VOSError) {
        let vos = try await VOS.open(store: store, world: world, on: xstream, options: options)
        return (vos, store)
    } catch {
        throw .store("\(store.device.name): \(error)")
    }
}

/// Opens a context of an engine on one of its networks.
func openContext(
    _ configuration: EngineConfiguration, tag: UInt32, network: Int = 0, world: World,
    clock: HybridLogicalClock, xstream: XStream,
    change: (inout ContextOptions) -> Void = { _ in }
) throws(EngineError) -> Context {
    guard let addresses = configuration.record?.networks[network], Int(tag) < addresses.count
    else { throw .configuration("there is no address for tag \(tag)") }
    var options =
        configuration.fabric?.contextOptions(clock: clock) ?? ContextOptions(clock: clock)
    options.rank = configuration.rank
    options.tag = tag
    options.credits = configuration.credits
    change(&options)
    let address = addresses[Int(tag)]
    do throws(RPCError) {
        let context = try Context(
            world: world, xstream: xstream, address: address, options: options)
        var members: [Group.Member] = []
        for engine in configuration.engines where network < engine.networks.count {
            var addresses: [FabricAddress] = []
            for text in engine.networks[network] {
                do throws(FabricError) {
                    addresses.append(try FabricAddress(parsing: text))
                } catch {
                    throw .fabric(error)
                }
            }
            members.append(Group.Member(rank: engine.rank, addresses: addresses))
        }
        do throws(GroupError) {
            try context.group.apply(.replace(members), version: 1)
        } catch {
            throw .application(code: 0, message: "\(error)")
        }
        // The context that watches the others must not be kept busy.
        if tag <= configuration.targetCount { SelfTest.register(on: context) }
        return context
    } catch {
        switch error {
        case .fabric(.addressInUse(let what)):
            throw .network("\(what) is in use by another process; choose another port")
        default: throw .network("\(address): \(error)")
        }
    }
}
