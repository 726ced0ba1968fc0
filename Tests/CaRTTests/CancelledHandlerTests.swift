import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

/// A caller that gives up, as the handler at the other end sees it.
@Suite struct CancelledHandlerTests {
    private static let first = Procedure<Blob, Blob>(TestProtocol.id, index: 50, name: "first")
    private static let second = Procedure<Blob, Blob>(TestProtocol.id, index: 51, name: "second")
    private static let pull = Procedure<Transfer, Blob>(TestProtocol.id, index: 52, name: "pull")

    /// What handlers saw.
    private final class Seen {
        var started = 0
        var ends: [RPCError?] = []
        var cancelledTasks = 0

        /// Runs the body of a handler.
        func handle(
            _ body: () async throws(RPCError) -> Void
        ) async throws(RPCError) -> Blob {
            started += 1
            let end = await failure(body)
            ends.append(end)
            if Task.isCancelled { cancelledTasks += 1 }
            if let end { throw end }
            return Blob()
        }
    }

    /// How a caller gives up.
    enum Way: CaseIterable {
        case cancellation, deadline, goodbye

        var error: RPCError {
            switch self {
            case .cancellation: .cancelled
            case .deadline: .timedOut
            case .goodbye: .unreachable
            }
        }
    }

    @Test(arguments: FabricKind.allCases, Way.allCases)
    func theHandlersTaskIsCancelled(kind: FabricKind, way: Way) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            serve(server)
            let seen = Seen()
            server.register(Self.first) { _, request throws(RPCError) in
                try await seen.handle { () throws(RPCError) in
                    try await request.sleep(for: .seconds(3_600))
                }
            }
            let there = Destination.address(server.address)
            _ = try await client.call(TestProtocol.echo, Blob(), to: there)
            var end: RPCError??
            let task = rig.xstream.spawnCancellable {
                let time: Duration = way == .deadline ? .milliseconds(500) : .seconds(60)
                end = await failure { () throws(RPCError) in
                    try await client.call(Self.first, Blob(), to: there, deadline: .after(time))
                }
            }
            try await rig.wait("the request") { seen.started == 1 }
            switch way {
            case .cancellation: task.cancel()
            case .deadline: break
            case .goodbye:
                let session = server.sessions.find(instance: client.instance)
                server.dropSession(try #require(session), says: true)
            }
            try await rig.wait("the end") { end != nil && seen.ends.count == 1 }
            #expect(end == .some(way.error))
            #expect(seen.ends == [.cancelled])
            #expect(seen.cancelledTasks == 1)
            #expect(server.usage.requests == 0)
            if way == .goodbye {
                // A provider may end the connection behind it, and what is being sent with it.
                while await failure({ () throws(RPCError) in
                    _ = try await client.call(TestProtocol.echo, Blob(), to: there)
                }) == .unreachable {}
            }
            // What comes next runs in tasks that nobody has cancelled.
            for number in 0..<100 {
                let blob = Blob(number: UInt64(number))
                #expect(try await client.call(TestProtocol.echo, blob, to: there) == blob)
            }
            try await rig.wait("rest") { client.usage.isComplete && server.usage.isComplete }
            server.checkInvariants()
            client.checkInvariants()
        }
    }

    /// From handler to handler, as long as each waits for the next.
    @Test(arguments: FabricKind.allCases)
    func cancellationPassesThroughHandlers(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let client = try rig.makeContext()
            let (middle, last) = (try rig.makeContext(), try rig.makeContext())
            let (seen, seenLast) = (Seen(), Seen())
            middle.register(Self.first) { blob, request throws(RPCError) in
                try await seen.handle { () throws(RPCError) in
                    _ = try await request.context.call(
                        Self.second, blob, to: .address(last.address),
                        deadline: .at(request.deadline))
                }
            }
            last.register(Self.second) { _, request throws(RPCError) in
                try await seenLast.handle { () throws(RPCError) in
                    try await request.sleep(for: .seconds(3_600))
                }
            }
            let task = rig.xstream.spawnCancellable {
                _ = await failure { () throws(RPCError) in
                    try await client.call(Self.first, Blob(), to: .address(middle.address))
                }
            }
            try await rig.wait("the last handler") { seenLast.started == 1 }
            task.cancel()
            try await rig.wait("its end") { seenLast.ends.count == 1 && seen.ends.count == 1 }
            #expect(seen.ends == [.cancelled])
            #expect(seenLast.ends == [.cancelled])
            for context in [client, middle, last] {
                try await rig.wait("rest") { context.usage.isComplete }
            }
        }
    }

    /// What must not stop half way does not, and is told all the same.
    @Test(arguments: FabricKind.allCases)
    func aHandlerMayGoOn(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            let seen = Seen()
            var wasTold = false
            var isTooLate: RPCError?
            server.register(Self.first) { _, request throws(RPCError) in
                try await seen.handle { () throws(RPCError) in
                    try request.ignoreCancellation()
                    request.onCancel { wasTold = true }
                    while !wasTold { try await request.sleep(for: .milliseconds(1)) }
                    try await request.sleep(for: .milliseconds(20))
                }
            }
            server.register(Self.second) { _, request throws(RPCError) in
                try await seen.handle { () throws(RPCError) in
                    while !request.isCancelled {
                        await request.context.xstream.sleep(for: .milliseconds(1))
                    }
                    isTooLate = await failure { () throws(RPCError) in
                        try request.ignoreCancellation()
                    }
                }
            }
            for (count, procedure) in [Self.first, Self.second].enumerated() {
                let task = rig.xstream.spawnCancellable {
                    _ = await failure { () throws(RPCError) in
                        try await client.call(procedure, Blob(), to: .address(server.address))
                    }
                }
                try await rig.wait("the request") { seen.started == count + 1 }
                task.cancel()
                try await rig.wait("the end") { seen.ends.count == count + 1 }
            }
            #expect(seen.ends == [nil, nil])
            #expect(seen.cancelledTasks == 1)
            #expect(wasTold)
            #expect(isTooLate == .cancelled)
        }
    }

    /// A context that closes gives its handlers time.
    @Test(arguments: FabricKind.allCases)
    func closingLetsHandlersAnswer(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let (client, server) = (try rig.makeContext(), try rig.makeContext())
            let seen = Seen()
            server.register(Self.first) { _, request throws(RPCError) in
                try await seen.handle { () throws(RPCError) in
                    try await request.sleep(for: .milliseconds(50))
                }
            }
            var end: RPCError??
            rig.xstream.spawn {
                end = await failure { () throws(RPCError) in
                    try await client.call(Self.first, Blob(), to: .address(server.address))
                }
            }
            try await rig.wait("the request") { seen.started == 1 }
            await server.close()
            try await rig.wait("the end") { end != nil }
            #expect(end == .some(nil))
            #expect(seen.cancelledTasks == 0)
        }
    }

    // MARK: - Memory of the caller

    /// A handler that reads its caller's memory goes at once, and its answer when nothing is read
    /// any more. A request that is itself read from there is not handled.
    @Test(arguments: 1...20, [false, true])
    func memoryIsFreeWhenNothingIsRead(seed: UInt64, isSpilled: Bool) async throws {
        let simulation = Simulation(seed: seed)
        var faults = FabricFaults.none
        faults.latency = .milliseconds(20) ... .milliseconds(80)
        let fabric = SimulatedFabric(simulation: simulation, faults: faults)
        let contexts = simulatedContexts(2, simulation, fabric)
        let (server, client) = (contexts[0], contexts[1])
        let seen = Seen()
        var heldMax = 0
        server.xstream.simulate {
            server.register(Self.pull) { transfer, request throws(RPCError) in
                let count = Int(transfer.memory.length)
                let buffer = try request.context.makeBuffer(count: count)
                return try await seen.handle { () throws(RPCError) in
                    try await request.context.bulkGet(
                        transfer.memory, into: buffer, range: 0..<count, for: request)
                }
            }
            server.register(Self.first) { _, _ throws(RPCError) in
                try await seen.handle { () throws(RPCError) in }
            }
            for _ in 0..<1_000 {
                await server.xstream.sleep(for: .milliseconds(1))
                heldMax = max(heldMax, server.bulks.heldFailures.count)
            }
        }
        var ends: [RPCError?] = []
        for index in 0..<20 {
            client.xstream.simulate {
                let task = client.xstream.spawnCancellable {
                    let end = await failure { () throws(RPCError) in
                        try await Self.expose(client, server, isSpilled: isSpilled)
                    }
                    ends.append(end)
                }
                await client.xstream.sleep(for: .milliseconds(60 + 10 * index))
                task.cancel()
            }
        }
        simulation.run(for: .seconds(60), until: { ends.count == 20 })
        #expect(ends.count == 20)
        #expect(ends.contains(.cancelled))
        #expect(ends.allSatisfy { $0 == nil || $0 == .cancelled })
        #expect(fabric.counts.regionsLost == 0)
        simulation.run(for: .seconds(2))
        #expect(heldMax > 0)
        if isSpilled { #expect(seen.started < 20) }
        #expect(server.usage.isComplete)
        #expect(client.usage.isComplete)
        #expect(server.bulks.abandonedReads == 0)
        #expect(server.bulks.heldFailures.isEmpty)
    }

    /// A caller whose clock is behind still waits when its request's time is over at the server,
    /// and its memory is still read: it hears that this was too late, not that it gave up.
    @Test func aDeadlineIsNoCancellation() async throws {
        try await withRig(.simulated) { rig in
            let server = try rig.makeContext()
            let fabric = try #require(server.world.fabric as? SimulatedFabric)
            let pull = Procedure<Blob, Blob>(
                TestProtocol.id, index: 53, name: "test.cancelled.pull")
            let state = serve(server)
            let peer = try RawPeer(
                server.world, rig.xstream, rig.kind.address, target: server.address)
            defer { peer.close() }
            var isSlow = false
            var ofCaller = BulkDescriptor()
            (ofCaller.owner, ofCaller.instance) = (peer.endpoint.address, 1234)
            (ofCaller.length, ofCaller.key, ofCaller.access) = (64, 1, .remoteRead)
            let memory = ofCaller
            server.register(pull) { _, request throws(RPCError) in
                while !isSlow { await rig.xstream.sleep(for: .milliseconds(1)) }
                try await request.context.bulkGet(
                    memory, into: try request.context.makeBuffer(count: 64), range: 0..<64,
                    deadline: .after(.milliseconds(1)))
                return Blob()
            }
            var header = WireHeader()
            header.kind = .request
            header.session = try await peer.greet(rig)
            for (number, opcode) in [(1, TestProtocol.wait.opcode), (2, pull.opcode)] {
                (header.requestID, header.opcode) = (UInt64(number), opcode)
                header.deadline = server.world.clock.wallNanoseconds + 100_000_000
                try await peer.send(frame(header, Blob()))
            }
            try await rig.wait("the requests") {
                peer.poll()
                return state.held.count == 1 && server.usage.requests == 2
            }
            fabric.faults.latency = .seconds(1) ... .seconds(1)
            isSlow = true
            await rig.xstream.sleep(for: .milliseconds(200))
            #expect(server.bulks.abandonedReads == 1)
            state.held.removeFirst().reply(Blob())
            #expect(server.bulks.heldFailures.count == 2)
            let answer = try await peer.wait(rig, for: .reply, 1)
            #expect(answer.header.status == StatusCode.timedOut.rawValue)
        }
    }

    /// Nothing is ordered. Whoever was told that nothing of a request is under way has taken its
    /// memory back: the request may not begin when it comes after all.
    @Test func aCancellationOvertakesItsRequest() async throws {
        try await withRig(.simulated) { rig in
            let server = try rig.makeContext()
            let procedure = Procedure<Blob, Blob>(
                TestProtocol.id, index: 52, name: "test.cancelled.overtaken")
            var handled = 0
            server.registerSynchronous(procedure) { _, _ throws(RPCError) in
                handled += 1
                return Blob()
            }
            let peer = try RawPeer(
                server.world, rig.xstream, rig.kind.address, target: server.address)
            defer { peer.close() }
            var header = WireHeader()
            header.session = try await peer.greet(rig)
            header.opcode = procedure.opcode
            header.deadline = .max / 2
            let max = UInt64(SessionTable.cancelledMax)
            for number in 1...max {
                (header.kind, header.requestID) = (.cancel, number)
                try await peer.send(frame(header, EmptyMessage()))
                _ = try await peer.wait(rig, for: .cancelled, number)
            }
            header.kind = .request
            for number in [1, max, max + 1] {
                header.requestID = number
                try await peer.send(frame(header, Blob()))
            }
            _ = try await peer.wait(rig, for: .reply, max + 1)
            await rig.xstream.sleep(for: .milliseconds(10))
            #expect(handled == 1 && server.counters.dropped == 2)
        }
    }

    /// A request that waits for its turn, or that a hook keeps, and whose caller gives up while the
    /// fabric reads for nobody, is answered late; no handler begins with it meanwhile. A handler
    /// whose failure is told late makes room at once.
    @Test(arguments: [false, true], [false, true])
    func whatHasFailedGetsNoTurn(isKept: Bool, isFailing: Bool) throws {
        let simulation = Simulation(seed: 1)
        var faults = FabricFaults.none
        faults.latency = .milliseconds(200) ... .milliseconds(300)
        let fabric = SimulatedFabric(simulation: simulation, faults: faults)
        let contexts = simulatedContexts(2, simulation, fabric)
        let (server, client) = (contexts[0], contexts[1])
        var requests: [RequestContext] = []
        var kept: InboundRequest?
        var isOver = false
        var begun = 0
        server.xstream.simulate {
            server.gate = RequestGate(handlersMax: 1)
            server.inbound = { inbound in
                requests.append(inbound.request)
                if isKept, requests.count == 2 { kept = inbound } else { inbound.run() }
            }
            server.register(Self.pull) { transfer, request throws(RPCError) in
                let count = Int(transfer.memory.length)
                let buffer = try request.context.makeBuffer(count: count)
                _ = await failure { () throws(RPCError) in
                    try await request.context.bulkGet(
                        transfer.memory, into: buffer, range: 0..<count,
                        deadline: .after(.milliseconds(1)))
                }
                while !isOver { await server.xstream.sleep(for: .milliseconds(1)) }
                if isFailing { throw .noReply }
                return Blob()
            }
            server.registerSynchronous(Self.second) { blob, _ throws(RPCError) in
                begun += 1
                return blob
            }
        }
        var ends: [RPCError?] = []
        client.xstream.simulate {
            let end = await failure { () throws(RPCError) in
                try await Self.expose(client, server, isSpilled: false)
            }
            ends.append(end)
        }
        simulation.run(for: .seconds(10), until: { server.bulks.inFlight == 1 })
        client.xstream.simulate {
            let end = await failure { () throws(RPCError) in
                try await client.call(Self.second, Blob(), to: .address(server.address))
            }
            ends.append(end)
        }
        simulation.run(for: .seconds(10), until: { requests.count == 2 })
        try #require(requests.count == 2 && server.bulks.abandonedReads == 1)
        server.xstream.simulate {
            server.cancel(requests[1])
            kept?.run()
            kept = nil
            isOver = true
        }
        simulation.run(for: .milliseconds(10))
        #expect(server.bulks.heldFailures.count == (isFailing ? 2 : 1) && ends.isEmpty)
        #expect(server.gate?.running == 0 && server.counters.requestsWaiting == 0)
        simulation.run(for: .seconds(60), until: { ends.count == 2 })
        #expect(Set(ends) == [.cancelled, isFailing ? .noReply : nil])
        #expect(begun == 0)
        simulation.run(for: .seconds(2))
        #expect(server.usage.isComplete && client.usage.isComplete)
    }

    /// Calls the server with memory that it reads; takes the memory back when the call is over.
    private static func expose(
        _ client: Context, _ server: Context, isSpilled: Bool
    ) async throws(RPCError) {
        guard !isSpilled else {
            _ = try await client.call(
                first, Blob(bytes: pattern(1 << 20)), to: .address(server.address))
            return
        }
        let buffer = try client.makeBuffer(count: 1 << 20)
        let handle = try client.expose(buffer, access: .remoteRead)
        defer { client.withdraw(handle) }
        var transfer = Transfer()
        transfer.memory = handle.descriptor
        _ = try await client.call(
            pull, transfer, to: .address(server.address), exposing: [handle])
    }
}
