import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

@Suite struct CollectiveBulkTests {
    static func options(_ tree: TreeTopology, chunk: Int) -> CollectiveOptions {
        var options = CollectiveOptions()
        options.tree = tree
        options.chunkSize = chunk
        return options
    }

    /// Every rank gets the same bytes, whatever the size and the tree.
    @Test(arguments: FabricKind.allCases)
    func everyRankGetsTheBytes(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let group = try GroupRig(rig)
            var sums: [UInt32] = []
            for (size, tree) in [
                (1, TreeTopology.kNomial(2)), (4096, .kAry(2)), (100_001, .kNomial(4)),
                (1 << 20, .flat), (3 << 20, .kNomial(2)),
            ] {
                for initiator in [group.client, group.members[3]] {
                    let buffer = IOBuffer(copying: pattern(size, size))
                    let handle = try initiator.expose(buffer, access: .remoteRead)
                    let result = try await initiator.broadcast(
                        CollectiveTestProtocol.tally, Blob(), bulk: handle,
                        options: Self.options(tree, chunk: size > 1 << 20 ? 1 << 20 : 8192))
                    #expect(try result.complete().ranks.count == 13)
                    sums.append(CRC32C.checksum(of: UnsafeRawBufferPointer(buffer.bytes)))
                    initiator.withdraw(handle)
                }
            }
            for state in group.states { #expect(state.sums == sums) }
            try await rig.wait("the end") {
                group.members.allSatisfy { $0.usage.isIdle } && group.client.usage.isIdle
            }
            group.expectIdle()
        }
    }

    /// The time grows with the depth of the tree and with the size, not with their product.
    @Test func chunksFollowOneAnother() throws {
        func time(ranks: Int, chunks: Int) throws -> Duration {
            var faults = FabricFaults.none
            // So long that the turns of the processes, which follow one another, count for little.
            faults.latency = .milliseconds(10) ... .milliseconds(10)
            let cluster = CollectiveCluster(seed: 5, count: ranks, faults: faults)
            cluster.startAll()
            // Acquaintance first.
            _ = try cluster.finish(
                cluster.broadcast(options: Self.options(.kAry(2), chunk: 4096)))
            let buffer = IOBuffer(copying: pattern(chunks * 4096, 3))
            let (result, time) = try cluster.finish(
                cluster.broadcast(bulk: buffer, options: Self.options(.kAry(2), chunk: 4096)))
            #expect(try result.complete().ranks.count == ranks)
            let sum = CRC32C.checksum(of: UnsafeRawBufferPointer(buffer.bytes))
            #expect(cluster.nodes.allSatisfy { $0.state.sums == [sum] })
            return time
        }
        // Six levels below the root.
        let shallow = try time(ranks: 1, chunks: 256)
        let deep = try time(ranks: 127, chunks: 256)
        let short = try time(ranks: 127, chunks: 1)
        let tiny = try time(ranks: 1, chunks: 1)
        // What a level adds to a large transfer is what it adds to a small one, and not the time
        // of the whole transfer.
        #expect(deep < shallow + (short - tiny) * 2)
        #expect(deep < shallow * 2)
    }

    /// Ranks die in the middle of a transfer: all others have the whole of it in the end.
    @Test(arguments: 1...20)
    func survivesTheDeathOfAnInnerRank(seed: UInt64) throws {
        var faults = FabricFaults.none
        faults.latency = .microseconds(100) ... .microseconds(300)
        let cluster = CollectiveCluster(seed: seed, count: 24, faults: faults)
        cluster.startAll()
        _ = try cluster.finish(cluster.broadcast(deadline: .seconds(5)))
        let buffer = IOBuffer(copying: pattern(1 << 20, Int(seed)))
        let run = cluster.broadcast(
            bulk: buffer, deadline: .seconds(8),
            options: Self.options(.kNomial(2), chunk: 8192))
        // The child of the root with the most below it, and a child of that one.
        let victims = seed % 2 == 0 ? [16] : [16, 20]
        cluster.simulation.run(for: .microseconds(2_000 + 500 * Int64(seed)))
        #expect(run.result == nil)
        for rank in victims { cluster.kill(cluster.nodes[rank]) }
        let (result, _) = try cluster.finish(run)
        #expect(Set(result.failures.map(\.rank)) == Set(victims.map { UInt32($0) }))
        #expect(result.failed == victims.count)
        #expect(result.succeeded == 24 - victims.count)
        let sum = CRC32C.checksum(of: UnsafeRawBufferPointer(buffer.bytes))
        for node in cluster.nodes where node.isAlive {
            #expect(node.state.handled == 2)
            #expect(node.state.sums == [sum], "rank \(node.rank!)")
        }
        #expect(cluster.fabric.counts.regionsLost == 0)
        cluster.simulation.run(for: .seconds(20))
        for node in cluster.nodes + [cluster.client] where node.isAlive {
            #expect(node.context.usage.isIdle, "\(node.context.usage)")
            #expect(node.context.relays.isEmpty && node.context.pulledBytes == 0)
        }
    }
}
