import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

@Suite struct TraceTests {
    private static let slow = Procedure<Blob, Blob>(
        TestProtocol.id, index: 50, name: "test.slow")
    private static let large = Procedure<Blob, Blob>(
        TestProtocol.id, index: 51, name: "test.large")

    /// A handler that takes its time, and one that moves bulk data: each part shows where it was.
    @Test(arguments: FabricKind.allCases)
    func saysWhereTheTimeWent(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext { $0.credits = 1 })
            serve(server)
            server.register(Self.slow) { blob, request throws(RPCError) in
                await request.context.xstream.sleep(for: .milliseconds(20))
                return blob
            }
            server.register(Self.large) { blob, request throws(RPCError) in blob }
            let there = Destination.address(server.address)
            _ = try await client.call(TestProtocol.echo, Blob(), to: there)
            let tracer = CallTracer()
            client.tracer = tracer
            // One credit: the second waits for the first.
            await concurrently(client.xstream, 2) { _ in
                _ = try? await client.call(Self.slow, Blob(number: 1), to: there)
            }
            for _ in 0..<5 {
                _ = try await client.call(TestProtocol.echo, Blob(bytes: pattern(9)), to: there)
            }
            // A reply too large to go inline is traced too; an error is not.
            _ = try await client.call(Self.large, Blob(bytes: pattern(90_000)), to: there)
            _ = await failure { () throws(RPCError) in
                try await client.call(TestProtocol.fail, Blob(), to: there)
            }
            let summaries = tracer.summaries
            #expect(summaries.map(\.name) == ["test.echo", "test.slow", "test.large"])
            #expect(summaries.map(\.total.count) == [5, 2, 1])
            let slow = summaries[1]
            #expect(slow.handling.minimum >= 20_000_000)
            #expect(slow.queued.maximum >= 20_000_000)
            #expect(slow.total.maximum >= 40_000_000)
            #expect(summaries[0].bulk.maximum == 0)
            #expect(client.replyTimings.isEmpty)
            client.tracer = nil
            _ = try await client.call(TestProtocol.echo, Blob(), to: there)
            #expect(tracer.summaries.map(\.total.count) == [5, 2, 1])
        }
    }

    @Test(arguments: [FabricKind.tcp, .simulated])
    func bulkTransfersAreToldApart(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            server.register(TestProtocol.pull) { transfer, request throws(RPCError) in
                let buffer = try request.context.makeBuffer(count: Int(transfer.memory.length))
                try await request.context.bulkGet(
                    transfer.memory, into: buffer, range: 0..<buffer.count, for: request)
                return Blob()
            }
            client.tracer = CallTracer()
            let handle = try client.expose(
                try client.makeBuffer(count: 1 << 20), access: .remoteRead)
            var transfer = Transfer()
            transfer.memory = handle.descriptor
            _ = try await client.call(
                TestProtocol.pull, transfer, to: .address(server.address), exposing: [handle])
            let summary = try #require(client.tracer?.summaries.first)
            #expect(summary.bulk.maximum > 1000)
            #expect(summary.bulk.maximum <= summary.total.maximum)
            // The first call had to say hello.
            #expect(summary.queued.maximum > 0)
        }
    }

    /// A reply that cannot be used leaves nothing behind.
    @Test(arguments: [FabricKind.tcp, .simulated])
    func aBadReplyIsNotTraced(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext { $0.messageSizeMax = 50_000 }
            let server = try rig.makeContext()
            server.register(Self.slow) { blob, _ throws(RPCError) in blob }
            server.register(Self.large) { _, _ throws(RPCError) in Blob(bytes: pattern(90_000)) }
            let tracer = CallTracer()
            client.tracer = tracer
            let there = Destination.address(server.address)
            let misunderstood = Procedure<Blob, Transfer>(
                TestProtocol.id, index: 50, name: "test.slow")
            let bad = await failure { () throws(RPCError) in
                try await client.call(misunderstood, Blob(), to: there)
            }
            #expect(bad == .badMessage)
            let tooLong = await failure { () throws(RPCError) in
                try await client.call(Self.large, Blob(), to: there)
            }
            #expect(tooLong == .messageTooLong)
            #expect(client.replyTimings.isEmpty)
            #expect(tracer.summaries.isEmpty)
            // The server need not keep what nobody can fetch.
            try await rig.wait("release") { server.usage.exposures == 0 }
            #expect(server.spills.isEmpty)
        }
    }

    /// A handler's own calls, and those of their handlers, are traced for the first caller: under
    /// its trace, and without a tracer anywhere but there.
    @Test(arguments: FabricKind.allCases)
    func callsOfHandlersStandBelow(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let contexts = try (0..<4).map { _ in try rig.makeContext() }
            let client = contexts[0]
            let there = contexts.map { Destination.address($0.address) }
            var traces: [UInt64] = []
            var wasTraced: [Bool] = []
            func note(_ request: RequestContext) {
                traces.append(request.trace)
                wasTraced.append(request.isTraced)
            }
            contexts[1].register(Self.slow) { blob, request throws(RPCError) in
                note(request)
                for index in [2, 3] {
                    _ = try await request.context.call(
                        TestProtocol.echo, blob, to: there[index], for: [request])
                }
                // One that is made for nobody.
                _ = try await request.context.call(Self.large, blob, to: there[3])
                return blob
            }
            contexts[2].register(TestProtocol.echo) { blob, request throws(RPCError) in
                note(request)
                return try await request.context.call(
                    Self.large, blob, to: there[3], for: [request])
            }
            contexts[3].register(TestProtocol.echo) { blob, request throws(RPCError) in
                note(request)
                await request.context.xstream.sleep(for: .milliseconds(10))
                return blob
            }
            contexts[3].register(Self.large) { blob, request throws(RPCError) in blob }
            // Inline, and spilled on its way back.
            for size in [10, 90_000] {
                let blob = Blob(bytes: pattern(size))
                client.tracer = CallTracer()
                traces = []
                wasTraced = []
                let answer = try await client.call(Self.slow, blob, to: there[1], trace: 77)
                #expect(answer == blob)
                #expect(traces == [77, 77, 77] && wasTraced == [true, true, true])
                let summaries = client.tracer?.summaries ?? []
                #expect(summaries.map(\.name) == ["test.slow", "test.echo", "test.large"])
                #expect(summaries.map(\.depth) == [0, 1, 2])
                #expect(summaries.map(\.total.count) == [1, 2, 1])
                guard summaries.count == 3 else { continue }
                #expect(summaries[1].handling.maximum >= 10_000_000)
                #expect(summaries[0].handling.maximum >= summaries[1].total.total)
                #expect(contexts.allSatisfy { $0.replyTimings.isEmpty })
            }
            client.tracer = nil
            traces = []
            wasTraced = []
            _ = try await client.call(Self.slow, Blob(), to: there[1], trace: 78)
            #expect(traces == [78, 78, 78] && wasTraced == [false, false, false])
        }
    }

    /// A reply tells of so many calls, and not of more.
    @Test func manyCallsOfAHandlerAreCut() async throws {
        try await withRig(.simulated) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            serve(server)
            server.register(Self.slow) { blob, request throws(RPCError) in
                for _ in 0..<40 {
                    _ = try await request.context.call(
                        TestProtocol.echo, blob, to: .address(client.address), for: [request])
                }
                return blob
            }
            serve(client)
            client.tracer = CallTracer()
            _ = try await client.call(Self.slow, Blob(), to: .address(server.address))
            #expect(client.tracer?.summaries.map(\.total.count) == [1, 32])
        }
    }

    /// Depths are those of a tree, whatever a peer says; paths are bounded.
    @Test(arguments: 1...20)
    func anyDepthsMakeATree(seed: UInt64) {
        var random = Entropy(seed: seed)
        let tracer = CallTracer()
        for _ in 0..<50 {
            let calls = (0..<8).map { _ in
                var call = NestedCall(
                    opcode: UInt32(random.below(4)), name: "any", trace: CallTrace())
                call.depth = UInt8(1 + random.below(255))
                return call
            }
            tracer.record(NestedCall(opcode: 1, name: "own", trace: CallTrace()), calls)
        }
        let depths = tracer.summaries.map(\.depth)
        #expect(depths.first == 0 && depths.count <= CallTracer.summariesMax)
        #expect(depths.dropFirst().allSatisfy { $0 > 0 })
        for (above, below) in zip(depths, depths.dropFirst()) { #expect(below <= above + 1) }
    }

    /// Whatever a peer says, the parts add up to the whole.
    @Test(arguments: 1...20)
    func partsAddUp(seed: UInt64) {
        var random = Entropy(seed: seed)
        for _ in 0..<500 {
            func any() -> UInt64 { random.next() >> random.below(60) }
            var timings = ReplyTimings()
            timings.arrived = any()
            timings.waiting = any() >> 1
            timings.handler = any() >> 1
            timings.bulk = any()
            var header = WireHeader()
            timings.store(in: &header)
            let begun = random.below(1 << 40)
            let sent = begun + random.below(1 << 30)
            let ended = sent + random.below(1 << 34)
            let trace = ReplyTimings(header).trace(
                begun: begun, sent: sent, sentWall: any(), ended: ended)
            #expect(trace.total == ended - begun)
        }
    }
}
