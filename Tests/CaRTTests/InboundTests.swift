import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

/// What is between the arrival of requests and their handlers: the hook and the limit of a context.
@Suite struct InboundTests {
    /// Calls that wait for their replies.
    private final class Calls {
        let client: Context
        let server: Context
        var ends: [Int: RPCError?] = [:]
        var tasks: [Int: Task<Void, Never>] = [:]

        init(_ client: Context, _ server: Context) {
            self.client = client
            self.server = server
        }

        func begin(
            _ number: Int, _ procedure: Procedure<Blob, Blob> = TestProtocol.wait,
            bytes: Int = 0, options: CallOptions = CallOptions(), exposing: [BulkHandle] = []
        ) {
            tasks[number] = client.xstream.spawnCancellable { [self] in
                ends[number] = await failure { () throws(RPCError) in
                    let blob = Blob(number: UInt64(number), bytes: pattern(bytes))
                    _ = try await client.call(
                        procedure, blob, to: .address(server.address), exposing: exposing,
                        options: options)
                }
            }
        }
    }

    // MARK: - The limit

    @Test(arguments: FabricKind.allCases)
    func handlersBeyondTheLimitWait(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let server = try rig.makeContext { $0.handlersMax = 3 }
            let state = ServerState()
            var order: [UInt64] = []
            server.registerDeferred(TestProtocol.wait) { blob, reply in
                order.append(blob.number)
                state.held.append(reply)
            }
            let calls = Calls(client, server)
            for number in 0..<12 {
                calls.begin(
                    number,
                    options: CallOptions(
                        priority: number < 9 ? .normal : number == 9 ? .low : .high))
                // One after another, so that they come in order.
                try await rig.wait("\(number)") { server.counters.active == number + 1 }
            }
            #expect(order == [0, 1, 2])
            #expect(server.counters.requestsWaiting == 9)
            #expect(server.counters.requestsDelayed == 9)
            // CaRT's own requests go past it.
            let version = try await client.negotiate(
                base: 0x20, versions: 1...3, with: .address(server.address))
            #expect(version == 1)
            for left in (0..<12).reversed() {
                state.held.removeFirst().reply(Blob())
                #expect(server.counters.active == left)
            }
            #expect(order == [0, 1, 2, 10, 11, 3, 4, 5, 6, 7, 8, 9])
            try await rig.wait("the ends") { calls.ends.count == 12 }
            #expect(calls.ends.values.allSatisfy { $0 == nil })
            #expect(server.counters.requestsWaiting == 0)
            #expect(server.usage.requests == 0)
        }
    }

    /// However many wait, those that answer at once do not call each other.
    @Test(arguments: FabricKind.allCases)
    func manyThatAnswerAtOnce(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let server = try rig.makeContext {
                $0.handlersMax = 1
                $0.credits = 0
            }
            let state = serve(server)
            let calls = Calls(client, server)
            calls.begin(0)
            try await rig.wait("the first") { state.held.count == 1 }
            for number in 1...50 { calls.begin(number, TestProtocol.synchronous) }
            for number in 51...100 { calls.begin(number, TestProtocol.echo, bytes: number) }
            try await rig.wait("the others") { server.counters.requestsWaiting == 100 }
            state.held.removeFirst().reply(Blob())
            try await rig.wait("the ends") { calls.ends.count == 101 }
            #expect(calls.ends.values.allSatisfy { $0 == nil })
            try await rig.wait("rest") { client.usage.isComplete && server.usage.isComplete }
        }
    }

    @Test(arguments: FabricKind.allCases)
    func refusesWhenTooManyWait(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let server = try rig.makeContext {
                $0.handlersMax = 1
                $0.activeRequestsMax = 5
            }
            let receiver = try rig.makeContext {
                $0.handlersMax = 1
                $0.receiveCount = 32
                $0.heldReceivesMax = 8
            }
            for (server, most) in [(server, 5), (receiver, 10)] {
                let state = serve(server)
                let calls = Calls(client, server)
                for number in 0..<20 {
                    calls.begin(number)
                    try await rig.wait("\(number)") {
                        server.counters.requestsReceived == number + 1
                    }
                }
                try await rig.wait("refusals") {
                    calls.ends.count + server.counters.active == 20
                }
                #expect(server.counters.active <= most)
                #expect(server.counters.active > 1)
                #expect(calls.ends.values.allSatisfy { $0 == .overloaded })
                while server.counters.active > 0 { state.held.removeFirst().reply(Blob()) }
                try await rig.wait("the ends") { calls.ends.count == 20 }
            }
        }
    }

    /// A request that waits, and whose caller gives up, is answered at once: memory is free again.
    @Test(arguments: FabricKind.allCases)
    func whoWaitsMayGiveUp(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let server = try rig.makeContext { $0.handlersMax = 1 }
            let state = serve(server)
            let calls = Calls(client, server)
            let buffer = try client.makeBuffer(count: 4096)
            let handle = try client.expose(buffer, access: .remoteRead)
            calls.begin(0)
            try await rig.wait("the first") { state.held.count == 1 }
            calls.begin(1, exposing: [handle])
            calls.begin(2, bytes: 100_000)
            calls.begin(3)
            try await rig.wait("the others") { server.counters.requestsWaiting == 3 }
            calls.tasks[1]?.cancel()
            calls.tasks[2]?.cancel()
            try await rig.wait("their ends") { calls.ends.count == 2 }
            #expect(calls.ends[1] == .some(.cancelled))
            #expect(calls.ends[2] == .some(.cancelled))
            #expect(server.counters.requestsWaiting == 1)
            #expect(client.counters.quarantinedBytes == 0)
            client.withdraw(handle)
            state.held.removeFirst().reply(Blob())
            try await rig.wait("the last") { state.held.count == 1 }
            state.held.removeFirst().reply(Blob())
            try await rig.wait("the ends") { calls.ends.count == 4 }
            #expect(state.started == 2)
            try await rig.wait("rest") { client.usage.isIdle && server.usage.isComplete }
        }
    }

    @Test(arguments: FabricKind.allCases)
    func closingRefusesWhatWaits(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let server = try rig.makeContext { $0.handlersMax = 1 }
            let state = serve(server)
            let calls = Calls(client, server)
            for number in 0..<3 {
                calls.begin(number)
                try await rig.wait("\(number)") { server.counters.active == number + 1 }
            }
            state.held[0].request.onCancel { state.held.removeFirst().reply(Blob()) }
            await server.close()
            try await rig.wait("the ends") { calls.ends.count == 3 }
            #expect(calls.ends[0] == .some(nil))
            #expect(calls.ends[1] == .some(.closed))
            #expect(calls.ends[2] == .some(.closed))
            #expect(state.started == 1)
        }
    }

    // MARK: - The hook

    /// Keeps what comes.
    private final class Hook {
        var held: [InboundRequest] = []

        var count: Int { held.count }
        /// Of those who sent it.
        var ranks: Set<UInt32?> { Set(held.map(\.request.sourceRank)) }

        func take(_ isMeant: (InboundRequest) -> Bool) throws -> InboundRequest {
            let index = held.firstIndex(where: isMeant)
            return held.remove(at: try #require(index))
        }
    }

    @Test(arguments: FabricKind.allCases)
    func theHookDecides(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext { $0.rank = 7 }
            let server = try rig.makeContext()
            let state = serve(server)
            let calls = Calls(client, server)
            let hook = Hook()
            server.inbound = { hook.held.append($0) }
            // What CaRT itself asks does not come here.
            _ = try await client.negotiate(
                base: 0x20, versions: 1...3, with: .address(server.address))
            #expect(hook.count == 0)
            calls.begin(0, TestProtocol.echo)
            calls.begin(1, TestProtocol.synchronous, bytes: 100_000)
            calls.begin(2, TestProtocol.echo, options: CallOptions(priority: .low))
            calls.begin(3, TestProtocol.echo)
            calls.begin(4, options: CallOptions(priority: .high))
            try await rig.wait("five") { hook.count == 5 }
            #expect(calls.ends.isEmpty)
            #expect(hook.ranks == [7])
            try hook.take { $0.opcode == TestProtocol.synchronous.opcode }.run()
            try hook.take { $0.request.priority == .low }.refuse(.overloaded)
            // Its caller gives up before it runs.
            let waiting = try hook.take { $0.opcode == TestProtocol.wait.opcode }
            #expect(waiting.request.priority == .high)
            calls.tasks[4]?.cancel()
            try await rig.wait("three ends") { calls.ends.count == 3 }
            try await rig.wait("the server hears of it") { waiting.request.isCancelled }
            waiting.run()
            #expect(state.started == 0)
            #expect(calls.ends[1] == .some(nil))
            #expect(calls.ends[2] == .some(.overloaded))
            #expect(calls.ends[4] == .some(.cancelled))
            // One is run, one dropped.
            hook.held.removeFirst().run()
            hook.held = []
            try await rig.wait("the ends") { calls.ends.count == 5 }
            let last: Set<RPCError?> = [calls.ends[0] ?? .closed, calls.ends[3] ?? .closed]
            #expect(last == [nil, .noReply])
            server.inbound = nil
            calls.begin(5, TestProtocol.echo)
            try await rig.wait("the last") { calls.ends.count == 6 }
            #expect(calls.ends[5] == .some(nil))
            try await rig.wait("rest") { client.usage.isComplete && server.usage.isComplete }
        }
    }
}
