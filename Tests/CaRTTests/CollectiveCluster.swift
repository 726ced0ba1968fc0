import DrayFabric
import DrayRuntime
import Testing

@testable import CaRT

/// A simulated group, each member of which is a process of its own, and a client that is none.
final class CollectiveCluster {
    final class Node {
        let rank: UInt32?
        var incarnation = -1
        var isAlive = false
        var xstream: XStream!
        var context: Context!
        var state: MemberState!
        /// Parts of earlier lives, by what the collective was, to count handlers.
        init(rank: UInt32?) { self.rank = rank }
    }

    let simulation: Simulation
    let fabric: SimulatedFabric
    let nodes: [Node]
    let client = Node(rank: nil)
    private let change: (inout ContextOptions) -> Void
    /// Runs on every context that is opened.
    var onOpen: (Node) -> Void = { $0.state = takePart($0.context) }

    init(
        seed: UInt64, count: Int, faults: FabricFaults = .none,
        _ change: @escaping (inout ContextOptions) -> Void = { _ in }
    ) {
        simulation = Simulation(seed: seed)
        fabric = SimulatedFabric(simulation: simulation, faults: faults)
        nodes = (0..<count).map { Node(rank: UInt32($0)) }
        self.change = change
    }

    func startAll() {
        for node in nodes + [client] { start(node) }
        applyGroup(version: 1)
    }

    /// The number of a rank's simulated process; the client's is 1.
    static func number(_ node: Node) -> Int { node.rank.map { Int($0) + 2 } ?? 1 }

    func start(_ node: Node) {
        node.incarnation += 1
        node.isAlive = true
        node.context = nil
        var world = simulation.world(
            node: Self.number(node), incarnation: node.incarnation)
        world.fabric = fabric
        let made = world
        let xstream = world.makeXStream(name: "node")
        node.xstream = xstream
        xstream.simulate { [self] in
            var options = ContextOptions(clock: HybridLogicalClock(clock: made.clock))
            options.rank = node.rank
            options.receiveCount = 32
            options.heldReceivesMax = 16
            change(&options)
            do throws(RPCError) {
                node.context = try Context(
                    world: made, xstream: xstream,
                    address: "sim://node-\(Self.number(node))", options: options)
                onOpen(node)
            } catch {
                Issue.record("\(error)")
            }
        }
        simulation.run(for: .seconds(1), until: { node.context != nil })
    }

    func kill(_ node: Node) {
        simulation.kill(node: Self.number(node), incarnation: node.incarnation)
        node.isAlive = false
    }

    func restart(_ node: Node) {
        if node.isAlive { kill(node) }
        let version = client.context.group.version
        start(node)
        apply(version: version, to: node)
    }

    func applyGroup(version: UInt32) {
        for node in nodes + [client] where node.isAlive { apply(version: version, to: node) }
    }

    private func apply(version: UInt32, to node: Node) {
        let members = nodes.map { node in
            Group.Member(
                rank: node.rank!,
                addresses: [
                    FabricAddress(
                        provider: "sim", bytes: Array("node-\(Self.number(node))".utf8))
                ])
        }
        node.xstream.simulate {
            do throws(GroupError) {
                try node.context.group.apply(.replace(members), version: version)
            } catch {
                Issue.record("\(error)")
            }
        }
        simulation.run(for: .seconds(1), until: { node.context.group.version == version })
    }

    /// A collective that may be under way.
    final class Run {
        var result: Result<CollectiveResult<Tally>, RPCError>?
        var task: Task<Void, Never>?
    }

    func broadcast(
        _ blob: Blob = Blob(), from node: Node? = nil, to members: CollectiveMembers = .all,
        bulk: IOBuffer? = nil, deadline: Duration = .seconds(10),
        options: CollectiveOptions = CollectiveOptions()
    ) -> Run {
        let run = Run()
        let node = node ?? client
        let context = node.context!
        node.xstream.simulate {
            run.task = node.xstream.spawnCancellable {
                do throws(RPCError) {
                    var handle: BulkHandle?
                    if let bulk { handle = try context.expose(bulk, access: .remoteRead) }
                    run.result = .success(
                        try await context.broadcast(
                            CollectiveTestProtocol.tally, blob, to: members, bulk: handle,
                            deadline: .after(deadline), options: options))
                } catch {
                    run.result = .failure(error)
                }
            }
        }
        return run
    }

    /// Runs until a collective has ended, and gives its result and the time it took.
    func finish(_ run: Run) throws -> (CollectiveResult<Tally>, Duration) {
        let start = simulation.now
        simulation.run(for: .seconds(600), until: { run.result != nil })
        guard let result = run.result else { throw RigError.notFinished }
        return (try result.get(), simulation.now.since(start))
    }
}
