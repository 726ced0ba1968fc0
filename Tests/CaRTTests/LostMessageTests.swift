import DrayFabric
import DrayRuntime
import Testing

@testable import CaRT

/// Connections that break without anybody being told, and callers who wait without a limit.
@Suite struct LostMessageTests {
    final class Box { var end: RPCError?? }

    /// Begins a call without a deadline and calls `body` with its virtual time.
    private func call(
        _ cluster: RestartTests.Cluster, _ procedure: Procedure<Blob, Blob>
    ) -> Box {
        let box = Box()
        let there = Destination.address(cluster.server.address)
        cluster.stream.simulate {
            box.end = await failure { () throws(RPCError) in
                try await cluster.client.call(procedure, Blob(), to: there, deadline: .unlimited)
            }
        }
        return box
    }

    private func greeted(_ seed: UInt64) -> RestartTests.Cluster {
        let cluster = RestartTests.Cluster(seed: seed)
        let first = call(cluster, TestProtocol.echo)
        cluster.simulation.run(for: .seconds(1), until: { first.end != nil })
        #expect(first.end == .some(nil))
        return cluster
    }

    @Test(arguments: UInt64(1)...30)
    func aLostRequestEnds(seed: UInt64) {
        let cluster = greeted(seed)
        let before = cluster.server.counters.requestsReceived
        let lost = call(cluster, TestProtocol.echo)
        let operations = cluster.fabric.counts.operations
        cluster.simulation.run(
            for: .seconds(1), until: { cluster.fabric.counts.operations > operations })
        cluster.fabric.breakConnections(1, 2)
        cluster.simulation.run(for: .seconds(10), until: { lost.end != nil })
        #expect(lost.end == .some(.unreachable))
        #expect(cluster.server.counters.requestsReceived == before)
        // The word that it is not wanted any more leaves, too.
        cluster.simulation.run(for: .seconds(1), until: { cluster.client.usage.isComplete })
        #expect(cluster.client.usage.isComplete)
    }

    @Test(arguments: UInt64(1)...30)
    func aLostReplyEnds(seed: UInt64) {
        let cluster = greeted(seed)
        let lost = call(cluster, TestProtocol.wait)
        cluster.simulation.run(for: .seconds(1), until: { cluster.state.held.count == 1 })
        // As long as the handler works the call goes on.
        cluster.simulation.run(for: .seconds(20))
        #expect(lost.end == nil)
        let operations = cluster.fabric.counts.operations
        cluster.server.xstream.simulate { cluster.state.held.removeFirst().reply(Blob()) }
        cluster.simulation.run(
            for: .seconds(1), until: { cluster.fabric.counts.operations > operations })
        cluster.fabric.breakConnections(1, 2)
        cluster.simulation.run(for: .seconds(10), until: { lost.end != nil })
        #expect(lost.end == .some(.unreachable))
        // The word that it is not wanted any more leaves, too.
        cluster.simulation.run(for: .seconds(1), until: { cluster.client.usage.isComplete })
        #expect(cluster.client.usage.isComplete)
    }

    /// A reply that is too large to travel inline stays with its sender until it is fetched: not
    /// for ever when nobody does, however long the caller would have waited.
    @Test(arguments: UInt64(1)...10)
    func largeRepliesThatNobodyWantsGo(seed: UInt64) {
        let cluster = greeted(seed)
        let large = pattern(100_000)
        cluster.server.xstream.simulate {
            cluster.server.registerDeferred(
                Procedure<Blob, Blob>(TestProtocol.id, index: 50, name: "test.large")
            ) { blob, reply in
                let xstream = reply.request.context.xstream
                xstream.schedule(at: xstream.now + .microseconds(Int64(blob.number))) {
                    reply.reply(Blob(bytes: large))
                }
            }
        }
        var entropy = Entropy(seed: seed)
        let server = cluster.server!
        // The client, and the server itself.
        for context in [cluster.client!, server] {
            for _ in 0..<60 {
                let (delay, patience) = (entropy.below(4_000), entropy.below(5_000))
                context.xstream.simulate {
                    let task = context.xstream.spawnCancellable {
                        _ = await failure { () throws(RPCError) in
                            try await context.call(
                                Procedure<Blob, Blob>(
                                    TestProtocol.id, index: 50, name: "test.large"),
                                Blob(number: delay), to: .address(server.address),
                                deadline: .unlimited)
                        }
                    }
                    let time = context.xstream.now + .microseconds(Int64(patience))
                    context.xstream.schedule(at: time) { task.cancel() }
                }
            }
        }
        cluster.simulation.run(for: .seconds(1))
        #expect(cluster.client.counters.cancelled > 10)
        #expect(cluster.client.usage.calls == 0)
        // Whoever gives up says so, also while it fetches.
        let isComplete = cluster.simulation.run(
            for: .seconds(2),
            until: { cluster.client.usage.isComplete && server.usage.isComplete })
        #expect(isComplete, "\(cluster.client.usage) \(server.usage)")
        #expect(cluster.fabric.counts.regionsLost == 0)
    }
}
