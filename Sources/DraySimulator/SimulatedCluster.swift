package import BIO
package import Dray
package import DrayEngine
package import DrayFabric
internal import DrayPlacement
internal import DrayProtocol
package import DrayRuntime

/// A cluster in virtual time for tests of single promises: real engines and clients, of which
/// nothing goes wrong unless the test says so. `ClusterSimulation` draws faults instead.
///
/// Belongs to the thread that made it.
package final class SimulatedCluster {
    package let simulation: Simulation
    package let fabric: SimulatedFabric
    package let devices: SimulatedDeviceStore
    /// Engines have the ranks from 0 on, which are also the numbers of their nodes.
    package let engineCount: Int
    private let targetCount: Int
    private let deviceCount: Int
    private let networkCount: Int
    private let cluster: UniqueID
    private var incarnations: [Int]
    private var engines: [Int: Engine] = [:]

    /// The node of client 0; the other clients follow.
    private static let clientNodeFirst = 100
    private static let bootNode = 99
    private static let deviceSize: UInt64 = 512 << 20
    /// Small: formatting writes all of it.
    private static let logSize: UInt64 = 2 << 20

    /// Formats and starts the engines, which have `deviceCount` devices each, and listen on
    /// `networkCount` networks.
    ///
    /// - Throws: the error of the first engine that does not start.
    package init(
        seed: UInt64, engineCount: Int, targetCount: Int, deviceCount: Int = 1,
        networkCount: Int = 1
    ) throws {
        self.deviceCount = deviceCount
        self.networkCount = networkCount
        simulation = Simulation(seed: seed)
        fabric = SimulatedFabric(simulation: simulation)
        devices = SimulatedDeviceStore(simulation: simulation)
        self.engineCount = engineCount
        self.targetCount = targetCount
        var entropy = simulation.entropy.fork("cluster")
        cluster = UniqueID.random(using: &entropy)
        incarnations = Array(repeating: 0, count: engineCount)
        try run(on: world(node: SimulatedCluster.bootNode).makeXStream(name: "boot")) { [self] in
            for rank in 0..<engineCount {
                let configuration = configuration(rank: rank)
                for path in configuration.devicePaths {
                    try devices.create(path: path, size: SimulatedCluster.deviceSize)
                }
                try await Engine.format(configuration, world: world(node: rank))
                try await start(rank: rank)
            }
        }
    }

    // MARK: - Engines

    /// Starts an engine, again if it was killed. It serves when this returns.
    package func start(rank: Int) async throws {
        precondition(engines[rank] == nil, "engine \(rank) runs")
        incarnations[rank] += 1
        let world = world(node: rank, incarnation: incarnations[rank])
        let configuration = configuration(rank: rank)
        engines[rank] = try await world.makeXStream(name: "boot-\(rank)").run {
            try await Engine.start(configuration, world: world)
        }
    }

    /// Ends an engine as SIGKILL and a power cut together do.
    package func kill(rank: Int) {
        precondition(engines[rank] != nil, "engine \(rank) does not run")
        simulation.kill(node: rank, incarnation: incarnations[rank])
        devices.crash(node: Simulation.identity(node: rank, incarnation: incarnations[rank]))
        engines[rank] = nil
    }

    /// Stops an engine until `resume`, as SIGSTOP does.
    package func pause(rank: Int) {
        simulation.pause(node: rank, incarnation: incarnations[rank])
    }

    /// Lets a paused engine go on.
    package func resume(rank: Int) {
        simulation.resume(node: rank, incarnation: incarnations[rank])
    }

    /// What an engine holds at the moment; nil when it does not run.
    package func counts(rank: Int) async -> EngineCounts? { await engines[rank]?.counts() }

    /// The epochs of the snapshots that each target of an engine holds.
    package func heldEpochs(rank: Int) async -> [[UInt64]] {
        await engines[rank]?.heldEpochs() ?? []
    }

    /// Lets one in `period` of the blocks of values on an engine's devices rot. Returns how many.
    package func rot(rank: Int, oneIn period: UInt64) -> Int {
        let configuration = configuration(rank: rank)
        var count = 0
        for (index, path) in configuration.devicePaths.enumerated() {
            for area in configuration.dataAreas(
                device: index, deviceSize: SimulatedCluster.deviceSize)
            {
                count += devices.rot(path: path, in: area, oneIn: period)
            }
        }
        return count
    }

    /// What an engine's device is called, for `devices`. Those of its targets lie on it in turn.
    package func devicePath(rank: Int, device: Int) -> String {
        device == 0 ? "device-\(rank)" : "device-\(rank)-\(device)"
    }

    private func configuration(rank: Int) -> EngineConfiguration {
        let records = (0..<engineCount).map { rank in
            EngineConfiguration.record(
                rank: UInt32(rank),
                bases: (0..<networkCount).map { address(rank: rank, network: $0) },
                targetCount: targetCount)
        }
        var configuration = EngineConfiguration(
            cluster: cluster, rank: UInt32(rank), engines: records,
            devicePaths: (0..<deviceCount).map { devicePath(rank: rank, device: $0) })
        configuration.logSize = SimulatedCluster.logSize
        // None, but they may be injected.
        configuration.faults = []
        return configuration
    }

    // MARK: - Clients

    /// The node of a client, counted from 0.
    package func node(client: Int) -> Int { SimulatedCluster.clientNodeFirst + client }

    /// The world of a client's process.
    package func world(client: Int) -> World { world(node: node(client: client)) }

    /// How clients find the engines, on one of their networks.
    package func description(timeout: Duration, network: Int = 0) -> ClusterDescription {
        ClusterDescription(
            addresses: (0..<engineCount).map { address(rank: $0, network: network) },
            operationTimeout: timeout)
    }

    private func address(rank: Int, network: Int) -> String {
        network == 0 ? "sim://engine-\(rank)" : "sim://network-\(network)-engine-\(rank)"
    }

    private func world(node: Int, incarnation: Int = 0) -> World {
        var world = simulation.world(node: node, incarnation: incarnation)
        world.fabric = fabric
        world.devices = devices
        return world
    }

    // MARK: - Running

    /// Runs `body` as a task of `xstream` until it is done.
    ///
    /// - Throws: what `body` throws; `SimulatedHang` when it is not done after `limit` of virtual
    ///   time.
    package func run(
        on xstream: XStream, limit: Duration = .seconds(600),
        _ body: @escaping () async throws -> Void
    ) throws {
        var result: Result<Void, any Error>?
        xstream.simulate {
            do {
                try await body()
                result = .success(())
            } catch {
                result = .failure(error)
            }
        }
        simulation.run(for: limit) { result != nil }
        guard let result else { throw SimulatedHang(limit: limit) }
        try result.get()
    }
}

/// What was run on a simulated cluster has not come to its end.
package struct SimulatedHang: Error {
    /// How long it was waited for, in virtual time.
    package let limit: Duration
}
