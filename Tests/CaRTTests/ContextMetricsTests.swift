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
                    TestProtocol.echo, Blob(number: number, bytes: pattern(30_000)),
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
            // The requests, and the replies at the other end.
            #expect(called["dray_cart_spills_total"] == .count(32))
            #expect(called["dray_cart_bulk_reads_total"] == .count(32))
            #expect(called["dray_cart_sessions"] == .level(0))
            let served = values(registry, tag: 9)
            #expect(served["dray_cart_requests_received_total"] == .count(33))
            #expect(served["dray_cart_error_replies_sent_total"] == .count(1))
            #expect(served["dray_cart_spills_total"] == .count(32))
            #expect(served["dray_cart_bulk_bytes_total"].map { "\($0)".contains("9") } == true)
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
