import CaRT
import Dray
import DrayProtocol
import DrayRuntime
import Glibc
import Testing

@testable import DrayCLI

/// Engine processes that get SIGKILL, SIGSTOP and SIGCONT, and what the others say of them.
@Suite(.serialized) struct MembershipTests {
    static let engineCount = 4

    /// A cluster of engines that all hold each other for alive, and a client.
    struct Rig {
        let cluster: KillCluster
        let client: Cluster

        init() throws {
            cluster = try KillCluster(
                engines: MembershipTests.engineCount, deviceSize: Size(bytes: 320 << 20))
            for rank in 0..<MembershipTests.engineCount { try cluster.start(rank) }
            try cluster.waitUntilServing()
            client = try cluster.connect(timeout: .seconds(2))
            for rank in 0..<MembershipTests.engineCount {
                _ = try wait(rank, .alive, seconds: 10)
            }
        }

        var now: Instant { cluster.world.clock.now }

        /// What the others that answer say of `rank`.
        func views(of rank: Int) throws -> [SwimState] {
            let client = client
            let engines = try cluster.blocking(seconds: 10, "status") {
                await client.status(timeout: .milliseconds(250))
            }
            return engines.compactMap { engine, status in
                guard engine.rank != UInt32(rank) else { return nil }
                return status?.members.first { $0.rank == UInt32(rank) }?.state
            }
        }

        /// Waits until all the others say so. How long it took.
        func wait(
            _ rank: Int, _ state: SwimState, seconds: Double,
            location: SourceLocation = #_sourceLocation
        ) throws -> Duration {
            let begin = now
            var seen: [SwimState] = []
            while now.since(begin) < .seconds(seconds) {
                seen = try views(of: rank)
                let time = now.since(begin)
                if seen.count == MembershipTests.engineCount - 1,
                    seen.allSatisfy({ $0 == state })
                {
                    return time
                }
                usleep(20_000)
            }
            Issue.record(
                "engine \(rank) is not \(state) after \(seconds) s: \(seen)",
                sourceLocation: location)
            return now.since(begin)
        }
    }

    @Test(.timeLimit(.minutes(5))) func killedStoppedAndBack() throws {
        let rig = try Rig()
        defer { try? rig.cluster.end() }
        // Killed: the others know within two seconds, and 'dray cluster status' says so.
        let begin = rig.now
        try rig.cluster.kill(3)
        _ = try rig.wait(3, .dead, seconds: 2)
        let killed = rig.now.since(begin)
        #expect(killed < .seconds(2), "\(killed)")
        let shown = try rig.cluster.status()
        #expect(shown.engines.map(\.membership) == ["alive", "alive", "alive", "dead"])
        #expect(shown.engines[0].members?.map(\.state) == ["alive", "alive", "alive", "dead"])
        #expect(shown.engines[3].members == nil)
        try rig.cluster.start(3)
        try rig.cluster.waitUntilServing()
        let back = try rig.wait(3, .alive, seconds: 5)

        // Stopped: suspected first, and dead only after the suspicion time.
        let stop = rig.now
        try rig.cluster.signal(1, SIGSTOP)
        _ = try rig.wait(1, .suspect, seconds: 4)
        while rig.now.since(stop) < .seconds(4) {
            #expect(try !rig.views(of: 1).contains(.dead))
            usleep(50_000)
        }
        _ = try rig.wait(1, .dead, seconds: 6)
        let stopped = rig.now.since(stop)
        #expect(stopped >= SwimOptions().suspicionTimeout)
        try rig.cluster.signal(1, SIGCONT)
        let resumed = try rig.wait(1, .alive, seconds: 5)

        // Stopped for less: no death, then or later, of anybody.
        let pause = rig.now
        try rig.cluster.signal(2, SIGSTOP)
        while rig.now.since(pause) < .seconds(3.5) {
            #expect(try !rig.views(of: 2).contains(.dead))
            usleep(50_000)
        }
        try rig.cluster.signal(2, SIGCONT)
        let recovered = try rig.wait(2, .alive, seconds: 5)
        let quiet = rig.now
        while rig.now.since(quiet) < .seconds(4) {
            for rank in 0..<Self.engineCount {
                #expect(try !rig.views(of: rank).contains(.dead))
            }
            usleep(100_000)
        }
        print(
            "membership: killed known after \(killed), back \(back), stopped dead after "
                + "\(stopped), resumed alive after \(resumed), after a pause \(recovered)")
        let client = rig.client
        try rig.cluster.blocking(seconds: 10, "close") { await client.close() }
    }
}
