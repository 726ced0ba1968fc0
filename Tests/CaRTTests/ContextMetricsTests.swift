import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

@Suite struct ContextMetricsTests {
    /// What the registry shows of one context, by metric.
    private func values(
        _ registry: TelemetryRegistry, tag: UInt32
    ) -> [String: TelemetrySample.Value] {
        var values: [String: TelemetrySample.Value] = [:]
        for sample in registry.snapshot() where sample.dimensions.contains("tag=\(tag)") {
            #expect(values[sample.name] == nil, "\(sample.name) is there twice")
            values[sample.name] = sample.value
        }
        return values
    }

    private func withRegistry(
        _ body: @escaping (TelemetryRegistry, Context, Context) async throws -> Void
    ) async throws {
        let registry = TelemetryRegistry()
        let simulation = Simulation(seed: 3)
        var world = simulation.world(node: 1, metrics: registry)
        world.fabric = SimulatedFabric(simulation: simulation)
        let xstream = world.makeXStream(name: "test")
        let made = world
        var result: Result<Void, any Error>?
        xstream.simulate {
            let rig = Rig(kind: .simulated, xstream: xstream) { _ in (made, xstream) }
            do {
                let client = try rig.makeContext { $0.tag = 8 }
                let server = try rig.makeContext {
                    $0.tag = 9
                    $0.rank = 5
                    $0.credits = 2
                }
                try await body(registry, client, server)
                result = .success(())
            } catch {
                result = .failure(error)
            }
            await rig.close()
        }
        simulation.run(for: .seconds(600), until: { result != nil })
        try #require(result).get()
    }

    /// Every counter reaches the factory under the context's labels, with the value that it has.
    @Test func whatIsCountedIsPublished() async throws {
        try await withRegistry { registry, client, server in
            serve(server)
            for number in 0..<32 as Range<UInt64> {
                _ = try await client.call(
                    TestProtocol.echo, Blob(number: number, bytes: pattern(90_000)),
                    to: .address(server.address))
            }
            let error = await failure { () async throws(RPCError) in
                try await client.call(
                    TestProtocol.fail, Blob(number: 4), to: .address(server.address))
            }
            #expect(error != nil)
            #expect(registry.snapshot().isEmpty, "nothing is made before somebody asks")
            client.publishMetrics()
            server.publishMetrics()
            let called = values(registry, tag: 8)
            #expect(called.count == ContextMetrics.set.entries.count)
            #expect(called["dray_cart_requests_sent_total"] == .count(33))
            #expect(called["dray_cart_calls_failed_total"] == .count(1))
            #expect(called["dray_cart_error_replies_received_total"] == .count(1))
            // The requests, and the replies at the other end.
            #expect(called["dray_cart_spills_total"] == .count(32))
            #expect(called["dray_cart_bulk_reads_total"] == .count(32))
            #expect(called["dray_cart_sessions"] == .level(0))
            #expect(called["dray_cart_exposures_made_total"] == .count(32))
            let served = values(registry, tag: 9)
            #expect(served["dray_cart_requests_received_total"] == .count(33))
            #expect(served["dray_cart_error_replies_sent_total"] == .count(1))
            #expect(served["dray_cart_spills_total"] == .count(32))
            // A number and a length stand before the bytes.
            #expect(served["dray_cart_bulk_bytes_total"] == .count(32 * 90_012))
            #expect(served["dray_cart_sessions"] == .level(1))
            let labels = registry.snapshot().map(\.dimensions)
            #expect(
                Set(labels) == [
                    ["rank=none", "tag=8", "provider=sim"], ["rank=5", "tag=9", "provider=sim"],
                ])
        }
    }

    /// Times of calls, of all of them; of handlers, one in sixteen.
    @Test func timesAreThoseOfTheCalls() async throws {
        try await withRegistry { registry, client, server in
            server.register(TestProtocol.echo) { blob, request throws(RPCError) in
                await request.context.xstream.sleep(for: .milliseconds(20))
                return blob
            }
            for number in 0..<32 as Range<UInt64> {
                _ = try await client.call(
                    TestProtocol.echo, Blob(number: number), to: .address(server.address))
            }
            let times = client.metrics.times
            #expect(times.call.count == 32)
            #expect(times.call.minimum >= 20_000_000 && times.call.maximum < 40_000_000)
            // The first one waited for the answer to its hello.
            #expect(times.delay.count == 1 && client.counters.callsDelayed == 1)
            let handled = server.metrics.times
            #expect(handled.handler.count == 2 && handled.wait.count == 2)
            #expect(handled.handler.minimum >= 20_000_000)
            #expect(handled.handler.maximum < 21_000_000)
            #expect(handled.wait.maximum < 1_000_000)
        }
    }

    /// Calls beyond the server's credits wait, and are counted and timed for it.
    @Test func delaysAreThoseOfCredits() async throws {
        try await withRegistry { registry, client, server in
            server.register(TestProtocol.echo) { blob, request throws(RPCError) in
                await request.context.xstream.sleep(for: .milliseconds(10))
                return blob
            }
            _ = try await client.call(TestProtocol.echo, Blob(), to: .address(server.address))
            let before = client.metrics
            await concurrently(client.xstream, 6) { _ in
                _ = await failure { () async throws(RPCError) in
                    try await client.call(
                        TestProtocol.echo, Blob(), to: .address(server.address))
                }
            }
            let delay = client.metrics.times.delay.since(before.times.delay)
            #expect(client.counters.callsDelayed - before.counters.callsDelayed == 4)
            // Two at a time: two waited for ten milliseconds, two for twenty.
            #expect(delay.count == 4)
            #expect(delay.percentile(0.5) < 15_000_000 && delay.maximum > 15_000_000)
        }
    }

    /// What did not come about: calls that had no room, addresses of nothing, replies to a caller
    /// who is gone. Each is counted once.
    @Test func whatComesToNothingIsCounted() async throws {
        try await withRig(.simulated) { rig in
            let client = try rig.makeContext { $0.waitingMax = 1 }
            let server = try rig.makeContext { $0.credits = 1 }
            let state = serve(server)
            let there = Destination.address(server.address)
            _ = try await client.call(TestProtocol.echo, Blob(), to: there)
            let payload = IOBuffer(copying: pattern(100))
            var ends: [RPCError?] = []
            for _ in 0..<3 {
                rig.xstream.spawn {
                    ends.append(
                        await failure { () throws(RPCError) in
                            try await client.call(
                                TestProtocol.wait, Blob(), to: there,
                                payload: UnsafeRawBufferPointer(payload.bytes),
                                deadline: .after(.seconds(1)))
                        })
                }
            }
            try await rig.wait("the first request") { state.held.count == 1 }
            #expect(ends == [.overloaded])
            #expect(client.counters.callsRefused == 1 && client.counters.callsFailed == 1)
            #expect(server.counters.receivesHeld == 1)
            let nowhere = Destination.address(FabricAddress(provider: "none", bytes: [1]))
            _ = await failure { () throws(RPCError) in
                try await client.call(TestProtocol.echo, Blob(), to: nowhere)
            }
            #expect(client.counters.addressesFailed == 1)
            let (before, reply) = (server.counters, state.held.removeFirst())
            #expect(reply.request.sourceAddress == client.address)
            server.dropSession(reply.request.session, says: false)
            #expect(reply.request.sourceAddress == nil)
            reply.reply(Blob())
            let after = server.counters
            #expect(after.repliesDropped == 1 && after.repliesSent == before.repliesSent)
            #expect(after.receivesHeld == 0 && after.dropped == before.dropped)
            try await rig.wait("the end") { ends.count == 3 }
        }
    }

    /// Publishing again adds what is new, and nothing twice.
    @Test func publishingAgainAddsWhatIsNew() async throws {
        try await withRegistry { registry, client, server in
            serve(server)
            for round in 1...3 {
                _ = try await client.call(
                    TestProtocol.echo, Blob(), to: .address(server.address))
                client.publishMetrics()
                client.publishMetrics()
                let values = values(registry, tag: 8)
                #expect(values["dray_cart_requests_sent_total"] == .count(Int64(round)))
                guard
                    case .distribution(let calls)? = values["dray_cart_call_duration_seconds"]
                else {
                    Issue.record("no distribution")
                    return
                }
                #expect(calls.count == UInt64(round))
                #expect(calls.histogram.total == client.metrics.times.call.total)
            }
        }
    }

    /// The initiator counts ranks; those that take part, who asked them and whom they asked.
    @Test func collectivesAreCounted() throws {
        let cluster = CollectiveCluster(seed: 4, count: 7)
        cluster.startAll()
        cluster.nodes[2].state.error = .application(code: 1, message: "")
        var options = CollectiveOptions()
        options.tree = .kAry(2)
        let (_, first) = try cluster.finish(cluster.broadcast(options: options))
        cluster.kill(cluster.nodes[6])
        let (result, second) = try cluster.finish(cluster.broadcast(options: options))
        #expect(result.failed == 2)
        for node in cluster.nodes { node.state.delay = .seconds(5) }
        let run = cluster.broadcast(options: options)
        cluster.simulation.run(for: .seconds(1))
        cluster.client.xstream.simulate { run.task?.cancel() }
        cluster.simulation.run(for: .seconds(5), until: { run.result != nil })
        let initiator = cluster.client.context.counters.collectives
        #expect(initiator.started == 3 && initiator.cancelled == 1)
        #expect(initiator.ranksSucceeded == 6 + 5 && initiator.ranksFailed == 1 + 2)
        #expect(initiator.parts == 0 && initiator.requestsReceived == 0)
        let times = cluster.client.context.metrics.times.collective
        #expect(times.count == 2)
        #expect(times.maximum <= max(first, second).nanosecondsClamped)
        let root = cluster.nodes[0].context.counters.collectives
        #expect(root.parts == 3 && root.requestsReceived == 3)
        #expect(root.forwarded == 6 && root.started == 0)
        #expect(cluster.nodes[5].context.counters.collectives.forwarded == 0)
        #expect(cluster.nodes[5].context.metrics.times.collective.count == 0)
    }

    /// Registrations of the user's own memory: the first use of each misses, and what has no room
    /// goes.
    @Test func registrationsAreCounted() async throws {
        try await withRig(.simulated) { rig in
            let context = try rig.makeContext { $0.cachedRegistrationBytesMax = 8192 }
            let buffers = (0..<3).map { _ in IOBuffer(count: 4096) }
            for index in [0, 1, 0, 2] { _ = try context.makeBuffer(buffers[index]) }
            let counters = context.counters
            #expect(counters.registrationHits == 1 && counters.registrationMisses == 3)
            #expect(counters.registrationEvictions == 1 && counters.registeredBytes == 8192)
        }
    }

    /// Transfers that are more than may be with the fabric wait, and are counted.
    @Test func delayedTransfersAreCounted() async throws {
        try await withRig(.simulated) { rig in
            let owner = try rig.makeContext()
            let reader = try rig.makeContext { $0.bulksMax = 2 }
            let source = try owner.makeBuffer(count: 4096)
            let handle = try owner.expose(source, access: .remoteRead)
            var done = 0
            for _ in 0..<5 {
                rig.xstream.spawn {
                    do throws(RPCError) {
                        let buffer = try reader.makeBuffer(count: 4096)
                        try await reader.bulkGet(handle.descriptor, into: buffer, range: 0..<4096)
                        done += 1
                    } catch {
                        Issue.record("\(error)")
                    }
                }
            }
            // They begin, and none is over.
            await rig.xstream.yield()
            #expect(reader.counters.transfers == 5)
            #expect(reader.counters.waitingTransfers == 3)
            try await rig.wait("the end") { done == 5 }
            #expect(reader.counters.bulksDelayed == 3 && reader.counters.bulkReads == 5)
            #expect(reader.counters.waitingTransfers == 0 && reader.counters.transfers == 0)
            owner.withdraw(handle)
        }
    }

    /// A context's counts are those of its namespaces together; values are counted in bytes.
    @Test func incastVariablesAreCounted() async throws {
        try await withRig(.simulated) { rig in
            let cluster = try IncastCluster(rig, 3, tree: .flat)
            let other = IncastNamespace(on: cluster.contexts[1], number: 9)
            let blob = Blob(number: 7, bytes: pattern(500))
            try await cluster.variables[1].update(NoteKey(), blob)
            _ = try await cluster.variables[2].fetch(NoteKey())
            _ = try await cluster.variables[2].fetch(NoteKey())
            try await cluster.variables[1].invalidate(NoteKey())
            try await cluster.settle()
            let size = blob.encoded().count
            let counts = cluster.contexts.map(\.counters.incast)
            #expect(counts == cluster.namespaces.map(\.counters))
            #expect(counts[1].updates == 2 && counts[1].invalidations == 1)
            #expect(counts[0].updatesStored == 2 && counts[0].refreshesSent == 2)
            #expect(counts[2].fetches == 2 && counts[2].copiesUsed == 1)
            #expect(counts[2].fetchesSent == 1 && counts[0].fetchesReceived == 1)
            #expect(counts.map(\.valueBytesSent) == [size, size, 0])
            #expect(counts.map(\.valueBytesReceived) == [size, 0, size])
            other.close()
        }
    }

    /// Names are unique, and those that Prometheus wants.
    @Test func definitionsAreWellFormed() {
        let definitions = ContextMetrics.set.definitions
        #expect(Set(definitions.map(\.name)).count == definitions.count)
        for definition in definitions {
            #expect(definition.name.hasPrefix("dray_cart_"))
            #expect(definition.name.hasSuffix("_total") == (definition.kind == .counter))
            #expect(definition.help.hasSuffix(".") && !definition.help.contains("\n"))
        }
    }
}
