import Dray
import DrayPlacement
import DrayRuntime
import DraySimulator
import Testing

/// A simulated cluster with a client, a pool and a container, for one test.
struct ClusterRig {
    let cluster: SimulatedCluster
    let container: Container

    static let timeout: Duration = .seconds(5)

    /// Runs `body` as a task on the client's xstream until it is done.
    static func run(
        seed: UInt64 = 1, engines: Int = 3, targets: Int = 1, devices: Int = 1,
        _ objectClass: ObjectClass = .rp3g1,
        location: SourceLocation = #_sourceLocation,
        _ body: @escaping (ClusterRig) async throws -> Void
    ) {
        do {
            let cluster = try SimulatedCluster(
                seed: seed, engineCount: engines, targetCount: targets, deviceCount: devices)
            let world = cluster.world(client: 0)
            var made: Container?
            try cluster.run(on: world.makeXStream(name: "admin")) {
                let client = try await Cluster.connect(
                    to: cluster.description(timeout: timeout), world: world)
                let pool = try await client.createPool(label: "tank", size: 256 << 20)
                made = try await pool.createContainer(label: "data", objectClass: objectClass)
            }
            let container = try #require(made)
            let rig = ClusterRig(cluster: cluster, container: container)
            try cluster.run(on: rig.client.xstream) { try await body(rig) }
        } catch {
            Issue.record("\(error)", sourceLocation: location)
        }
    }

    var client: Cluster { container.pool.cluster }
    var now: Instant { cluster.simulation.now }

    /// The container as another client process sees it.
    func container(ofClient number: Int) async throws -> Container {
        let client = try await Cluster.connect(
            to: cluster.description(timeout: ClusterRig.timeout),
            world: cluster.world(client: number))
        return try await client.pool("tank").container("data")
    }

    func makeObject(_ objectClass: ObjectClass? = nil) async throws -> DrayObject {
        container.object(try await container.makeObjectID(objectClass: objectClass))
    }

    func sleep(_ duration: Duration) async {
        await client.xstream.sleep(for: duration)
    }

    /// Runs all of them at once, and throws the first error of those that have failed.
    func together(_ bodies: [() async throws -> Void]) async throws {
        let gather = Gather<Result<Void, any Error>>(count: bodies.count)
        for (index, body) in bodies.enumerated() {
            client.xstream.spawn {
                do {
                    try await body()
                    gather.finish(index, with: .success(()))
                } catch {
                    gather.finish(index, with: .failure(error))
                }
            }
        }
        for result in await gather.results() { try result.get() }
    }

    /// What `body` fails with, and after which time.
    func failure(
        location: SourceLocation = #_sourceLocation, _ body: () async throws -> Void
    ) async throws -> (error: DrayError, time: Duration) {
        let start = now
        do {
            try await body()
        } catch let error as DrayError {
            return (error, now.since(start))
        }
        Issue.record("it has succeeded", sourceLocation: location)
        throw UnexpectedSuccess()
    }

    /// Cancels `body` after `delay`: what it fails with then, and after which further time.
    func failureWhenCancelled(
        after delay: Duration = .milliseconds(50), location: SourceLocation = #_sourceLocation,
        _ body: @escaping () async throws -> Void
    ) async throws -> (error: DrayError, time: Duration) {
        var error: DrayError?
        let task = client.xstream.spawnCancellable {
            do {
                try await body()
            } catch let failure as DrayError {
                error = failure
            } catch {
                Issue.record("\(error)", sourceLocation: location)
            }
        }
        await sleep(delay)
        #expect(error == nil, "it was over before it was cancelled", sourceLocation: location)
        let start = now
        task.cancel()
        await task.value
        guard let error else {
            Issue.record("it has succeeded", sourceLocation: location)
            throw UnexpectedSuccess()
        }
        return (error, now.since(start))
    }

    struct UnexpectedSuccess: Error {}
}

extension String {
    var bytes: [UInt8] { Array(utf8) }
}

/// The akey of every value that is text.
let textKey = "text".bytes

extension DrayObject {
    /// This object as another client sees it.
    func seen(in container: Container) -> DrayObject { container.object(id) }

    func put(_ key: String, _ text: String, _ condition: Condition = .none) async throws {
        try await put(dkey: key.bytes, akey: textKey, value: text.bytes, condition: condition)
    }

    func get(_ key: String) async throws -> String? {
        try await get(dkey: key.bytes, akey: textKey).map { String(decoding: $0, as: UTF8.self) }
    }
}

extension DrayObject.Change {
    static func put(
        _ key: String, _ text: String, _ condition: DrayObject.Condition = .none
    ) -> DrayObject.Change {
        put(dkey: key.bytes, akey: textKey, value: text.bytes, condition: condition)
    }
}

extension Transaction {
    func put(
        _ object: DrayObject, _ key: String, _ text: String,
        _ condition: DrayObject.Condition = .none
    ) async throws {
        try await put(
            object, dkey: key.bytes, akey: textKey, value: text.bytes, condition: condition)
    }

    func get(_ object: DrayObject, _ key: String) async throws -> String? {
        try await get(object, dkey: key.bytes, akey: textKey)
            .map { String(decoding: $0, as: UTF8.self) }
    }
}
