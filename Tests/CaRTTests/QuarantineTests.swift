import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

/// Memory that was exposed to a peer that is taken for gone, and is not.
@Suite struct QuarantineTests {
    // MARK: - The table

    @Test func whatProvesThatMemoryIsFree() {
        var table = QuarantineTable<Int>()
        #expect(table.isEmpty && table.requests(of: 1, max: 9).isEmpty)
        // Two pieces of one request, and one of another life of the same peer.
        table.hold(1, request: 10, peer: 1, instance: 7)
        table.hold(2, request: 10, peer: 1, instance: 7)
        table.hold(3, request: 11, peer: 1, instance: 8)
        table.hold(4, request: 12, peer: 2, instance: 7)
        table.hold(5, request: 13, peer: 2, instance: 7)
        #expect(table.requests(of: 1, max: 9) == [10, 11])
        #expect(table.requests(of: 1, max: 1) == [10])
        #expect(table.lives(2, as: 7).isEmpty && table.answered(14).isEmpty)
        #expect(table.answered(10).map(\.memory) == [1, 2])
        #expect(table.answered(10).isEmpty)
        #expect(table.holds(1) && table.lives(1, as: 9).map(\.memory) == [3])
        #expect(!table.holds(1) && table.isGone(1).isEmpty)
        #expect(table.isCutOff(2) { $0 == 5 }.map(\.request) == [13])
        #expect(table.isGone(2).map(\.memory) == [4])
        table.hold(6, request: 15, peer: 3, instance: 1)
        #expect(table.removeAll().map(\.memory) == [6])
        #expect(table.isEmpty)
    }

    /// A reply has the number of its caller's request: that says nothing of our own requests.
    @Test func whatProvesThatARepliesMemoryIsFree() {
        var table = QuarantineTable<Int>()
        table.hold(1, request: 10, peer: 1, instance: 7)
        table.hold(2, request: 10, reply: 1, peer: 1, instance: 7)
        table.hold(3, request: 11, reply: 2, peer: 1, instance: 7)
        table.hold(4, request: 10, reply: 3, peer: 2, instance: 8)
        #expect(table.requests(of: 1, max: 9) == [10])
        #expect(table.replied(to: 1, max: 9) == [10, 11] && table.replied(to: 1, max: 1) == [10])
        #expect(table.released(2, by: 1, 8).isEmpty && table.unwanted([11], by: 1, 8).isEmpty)
        // Another peer claims to be that instance.
        #expect(table.released(2, by: 2, 7).isEmpty && table.unwanted([11], by: 2, 7).isEmpty)
        #expect(table.unwanted([10, 12], by: 1, 7).map(\.memory) == [2])
        #expect(table.released(2, by: 1, 7).map(\.memory) == [3])
        #expect(table.answered(10).map(\.memory) == [1])
        #expect(!table.holds(1) && table.lives(2, as: 9).map(\.memory) == [4])
        #expect(table.isEmpty)
    }

    // MARK: - A peer that is stopped in the middle of a write

    /// How it turns out what the peer does with the memory.
    enum Proof: CaseIterable {
        /// It goes on, and answers.
        case answers
        /// It goes on, and its answer is lost.
        case isAsked
        /// It goes on after the connection has broken.
        case isCutOff
        case dies, startsAgain
        /// Nothing does, and the context closes.
        case closes
    }

    /// A server that stands still while it writes to the client's memory.
    private final class Stopped {
        static let size = 60_000
        static let partSize = 4096

        let cluster: RestartTests.Cluster
        weak var handle: BulkHandle?
        /// What was exposed.
        var memory: IOBuffer?
        var end: RPCError??

        init(seed: UInt64, faults: FabricFaults = .none) throws {
            cluster = RestartTests.Cluster(seed: seed, faults: faults)
            let (client, server) = (cluster.client!, cluster.server!)
            server.rank = 1
            try client.group.apply(
                .replace([Group.Member(rank: 1, addresses: [server.address])]), version: 1)
            cluster.stream.simulate { [self] in await call() }
            cluster.simulation.run(for: .seconds(1), until: { (1..<15).contains(parts) })
            cluster.simulation.pause(node: 2, incarnation: 0)
        }

        private func call() async {
            let client = cluster.client!
            guard let buffer = try? client.makeBuffer(count: Stopped.size),
                let exposed = try? client.expose(buffer, access: .remoteWrite)
            else { return }
            buffer.bytes.initializeMemory(as: UInt8.self, repeating: 0)
            handle = exposed
            memory = buffer.buffer
            var transfer = Transfer()
            transfer.memory = exposed.descriptor
            transfer.number = 3
            end = await failure { () throws(RPCError) in
                try await client.call(
                    TestProtocol.push, transfer, to: .rank(1, tag: 0), exposing: [exposed],
                    deadline: .after(.seconds(600)))
            }
            client.withdraw(exposed)
        }

        var bytes: [UInt8] { memory?.array(0..<Stopped.size) ?? [] }

        /// Parts of the write that are there, of fifteen. None has the same byte twice in a row.
        var parts: Int {
            guard let memory else { return 0 }
            return stride(from: 0, to: Stopped.size, by: Stopped.partSize).count {
                memory.array($0..<$0 + 2) != [0, 0]
            }
        }

        func evict() {
            cluster.stream.simulate { [cluster] in cluster.client.evict(rank: 1) }
            cluster.simulation.run(for: .seconds(1), until: { end != nil })
        }

        func resume() { cluster.simulation.resume(node: 2, incarnation: 0) }
    }

    /// The call ends at once, its memory when it is certain that nothing reaches it any more. What
    /// arrives late finds it as it was.
    @Test(arguments: Proof.allCases, 1...10)
    func memoryOfAnEvictedPeerStays(proof: Proof, seed: UInt64) throws {
        var faults = FabricFaults.none
        faults.lateWriteRate = FabricFaults.unit
        let stopped = try Stopped(seed: seed, faults: faults)
        let (cluster, client) = (stopped.cluster, stopped.cluster.client!)
        let partsBefore = stopped.parts
        try #require((1..<15).contains(partsBefore))
        let begin = cluster.simulation.now
        stopped.evict()
        #expect(stopped.end == .some(.unreachable))
        #expect(cluster.simulation.now.since(begin) < .milliseconds(1))
        // Asked again and again, it says nothing.
        cluster.simulation.run(for: .seconds(20))
        #expect(stopped.handle?.isQuarantined == true && client.usage.quarantined == 1)
        #expect(client.counters.quarantinedBytes == Stopped.size)
        #expect(client.usage.isIdle && !client.usage.isComplete)
        #expect(stopped.parts == partsBefore && cluster.fabric.counts.heldParts > 0)
        // Nobody else gets it meanwhile.
        var others: [RegisteredBuffer] = []
        cluster.stream.simulate {
            for _ in 0..<4 {
                if let other = try? client.makeBuffer(count: Stopped.size) { others.append(other) }
            }
        }
        cluster.simulation.run(for: .milliseconds(1))
        #expect(others.count == 4)
        #expect(others.allSatisfy { $0.buffer !== stopped.memory })
        others = []
        prove(proof, stopped)
        let isFree = cluster.simulation.run(
            for: .seconds(30),
            until: { client.usage.isComplete || client.isClosed })
        #expect(isFree, "\(client.usage)")
        #expect(stopped.handle == nil && client.usage.quarantined == 0)
        #expect(client.counters.quarantinedBytes == 0 && client.counters.exposures == 0)
        #expect(cluster.fabric.counts.regionsLost == 0)
        switch proof {
        case .answers, .isAsked: #expect(stopped.bytes == pattern(Stopped.size, 3))
        case .dies, .startsAgain, .isCutOff, .closes: break
        }
        client.checkInvariants()
    }

    private func prove(_ proof: Proof, _ stopped: Stopped) {
        let cluster = stopped.cluster
        switch proof {
        case .answers: stopped.resume()
        case .isAsked:
            let server = cluster.server!
            let replies = server.counters.repliesSent
            stopped.resume()
            cluster.simulation.run(
                for: .seconds(1), until: { server.counters.repliesSent > replies })
            cluster.fabric.breakConnections(1, 2)
        case .isCutOff:
            cluster.fabric.breakConnections(1, 2)
            stopped.resume()
        case .dies: cluster.killServer()
        case .startsAgain:
            cluster.killServer()
            cluster.startServer()
        case .closes: cluster.stream.simulate { await cluster.client.close() }
        }
    }

    /// Also where the call ends because the connection has broken: the handler may come back.
    @Test(arguments: 1...10)
    func memoryOfALostConnectionStays(seed: UInt64) throws {
        let stopped = try Stopped(seed: seed)
        let (cluster, client) = (stopped.cluster, stopped.cluster.client!)
        let peer = try #require(client.peersByAddress[cluster.server.address])
        cluster.stream.simulate { client.connectionLost(peer) }
        cluster.simulation.run(for: .seconds(1), until: { stopped.end != nil })
        #expect(stopped.end == .some(.unreachable) && stopped.handle?.isQuarantined == true)
        stopped.resume()
        let isComplete = cluster.simulation.run(
            for: .seconds(30), until: { client.usage.isComplete })
        #expect(isComplete, "\(client.usage)")
        #expect(cluster.fabric.counts.regionsLost == 0)
        #expect(stopped.bytes == pattern(Stopped.size, 3))
    }

    // MARK: - A peer that cannot be reached

    enum Return: CaseIterable {
        /// The network is back, and nobody listens.
        case isGone
        case startsAgain
        /// It starts again and says hello to us.
        case calls
    }

    /// A peer to which every message fails at once is asked no more often than one that is silent,
    /// and soon enough once it is back.
    @Test(arguments: Return.allCases, 1...3)
    func asksRarelyWhoCannotBeReached(way: Return, seed: UInt64) throws {
        let stopped = try Stopped(seed: seed)
        let (cluster, client) = (stopped.cluster, stopped.cluster.client!)
        // Nobody answers that nobody listens.
        cluster.fabric.partition([1], [2])
        stopped.evict()
        cluster.killServer()
        let before = (hellos: client.counters.hellosSent, lost: client.counters.peersLost)
        cluster.simulation.run(for: .seconds(120))
        let hellos = client.counters.hellosSent - before.hellos
        #expect((12...22).contains(hellos), "\(hellos)")
        #expect(client.counters.peersLost - before.lost >= hellos - 1)
        #expect(stopped.handle?.isQuarantined == true)
        cluster.fabric.heal()
        if way != .isGone { cluster.startServer() }
        if way == .calls {
            let server = cluster.server!
            server.xstream.simulate {
                _ = await failure { () throws(RPCError) in
                    try await server.call(
                        TestProtocol.echo, Blob(), to: .address(client.address),
                        deadline: .after(.seconds(1)))
                }
            }
        }
        let isFree = cluster.simulation.run(
            for: way == .calls ? .milliseconds(300) : .seconds(13),
            until: { client.counters.quarantinedBytes == 0 })
        #expect(isFree, "\(client.usage)")
        #expect(stopped.handle == nil && cluster.fabric.counts.regionsLost == 0)
        client.checkInvariants()
    }

    // MARK: - Limits

    /// What is kept counts against a limit, beyond which nothing is exposed.
    @Test func quarantineIsLimited() async throws {
        try await withRig(.simulated) { rig in
            let client = try rig.makeContext { $0.quarantinedBytesMax = 10_000 }
            let server = try rig.makeContext { $0.rank = 1 }
            let state = serve(server)
            try client.group.apply(
                .replace([Group.Member(rank: 1, addresses: [server.address])]), version: 1)
            let handle = try client.expose(IOBuffer(count: 8_192), access: .remoteRead)
            var end: RPCError??
            client.xstream.spawn {
                end = await failure { () throws(RPCError) in
                    try await client.call(
                        TestProtocol.wait, Blob(), to: .rank(1, tag: 0), exposing: [handle])
                }
            }
            try await rig.wait("the request") { state.held.count == 1 }
            client.evict(rank: 1)
            try await rig.wait("the end") { end != nil }
            #expect(end == .some(.unreachable))
            let more = IOBuffer(count: 4_096)
            #expect(
                await failure { () throws(RPCError) in
                    _ = try client.expose(more, access: .remoteRead)
                } == .overloaded)
            _ = try client.expose(more, range: 0..<1_000, access: .remoteRead)
            client.withdraw(handle)
            state.held = []
            try await rig.wait("the release") { client.usage.isComplete }
            _ = try client.expose(more, access: .remoteRead)
        }
    }

    // MARK: - The other side

    /// A handler whose caller is evicted goes on, and the caller is told nothing while the fabric
    /// still writes to its memory: it may live.
    @Test(arguments: 1...10)
    func anEvictedCallerHearsNothingDuringAWrite(seed: UInt64) throws {
        var faults = FabricFaults.none
        faults.latency = .milliseconds(200) ... .milliseconds(300)
        let cluster = RestartTests.Cluster(seed: seed, faults: faults)
        let (client, server) = (cluster.client!, cluster.server!)
        try server.group.apply(
            .replace([Group.Member(rank: 9, addresses: [client.address])]), version: 1)
        var end: RPCError??
        cluster.stream.simulate {
            guard let handle = try? client.expose(IOBuffer(count: 60_000), access: .remoteWrite)
            else { return }
            var transfer = Transfer()
            transfer.memory = handle.descriptor
            end = await failure { () throws(RPCError) in
                try await client.call(
                    TestProtocol.push, transfer, to: .address(server.address),
                    exposing: [handle], deadline: .unlimited)
            }
            client.withdraw(handle)
        }
        cluster.simulation.run(for: .seconds(5), until: { server.bulks.inFlight == 1 })
        try #require(server.bulks.inFlight == 1)
        server.xstream.simulate { server.evict(rank: 9) }
        cluster.simulation.run(for: .seconds(5), until: { server.bulks.inFlight == 0 })
        #expect(server.bulks.count == 0 && server.bulks.goneCount == 0)
        #expect(end == nil && server.usage.requests == 0)
        cluster.simulation.run(for: .seconds(60), until: { end != nil })
        #expect(end == .some(.unreachable))
        let isComplete = cluster.simulation.run(
            for: .seconds(5), until: { client.usage.isComplete && server.usage.isComplete })
        #expect(isComplete, "\(client.usage) \(server.usage)")
        #expect(cluster.fabric.counts.regionsLost == 0)
    }

    /// The fabric may never be done with the memory of a caller that was killed. That does not
    /// concern the next life at the same address.
    @Test func whatIsNeverReportedConcernsOneLife() async throws {
        try await withRig(.simulated) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            serve(server)
            let there = Destination.address(server.address)
            let peer = try server.peerNumber(of: .address(client.address))
            for kind in [BulkOperation.Kind.read, .write] {
                try Self.lose(kind, peer, of: client.instance &+ 1, at: server)
            }
            _ = try await client.call(
                TestProtocol.echo, Blob(), to: there, deadline: .after(.seconds(1)))
            let error = await failure { () throws(RPCError) in
                try await client.call(
                    TestProtocol.fail, Blob(), to: there, deadline: .after(.seconds(1)))
            }
            #expect(error == .application(code: 0, message: "no: ünïcode"))
        }
    }

    /// A caller whose session has ended asks in the next one whether its request is over. It is
    /// not while its memory is read, although the handler has failed.
    @Test func aCallerWithoutSessionWaitsForTheRead() async throws {
        try await withRig(.simulated) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            let state = serve(server)
            let handle = try client.expose(IOBuffer(count: 4096), access: .remoteRead)
            var end: RPCError??
            client.xstream.spawn {
                end = await failure { () throws(RPCError) in
                    try await client.call(
                        TestProtocol.wait, Blob(), to: .address(server.address),
                        exposing: [handle])
                }
            }
            try await rig.wait("the request") { state.held.count == 1 }
            let peer = try server.peerNumber(of: .address(client.address))
            let read = try Self.lose(.read, peer, of: client.instance, at: server)
            let session = server.sessions.find(instance: client.instance)
            server.dropSession(try #require(session), says: true)
            try await rig.wait("the end") { end != nil }
            #expect(end == .some(.unreachable))
            let reply = state.held.removeFirst()
            reply.fail(.noReply)
            // Only the first answer counts, also while it waits.
            reply.reply(Blob())
            await rig.xstream.sleep(for: .seconds(5))
            #expect(handle.isQuarantined)
            #expect(server.bulks.heldFailures.count == 1 && server.usage.requests == 1)
            server.bulkCompleted(read, error: nil)
            #expect(server.bulks.heldFailures.isEmpty && server.usage.requests == 0)
            try await rig.wait("the release") { !handle.isQuarantined }
            client.withdraw(handle)
            try await rig.wait("rest") { client.usage.isComplete && server.usage.isComplete }
        }
    }

    /// A transfer that its caller has given up, and that the fabric never reports.
    @discardableResult
    private static func lose(
        _ kind: BulkOperation.Kind, _ peer: Int32, of instance: UInt64, at context: Context
    ) throws -> UInt32 {
        let operation = BulkOperation(kind: kind, peer: peer, instance: instance)
        let opened = context.bulks.open(operation)
        let index = try #require(opened)
        context.bulks.inFlight += 1
        context.bulks.operations[Int(index)].isAbandoned = true
        switch kind {
        case .read: context.bulks.abandonedReads += 1
        case .write: context.bulks.peerIsGone(Int(index))
        }
        return index
    }
}
