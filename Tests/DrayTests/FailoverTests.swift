import Dray
import DrayPlacement
import DrayRuntime
import DraySimulator
import Testing

/// One of three engines is killed.
@Suite struct FailoverTests {
    @Test(arguments: 0..<3) func readsGoOnAndChangesSayWhatBecameOfThem(dead: Int) {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            let elsewhere = try await Self.object(rig, without: dead)
            let large = [UInt8](repeating: 7, count: 100_000)
            for target in [object, elsewhere] { try await target.put("a", "old") }
            try await object.put(dkey: "large".bytes, akey: [], value: large)
            // Until every replica knows of the last commit.
            await rig.sleep(.milliseconds(100))
            rig.cluster.kill(rank: dead)

            let start = rig.now
            #expect(try await object.get("a") == "old")
            #expect(try await object.get(dkey: "large".bytes, akey: []) == large)
            #expect(try await object.listDkeys().keys == ["a", "large"].map(\.bytes))
            #expect(try await object.listAkeys(dkey: "a".bytes).keys == [textKey])
            #expect(rig.now.since(start) < .seconds(1), "\(rig.now.since(start))")

            let limited = object.seen(in: rig.container.within(.seconds(1)))
            let (error, time) = try await rig.failure { try await limited.put("a", "new") }
            #expect(error.code == .unavailable, "\(error)")
            #expect("\(error)".contains("engine \(dead)"), "\(error)")
            #expect(time > .milliseconds(500) && time < .milliseconds(1050), "\(time)")

            let before = rig.now
            try await elsewhere.put("a", "new")
            try await rig.container.transaction { transaction in
                try await transaction.put(elsewhere, "b", "new")
            }
            #expect(rig.now.since(before) < .milliseconds(100), "\(rig.now.since(before))")

            let (refusal, _) = try await rig.failure { _ = try await limited.verify() }
            #expect("\(refusal)".contains("engine \(dead)"), "\(refusal)")

            try await rig.cluster.start(rank: dead)
            let value = try await object.get("a")
            #expect(error.mayHaveHappened ? ["old", "new"].contains(value) : value == "old")
            #expect(try await object.verify().isEqual)
            try await object.put("a", "newer")
            #expect(try await object.get("a") == "newer")
            #expect(try await elsewhere.get("b") == "new")
            #expect(try await rig.container.verify().isEqual)
        }
    }

    /// An engine that is stopped looks like one whose machine is off: nobody refuses anything.
    @Test(arguments: 0..<3, [Duration.milliseconds(200), .seconds(1)])
    func changesEndInTimeWhenAnEngineIsSilent(silent: Int, timeout: Duration) {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            try await object.put("a", "old")
            let limited = object.seen(in: rig.container.within(timeout))
            rig.cluster.pause(rank: silent)
            let (error, time) = try await rig.failure { try await limited.put("a", "new") }
            #expect(error.code == .unavailable, "\(error)")
            #expect("\(error)".contains("engine \(silent)"), "\(error)")
            #expect(time > timeout / 2 && time < timeout + .milliseconds(20), "\(time)")
            rig.cluster.resume(rank: silent)
            let value = try await object.get("a")
            #expect(error.mayHaveHappened ? ["old", "new"].contains(value) : value == "old")
            #expect(try await object.verify().isEqual)
        }
    }

    /// A leader that is killed as soon as it has answered may be alone in knowing the commit: then
    /// nobody guesses, and it is there when the leader is back.
    @Test func whatOnlyTheDeadLeaderKnowsIsUnavailable() {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            let leader = Int(try object.layout()[0].rank)
            try await object.put("a", "new")
            rig.cluster.kill(rank: leader)
            let limited = object.seen(in: rig.container.within(.seconds(3)))
            let (error, time) = try await rig.failure { _ = try await limited.get("a") }
            #expect(error.code == .unavailable, "\(error)")
            #expect(time > .seconds(2) && time < .milliseconds(3010), "\(time)")
            try await rig.cluster.start(rank: leader)
            #expect(try await object.get("a") == "new")
        }
    }

    /// An object with two replicas, none of which is on the engine.
    private static func object(_ rig: ClusterRig, without rank: Int) async throws -> DrayObject {
        for _ in 0..<100 {
            let object = try await rig.makeObject(.rp2g1)
            if !(try object.layout().contains { Int($0.rank) == rank }) { return object }
        }
        throw DrayError(.internalError, "every object is on engine \(rank)")
    }

    /// A change that begins while an engine is away ends well when it comes back in time.
    @Test(arguments: 0..<3) func whoComesBackInTimeIsWaitedFor(dead: Int) {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            try await object.put("a", "old")
            rig.cluster.kill(rank: dead)
            try await rig.together([
                { try await object.put("a", "new") },
                {
                    try await rig.container.transaction { transaction in
                        try await transaction.put(object, "b", "new")
                    }
                },
                {
                    await rig.sleep(.seconds(1))
                    try await rig.cluster.start(rank: dead)
                },
            ])
            #expect(try await object.get("a") == "new")
            #expect(try await object.get("b") == "new")
            #expect(try await object.verify().isEqual)
        }
    }
}
