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
            #expect(server.counters.quarantinedBytes == Kept.size + 12)
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
        #expect(cluster.server.counters.quarantinedBytes == 0)
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
        #expect(server.usage.quarantined == 0 && server.counters.quarantinedBytes == 0)
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
}
