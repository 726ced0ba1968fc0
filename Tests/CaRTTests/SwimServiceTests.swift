import DrayFabric
import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

/// Members that watch each other over a fabric.
@Suite struct SwimServiceTests {
    /// Processes on a simulated network, each with a context for SWIM.
    final class Cluster {
        let simulation: Simulation
        let fabric: SimulatedFabric
        let count: Int
        let options: SwimOptions
        private(set) var services: [SwimService?]
        private(set) var contexts: [Context?]
        /// What each member's present process was told, with the time.
        private(set) var events: [[(time: Instant, event: SwimService.Event)]]
        private var incarnations: [Int]
        private var running: Set<Int> = []

        init(_ count: Int, seed: UInt64, options: SwimOptions = SwimOptions()) {
            simulation = Simulation(seed: seed)
            fabric = SimulatedFabric(simulation: simulation)
            self.count = count
            self.options = options
            services = Array(repeating: nil, count: count)
            contexts = Array(repeating: nil, count: count)
            events = Array(repeating: [], count: count)
            incarnations = Array(repeating: -1, count: count)
            for rank in 0..<count { start(rank) }
            simulation.run(for: .seconds(2))
        }

        func start(_ rank: Int) {
            incarnations[rank] += 1
            events[rank] = []
            var world = simulation.world(node: rank, incarnation: incarnations[rank])
            world.fabric = fabric
            let xstream = world.makeXStream(name: "swim-\(rank)")
            let made = world
            running.insert(rank)
            xstream.simulate { [self] in
                do throws(RPCError) {
                    var contextOptions = ContextOptions(
                        clock: HybridLogicalClock(clock: made.clock))
                    contextOptions.rank = UInt32(rank)
                    contextOptions.tag = 0
                    let context = try Context(
                        world: made, xstream: xstream, address: "sim://member-\(rank)",
                        options: contextOptions)
                    setGroup(of: context, ranks: Array(0..<count), version: 1)
                    let service = SwimService(
                        context: context, options: options,
                        incarnation: contextOptions.clock.now())
                    service.observe { event in
                        self.events[rank].append((self.simulation.now, event))
                    }
                    service.start()
                    contexts[rank] = context
                    services[rank] = service
                } catch {
                    Issue.record("member \(rank): \(error)")
                }
            }
        }

        func setGroup(of context: Context, ranks: [Int], version: UInt32) {
            do {
                let members = try ranks.map {
                    Group.Member(
                        rank: UInt32($0),
                        addresses: [try FabricAddress(parsing: "sim://member-\($0)")])
                }
                try context.group.apply(.replace(members), version: version)
            } catch {
                Issue.record("\(error)")
            }
        }

        func kill(_ rank: Int) {
            simulation.kill(node: rank, incarnation: incarnations[rank])
            running.remove(rank)
            services[rank] = nil
            contexts[rank] = nil
        }

        func pause(_ rank: Int) {
            simulation.pause(node: rank, incarnation: incarnations[rank])
            running.remove(rank)
        }

        func resume(_ rank: Int) {
            simulation.resume(node: rank, incarnation: incarnations[rank])
            running.insert(rank)
        }

        /// Whether everybody who runs holds `rank` for `state`.
        func all(hold rank: Int, for state: SwimState) -> Bool {
            running.subtracting([rank]).allSatisfy { observer in
                services[observer]?.members.first { $0.rank == UInt32(rank) }?.state == state
            }
        }

        func run(for time: Duration, until condition: () -> Bool = { false }) -> Bool {
            simulation.run(for: time, until: condition)
        }

        /// Whether anybody was told of a death since `time`.
        func deaths(since time: Instant) -> [SwimMember] {
            events.flatMap { $0 }.compactMap { time < $0.time ? $0.event : nil }
                .compactMap { event in
                    guard case .changed(let member) = event, member.state == .dead else {
                        return nil
                    }
                    return member
                }
        }

        func isExcluded(_ rank: Int, _ exclusion: SwimExclusion) -> Bool {
            events[rank].contains { $0.event == .excluded(exclusion) }
        }
    }

    @Test(arguments: [2, 3, 7]) func killed(count: Int) {
        for seed in 1..<UInt64(5) {
            let cluster = Cluster(count, seed: seed)
            cluster.kill(1)
            #expect(cluster.run(for: .seconds(2)) { cluster.all(hold: 1, for: .dead) })
            let verdicts = (0..<count).compactMap { cluster.services[$0]?.members }.joined()
                .filter { $0.rank == 1 }.map(\.verdict)
            #expect(verdicts.allSatisfy { $0 == .gone })
            cluster.start(1)
            #expect(cluster.run(for: .seconds(2)) { cluster.all(hold: 1, for: .alive) })
            #expect(cluster.run(for: .seconds(5)) { cluster.services[1]?.members.isEmpty == false })
        }
    }

    @Test(arguments: [2, 3, 7]) func paused(count: Int) {
        let cluster = Cluster(count, seed: 5)
        let begin = cluster.simulation.now
        cluster.pause(1)
        #expect(cluster.run(for: .seconds(3)) { cluster.all(hold: 1, for: .suspect) })
        #expect(cluster.deaths(since: begin).isEmpty)
        #expect(cluster.run(for: .seconds(6)) { cluster.all(hold: 1, for: .dead) })
        #expect(cluster.simulation.now.since(begin) > .seconds(5))
        cluster.resume(1)
        #expect(cluster.run(for: .seconds(3)) { cluster.all(hold: 1, for: .alive) })
        _ = cluster.run(for: .seconds(1))
        #expect(cluster.isExcluded(1, .declaredDead))
        #expect(cluster.deaths(since: begin).allSatisfy { $0.rank == 1 })
    }

    @Test(arguments: [2, 3, 7]) func pausedForLess(count: Int) {
        let cluster = Cluster(count, seed: 6)
        let begin = cluster.simulation.now
        let old = cluster.services[1]?.incarnation ?? 0
        for _ in 0..<3 {
            cluster.pause(1)
            #expect(!cluster.run(for: .seconds(4)) { cluster.all(hold: 1, for: .dead) })
            cluster.resume(1)
            #expect(cluster.run(for: .seconds(3)) { cluster.all(hold: 1, for: .alive) })
        }
        _ = cluster.run(for: .seconds(6))
        #expect(cluster.deaths(since: begin).isEmpty)
        #expect(!cluster.isExcluded(1, .declaredDead))
        #expect((cluster.services[1]?.incarnation ?? 0) > old, "it has contradicted")
    }

    @Test(arguments: [3, 6]) func cutOff(count: Int) {
        let cluster = Cluster(count, seed: 7)
        cluster.fabric.partition([0], Set(1..<count))
        #expect(cluster.run(for: .seconds(8)) { cluster.all(hold: 0, for: .dead) })
        _ = cluster.run(for: .seconds(10))
        // Nobody answers it: that may be its own fault.
        #expect((cluster.contexts[0]?.counters.swim.doubts ?? 0) > 0)
        #expect(!cluster.isExcluded(0, .declaredDead))
        cluster.fabric.heal()
        let healed = cluster.simulation.now
        #expect(cluster.run(for: .seconds(15)) { cluster.isExcluded(0, .declaredDead) })
        #expect(
            cluster.run(for: .seconds(15)) {
                (0..<count).allSatisfy { cluster.all(hold: $0, for: .alive) }
            })
        #expect(cluster.deaths(since: healed).allSatisfy { $0.rank == 0 })
    }

    /// One message in twenty meets a broken connection.
    @Test func badNetwork() {
        let cluster = Cluster(5, seed: 8)
        let begin = cluster.simulation.now
        cluster.fabric.faults.connectionLossRate = 50_000
        _ = cluster.run(for: .seconds(60))
        #expect(cluster.fabric.counts.connectionsLost > 100)
        #expect(cluster.deaths(since: begin).isEmpty)
        cluster.kill(2)
        #expect(cluster.run(for: .seconds(2)) { cluster.all(hold: 2, for: .dead) })
    }

    /// Clocks that are too far apart for calls are no death.
    @Test(arguments: [Int64(-30), -3, 3, 30, 7200]) func wrongClock(seconds: Int64) {
        let cluster = Cluster(4, seed: 9)
        let begin = cluster.simulation.now
        cluster.simulation.stepWallClock(node: 1, by: seconds * 1_000_000_000)
        _ = cluster.run(for: .seconds(20))
        #expect(cluster.deaths(since: begin).isEmpty)
        cluster.kill(1)
        #expect(cluster.run(for: .seconds(2)) { cluster.all(hold: 1, for: .dead) })
    }

    @Test func removedFromTheGroup() throws {
        let cluster = Cluster(4, seed: 10)
        for rank in 0..<3 {
            let context = try #require(cluster.contexts[rank])
            context.xstream.simulate {
                cluster.setGroup(of: context, ranks: [0, 1, 2], version: 2)
            }
        }
        #expect(
            cluster.run(for: .seconds(5)) {
                cluster.isExcluded(3, .removed(version: 2))
            })
        #expect(cluster.services[0]?.members.map(\.rank) == [1, 2])
    }

    /// What is under way to a member ends with it, also what has no time-out.
    @Test func deathEndsCalls() throws {
        let cluster = Cluster(3, seed: 11)
        let context = try #require(cluster.contexts[0])
        let server = try #require(cluster.contexts[1])
        var end: RPCError?
        server.xstream.simulate { serve(server) }
        context.xstream.simulate {
            end = await failure { () throws(RPCError) in
                try await context.call(
                    TestProtocol.wait, Blob(), to: .rank(1, tag: 0), deadline: .unlimited)
            }
        }
        _ = cluster.run(for: .seconds(2))
        #expect(end == nil)
        cluster.pause(1)
        #expect(!cluster.run(for: .seconds(4)) { end != nil })
        #expect(cluster.run(for: .seconds(4)) { end != nil })
        #expect(end == .unreachable)
    }

    @Test func nobodyBelievesTheImpossible() throws {
        let cluster = Cluster(3, seed: 12)
        let context = try #require(cluster.contexts[0])
        let begin = cluster.simulation.now
        var message = SwimMessage()
        message.kind = .news
        let late = SwimMember.incarnationMax - 1
        message.updates = (0..<3).map { SwimMember(rank: $0, incarnation: late, verdict: .gone) }
        let lie = message
        for claimed in [UInt64(0), late] {
            context.xstream.simulate {
                var sent = lie
                sent.incarnation = claimed
                _ = await failure { () throws(RPCError) in
                    try await context.call(SwimProtocol.exchange, sent, to: .rank(1, tag: 0))
                }
            }
        }
        _ = cluster.run(for: .seconds(10))
        #expect(cluster.deaths(since: begin).isEmpty)
        #expect(cluster.services.allSatisfy { ($0?.incarnation ?? late) < late })
    }

    @Test func whatHappensIsCounted() throws {
        let cluster = Cluster(3, seed: 15)
        _ = cluster.run(for: .seconds(20))
        let quiet = try cluster.contexts.map { try #require($0).metrics }
        for metrics in quiet {
            let swim = metrics.counters.swim
            // Five in a second, after three periods.
            #expect((90...120).contains(swim.pingsSent))
            #expect((swim.pingsSent - 1...swim.pingsSent).contains(swim.acksReceived))
            #expect(metrics.times.ping.count == UInt64(swim.acksReceived))
            #expect(metrics.times.ping.maximum < 100_000_000)
            #expect(swim.messagesSent >= swim.pingsSent && swim.messagesReceived >= 90)
            #expect(swim.suspicions + swim.deaths + swim.recoveries + swim.doubts == 0)
        }
        let pings = quiet.map(\.counters.swim.pingsSent).reduce(0, +)
        let acks = quiet.map(\.counters.swim.acksReceived).reduce(0, +)
        let sent = quiet.map(\.counters.swim.messagesSent).reduce(0, +)
        #expect(sent - pings - acks < 20, "little but pings and their answers")
        cluster.pause(1)
        #expect(cluster.run(for: .seconds(9)) { cluster.all(hold: 1, for: .dead) })
        _ = cluster.run(for: .seconds(12))
        cluster.resume(1)
        #expect(cluster.run(for: .seconds(3)) { cluster.all(hold: 1, for: .alive) })
        _ = cluster.run(for: .seconds(2))
        for rank in [0, 2] {
            let swim = try #require(cluster.contexts[rank]).counters.swim
            #expect(swim.suspicions == 1 && swim.deaths == 1 && swim.recoveries == 1)
            #expect(swim.helpRequestsSent > 0 && swim.messagesUnanswered > 0)
            #expect(swim.exclusions == 0)
        }
        let stopped = try #require(cluster.contexts[1]).counters.swim
        #expect(stopped.exclusions == 1)
    }

    @Test func sameSeedSameHistory() {
        func hash(_ seed: UInt64) -> UInt64 {
            let cluster = Cluster(4, seed: seed)
            cluster.kill(2)
            cluster.pause(3)
            _ = cluster.run(for: .seconds(10))
            return cluster.simulation.eventHash
        }
        #expect(hash(13) == hash(13))
        #expect(hash(13) != hash(14))
    }

    /// Over every fabric: members find each other, and one that closes its context is known to be
    /// gone, long before the suspicion time is over.
    @Test(arguments: FabricKind.allCases) func realFabrics(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            var options = SwimOptions()
            options.suspicionTimeout = .seconds(30)
            var contexts: [Context] = []
            for rank in 0..<3 { contexts.append(try rig.makeContext { $0.rank = UInt32(rank) }) }
            let members = contexts.map { Group.Member(rank: $0.rank!, addresses: [$0.address]) }
            var services: [SwimService] = []
            for context in contexts {
                try context.group.apply(.replace(members), version: 1)
                let service = SwimService(
                    context: context, options: options, incarnation: context.clock.now())
                service.start()
                services.append(service)
            }
            try await rig.wait("all alive") {
                services.allSatisfy { service in
                    service.members.allSatisfy { $0.incarnation > 0 && $0.state == .alive }
                }
            }
            await rig.xstream.sleep(for: .seconds(1))
            #expect(services.allSatisfy { $0.members.allSatisfy { $0.state == .alive } })
            let begin = rig.xstream.now
            services[2].stop()
            await contexts[2].close()
            try await rig.wait("one dead") {
                services.prefix(2).allSatisfy { $0.members.last?.state == .dead }
            }
            let verdicts = services.prefix(2).map { $0.members.last?.verdict }
            #expect(verdicts.allSatisfy { $0 == .gone })
            #expect(rig.xstream.now.since(begin) < .seconds(10))
            #expect(services.prefix(2).allSatisfy { $0.members.first?.state == .alive })
            for service in services { service.stop() }
        }
    }
}
