import Dray
import DrayRuntime
import DraySimulator
import Testing

extension SimulatedCluster {
    /// Runs `body` as a task of a client of two engines, with a pool and a container for one test.
    static func run(
        seed: UInt64, limit: Duration = .seconds(3600),
        _ body: @escaping (Container, World) async throws -> Void
    ) {
        do {
            let cluster = try SimulatedCluster(seed: seed, engineCount: 2, targetCount: 2)
            let world = cluster.world(client: 0)
            try cluster.run(on: world.makeXStream(name: "client"), limit: limit) {
                let client = try await Cluster.connect(
                    to: cluster.description(timeout: .seconds(2)), world: world)
                let pool = try await client.createPool(label: "tank", size: 512 << 20)
                let container = try await pool.createContainer(label: "files")
                // A simulation has one thread: nothing is sent anywhere.
                nonisolated(unsafe) let body = body
                try await client.run { try await body(container, world) }
                await client.close()
            }
        } catch {
            Issue.record("\(error)")
        }
    }
}
