import BIO
import Dray
import DrayEngine
import DrayFabric
import DrayProtocol
import DrayRuntime
import Testing

/// Two engines and a client on virtual time, with a pool and a container, for one test.
struct SimulatedCluster {
    static let engineCount = 2
    static let targetCount = 2

    /// Runs `body` as a task of the client until it is done.
    static func run(
        seed: UInt64, limit: Duration = .seconds(3600),
        _ body: @escaping (Container, World) async throws -> Void
    ) {
        let simulation = Simulation(seed: seed)
        let fabric = SimulatedFabric(simulation: simulation)
        let devices = SimulatedDeviceStore(simulation: simulation)
        var entropy = simulation.entropy.fork("test")
        let cluster = UniqueID.random(using: &entropy)
        func world(_ node: Int) -> World {
            var world = simulation.world(node: node)
            world.fabric = fabric
            world.devices = devices
            return world
        }
        let records = (0..<engineCount).map { rank in
            EngineRecord(
                rank: UInt32(rank),
                addresses: EngineConfiguration.addresses(
                    base: "sim://engine-\(rank)", targetCount: targetCount))
        }
        var serving: [Engine] = []
        for rank in 0..<engineCount {
            let configuration = EngineConfiguration(
                cluster: cluster, rank: UInt32(rank), engines: records,
                devicePath: "device-\(rank)")
            let world = world(rank)
            let xstream = world.makeXStream(name: "boot-\(rank)")
            xstream.simulate {
                do {
                    try devices.create(path: configuration.devicePath, size: 512 << 20)
                    try await Engine.format(configuration, world: world)
                    serving.append(try await Engine.start(configuration, world: world))
                } catch {
                    Issue.record("engine \(rank): \(error)")
                }
            }
        }
        let up = simulation.run(for: .seconds(60)) { serving.count == engineCount }
        #expect(up, "the engines do not come up")
        guard up else { return }
        let world = world(100)
        let xstream = world.makeXStream(name: "client")
        var isDone = false
        xstream.simulate {
            do {
                let client = try await Cluster.connect(
                    to: ClusterDescription(
                        addresses: ["sim://engine-0"], operationTimeout: .seconds(2)),
                    world: world)
                let pool = try await client.createPool(label: "tank", size: 512 << 20)
                let container = try await pool.createContainer(label: "files")
                // A simulation has one thread: nothing is sent anywhere.
                nonisolated(unsafe) let body = body
                try await client.run { try await body(container, world) }
                await client.close()
            } catch {
                Issue.record("\(error)")
            }
            isDone = true
        }
        #expect(simulation.run(for: limit) { isDone }, "the test hangs")
        withExtendedLifetime(serving) {}
    }
}
