import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

@Suite struct RestartTests {
    /// A cluster of one client and one server in simulation.
    final class Cluster {
        let simulation: Simulation
        let fabric: SimulatedFabric
        var client: Context!
        var server: Context!
        var state: ServerState!
        let stream: XStream
        private var incarnation = -1
        private var address = FabricAddress()

        init(seed: UInt64, faults: FabricFaults = .none) {
            simulation = Simulation(seed: seed)
            fabric = SimulatedFabric(simulation: simulation, faults: faults)
            var world = simulation.world(node: 1)
            world.fabric = fabric
            stream = world.makeXStream(name: "client")
            let made = world
            stream.simulate { [self] in
                client = opened(made, stream, "sim://client")
            }
            simulation.run(for: .seconds(1), until: { client != nil })
            startServer()
        }

        func startServer() {
            incarnation += 1
            server = nil
            var world = simulation.world(node: 2, incarnation: incarnation)
            world.fabric = fabric
            let xstream = world.makeXStream(name: "server")
            let made = world
            xstream.simulate { [self] in
                server = opened(made, xstream, "sim://server")
                state = serve(server)
            }
            simulation.run(for: .seconds(1), until: { server != nil })
            address = server.address
        }

        func killServer() {
            simulation.kill(node: 2, incarnation: incarnation)
        }

        func call(
            _ procedure: Procedure<Blob, Blob>, _ timeout: Duration = .seconds(30)
        ) -> () -> RPCError?? {
            final class Box { var end: RPCError?? }
            let box = Box()
            let address = address
            stream.simulate { [self] in
                box.end = await failure { () throws(RPCError) in
                    try await client.call(
                        procedure, Blob(), to: .address(address), deadline: .after(timeout))
                }
            }
            return { box.end }
        }
    }

    @Test(arguments: [1, 2, 3, 4, 5])
    func tellsARestartedPeerFromASlowOne(seed: UInt64) {
        let cluster = Cluster(seed: seed)
        // Slow: the handler takes 20 seconds, the peer lives.
        let slow = cluster.call(TestProtocol.wait)
        cluster.simulation.run(for: .seconds(20))
        #expect(slow() == nil)
        #expect(cluster.client.counters.hellosSent > 3)
        cluster.server.xstream.simulate { cluster.state.held.removeFirst().reply(Blob()) }
        cluster.simulation.run(for: .seconds(1), until: { slow() != nil })
        #expect(slow() == .some(nil))
        // Restarted: the request in flight ends well before its deadline.
        let lost = cluster.call(TestProtocol.wait)
        cluster.simulation.run(for: .seconds(1), until: { cluster.state.held.count == 1 })
        cluster.killServer()
        cluster.simulation.run(for: .milliseconds(5))
        cluster.startServer()
        let start = cluster.simulation.now
        cluster.simulation.run(for: .seconds(30), until: { lost() != nil })
        #expect(lost() == .some(.peerRestarted) || lost() == .some(.unreachable))
        #expect(cluster.simulation.now.since(start) < .seconds(5))
        // The new one answers.
        let next = cluster.call(TestProtocol.echo)
        cluster.simulation.run(for: .seconds(30), until: { next() != nil })
        #expect(next() == .some(nil))
        #expect(cluster.server.counters.sessions == 1)
    }

    @Test func theDeadlineDecidesAboutASilentPeer() {
        let cluster = Cluster(seed: 7)
        let first = cluster.call(TestProtocol.echo)
        cluster.simulation.run(for: .seconds(1), until: { first() != nil })
        cluster.fabric.partition([1], [2])
        let lost = cluster.call(TestProtocol.echo, .seconds(3))
        let start = cluster.simulation.now
        cluster.simulation.run(for: .seconds(30), until: { lost() != nil })
        #expect(lost() == .some(.timedOut) || lost() == .some(.unreachable))
        #expect(cluster.simulation.now.since(start) < .milliseconds(3100))
        cluster.fabric.heal()
        let next = cluster.call(TestProtocol.echo)
        cluster.simulation.run(for: .seconds(30), until: { next() != nil })
        #expect(next() == .some(nil))
    }

    /// Under every fault at once each call ends, and with one of the errors a caller expects.
    @Test(arguments: 1...10)
    func everyCallEndsUnderFaults(seed: UInt64) {
        let cluster = Cluster(seed: seed, faults: .harsh)
        var ends: [() -> RPCError??] = []
        for round in 0..<30 {
            for _ in 0..<10 { ends.append(cluster.call(TestProtocol.echo, .seconds(5))) }
            cluster.simulation.run(for: .milliseconds(50))
            if round == 15 {
                cluster.killServer()
                cluster.startServer()
            }
        }
        let finished = cluster.simulation.run(
            for: .seconds(60), until: { ends.allSatisfy { $0() != nil } })
        #expect(finished)
        var good = 0
        for end in ends {
            switch end() {
            case .some(nil): good += 1
            case .some(.timedOut), .some(.unreachable), .some(.peerRestarted): break
            case let other: Issue.record("\(String(describing: other))")
            }
        }
        #expect(good > 150)
        #expect(cluster.client.counters.inFlight == 0)
        cluster.client.tracker.checkInvariants()
    }

    @Test func repeatsExactly() {
        func hash() -> UInt64 {
            let cluster = Cluster(seed: 3, faults: .harsh)
            for _ in 0..<20 {
                _ = cluster.call(TestProtocol.echo, .seconds(5))
                cluster.simulation.run(for: .milliseconds(20))
            }
            cluster.simulation.run(for: .seconds(10))
            return cluster.simulation.eventHash
        }
        #expect(hash() == hash())
    }

    /// The same port, another context.
    @Test(arguments: FabricKind.connected)
    func findsTheSuccessorOnThePort(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let first = try rig.makeContext()
            let state = serve(first)
            let there = Destination.address(first.address)
            _ = try await client.call(TestProtocol.echo, Blob(), to: there)
            var end: RPCError??
            rig.xstream.spawn {
                end = await failure { () throws(RPCError) in
                    try await client.call(TestProtocol.wait, Blob(), to: there)
                }
            }
            try await rig.wait("the request") { state.held.count == 1 }
            // As a crash does it: nobody is told.
            first.shutDown()
            state.held = []
            var second: Context?
            try await rig.wait("the port") {
                second = try? rig.makeContext("\(first.address)")
                return second != nil
            }
            serve(second!)
            #expect(second!.address == first.address)
            #expect(second!.instance != first.instance)
            try await rig.wait("the end of the lost request") { end != nil }
            #expect(end == .some(.peerRestarted) || end == .some(.unreachable))
            var answer: Blob?
            try await rig.wait("the successor") { answer != nil || client.counters.inFlight == 0 }
            for _ in 0..<5 where answer == nil {
                answer = try? await client.call(
                    TestProtocol.echo, Blob(number: 8), to: there, deadline: .after(.seconds(3)))
            }
            #expect(answer?.number == 8)
        }
    }
}
