import Dray
import DrayPlacement
import DrayRuntime
import DraySimulator
import Testing

@Suite struct TransactionTests {
    struct Refusal: Error, Equatable { var number: Int }

    @Test(arguments: [.rp3g1, .s1, .sx] as [ObjectClass])
    func ownChangesAreSeenAndOthersSeeThemLater(objectClass: ObjectClass) {
        ClusterRig.run(objectClass) { rig in
            let other = try await rig.container(ofClient: 1)
            let (one, two) = (try await rig.makeObject(), try await rig.makeObject())
            try await one.put("a", "1")
            let seen = try await rig.container.transaction { transaction in
                #expect(try await transaction.get(one, "a") == "1")
                try await transaction.put(one, "a", "2")
                #expect(try await transaction.get(one, "a") == "2")
                try await transaction.put(two, "b", "3")
                #expect(try await transaction.get(two, "b") == "3")
                #expect(try await transaction.get(two, "a") == nil)
                try await transaction.remove(one, dkey: "a".bytes)
                #expect(try await transaction.get(one, "a") == nil)
                try await transaction.put(one, "c", "4")
                #expect(try await one.seen(in: other).get("a") == "1")
                #expect(try await two.seen(in: other).get("b") == nil)
                return "done"
            }
            #expect(seen == "done")
            #expect(try await one.seen(in: other).get("a") == nil)
            #expect(try await one.seen(in: other).get("c") == "4")
            #expect(try await two.seen(in: other).get("b") == "3")
        }
    }

    /// Every kind of change, in two containers.
    @Test func everyKindOfChange() {
        ClusterRig.run { rig in
            let pool = rig.container.pool
            let second = try await pool.createContainer(label: "second", objectClass: .s1)
            let one = try await rig.makeObject()
            let two = second.object(try await second.makeObjectID())
            let gone = try await rig.makeObject()
            for object in [one, two, gone] {
                try await object.put("a", "old")
                try await object.put(dkey: "a".bytes, akey: "other".bytes, value: [1])
            }
            try await rig.container.transaction { transaction in
                try await transaction.punch(gone)
                #expect(try await transaction.get(gone, "a") == nil)
                try await transaction.remove(one, dkey: "a".bytes, akey: textKey)
                try await transaction.write(
                    two, dkey: "array".bytes, akey: [], offset: 5, bytes: [7, 8])
                try await transaction.write(
                    two, dkey: "array".bytes, akey: [], offset: 0, bytes: [])
                try await transaction.put(two, "a", "new", .update)
            }
            #expect(try await gone.listDkeys().keys == [])
            #expect(try await one.get("a") == nil)
            #expect(try await one.get(dkey: "a".bytes, akey: "other".bytes) == [1])
            #expect(try await two.get("a") == "new")
            #expect(try await two.arrayEnd(dkey: "array".bytes, akey: []) == 7)
            let read = try await rig.container.transaction { transaction in
                try await transaction.read(two, dkey: "array".bytes, akey: [], range: 3..<9)
            }
            #expect(read == [0, 0, 7, 8, 0, 0])
        }
    }

    @Test func whatThrowsChangesNothing() {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            try await object.put("a", "1")
            var runs = 0
            await #expect(throws: Refusal(number: 7)) {
                try await rig.container.transaction { transaction in
                    runs += 1
                    try await transaction.put(object, "a", "2")
                    try await transaction.put(object, "b", "2")
                    throw Refusal(number: 7)
                }
            }
            #expect(runs == 1)
            #expect(try await object.get("a") == "1")
            #expect(try await object.get("b") == nil)
        }
    }

    @Test(
        arguments: [
            (.insert, "a", DrayError.Code.exists), (.update, "b", .notFound),
        ] as [(DrayObject.Condition, String, DrayError.Code)])
    func aConditionThatDoesNotHoldChangesNothing(
        condition: DrayObject.Condition, key: String, code: DrayError.Code
    ) {
        ClusterRig.run { rig in
            let (one, two) = (try await rig.makeObject(), try await rig.makeObject())
            try await one.put("a", "1")
            let (error, _) = try await rig.failure {
                try await rig.container.transaction { transaction in
                    try await transaction.put(two, "a", "2")
                    try await transaction.put(one, key, "2", condition)
                }
            }
            #expect(error.code == code)
            #expect(!error.mayHaveHappened)
            #expect(try await one.get("a") == "1")
            #expect(try await one.get("b") == nil)
            #expect(try await two.get("a") == nil)
        }
    }

    @Test func itRunsAgainWhenWhatItReadHasChanged() {
        ClusterRig.run { rig in
            let other = try await rig.container(ofClient: 1)
            let object = try await rig.makeObject()
            try await object.put("a", "1")
            var seen: [String?] = []
            try await rig.container.transaction { transaction in
                let value = try await transaction.get(object, "a")
                seen.append(value)
                if seen.count == 1 { try await object.seen(in: other).put("a", "2") }
                try await transaction.put(object, "b", "saw \(value ?? "nothing")")
            }
            #expect(seen == ["1", "2"])
            #expect(try await object.get("b") == "saw 2")
        }
    }

    /// A body that goes on after a conflict cannot commit what it made of it.
    @Test func aConflictCannotBeIgnored() {
        ClusterRig.run { rig in
            let other = try await rig.container(ofClient: 1)
            let (one, two) = (try await rig.makeObject(), try await rig.makeObject())
            try await rig.together([
                { try await one.put("a", "1") }, { try await two.put("a", "1") },
            ])
            var runs = 0
            try await rig.container.transaction { transaction in
                runs += 1
                let first = try await transaction.get(one, "a")
                if runs == 1 {
                    try await other.transaction { transaction in
                        try await transaction.put(one.seen(in: other), "a", "2")
                        try await transaction.put(two.seen(in: other), "a", "2")
                    }
                }
                let second = try? await transaction.get(two, "a")
                try await transaction.put(one, "sum", "\(first ?? "-") \(second ?? "-")")
            }
            #expect(runs == 2)
            #expect(try await one.get("sum") == "2 2")
        }
    }

    @Test(arguments: [.rp3g1, .s1] as [ObjectClass])
    func whatOnlyReadsIsValidated(objectClass: ObjectClass) {
        ClusterRig.run(objectClass) { rig in
            let other = try await rig.container(ofClient: 1)
            let (one, two) = (try await rig.makeObject(), try await rig.makeObject())
            for object in [one, two] { try await object.put("a", "1") }
            var runs = 0
            let seen = try await rig.container.transaction { transaction in
                runs += 1
                let first = try await transaction.get(one, "a")
                if runs == 1 {
                    for object in [one, two] { try await object.seen(in: other).put("a", "2") }
                }
                return [first, try await transaction.get(two, "a")]
            }
            #expect(runs == 2)
            #expect(seen == ["2", "2"])
        }
    }

    /// An engine whose clock is behind gives a change an epoch before the snapshot, though it began
    /// when another change, which is not in the snapshot, had returned.
    @Test func whatOnlyReadsIsOneMomentAlthoughClocksDisagree() {
        ClusterRig.run(.s1) { rig in
            let others = [
                try await rig.container(ofClient: 1), try await rig.container(ofClient: 2),
            ]
            let one = try await rig.makeObject()
            var two = try await rig.makeObject()
            while try two.layout()[0].rank == one.layout()[0].rank {
                two = try await rig.makeObject()
            }
            let (first, second) = (one.seen(in: others[0]), two.seen(in: others[1]))
            for object in [first, second] { try await object.put("a", "1") }
            let ahead = Int(try one.layout()[0].rank)
            rig.cluster.simulation.stepWallClock(node: ahead, by: 900_000_000)
            var runs = 0
            let seen = try await rig.container.transaction { transaction in
                runs += 1
                let value = try await transaction.get(one, "a")
                if runs == 1 {
                    try await first.put("a", "2")
                    try await second.put("a", "2")
                }
                return [value, try await transaction.get(two, "a")]
            }
            #expect(runs == 2)
            #expect(seen == ["2", "2"])
        }
    }

    /// A key that is new in a list that was read is a change, too.
    @Test func listsAreValidated() {
        ClusterRig.run(.sx) { rig in
            let other = try await rig.container(ofClient: 1)
            let object = try await rig.makeObject()
            let counts = try await rig.makeObject()
            for key in ["a", "b", "c"] { try await object.put(key, "1") }
            var runs = 0
            try await rig.container.transaction { transaction in
                runs += 1
                let keys = try await transaction.listDkeys(object).keys
                if runs == 1 { try await object.seen(in: other).put("d", "1") }
                try await transaction.put(counts, "count", "\(keys.count)")
            }
            #expect(runs == 2)
            #expect(try await counts.get("count") == "4")
        }
    }

    @Test func whatItCannotDoIsRefused() {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            try await object.put("a", "1")
            let array = "array".bytes
            let refused: [(Transaction) async throws -> Void] = [
                { _ = try await $0.listDkeys(object) },
                { _ = try await $0.read(object, dkey: array, akey: [], range: 0..<1) },
                { try await $0.put(object, "b", String(repeating: "x", count: 1 << 20)) },
                { try await $0.put(object, String(repeating: "x", count: 65_537), "1") },
                {
                    try await $0.write(
                        object, dkey: array, akey: [], offset: .max, bytes: [1, 2])
                },
            ]
            for (index, body) in refused.enumerated() {
                let (error, _) = try await rig.failure {
                    try await rig.container.transaction { transaction in
                        try await transaction.write(
                            object, dkey: array, akey: [], offset: 0, bytes: [1])
                        try await body(transaction)
                    }
                }
                #expect(error.code == .invalidArgument, "\(index)")
                #expect(!error.mayHaveHappened, "\(index)")
            }
            #expect(try await object.listDkeys().keys == ["a".bytes])
        }
    }

    @Test(arguments: [.rp3g1, .s1] as [ObjectClass])
    func noIncrementIsLost(objectClass: ObjectClass) {
        ClusterRig.run(objectClass) { rig in
            let object = try await rig.makeObject()
            let containers = [rig.container, try await rig.container(ofClient: 1)]
            var runs = 0
            try await rig.together(
                containers.map { container in
                    {
                        let counter = object.seen(in: container)
                        for _ in 0..<50 {
                            try await container.transaction { transaction in
                                runs += 1
                                let value = try await transaction.get(counter, "n") ?? "0"
                                let number = try #require(Int(value))
                                try await transaction.put(counter, "n", "\(number + 1)")
                            }
                        }
                    }
                })
            #expect(try await object.get("n") == "100")
            #expect(runs > 100, "they never met")
        }
    }

    // MARK: - Without an end

    /// Who meets conflicts until its time is over is told so, and nothing has happened.
    @Test(arguments: [false, true])
    func conflictsEndInTime(onlyReads: Bool) {
        ClusterRig.run { rig in
            let other = try await rig.container(ofClient: 1)
            let object = try await rig.makeObject()
            try await object.put("a", "0")
            var runs = 0
            let (error, time) = try await rig.failure {
                try await rig.container.within(.milliseconds(500)).transaction { transaction in
                    runs += 1
                    _ = try await transaction.get(object, "a")
                    try await object.seen(in: other).put("a", "\(runs)")
                    if !onlyReads { try await transaction.put(object, "b", "1") }
                }
            }
            #expect(error.code == .timedOut)
            #expect(!error.mayHaveHappened)
            #expect(runs > 3)
            #expect(time > .milliseconds(200) && time < .milliseconds(600), "\(time)")
            #expect(try await object.get("a") == "\(runs)")
            #expect(try await object.get("b") == nil)
        }
    }

    @Test func cancellationEndsConflicts() {
        ClusterRig.run { rig in
            let other = try await rig.container(ofClient: 1)
            let object = try await rig.makeObject()
            let (error, time) = try await rig.failureWhenCancelled(after: .milliseconds(300)) {
                try await rig.container.transaction { transaction in
                    _ = try await transaction.get(object, "a")
                    try await object.seen(in: other).put("a", "\(rig.now)")
                    try await transaction.put(object, "b", "1")
                }
            }
            #expect(error.code == .cancelled)
            #expect(time < .milliseconds(300), "\(time)")
            #expect(try await object.get("b") == nil)
        }
    }

    /// What a transaction reads is asked of a leader that does not answer.
    @Test(arguments: [false, true]) func cancellationEndsReads(whileValidating: Bool) {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            try await object.put("a", "1")
            let leader = Int(try object.layout()[0].rank)
            if !whileValidating { rig.cluster.pause(rank: leader) }
            let (error, time) = try await rig.failureWhenCancelled {
                try await rig.container.transaction { transaction in
                    _ = try await transaction.get(object, "a")
                    if whileValidating { rig.cluster.pause(rank: leader) }
                }
            }
            #expect(error.code == .cancelled)
            #expect(time < .milliseconds(10), "\(time)")
            rig.cluster.resume(rank: leader)
            #expect(try await object.get("a") == "1")
        }
    }
}
