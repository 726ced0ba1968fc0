import DrayFabric
import DrayRuntime
import Testing

@testable import CaRT

@Suite struct ManyRanksTests {
    /// Ten thousand processes, each with a context of its own.
    @Test func tenThousandRanksAreReachedInLogarithmicDepth() throws {
        let count = 10_000
        let latency = Duration.milliseconds(10)
        var faults = FabricFaults.none
        // So long that the turns of the processes, which follow one another, count for little.
        faults.latency = latency...latency
        let simulation = Simulation(seed: 11)
        let fabric = SimulatedFabric(simulation: simulation, faults: faults)
        // What all of them know of each other is the same: they share it, as 10,000 copies would
        // not fit.
        let group = Group(name: "default")
        try group.apply(
            .replace(
                (0..<count).map { rank in
                    Group.Member(
                        rank: UInt32(rank),
                        addresses: [
                            FabricAddress(provider: "sim", bytes: Array("rank-\(rank)".utf8))
                        ])
                }), version: 1)
        var opened = 0
        var contexts: [Context?] = Array(repeating: nil, count: count)
        var reached = Array(repeating: 0, count: count)
        for rank in 0..<count {
            var world = simulation.world(node: rank + 1)
            world.fabric = fabric
            let made = world
            let xstream = made.makeXStream(name: "rank")
            xstream.simulate {
                var options = ContextOptions(clock: HybridLogicalClock(clock: made.clock))
                options.rank = UInt32(rank)
                options.receiveCount = 4
                options.heldReceivesMax = 3
                options.eagerLimit = 1024
                do throws(RPCError) {
                    let context = try Context(
                        world: made, xstream: xstream, address: "sim://rank-\(rank)",
                        options: options, group: group)
                    context.register(CollectiveTestProtocol.tally) { _, _ throws(RPCError) in
                        reached[rank] += 1
                        return Tally(sum: UInt64(rank))
                    }
                    contexts[rank] = context
                    opened += 1
                } catch {
                    Issue.record("\(error)")
                }
            }
        }
        simulation.run(for: .seconds(1), until: { opened == count })
        #expect(opened == count)
        let tree = TreeTopology.kNomial(4)
        let depth = tree.depth(count: count)
        #expect(depth == 7)
        var times: [Duration] = []
        for round in 1...2 {
            let start = simulation.now
            var result: CollectiveResult<Tally>?
            let context = contexts[1234]!
            context.xstream.simulate {
                do throws(RPCError) {
                    result = try await context.broadcast(
                        CollectiveTestProtocol.tally, Blob(), options: .init())
                } catch {
                    Issue.record("\(error)")
                }
            }
            simulation.run(for: .seconds(60), until: { result != nil })
            times.append(simulation.now.since(start))
            #expect(result?.succeeded == count)
            #expect(result?.failed == 0)
            #expect(result?.reply?.sum == UInt64(count * (count - 1) / 2))
            #expect(reached.allSatisfy { $0 == round })
        }
        // Down the tree and up again; the first time, a hello and its answer come before each
        // request.
        #expect(times[0] < latency * (4 * depth + 6))
        #expect(times[1] < latency * (2 * depth + 6))
        #expect(times[1] > latency * (2 * depth - 1))
        let idle = contexts.filter { $0?.usage.isIdle == true }
        #expect(idle.count == count)
    }
}
