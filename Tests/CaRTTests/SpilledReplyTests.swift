import BasicContainers
import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

/// Replies that are too large for a message, and callers that fetch them late or never. The server
/// gives their memory to nobody else before it is certain that nobody reads it.
@Suite struct SpilledReplyTests {
    private static let large = Procedure<Blob, Blob>(
        TestProtocol.id, index: 50, name: "test.large")

    /// A server that keeps a reply for a client that has not seen it.
    private final class Kept {
        static let size = 200_000

        let cluster: RestartTests.Cluster
        let bytes = pattern(Kept.size, 3)
        var answer: Blob?
        var end: RPCError??
        var cancel: () -> Void = {}

        init(seed: UInt64) throws {
            cluster = RestartTests.Cluster(seed: seed)
            let (client, server, bytes) = (cluster.client!, cluster.server!, bytes)
            server.xstream.simulate {
                server.registerSynchronous(SpilledReplyTests.large) { _, _ throws(RPCError) in
                    Blob(bytes: bytes)
                }
            }
            cluster.stream.simulate { [self] in
                let task = client.xstream.spawnCancellable { [self] in await call() }
                cancel = { task.cancel() }
            }
            cluster.simulation.run(for: .seconds(1), until: { server.spills.count == 1 })
            try #require(server.spills.count == 1)
        }

        private func call() async {
            end = await failure { () throws(RPCError) in
                answer = try await cluster.client.call(
                    SpilledReplyTests.large, Blob(), to: .address(cluster.server.address),
                    deadline: .unlimited)
            }
        }

        /// The time of the reply passes, and others want memory.
        func expire() {
            let server = cluster.server!
            cluster.simulation.run(for: Context.spillTime + .seconds(10))
            #expect(server.spills.isEmpty && server.usage.quarantined == 1)
            // What it takes of the memory, and not as exposed memory of ours.
            #expect(server.counters.keptReplyBytes == 1 << 18)
            #expect(server.counters.quarantinedBytes == 0)
            #expect(server.usage.isIdle && !server.usage.isComplete)
            let memory = server.quarantine.entries.first?.memory.registration.buffer
            var others: [RegisteredBuffer] = []
            server.xstream.simulate {
                for _ in 0..<4 {
                    guard let other = try? server.makeBuffer(count: Kept.size) else { return }
                    other.bytes.initializeMemory(as: UInt8.self, repeating: 0xff)
                    others.append(other)
                }
            }
            cluster.simulation.run(for: .milliseconds(1))
            #expect(others.count == 4 && others.allSatisfy { $0.buffer !== memory })
        }

        var isComplete: Bool { cluster.server.usage.isComplete && cluster.client.usage.isComplete }
    }

    /// It gets the reply, or an error, and never what the memory is used for next.
    @Test(arguments: 1...10)
    func whoFetchesLateGetsTheReply(seed: UInt64) throws {
        let kept = try Kept(seed: seed)
        let cluster = kept.cluster
        cluster.simulation.pause(node: 1, incarnation: 0)
        kept.expire()
        cluster.simulation.resume(node: 1, incarnation: 0)
        let isOver = cluster.simulation.run(
            for: .seconds(30), until: { kept.end != nil && kept.isComplete })
        #expect(isOver, "\(cluster.server.usage) \(cluster.client.usage)")
        #expect(kept.end == .some(nil) && kept.answer?.bytes == kept.bytes)
        #expect(cluster.client.fetching.isEmpty)
        #expect(cluster.server.counters.keptReplyBytes == 0)
        #expect(cluster.server.counters.exposures == 0)
        #expect(cluster.fabric.counts.badKeys == 0 && cluster.fabric.counts.regionsLost == 0)
        cluster.server.checkInvariants()
    }

    /// How it turns out that the caller does not fetch it.
    enum Proof: CaseIterable {
        /// It has given up, and says so when it is asked.
        case isAsked
        case dies, startsAgain
        /// Nothing does, and the context closes.
        case closes
    }

    /// A caller gives up while it cannot say so; the server may have lost its session, too.
    @Test(arguments: Proof.allCases, 1...5)
    func memoryOfACallerThatCannotBeReachedStays(proof: Proof, seed: UInt64) throws {
        let kept = try Kept(seed: seed)
        let (cluster, server) = (kept.cluster, kept.cluster.server!)
        cluster.fabric.partition([1], [2])
        cluster.stream.simulate { kept.cancel() }
        kept.expire()
        #expect(kept.end == .some(.cancelled))
        var next: Context?
        switch proof {
        case .isAsked: cluster.fabric.heal()
        case .dies:
            cluster.simulation.kill(node: 1, incarnation: 0)
            cluster.fabric.heal()
        case .startsAgain:
            cluster.simulation.kill(node: 1, incarnation: 0)
            cluster.fabric.heal()
            var world = cluster.simulation.world(node: 1, incarnation: 1)
            world.fabric = cluster.fabric
            let made = world
            let xstream = world.makeXStream(name: "client")
            xstream.simulate { next = opened(made, xstream, "sim://client") }
        case .closes: server.xstream.simulate { await server.close() }
        }
        let isFree = cluster.simulation.run(
            for: .seconds(30), until: { server.usage.isComplete || server.isClosed })
        #expect(isFree, "\(server.usage)")
        #expect(server.usage.quarantined == 0 && server.counters.keptReplyBytes == 0)
        #expect(server.counters.exposures == 0 && cluster.fabric.counts.regionsLost == 0)
        #expect((next != nil) == (proof == .startsAgain))
        server.checkInvariants()
    }

    /// A caller that has run out of time is gone at once; the fabric reads on for it.
    @Test func memoryThatIsStillReadStays() throws {
        let kept = try Kept(seed: 1)
        let (cluster, server) = (kept.cluster, kept.cluster.server!)
        cluster.simulation.run(for: .seconds(1), until: { kept.end != nil && kept.isComplete })
        try #require(kept.end == .some(nil))
        // The request arrives after two seconds, the reply after four, and the read after six.
        cluster.fabric.faults.latency = .seconds(2) ... .seconds(2)
        let late = cluster.call(Self.large, .milliseconds(4_500))
        cluster.simulation.run(for: .milliseconds(5_800))
        #expect(late() == .some(.timedOut))
        #expect(server.usage.quarantined == 1 && cluster.client.fetching.count == 1)
        let isComplete = cluster.simulation.run(for: .seconds(30), until: { kept.isComplete })
        #expect(isComplete, "\(server.usage) \(cluster.client.usage)")
        #expect(cluster.client.fetching.isEmpty && cluster.client.counters.lateReplies == 0)
        #expect(cluster.fabric.counts.badKeys == 0 && cluster.fabric.counts.regionsLost == 0)
    }

    // MARK: - Who is asked, and how

    /// A reply to this life of the client, or so the server takes it, comes into quarantine.
    private static func isolate(
        _ number: UInt64, of instance: UInt64, _ client: Context, at server: Context
    ) {
        guard let handle = try? server.expose(IOBuffer(count: 4096), access: .remoteRead) else {
            return
        }
        let isIsolated = server.isolate(
            .init(
                number: number, request: .init(session: .none, number: number),
                caller: .init(address: client.address, instance: instance), memory: handle,
                expires: 0))
        #expect(isIsolated)
    }

    /// A caller that wants none of its replies says so for as many as there are.
    @Test func aCallerIsAskedAboutAllOfThem() async throws {
        try await withRig(.simulated) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            let count = UInt64(2 * InquiryMessage.requestsMax + 10)
            for number in 1...count {
                Self.isolate(number, of: client.instance, client, at: server)
            }
            #expect(server.usage.quarantined == Int(count))
            try await rig.wait("the answers") { server.usage.quarantined == 0 }
        }
    }

    /// Two lives at one address. The answer of the earlier one to a hello from before proves
    /// nothing; those to later hellos do, however many replies come into quarantine meanwhile.
    @Test func theAnswerOfAnEarlierLifeProvesNothing() throws {
        let cluster = RestartTests.Cluster(seed: 1)
        let (client, server) = (cluster.client!, cluster.server!)
        cluster.simulation.pause(node: 1, incarnation: 0)
        server.xstream.simulate {
            _ = await failure { () throws(RPCError) in
                try await server.call(
                    TestProtocol.echo, Blob(), to: .address(client.address),
                    deadline: .after(.seconds(1)))
            }
        }
        cluster.simulation.run(for: .milliseconds(50))
        let peer = try #require(server.peersByAddress[client.address])
        let old = server.tracker.peers[Int(peer)].nonce
        let later = client.instance &+ 1
        server.xstream.simulate { Self.isolate(1, of: later, client, at: server) }
        cluster.simulation.run(for: .milliseconds(250))
        let new = server.tracker.peers[Int(peer)].nonce
        #expect(new != old && server.tracker.peers[Int(peer)].unansweredHellos > 1)
        server.xstream.simulate {
            Self.answer(old, UInt32(peer), as: client.instance, at: server)
            Self.isolate(2, of: later, client, at: server)
        }
        cluster.simulation.run(for: .milliseconds(1))
        #expect(server.usage.quarantined == 2 && server.counters.dropped == 1)
        #expect(server.tracker.peers[Int(peer)].nonce == new)
        server.xstream.simulate {
            Self.answer(new, UInt32(peer), as: client.instance, at: server)
        }
        cluster.simulation.run(for: .milliseconds(1))
        #expect(server.usage.quarantined == 0)
        // The call ends by its deadline.
        cluster.simulation.run(for: .seconds(2))
    }

    /// The answer to a hello arrives.
    private static func answer(
        _ nonce: UInt64, _ peer: UInt32, as instance: UInt64, at context: Context
    ) {
        let body = HelloReply(instance: instance, credits: 1, eagerLimit: 4096).encoded()
        var header = WireHeader()
        header.kind = .helloReply
        header.slot = peer
        header.requestID = nonce
        body.withUnsafeBytes {
            header.bodyChecksum = CRC32C.checksum(of: $0)
            context.receivedHelloReply(
                header,
                HeldMessage(
                    source: .loopback(0), start: $0.baseAddress!, bodyLength: $0.count,
                    payloadLength: 0))
        }
    }

    /// At the end of a read that nobody waits for any more, one reply is released.
    @Test func oneReleaseForEachRead() throws {
        var table = BulkTable()
        var operation = BulkOperation(kind: .read, peer: 1)
        operation.remote.key = 7
        let opened = [table.open(operation), table.open(operation)]
        let (first, second) = (try #require(opened[0]), try #require(opened[1]))
        #expect(table.abandonedRead(7, from: 1) == nil)
        table.operations[Int(second)].isAbandoned = true
        #expect(table.abandonedRead(7, from: 1) == Int(second))
        #expect(table.abandonedRead(7, from: 2) == nil && table.abandonedRead(8, from: 1) == nil)
        table.operations[Int(second)].release = SpillRelease(session: .none, number: 1)
        #expect(table.abandonedRead(7, from: 1) == nil)
        table.operations[Int(first)].isAbandoned = true
        #expect(table.abandonedRead(7, from: 1) == Int(first))
    }
}
