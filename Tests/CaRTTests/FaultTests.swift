import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

/// Injected faults: what is struck fails as the rule says, and what stands above gets over it.
@Suite struct FaultTests {
    private static func set(_ context: Context, _ rules: String...) throws {
        context.faults.set(try rules.map { try FaultRule(parsing: $0) })
    }

    private static func echo(_ client: Context, _ server: Context) async -> RPCError? {
        await failure { () throws(RPCError) in
            try await client.call(TestProtocol.echo, Blob(), to: .address(server.address))
        }
    }

    private static let expected: [FaultError: RPCError] = [
        .overloaded: .overloaded, .unreachable: .unreachable, .timedOut: .timedOut,
        .noReply: .noReply, .staleGroup: .staleGroup, .groupVersion: .groupVersion,
    ]

    @Test func aHandlerFailsAsTheRuleSays() async throws {
        try await withRig(.simulated) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            serve(server)
            for error in FaultPoint.cartHandler.errors {
                try Self.set(server, "cart.handler,error=\(error.rawValue),count=1")
                let found = await Self.echo(client, server)
                #expect(found != nil && found == Self.expected[error], "\(error)")
                #expect(await Self.echo(client, server) == nil)
            }
            #expect(client.counters.errorRepliesReceived == FaultPoint.cartHandler.errors.count)
        }
    }

    /// What a fault makes late does not begin when its caller has given up meanwhile, or its
    /// context has closed.
    @Test(arguments: [false, true])
    func aLateHandlerMayNotBegin(isClosing: Bool) async throws {
        try await withRig(.simulated) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            var begun = 0
            server.registerSynchronous(TestProtocol.synchronous) { blob, _ throws(RPCError) in
                begun += 1
                return blob
            }
            try Self.set(server, "cart.handler,delay=20s")
            var end: RPCError??
            let task = rig.xstream.spawnCancellable {
                end = await failure { () throws(RPCError) in
                    try await client.call(
                        TestProtocol.synchronous, Blob(), to: .address(server.address),
                        deadline: .unlimited)
                }
            }
            try await rig.wait("the request") { server.counters.active == 1 }
            if isClosing { await server.close() } else { task.cancel() }
            try await rig.wait("the end") { end != nil && server.usage.requests == 0 }
            await rig.xstream.sleep(for: .seconds(20))
            #expect(begun == 0)
        }
    }

    /// However many handlers are late, the context hears what comes, such as the end of the faults.
    @Test func lateHandlersLeaveReceives() async throws {
        try await withRig(.simulated) { rig in
            let client = try rig.makeContext()
            let server = try rig.makeContext {
                $0.receiveCount = 16
                $0.heldReceivesMax = 8
            }
            serve(server)
            try Self.set(server, "cart.handler,delay=60s")
            var ends: [RPCError?] = []
            var tasks: [Task<Void, Never>] = []
            for number in 0..<20 {
                tasks.append(
                    rig.xstream.spawnCancellable { ends.append(await Self.echo(client, server)) })
                try await rig.wait("\(number)") { server.counters.requestsReceived == number + 1 }
            }
            let error = await failure { () throws(RPCError) in
                try await client.call(
                    TestProtocol.echo, Blob(), to: .address(server.address),
                    deadline: .after(.seconds(1)), options: CallOptions(priority: .high))
            }
            #expect(error == nil)
            for task in tasks { task.cancel() }
            try await rig.wait("the ends") { ends.count == 20 && server.usage.requests == 0 }
            #expect(ends.contains(.overloaded) && ends.contains(.cancelled))
        }
    }

    @Test func aLostHelloIsRepeated() async throws {
        try await withRig(.simulated) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            serve(server)
            try Self.set(client, "peer.hello,count=2")
            let start = rig.xstream.now
            #expect(await Self.echo(client, server) == nil)
            #expect(rig.xstream.now.since(start) >= .milliseconds(300))
            #expect(client.faults.counts.map(\.struck) == [2])
            #expect(client.counters.hellosSent == 1)
        }
    }

    @Test func theFabricRefusesOrBreaks() async throws {
        try await withRig(.simulated) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            serve(server)
            try Self.set(client, "fabric.send,count=3")
            #expect(await Self.echo(client, server) == nil)
            #expect(client.faults.counts.map(\.struck) == [3])
            #expect(client.counters.sendsFailed == 0 && client.counters.peersLost == 0)
            // The request is not told from its connection.
            try Self.set(client, "fabric.send,error=unreachable,count=1")
            #expect(await Self.echo(client, server) == .unreachable)
            #expect(client.counters.sendsFailed == 1 && client.counters.peersLost == 1)
            #expect(await Self.echo(client, server) == nil)
            try Self.set(client, "fabric.register,count=1")
            let buffer = try client.makeBuffer(count: 4096)
            let error = await failure { () throws(RPCError) in
                try client.expose(buffer, access: .remoteRead)
            }
            guard case .fabric(.provider) = error else {
                Issue.record("\(String(describing: error))")
                return
            }
            client.withdraw(try client.expose(buffer, access: .remoteRead))
            #expect(client.counters.exposuresFailed == 1 && client.counters.exposuresMade == 1)
        }
    }

    // MARK: - Vectors

    /// A vector passes the point of bulk transfers once, however many pieces it has.
    @Test func aVectorFailsOrIsLate() async throws {
        try await withRig(.simulated) { rig in
            let (owner, other) = (try rig.makeContext(), try rig.makeContext())
            let handles = try (0..<3).map { _ in
                try owner.expose(
                    try owner.makeBuffer(count: 4096), access: [.remoteRead, .remoteWrite])
            }
            let vector = BulkVector(handles)
            let local = try other.makeBuffer(count: 3 * 4096)
            for (error, expected) in [
                ("unreachable", .unreachable), ("timed-out", .timedOut),
                ("overloaded", .overloaded), ("bad-key", .fabric(.badKey)),
            ] as [(String, RPCError)] {
                try Self.set(other, "cart.bulk,error=\(error)")
                let read = await failure { () throws(RPCError) in
                    try await other.bulkGet(vector, into: [BulkPart(local)])
                }
                let written = await failure { () throws(RPCError) in
                    try await other.bulkPut(vector, from: [BulkPart(local)])
                }
                #expect(read == expected && written == expected)
            }
            try Self.set(other, "cart.bulk,delay=30ms")
            let start = rig.xstream.now
            try await other.bulkGet(vector, into: [BulkPart(local)])
            let time = rig.xstream.now.since(start)
            #expect(time >= .milliseconds(30) && time < .milliseconds(60))
            #expect(other.faults.counts.map(\.struck) == [1])
            for handle in handles { owner.withdraw(handle) }
        }
    }

    /// The time of a vector is that of bulk transfers in the trace of the request that names it.
    @Test func aVectorIsTraced() async throws {
        try await withRig(.simulated) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            let pull = Procedure<BulkVector, Blob>(TestProtocol.id, index: 60, name: "pullAll")
            server.register(pull) { vector, request throws(RPCError) in
                let buffer = try request.context.makeBuffer(count: Int(vector.length))
                try await request.context.bulkGet(vector, into: [BulkPart(buffer)], for: request)
                try await request.context.bulkPut(vector, from: [BulkPart(buffer)], for: request)
                return Blob()
            }
            let handles = try (0..<2).map { _ in
                try client.expose(
                    try client.makeBuffer(count: 4096), access: [.remoteRead, .remoteWrite])
            }
            let tracer = CallTracer()
            client.tracer = tracer
            try Self.set(server, "cart.bulk,delay=10ms")
            _ = try await client.call(
                pull, BulkVector(handles), to: .address(server.address), exposing: handles)
            let summary = try #require(tracer.summaries.first)
            #expect(summary.bulk.minimum >= 20_000_000)
            #expect(summary.handling.maximum < 5_000_000)
        }
    }

    // MARK: - Groups, collectives, incast variables

    @Test func aLookUpFails() async throws {
        try await withRig(.simulated) { rig in
            let first = try rig.makeContext { $0.rank = 2 }
            let second = try rig.makeContext {
                $0.rank = 2
                $0.tag = 1
            }
            serve(second)
            try first.group.apply(
                .replace([Group.Member(rank: 2, addresses: [first.address, second.address])]),
                version: 1)
            let client = try rig.makeContext()
            try client.group.apply(
                .replace([Group.Member(rank: 2, addresses: [first.address])]), version: 1)
            func call() async -> RPCError? {
                await failure { () throws(RPCError) in
                    try await client.call(TestProtocol.echo, Blob(), to: .rank(2, tag: 1))
                }
            }
            for error in FaultPoint.groupLookUp.errors {
                try Self.set(client, "group.lookup,error=\(error.rawValue),count=1")
                let found = await call()
                #expect(found != nil && found == Self.expected[error], "\(error)")
            }
            #expect(await call() == nil)
            let count = FaultPoint.groupLookUp.errors.count
            #expect(client.counters.lookUps == count + 1)
            #expect(client.counters.lookUpsFailed == count)
            #expect(client.counters.lookUpsTimedOut == 1)
            #expect(first.counters.lookUpsAnswered == 1)
        }
    }

    @Test func aRankTakesNoPart() throws {
        let cluster = CollectiveCluster(seed: 3, count: 7)
        cluster.startAll()
        var options = CollectiveOptions()
        options.tree = .kAry(2)
        // A leaf.
        let context = try #require(cluster.nodes[6].context)
        for error in FaultPoint.collectivePart.errors {
            try Self.set(context, "collective.part,error=\(error.rawValue)")
            let (result, _) = try cluster.finish(cluster.broadcast(options: options))
            #expect(result.succeeded == 6)
            #expect(result.failures.map(\.rank) == [6])
            #expect(result.failures.map(\.error) == [Self.expected[error]])
        }
        let failed = cluster.client.context.counters.collectives.failed
        #expect(failed == FaultPoint.collectivePart.errors.count)
        try Self.set(context, "collective.part,delay=50ms")
        let (late, time) = try cluster.finish(cluster.broadcast(options: options))
        #expect(late.succeeded == 7 && time >= .milliseconds(50))
        #expect(cluster.client.context.counters.collectives.failed == failed)
    }

    @Test func aLateRankThatHasClosedTakesNoPart() throws {
        let cluster = CollectiveCluster(seed: 4, count: 2)
        cluster.startAll()
        let context = try #require(cluster.nodes[1].context)
        try Self.set(context, "collective.part,delay=20s")
        let run = cluster.broadcast()
        cluster.simulation.run(for: .seconds(5), until: { context.counters.active == 1 })
        #expect(context.counters.active == 1)
        context.xstream.simulate { await context.close() }
        cluster.simulation.run(for: .seconds(40))
        #expect(context.isClosed && context.counters.collectives.parts == 0)
        #expect(run.result != nil)
    }

    /// What is transient is tried again.
    @Test func aRequestOfIncastVariablesFails() async throws {
        try await withRig(.simulated) { rig in
            let cluster = try IncastCluster(rig, 3, tree: .flat)
            try await cluster.variables[0].update(NoteKey(), Blob(number: 7))
            for error in FaultPoint.incastSend.errors {
                try Self.set(cluster.contexts[2], "incast.send,error=\(error.rawValue),count=1")
                let before = cluster.namespaces[2].counters.retries
                let found = await incastFailure { () throws(IncastError) in
                    try await cluster.variables[2].fetch(NoteKey(), version: .latest)
                }
                #expect(found == nil, "\(error)")
                #expect(cluster.namespaces[2].counters.retries == before + 1, "\(error)")
            }
            try await cluster.settle()
        }
    }

    /// Every error of a point of calls is one of a call.
    @Test(
        arguments: [.cartHandler, .cartBulk, .collectivePart, .groupLookUp, .incastSend]
            as [FaultPoint])
    func everyErrorHasItsCallError(point: FaultPoint) {
        #expect(Set(point.errors.map { RPCError($0) }).count == point.errors.count)
    }
}
