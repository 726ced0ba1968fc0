import DrayFabric
import DrayRuntime
import Testing

@testable import CaRT

/// What a variable costs over a tree of three levels, each message of which is under way for 10 ms.
@Suite struct IncastDepthTests {
    private static let count = 15
    private static let latency = Duration.milliseconds(10)

    /// How long the leaf behind the most members takes for its second fetch of the latest value.
    private func time(ofFetching bytes: Int) -> Duration {
        var faults = FabricFaults.none
        faults.latency = Self.latency...Self.latency
        let simulation = Simulation(seed: 3)
        let fabric = SimulatedFabric(simulation: simulation, faults: faults)
        let members = (0..<Self.count).map { rank in
            Group.Member(
                rank: UInt32(rank),
                addresses: [FabricAddress(provider: "sim", bytes: Array("rank-\(rank)".utf8))])
        }
        var opened: [IncastVariables<Notes>] = []
        for rank in 0..<Self.count {
            var world = simulation.world(node: rank + 1)
            world.fabric = fabric
            let made = world
            let xstream = made.makeXStream(name: "rank")
            xstream.simulate {
                do {
                    var options = ContextOptions(clock: HybridLogicalClock(clock: made.clock))
                    options.rank = UInt32(rank)
                    let context = try Context(
                        world: made, xstream: xstream, address: "sim://rank-\(rank)",
                        options: options)
                    try context.group.apply(.replace(members), version: 1)
                    let notes = Notes(xstream)
                    notes.fixedOwner = 0
                    _ = notes.memory.store(Blob(bytes: pattern(bytes)), for: 1, version: 1)
                    let namespace = IncastNamespace(on: context, number: 1, tree: .kAry(2))
                    opened.append(namespace.register(notes))
                } catch {
                    Issue.record("\(error)")
                }
            }
        }
        simulation.run(for: .seconds(1), until: { opened.count == Self.count })
        guard let leaf = opened.first(where: { $0.context.rank == 14 }) else { return .zero }
        var times: [Duration] = []
        leaf.context.xstream.simulate {
            for _ in 0..<2 {
                let begin = leaf.context.xstream.now
                do throws(IncastError) {
                    let value = try await leaf.fetch(NoteKey(1), version: .latest)
                    #expect(value.value.bytes == pattern(bytes))
                } catch {
                    Issue.record("\(error)")
                }
                times.append(leaf.context.xstream.now.since(begin))
            }
        }
        simulation.run(for: .seconds(10), until: { times.count == 2 })
        return times.last ?? .zero
    }

    /// A value that does not go inline is read from the memory of the member above, which costs one
    /// more way there and back at each level. Its size has no part in that.
    @Test func aLargeValueCostsOneMoreRoundTripAtEachLevel() {
        let depth = TreeTopology.kAry(2).depth(count: Self.count)
        #expect(depth == 3)
        let (small, large) = (time(ofFetching: 100), time(ofFetching: 1_000_000))
        #expect(small >= Self.latency * (2 * depth))
        #expect(small < Self.latency * (2 * depth + 1))
        #expect(large >= Self.latency * (4 * depth))
        #expect(large < Self.latency * (4 * depth + 1))
    }
}
