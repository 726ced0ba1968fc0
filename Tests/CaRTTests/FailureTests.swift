import DrayFabric
import DrayRuntime
import DrayTestSupport
import Glibc
import Testing

@testable import CaRT

@Suite struct FailureTests {
    @Test(arguments: FabricKind.allCases)
    func namesWhatWentWrong(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let server = try rig.makeContext { options in
                options.rank = 3
                options.tag = 2
                options.messageSizeMax = 4 << 20
            }
            serve(server)
            let there = Destination.address(server.address)
            #expect(
                await failure { () throws(RPCError) in
                    try await client.call(TestProtocol.unknown, Blob(), to: there)
                } == .unknownProcedure)
            #expect(
                await failure { () throws(RPCError) in
                    try await client.call(TestProtocol.foreign, Blob(), to: there)
                } == .unknownProcedure)
            #expect(
                await failure { () throws(RPCError) in
                    try await client.call(TestProtocol.later, Blob(), to: there)
                } == .protocolVersion)
            #expect(
                await failure { () throws(RPCError) in
                    try await client.call(TestProtocol.fail, Blob(number: 77), to: there)
                } == .application(code: 77, message: "no: ünïcode"))
            #expect(
                await failure { () throws(RPCError) in
                    try await client.call(TestProtocol.drop, Blob(), to: there)
                } == .noReply)
            #expect(
                await failure { () throws(RPCError) in
                    try await client.call(
                        TestProtocol.echo, Blob(bytes: pattern(5 << 20)), to: there)
                } == .messageTooLong)
            #expect(
                await failure { () throws(RPCError) in
                    try await client.call(TestProtocol.echo, Blob(), to: .rank(3, tag: 2))
                } == .staleGroup)
            #expect(client.counters.callsFailed == 6)
            #expect(client.counters.inFlight == 0)
            // The connection is as good as before.
            let answer = try await client.call(TestProtocol.echo, Blob(number: 1), to: there)
            #expect(answer.number == 1)
        }
    }

    @Test(arguments: FabricKind.allCases)
    func findsRanksByTheGroup(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let server = try rig.makeContext { options in
                options.rank = 3
                options.tag = 0
            }
            serve(server)
            let members = [
                Group.Member(rank: 3, addresses: [server.address, server.address]),
                Group.Member(rank: 1, addresses: [server.address]),
            ]
            try client.group.apply(.replace(members), version: 5)
            #expect(throws: GroupError.staleVersion(given: 5, known: 5)) {
                try client.group.apply(.replace([]), version: 5)
            }
            try server.group.apply(.replace(members), version: 5)
            let answer = try await client.call(
                TestProtocol.echo, Blob(number: 4), to: .rank(3, tag: 0))
            #expect(answer.number == 4)
            #expect(
                await failure { () throws(RPCError) in
                    try await client.call(TestProtocol.echo, Blob(), to: .rank(3, tag: 1))
                } == .wrongTag)
            #expect(
                await failure { () throws(RPCError) in
                    try await client.call(TestProtocol.echo, Blob(), to: .rank(1, tag: 0))
                } == .wrongRank)
            #expect(
                await failure { () throws(RPCError) in
                    try await client.call(TestProtocol.echo, Blob(), to: .rank(2, tag: 0))
                } == .staleGroup)
            let there = Destination.address(server.address)
            #expect(try await client.lookUp(rank: 3, at: there) == members[0].addresses)
            #expect(
                await failure { () throws(RPCError) in
                    try await client.lookUp(rank: 8, at: there)
                } == .staleGroup)
            #expect(try await client.negotiate(base: 0x20, versions: 0...9, with: there) == 1)
            #expect(try await client.negotiate(base: 0x20, versions: 2...9, with: there) == nil)
            // A newer group without the rank takes effect at once.
            try client.group.apply(.replace([]), version: 6)
            #expect(
                await failure { () throws(RPCError) in
                    try await client.call(TestProtocol.echo, Blob(), to: .rank(3, tag: 0))
                } == .staleGroup)
        }
    }

    @Test(arguments: FabricKind.allCases)
    func timesOut(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            let state = serve(server)
            let there = Destination.address(server.address)
            _ = try await client.call(TestProtocol.echo, Blob(), to: there)
            let start = rig.xstream.now
            #expect(
                await failure { () throws(RPCError) in
                    try await client.call(
                        TestProtocol.wait, Blob(), to: there, deadline: .after(.milliseconds(300)))
                } == .timedOut)
            let elapsed = rig.xstream.now.since(start)
            #expect(elapsed >= .milliseconds(300))
            #expect(elapsed < .seconds(5))
            try await rig.wait("the server hears of it") { state.cancelled == 1 }
            #expect(state.held[0].request.isCancelled)
            // A late reply is ignored.
            let dropped = client.counters.dropped
            state.held.removeFirst().reply(Blob())
            try await rig.wait("the late reply") { client.counters.dropped == dropped + 1 }
            #expect(client.counters.timedOut == 1 && client.counters.lateReplies == 1)
            // Expired before it is sent.
            #expect(
                await failure { () throws(RPCError) in
                    try await client.call(TestProtocol.echo, Blob(), to: there, deadline: .at(1))
                } == .timedOut)
            _ = try await client.call(TestProtocol.echo, Blob(), to: there)
        }
    }

    /// Nobody listens: refused at once where the provider says so, else by the deadline.
    @Test(arguments: FabricKind.allCases)
    func nobodyIsThere(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let gone = try rig.makeContext()
            let address = gone.address
            await gone.close()
            let error = await failure { () throws(RPCError) in
                try await client.call(
                    TestProtocol.echo, Blob(), to: .address(address), deadline: .after(.seconds(1)))
            }
            #expect(error == .unreachable || error == .timedOut, "\(String(describing: error))")
            #expect(client.counters.inFlight == 0)
            #expect(client.counters.waiting == 0)
        }
    }

    /// Nobody waits for a peer that is gone until his deadline, neither with a request that is
    /// under way nor with a new one.
    @Test(arguments: FabricKind.knownToKernels)
    func noticesThatAPeerIsGone(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let server = try rig.makeContext()
            let state = serve(server)
            let there = Destination.address(server.address)
            _ = try await client.call(TestProtocol.echo, Blob(), to: there)
            var end: RPCError??
            rig.xstream.spawn {
                end = await failure { () throws(RPCError) in
                    try await client.call(TestProtocol.wait, Blob(), to: there)
                }
            }
            try await rig.wait("the request") { state.held.count == 1 }
            let killed = rig.xstream.now
            // As a crash does it: nobody is told.
            server.shutDown()
            state.held = []
            try await rig.wait("the end of the request") { end != nil }
            #expect(end == .some(.unreachable))
            for _ in 0..<20 {
                let error = await failure { () throws(RPCError) in
                    try await client.call(TestProtocol.echo, Blob(), to: there)
                }
                #expect(error == .unreachable)
            }
            // Deadlines are ten seconds away.
            #expect(rig.xstream.now.since(killed) < .seconds(5))
            #expect(client.counters.inFlight == 0)
            #expect(client.counters.waiting == 0)
        }
    }

    /// A peer that does nothing for a while is waited for.
    @Test(arguments: FabricKind.connected)
    func waitsForABusyPeer(kind: FabricKind) async throws {
        var world = World.real()
        world.fabric = LibfabricFabric(entropy: world.entropy.fork("busy"))
        let other = world.makeXStream(name: "busy")
        defer { other.stop() }
        let made = world
        let server = try await other.run { () async throws -> XStreamBound<Context> in
            let server = try Context(
                world: made, xstream: other, address: kind.address,
                options: ContextOptions(clock: HybridLogicalClock(clock: made.clock)))
            serve(server)
            return XStreamBound(server, to: other)
        }
        let address = await other.run { server.value.address }
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            // Neither connections nor messages are taken meanwhile.
            other.submit { usleep(400_000) }
            let answer = try await client.call(
                TestProtocol.echo, Blob(number: 5), to: .address(address))
            #expect(answer.number == 5)
            #expect(client.counters.peersLost == 0)
        }
        await other.run { await server.value.close() }
    }

    @Test func refusesClocksAhead() {
        let simulation = Simulation(seed: 4)
        let rig = ClockRig(simulation, clientAhead: 5_000_000_000)
        var outcome: RPCError??
        rig.client.simulate {
            let client = opened(rig.worlds[1], rig.client, "sim")!
            outcome = await failure { () throws(RPCError) in
                try await client.call(TestProtocol.echo, Blob(), to: rig.there)
            }
        }
        simulation.run(for: .seconds(100), until: { outcome != nil })
        #expect(outcome == .some(.clockSkew))
    }

    /// What a context last knew of the time refuses nobody: it may have been stopped since, or
    /// somebody may have set the clock.
    @Test func readsTheClockAnewBeforeItRefuses() {
        let simulation = Simulation(seed: 4)
        let rig = ClockRig(simulation)
        var outcome: RPCError??
        rig.client.simulate {
            outcome = await failure { () throws(RPCError) in
                let before = opened(rig.worlds[1], rig.client, "sim")!
                _ = try await before.call(TestProtocol.echo, Blob(), to: rig.there)
                for node in 1...2 { simulation.stepWallClock(node: node, by: 3_000_000_000) }
                let after = opened(rig.worlds[1], rig.client, "sim")!
                return try await after.call(TestProtocol.echo, Blob(), to: rig.there)
            }
        }
        simulation.run(for: .seconds(100), until: { outcome != nil })
        #expect(outcome == .some(nil))
    }
}

/// A simulated server on node 1, and a node 2 for clients, whose clock may be ahead.
private struct ClockRig {
    let worlds: [World]
    let client: XStream
    let there: Destination

    init(_ simulation: Simulation, clientAhead: Int64 = 0) {
        let fabric = SimulatedFabric(simulation: simulation)
        var worlds = [
            simulation.world(node: 1), simulation.world(node: 2, wallOffset: clientAhead),
        ]
        worlds[0].fabric = fabric
        worlds[1].fabric = fabric
        let made = worlds[0]
        let stream = made.makeXStream(name: "server")
        var server: Context?
        stream.simulate {
            server = opened(made, stream, "sim://server")
            serve(server!)
        }
        simulation.run(for: .seconds(1))
        self.worlds = worlds
        client = worlds[1].makeXStream(name: "client")
        there = .address(server!.address)
    }
}
