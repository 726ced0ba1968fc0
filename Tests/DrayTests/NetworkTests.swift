import CaRT
import DrayFabric
import DrayPlacement
import DrayRuntime
import DraySimulator
import Testing

@testable import Dray

/// Clients of engines that listen on several networks.
@Suite struct NetworkTests {
    /// Runs `body` with a container of the same cluster for a client of each network.
    private func run(
        seed: UInt64, _ body: @escaping (SimulatedCluster, [Container]) async throws -> Void
    ) throws {
        let cluster = try SimulatedCluster(
            seed: seed, engineCount: 3, targetCount: 2, networkCount: 2)
        let world = cluster.world(client: 0)
        try cluster.run(on: world.makeXStream(name: "admin")) {
            var containers: [Container] = []
            for network in [1, 0] {
                let client = try await Cluster.connect(
                    to: cluster.description(timeout: .seconds(5), network: network),
                    world: cluster.world(client: network))
                if network == 1 {
                    let pool = try await client.createPool(label: "tank", size: 256 << 20)
                    _ = try await pool.createContainer(label: "data", objectClass: .rp3gx)
                }
                containers.append(try await client.pool("tank").container("data"))
            }
            try await body(cluster, [containers[1], containers[0]])
        }
    }

    /// Each client calls all engines over the network that it has found them on.
    @Test func clientsStayOnTheirNetwork() throws {
        try run(seed: 1) { cluster, containers in
            for (network, container) in containers.enumerated() {
                let core = container.pool.cluster.core
                let addresses = await core.xstream.run {
                    core.value.context.group.members.map { $0.addresses.map(\.description) }
                }
                #expect(addresses.count == 3)
                for (rank, addresses) in addresses.enumerated() {
                    let base =
                        network == 0
                        ? "sim://engine-\(rank)" : "sim://network-1-engine-\(rank)"
                    // The first network has the context that watches the others, too.
                    let count = network == 0 ? 4 : 3
                    #expect(
                        addresses
                            == (0..<count).map { $0 == 0 ? base : "\(base)-\($0)" })
                }
            }
        }
    }

    /// Large updates of many replicas, and transactions whose reads came over another network than
    /// the requests of their leader: whoever writes, the other one reads it.
    @Test(arguments: 1...4) func whatOneWritesTheOtherReads(seed: UInt64) throws {
        try run(seed: seed) { cluster, containers in
            let id = try await containers[0].makeObjectID(objectClass: .rp3gx)
            let objects = containers.map { $0.object(id) }
            for (writer, reader) in [(0, 1), (1, 0)] {
                let text = String(repeating: "\(writer)", count: 200_000)
                for key in 0..<6 { try await objects[writer].put("key \(key)", text) }
                for key in 0..<6 {
                    #expect(try await objects[reader].get("key \(key)") == text)
                }
                let container = containers[writer]
                try await container.transaction { transaction in
                    let object = container.object(id)
                    var count = 0
                    for key in 0..<6 {
                        count += try await transaction.get(object, "key \(key)")?.count ?? 0
                    }
                    for key in 0..<6 { try await transaction.put(object, "key \(key)", "\(count)") }
                }
                for key in 0..<6 {
                    #expect(try await objects[reader].get("key \(key)") == "1200000")
                }
            }
        }
    }

    /// An engine that is killed and comes back is found again on either network.
    @Test func aRestartedEngineIsFound() throws {
        try run(seed: 7) { cluster, containers in
            let id = try await containers[0].makeObjectID(objectClass: .rp3gx)
            try await containers[1].object(id).put("key", "before")
            cluster.kill(rank: 1)
            try await cluster.start(rank: 1)
            for (network, container) in containers.enumerated() {
                try await container.object(id).put("key", "\(network)")
                #expect(try await containers[1 - network].object(id).get("key") == "\(network)")
            }
        }
    }
}
