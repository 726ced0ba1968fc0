import CaRT
import Dray
import DrayFabric
import DrayProtocol
import DrayRuntime
import DraySimulator
import Testing

/// What engines know of each other, in whole clusters.
@Suite struct MembershipTests {
    /// What each engine that answers says of `rank`.
    private static func views(_ rig: ClusterRig, of rank: Int) async -> [SwimState] {
        let engines = await rig.client.status(timeout: .milliseconds(200))
        return engines.compactMap { engine in
            guard engine.engine.rank != UInt32(rank) else { return nil }
            return engine.status?.members.first { $0.rank == UInt32(rank) }?.state
        }
    }

    /// Waits until all the others say so of `rank`, and returns how long it took.
    private static func wait(
        _ rig: ClusterRig, _ rank: Int, _ state: SwimState, others: Int, limit: Duration,
        location: SourceLocation = #_sourceLocation
    ) async throws -> Duration {
        let begin = rig.now
        while rig.now.since(begin) < limit {
            let views = await views(rig, of: rank)
            if views.count == others, views.allSatisfy({ $0 == state }) { break }
            await rig.sleep(.milliseconds(20))
        }
        let views = await views(rig, of: rank)
        try #require(
            views.count == others && views.allSatisfy { $0 == state },
            "engine \(rank) is not \(state): \(views)", sourceLocation: location)
        return rig.now.since(begin)
    }

    @Test(arguments: [3, 5]) func enginesKnowWhoIsDead(count: Int) {
        ClusterRig.run(engines: count) { rig in
            let others = count - 1
            _ = try await Self.wait(rig, 1, .alive, others: others, limit: .seconds(3))
            rig.cluster.kill(rank: 1)
            _ = try await Self.wait(rig, 1, .dead, others: others, limit: .seconds(2))
            try await rig.cluster.start(rank: 1)
            _ = try await Self.wait(rig, 1, .alive, others: others, limit: .seconds(2))

            let time = rig.now
            rig.cluster.pause(rank: 2)
            _ = try await Self.wait(rig, 2, .suspect, others: others, limit: .seconds(3))
            _ = try await Self.wait(rig, 2, .dead, others: others, limit: .seconds(7))
            #expect(rig.now.since(time) >= SwimOptions().suspicionTimeout)
            rig.cluster.resume(rank: 2)
            _ = try await Self.wait(rig, 2, .alive, others: others, limit: .seconds(3))
            for rank in 0..<count {
                _ = try await Self.wait(rig, rank, .alive, others: others, limit: .seconds(1))
            }
        }
    }

    /// An engine that is busy or starved for less than the suspicion time lives on.
    @Test func aPauseIsNoDeath() {
        ClusterRig.run { rig in
            _ = try await Self.wait(rig, 1, .alive, others: 2, limit: .seconds(3))
            let end = rig.now + .seconds(4)
            rig.cluster.pause(rank: 1)
            while rig.now < end {
                #expect(await !Self.views(rig, of: 1).contains(.dead))
                await rig.sleep(.milliseconds(100))
            }
            rig.cluster.resume(rank: 1)
            _ = try await Self.wait(rig, 1, .alive, others: 2, limit: .seconds(3))
            let later = rig.now + .seconds(5)
            while rig.now < later {
                for rank in 0..<3 { #expect(await !Self.views(rig, of: rank).contains(.dead)) }
                await rig.sleep(.milliseconds(200))
            }
        }
    }

    @Test func whoIsCutOffComesBack() {
        ClusterRig.run { rig in
            _ = try await Self.wait(rig, 1, .alive, others: 2, limit: .seconds(3))
            rig.cluster.fabric.partition([1], [0, 2])
            // The client reaches all of them: the two say that the one is dead, and the one that
            // they are.
            _ = try await Self.wait(rig, 1, .dead, others: 2, limit: .seconds(8))
            await rig.sleep(.seconds(8))
            #expect(
                await Self.views(rig, of: 0).sorted { $0.rawValue < $1.rawValue }
                    == [.alive, .dead])
            rig.cluster.fabric.heal()
            for rank in 0..<3 {
                _ = try await Self.wait(rig, rank, .alive, others: 2, limit: .seconds(15))
            }
        }
    }
}
