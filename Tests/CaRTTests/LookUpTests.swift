import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

/// Looking up where a context of a member is, while not all who know it answer.
@Suite struct LookUpTests {
    /// Three contexts of rank 2, on nodes 1 to 3, one of rank 5 on node 4, and a client on node 5.
    private final class Cluster {
        let simulation = Simulation(seed: 1)
        var contexts: [Context] = []
        var end: RPCError??

        var client: Context { contexts[4] }

        init() {
            let fabric = SimulatedFabric(simulation: simulation)
            let places: [(rank: UInt32?, tag: UInt32)] = [(2, 0), (2, 1), (2, 2), (5, 0), (nil, 0)]
            for (index, place) in places.enumerated() {
                var world = simulation.world(node: index + 1)
                world.fabric = fabric
                let made = world
                let xstream = world.makeXStream(name: "n\(index + 1)")
                xstream.simulate { [self] in
                    var options = ContextOptions(clock: HybridLogicalClock(clock: made.clock))
                    options.rank = place.rank
                    options.tag = place.tag
                    guard
                        let context = try? Context(
                            world: made, xstream: xstream, address: "sim://n\(index + 1)",
                            options: options)
                    else { return }
                    serve(context)
                    contexts.append(context)
                }
                simulation.run(for: .seconds(1), until: { contexts.count == index + 1 })
            }
        }

        /// The servers know all, the client the first contexts of each member.
        func group(known: Int, others: Int) throws {
            let addresses = contexts.map(\.address)
            let other = Group.Member(rank: 5, addresses: [addresses[3]])
            for context in contexts[..<4] {
                try context.group.apply(
                    .replace([Group.Member(rank: 2, addresses: Array(addresses[..<3])), other]),
                    version: 1)
            }
            let member = Group.Member(rank: 2, addresses: Array(addresses[..<known]))
            try client.group.apply(.replace(others > 0 ? [member, other] : [member]), version: 1)
        }

        /// A server knows something else from now on.
        func tell(_ index: Int, _ addresses: [FabricAddress], incarnation: UInt64 = 0) throws {
            let group = contexts[index].group
            var members = group.members
            try #require(members.first?.rank == 2)
            members[0] = Group.Member(rank: 2, incarnation: incarnation, addresses: addresses)
            try group.apply(.replace([]), version: group.version + 1)
            try group.apply(.replace(members), version: group.version + 1)
        }

        var addresses: [FabricAddress] { contexts[..<3].map(\.address) }

        /// Calls a context whose address the client does not know; returns how long that took.
        func call(tag: UInt32, _ deadline: Deadline = .after(.seconds(4))) -> Duration {
            let begin = simulation.now
            client.xstream.simulate { [self] in
                end = await failure { () throws(RPCError) in
                    try await client.call(
                        TestProtocol.echo, Blob(), to: .rank(2, tag: tag), deadline: deadline)
                }
            }
            simulation.run(for: .seconds(100), until: { end != nil })
            return simulation.now.since(begin)
        }

        func pause(_ nodes: [Int]) {
            for node in nodes { simulation.pause(node: node, incarnation: 0) }
        }
    }

    /// The first context is stopped, or closed, and there is another one of the member, or another
    /// member.
    @Test(arguments: [false, true], [false, true])
    func anotherIsAskedWhenTheFirstDoesNotAnswer(isStopped: Bool, hasOther: Bool) throws {
        let cluster = Cluster()
        try cluster.group(known: hasOther ? 1 : 2, others: hasOther ? 1 : 0)
        if isStopped {
            cluster.pause([1])
        } else {
            let first = cluster.contexts[0]
            first.xstream.simulate { await first.close() }
            cluster.simulation.run(for: .seconds(10), until: { first.isClosed })
        }
        let time = cluster.call(tag: 2)
        #expect(cluster.end == .some(nil))
        #expect(time < (isStopped ? .milliseconds(2_500) : .milliseconds(500)))
        let counters = cluster.client.counters
        #expect(counters.lookUps == 1 && counters.lookUpsFailed == 0)
    }

    /// A call without a limit does not wait for the first one for ever.
    @Test func anotherIsAskedWithoutALimit() throws {
        let cluster = Cluster()
        try cluster.group(known: 1, others: 1)
        cluster.pause([1])
        let time = cluster.call(tag: 2, .unlimited)
        #expect(cluster.end == .some(nil))
        #expect(time >= .seconds(30) && time < .seconds(31))
    }

    /// Whoever is asked, and the call itself, have the time of the call together.
    @Test(arguments: [[1, 2, 3, 4], [1, 3]])
    func theDeadlineIsThatOfTheCall(stopped: [Int]) throws {
        let cluster = Cluster()
        try cluster.group(known: 2, others: 1)
        cluster.pause(stopped)
        let time = cluster.call(tag: 2)
        #expect(cluster.end == .some(.timedOut))
        #expect(time >= .seconds(4) && time < .milliseconds(4_100))
        #expect(cluster.client.counters.lookUpsTimedOut == (stopped.count == 4 ? 1 : 0))
    }

    /// What the member itself says is so; others may know less.
    @Test func onlyTheMemberSaysThatThereIsNoSuchContext() throws {
        let cluster = Cluster()
        try cluster.group(known: 1, others: 1)
        _ = cluster.call(tag: 3)
        #expect(cluster.end == .some(.wrongTag))
        #expect(cluster.contexts[3].counters.lookUpsAnswered == 0)
        cluster.pause([1])
        cluster.end = nil
        _ = cluster.call(tag: 3)
        #expect(cluster.end == .some(.timedOut))
        #expect(cluster.contexts[3].counters.lookUpsAnswered == 1)
    }

    /// Another context of the member may not know all of them either.
    @Test func onlyTheFirstContextSaysThatThereIsNoSuchContext() throws {
        let cluster = Cluster()
        try cluster.group(known: 2, others: 1)
        try cluster.tell(1, Array(cluster.addresses[..<2]))
        cluster.pause([1])
        _ = cluster.call(tag: 2)
        #expect(cluster.end == .some(nil))
        #expect(cluster.contexts[1].counters.lookUpsAnswered == 1)
    }

    /// Somebody knows an earlier life of the member, whose first context listened at the same
    /// address, or other addresses than we do. Nothing is learnt from that, and the next is asked.
    @Test(arguments: [false, true], [false, true])
    func whatContradictsIsIgnored(isEarlier: Bool, hasOther: Bool) throws {
        let cluster = Cluster()
        try cluster.group(known: 2, others: hasOther ? 1 : 0)
        let (known, nowhere) = (cluster.addresses, cluster.client.address)
        if isEarlier {
            let members = cluster.client.group.members.map {
                Group.Member(rank: $0.rank, incarnation: 1, addresses: $0.addresses)
            }
            try cluster.client.group.apply(.replace(members), version: 2)
            try cluster.tell(1, [known[0], known[1], nowhere])
            try cluster.tell(3, known, incarnation: 1)
        } else {
            try cluster.tell(1, [known[0], nowhere, known[2]])
        }
        cluster.pause([1])
        _ = cluster.call(tag: 2)
        let error: RPCError? = hasOther ? nil : .timedOut
        #expect(cluster.end == .some(error))
        #expect(cluster.contexts[1].counters.lookUpsAnswered == 1)
        let learnt = Array(known[..<(hasOther ? 3 : 2)])
        #expect(cluster.client.group.member(2)?.addresses == learnt)
    }
}
