import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

/// `Context.run`, and how contexts end.
@Suite struct RunTests {
    @Test func runGivesTheValueOfTheBodyAndClosesTheContext() async throws {
        let address = try await Context.run(at: "ofi+tcp") { context in
            context.register(TestProtocol.echo) { blob, _ throws(RPCError) in blob }
            let echo = try await context.call(
                TestProtocol.echo, Blob(number: 7), to: .address(context.address))
            #expect(echo.number == 7)
            return context.address
        }
        // The port is free again, and nothing of the first context is left at it.
        let error = try await Context.run(at: "\(address)") { context in
            #expect(context.address == address)
            return await failure { () async throws(RPCError) in
                try await context.call(TestProtocol.echo, Blob(), to: .address(address))
            }
        }
        #expect(error == .unknownProcedure)
    }

    @Test func runThrowsWhatTheBodyThrows() async throws {
        struct Reason: Error {}
        let closed = Confirmations()
        await #expect(throws: Reason.self) {
            try await Context.run(at: "ofi+tcp") { context in
                context.xstream.spawn {
                    await context.waitUntilClosed()
                    closed.count += 1
                }
                await context.xstream.yield()
                throw Reason()
            }
        }
        #expect(closed.count == 1)
    }

    @Test func runThrowsWhenTheAddressCannotBeUsed() async throws {
        await #expect(throws: RPCError.self) {
            try await Context.run(at: "ofi+tcp://nowhere") { _ in
                Issue.record("there is no such address")
            }
        }
    }

    @Test func runTakesOptionsOfTheSameWorld() async throws {
        let world = World.libfabric()
        var options = ContextOptions(world: world)
        options.rank = 5
        options.timeout = .seconds(3)
        try await Context.run(at: "ofi+tcp", options: options, in: world) { context in
            #expect(context.rank == 5)
            #expect(context.timeout == .seconds(3))
            #expect(context.clock === options.clock)
        }
    }

    /// A handler ends the server: its caller is answered, and the server's body goes on.
    @Test(arguments: FabricKind.allCases)
    func aHandlerMayCloseTheContext(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            server.register(TestProtocol.echo) { blob, request throws(RPCError) in
                request.context.xstream.spawn { await request.context.close() }
                return blob
            }
            var isOver = false
            rig.xstream.spawn {
                await server.waitUntilClosed()
                isOver = true
            }
            let answer = try await client.call(
                TestProtocol.echo, Blob(number: 3), to: .address(server.address))
            #expect(answer.number == 3)
            try await rig.wait("the server ends") { isOver }
            #expect(server.isClosed)
            // It is over already.
            await server.waitUntilClosed()
        }
    }

    /// Whoever closes a context that is being closed waits, too.
    @Test func everyCloseWaits() async throws {
        try await withRig(.simulated) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            let state = serve(server)
            rig.xstream.spawn {
                _ = await failure { () async throws(RPCError) in
                    try await client.call(
                        TestProtocol.wait, Blob(), to: .address(server.address))
                }
            }
            try await rig.wait("the handler runs") { state.started == 1 }
            var closed = 0
            for _ in 0..<3 {
                rig.xstream.spawn {
                    await server.close()
                    #expect(server.isClosed)
                    closed += 1
                }
            }
            await rig.xstream.sleep(for: .milliseconds(100))
            #expect(closed == 0, "a handler still works")
            state.held.removeFirst().reply(Blob())
            try await rig.wait("all of them return") { closed == 3 }
        }
    }

    /// Cancellation ends the wait, not the context.
    @Test(arguments: [false, true])
    func waitingEndsWithTheTask(isCancelledBefore: Bool) async throws {
        try await withRig(.tcp) { rig in
            let context = try rig.makeContext()
            var ended = 0
            let other = rig.xstream.spawnCancellable {
                await context.waitUntilClosed()
                ended += 10
            }
            let task = rig.xstream.spawnCancellable {
                await context.waitUntilClosed()
                ended += 1
            }
            if !isCancelledBefore { await rig.xstream.sleep(for: .milliseconds(20)) }
            task.cancel()
            try await rig.wait("the cancelled one ends") { ended == 1 }
            #expect(!context.isClosed)
            await context.close()
            await other.value
            #expect(ended == 11)
        }
    }

    /// A server whose task is cancelled goes.
    @Test func cancellingTheCallerEndsAServer() async throws {
        let task = Task {
            try await Context.run(at: "ofi+tcp") { context in
                await context.waitUntilClosed()
                return Task.isCancelled
            }
        }
        task.cancel()
        #expect(try await task.value)
    }
}

/// Counts on one xstream; read when that has stopped.
private final class Confirmations: @unchecked Sendable {
    var count = 0
}
