import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

@Suite struct FlowTests {
    @Test(arguments: FabricKind.allCases)
    func keepsToTheServersCredits(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext { $0.waitingMax = 20 }
            let server = try rig.makeContext { $0.credits = 4 }
            let state = serve(server)
            let there = Destination.address(server.address)
            _ = try await client.call(TestProtocol.echo, Blob(), to: there)
            var order: [Int] = []
            var overloaded = 0
            for index in 0..<30 {
                rig.xstream.spawn {
                    let error = await failure { () throws(RPCError) in
                        try await client.call(
                            TestProtocol.wait, Blob(number: UInt64(index)), to: there)
                    }
                    if error == .overloaded { overloaded += 1 }
                    if error == nil { order.append(index) }
                }
            }
            try await rig.wait("four requests") { state.held.count == 4 && overloaded == 6 }
            await rig.xstream.sleep(for: .milliseconds(20))
            #expect(state.held.count == 4)
            #expect(client.counters.inFlight == 4)
            #expect(client.counters.waiting == 20)
            while order.count < 24 {
                try await rig.wait("a request") { !state.held.isEmpty }
                let before = order.count
                state.held.removeFirst().reply(Blob())
                try await rig.wait("its end") { order.count > before }
            }
            #expect(state.started == 24)
            // First come, first served (the simulated fabric may swap neighbours).
            #expect(Set(order) == Set(0..<24))
            if kind != .simulated { #expect(order == Array(0..<24)) }
        }
    }

    @Test(arguments: FabricKind.allCases)
    func saysWhenItIsOverloaded(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let server = try rig.makeContext { options in
                options.credits = 0
                options.activeRequestsMax = 5
            }
            let state = serve(server)
            var overloaded = 0
            var answered = 0
            for _ in 0..<12 {
                rig.xstream.spawn {
                    let error = await failure { () throws(RPCError) in
                        try await client.call(
                            TestProtocol.wait, Blob(), to: .address(server.address))
                    }
                    if error == .overloaded { overloaded += 1 }
                    if error == nil { answered += 1 }
                }
            }
            try await rig.wait("refusals") { overloaded == 7 }
            #expect(state.held.count == 5)
            #expect(server.counters.overloaded == 7)
            for reply in state.held { reply.reply(Blob()) }
            state.held = []
            try await rig.wait("answers") { answered == 5 }
            _ = try await client.call(TestProtocol.echo, Blob(), to: .address(server.address))
        }
    }

    /// As many replies as one likes leave at the same time: they share messages.
    @Test(arguments: FabricKind.allCases)
    func thousandsOfRepliesAtOnce(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let server = try rig.makeContext { $0.credits = 0 }
            var held: [DeferredReply<Blob>] = []
            server.registerDeferred(TestProtocol.wait) { _, reply in held.append(reply) }
            var answered = 0
            for _ in 0..<2000 {
                rig.xstream.spawn {
                    let error = await failure { () throws(RPCError) in
                        try await client.call(
                            TestProtocol.wait, Blob(), to: .address(server.address))
                    }
                    #expect(error == nil)
                    answered += 1
                }
            }
            try await rig.wait("requests") { held.count == 2000 }
            for reply in held { reply.reply(Blob(bytes: pattern(300))) }
            held = []
            try await rig.wait("answers") { answered == 2000 }
            #expect(server.counters.dropped == 0)
            #expect(client.usage.isIdle && server.usage.isIdle)
        }
    }

    /// Handlers that sit on their payloads must not stop the connection.
    @Test(arguments: FabricKind.allCases)
    func heldReceivesAreLimited(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let server = try rig.makeContext { options in
                options.credits = 0
                options.receiveCount = 16
                options.heldReceivesMax = 8
            }
            var held: [DeferredReply<Blob>] = []
            server.registerDeferred(TestProtocol.wait) { _, reply in held.append(reply) }
            // So long that no two of them fit into one receive.
            let bytes = pattern(40_000)
            let payload = IOBuffer(copying: bytes)
            var ends: [RPCError?] = []
            for _ in 0..<40 {
                rig.xstream.spawn {
                    ends.append(
                        await failure { () throws(RPCError) in
                            try await client.call(
                                TestProtocol.wait, Blob(), to: .address(server.address),
                                payload: UnsafeRawBufferPointer(payload.bytes))
                        })
                }
            }
            try await rig.wait("refusals") { ends.count + held.count == 40 }
            #expect(held.count >= 8 && held.count <= 9)
            #expect(ends.allSatisfy { $0 == .overloaded })
            #expect(held.allSatisfy { [UInt8]($0.request.payload) == bytes })
            for reply in held { reply.reply(Blob()) }
            try await rig.wait("answers") { ends.count == 40 }
        }
    }

    /// Messages that were sent together lie in one receive, which serves until the last of them is
    /// answered, in whatever order that happens; then it takes others.
    @Test(arguments: FabricKind.allCases)
    func messagesShareReceives(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let server = try rig.makeContext { options in
                options.credits = 0
                // Some fabrics send before so many have gathered: in five parts at most.
                options.receiveCount = client.endpoint.gatheredMax == .max ? 4 : 8
                options.heldReceivesMax = client.endpoint.gatheredMax == .max ? 2 : 5
            }
            var held: [DeferredReply<Blob>] = []
            server.registerDeferred(TestProtocol.wait) { _, reply in held.append(reply) }
            let there = Destination.address(server.address)
            server.register(TestProtocol.echo) { blob, _ in blob }
            _ = try await client.call(TestProtocol.echo, Blob(), to: there)
            let payloads = (0..<20).map { pattern(100 + $0) }
            for round in 0..<5 {
                var ended = 0
                let sent = client.counters.messagesSent
                for bytes in payloads {
                    rig.xstream.spawn {
                        let payload = IOBuffer(copying: bytes)
                        let end = await failure { () throws(RPCError) in
                            try await client.call(
                                TestProtocol.wait, Blob(), to: there,
                                payload: UnsafeRawBufferPointer(payload.bytes))
                        }
                        #expect(end == nil)
                        ended += 1
                    }
                }
                try await rig.wait("requests") { held.count == payloads.count }
                let sends = (payloads.count - 1) / client.endpoint.gatheredMax + 1
                #expect(client.counters.messagesSent - sent >= sends)
                let lengths = held.map { $0.request.payload.count }
                // Parts may pass one another.
                #expect(lengths.sorted() == payloads.map(\.count))
                // From the last to the first in one round, from both ends in the next.
                while !held.isEmpty {
                    let fromFront = round % 2 == 1 && held.count % 2 == 0
                    let reply = fromFront ? held.removeFirst() : held.removeLast()
                    #expect(
                        [UInt8](reply.request.payload)
                            == pattern(reply.request.payload.count))
                    reply.reply(Blob())
                }
                try await rig.wait("answers") { ended == payloads.count }
            }
        }
    }

    @Test(arguments: FabricKind.allCases)
    func cancels(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            let state = serve(server)
            let there = Destination.address(server.address)
            var end: RPCError??
            let task = rig.xstream.spawnCancellable {
                end = await failure { () throws(RPCError) in
                    try await client.call(TestProtocol.wait, Blob(), to: there)
                }
            }
            try await rig.wait("the request") { state.held.count == 1 }
            task.cancel()
            try await rig.wait("the end") { end != nil }
            #expect(end == .some(.cancelled))
            try await rig.wait("the server hears of it") { state.cancelled == 1 }
            #expect(state.held[0].request.isCancelled)
            state.held = []
            // A task that is cancelled already sends nothing that anybody waits for.
            end = nil
            let second = rig.xstream.spawnCancellable {
                withUnsafeCurrentTask { $0?.cancel() }
                end = await failure { () throws(RPCError) in
                    try await client.call(TestProtocol.wait, Blob(), to: there)
                }
            }
            await second.value
            #expect(end == .some(.cancelled))
            #expect(client.counters.inFlight == 0)
            _ = try await client.call(TestProtocol.echo, Blob(), to: there)
        }
    }

    /// The memory of a cancelled call is free only when the peer has said so.
    @Test(arguments: FabricKind.allCases)
    func waitsForThePeerBeforeMemoryIsFree(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            let state = serve(server)
            let buffer = try client.makeBuffer(count: 4096)
            let handle = try client.expose(buffer, access: .remoteRead)
            var end: RPCError??
            let task = rig.xstream.spawnCancellable {
                end = await failure { () throws(RPCError) in
                    try await client.call(
                        TestProtocol.wait, Blob(), to: .address(server.address),
                        exposing: [handle])
                }
            }
            try await rig.wait("the request") { state.held.count == 1 }
            task.cancel()
            try await rig.wait("the server hears of it") { state.cancelled == 1 }
            await rig.xstream.sleep(for: .milliseconds(50))
            #expect(end == nil, "returned although the handler still works")
            state.held.removeFirst().fail(.cancelled)
            try await rig.wait("the end") { end != nil }
            #expect(end == .some(.cancelled))
            #expect(client.counters.quarantinedBytes == 0)
            client.withdraw(handle)
        }
    }

    @Test func quarantinesMemoryOfASilentPeer() async throws {
        try await withRig(.simulated) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            let state = serve(server)
            let buffer = try client.makeBuffer(count: 4096)
            let handle = try client.expose(buffer, access: .remoteRead)
            let end = await failure { () throws(RPCError) in
                try await client.call(
                    TestProtocol.wait, Blob(), to: .address(server.address), exposing: [handle],
                    deadline: .after(.seconds(1)))
            }
            #expect(end == .timedOut)
            #expect(client.counters.quarantinedBytes == 4096)
            // It is still exposed, whatever the caller does.
            client.withdraw(handle)
            let target = try server.makeBuffer(count: 4096)
            try await server.bulkGet(handle.descriptor, into: target, range: 0..<4096)
            #expect(handle.isQuarantined)
            // Until the handler has answered, however late.
            state.held = []
            try await rig.wait("the release") { !handle.isQuarantined }
            #expect(client.counters.quarantinedBytes == 0 && client.counters.exposures == 0)
        }
    }

    /// A call may leave its memory to a peer that does not answer, and return at once.
    @Test(arguments: FabricKind.allCases)
    func leavesItsMemory(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            let state = serve(server)
            let handle = try client.expose(IOBuffer(count: 4096), access: .remoteRead)
            let begin = rig.xstream.now
            let end = await failure { () throws(RPCError) in
                try await client.call(
                    TestProtocol.wait, Blob(), to: .address(server.address), exposing: [handle],
                    deadline: .after(.seconds(1)), options: CallOptions(leavesMemory: true))
            }
            #expect(end == .timedOut)
            #expect(rig.xstream.now.since(begin) < .seconds(5))
            client.withdraw(handle)
            #expect(handle.isQuarantined && client.usage.quarantined == 1)
            try await rig.wait("the request") { state.held.count == 1 }
            state.held = []
            try await rig.wait("the release") { client.usage.isComplete }
            #expect(!handle.isQuarantined && client.counters.exposures == 0)
        }
    }

    @Test(arguments: FabricKind.allCases)
    func callsItself(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let context = try rig.makeContext()
            let state = serve(context)
            let here = Destination.address(context.address)
            for size in [0, 100, 90_000] {
                let blob = Blob(number: 3, bytes: pattern(size))
                #expect(try await context.call(TestProtocol.echo, blob, to: here) == blob)
            }
            #expect(
                await failure { () throws(RPCError) in
                    try await context.call(TestProtocol.drop, Blob(), to: here)
                } == .noReply)
            #expect(
                await failure { () throws(RPCError) in
                    try await context.call(
                        TestProtocol.wait, Blob(), to: here, deadline: .after(.milliseconds(50)))
                } == .timedOut)
            try await rig.wait("the cancellation") { state.cancelled == 1 }
            state.held = []
            let buffer = try context.makeBuffer(count: 10_000)
            buffer.bytes.copyBytes(from: pattern(10_000))
            let handle = try context.expose(buffer, access: .remoteRead)
            var transfer = Transfer()
            transfer.memory = handle.descriptor
            let sum = try await context.call(
                TestProtocol.pull, transfer, to: here, exposing: [handle])
            #expect(sum.number == UInt64(CRC32C.checksum(of: UnsafeRawBufferPointer(buffer.bytes))))
            #expect(context.counters.hellosSent == 0)
        }
    }

    @Test(arguments: FabricKind.allCases)
    func closingEndsCalls(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            let state = serve(server)
            var end: RPCError??
            rig.xstream.spawn {
                end = await failure { () throws(RPCError) in
                    try await client.call(
                        TestProtocol.wait, Blob(), to: .address(server.address))
                }
            }
            try await rig.wait("the request") { state.held.count == 1 }
            await client.close()
            #expect(end == .some(.closed))
            #expect(
                await failure { () throws(RPCError) in
                    try await client.call(TestProtocol.echo, Blob(), to: .address(server.address))
                } == .closed)
            state.held = []
        }
    }
}
