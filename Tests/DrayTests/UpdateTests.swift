import CaRT
import Dray
import DrayPlacement
import DrayProtocol
import DrayRuntime
import DraySimulator
import Testing

/// Several changes of one object at once: `DrayObject.update`.
@Suite struct UpdateTests {
    static let keys = (0..<6).map { "key \($0)" }

    /// An object whose `keys` are in several redundancy groups.
    private static func makeSpreadObject(_ rig: ClusterRig) async throws -> DrayObject {
        let object = try await rig.makeObject()
        let layout = try #require(
            ObjectLayout(of: object.id, in: object.container.pool.record.map))
        let groups = Set(keys.map { layout.group(ofDkey: $0.bytes) })
        try #require(groups.count > 1, "another name for the keys is needed")
        return object
    }

    /// What was overwritten a moment ago does not fill a pool that is nearly full.
    @Test(arguments: UInt64(1)...5) func overwritingInASmallPool(seed: UInt64) {
        ClusterRig.run(seed: seed) { rig in
            let pool = try await rig.client.createPool(label: "small", size: 48 << 20)
            let container = try await pool.createContainer(label: "data", objectClass: .s1)
            let object = container.object(try await container.makeObjectID())
            let value = [UInt8](repeating: 7, count: 1 << 20)
            for _ in 0..<80 {
                try await object.put(dkey: [1], akey: [1], value: value)
                await rig.sleep(.milliseconds(250))
            }
            // It is full of what is there.
            let (error, _) = try await rig.failure {
                for number in 0..<20 as Range<UInt8> {
                    try await object.put(dkey: [1, number], akey: [1], value: value)
                }
            }
            #expect(error.code == .noSpace, "\(error)")
        }
    }

    /// The leader's requests to the other replicas stand below the update, and what each of them
    /// pulls from the client is told apart from the rest of its work.
    @Test func updatesAreTracedThroughTheReplicas() {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            await rig.client.startTracing()
            try await object.put("key", String(repeating: "x", count: 300_000))
            let summaries = await rig.client.callTraces
            let index = try #require(summaries.firstIndex { $0.name == "object.update" })
            let names = summaries[index...].prefix(2).map(\.name)
            #expect(names == ["object.update", "transaction.prepare"])
            let (update, prepare) = (summaries[index], summaries[index + 1])
            #expect(update.depth == 0 && prepare.depth == 1)
            #expect(update.total.count == 1 && prepare.total.count == 2)
            #expect(update.bulk.minimum > 0 && prepare.bulk.minimum > 0)
            #expect(prepare.total.maximum < update.total.maximum)
            // Nobody asks, nobody counts: and the values are there.
            #expect(try await object.get("key")?.count == 300_000)
        }
    }

    @Test(arguments: [.rp3gx, .sx] as [ObjectClass])
    func aReaderSeesAllOrNothing(objectClass: ObjectClass) {
        ClusterRig.run(targets: 2, objectClass) { rig in
            let other = try await rig.container(ofClient: 1)
            let object = try await Self.makeSpreadObject(rig)
            var isDone = false
            var seen = Set<String?>()
            try await rig.together([
                {
                    for number in 0..<30 {
                        try await object.update(Self.keys.map { .put($0, "\(number)") })
                        // Without a pause the reader would begin again all the time.
                        await rig.sleep(.milliseconds(2))
                    }
                    isDone = true
                },
                {
                    while !isDone {
                        let values = try await other.transaction { transaction in
                            var values: [String?] = []
                            for key in Self.keys {
                                values.append(
                                    try await transaction.get(object.seen(in: other), key))
                            }
                            return values
                        }
                        #expect(Set(values).count == 1, "\(values)")
                        seen.insert(values[0])
                    }
                },
            ])
            #expect(seen.count > 5, "they hardly met")
            for key in Self.keys { #expect(try await object.get(key) == "29") }
        }
    }

    @Test(
        arguments: [
            (.insert, "key 0", DrayError.Code.exists), (.update, "missing", .notFound),
        ] as [(DrayObject.Condition, String, DrayError.Code)])
    func aConditionThatDoesNotHoldChangesNothing(
        condition: DrayObject.Condition, key: String, code: DrayError.Code
    ) {
        ClusterRig.run(targets: 2, .rp3gx) { rig in
            let object = try await Self.makeSpreadObject(rig)
            try await object.put("key 0", "old")
            for position in 0...1 {
                var changes = Self.keys.dropFirst().map { DrayObject.Change.put($0, "new") }
                changes.append(.remove(dkey: "key 0".bytes, akey: "other".bytes))
                changes.insert(.put(key, "new", condition), at: position * changes.count)
                let (error, _) = try await rig.failure { try await object.update(changes) }
                #expect(error.code == code)
                #expect(!error.mayHaveHappened)
                #expect(try await object.listDkeys().keys == ["key 0".bytes])
                #expect(try await object.get("key 0") == "old")
            }
            // The same changes without it.
            try await object.update(Self.keys.map { .put($0, "new") })
            for key in Self.keys { #expect(try await object.get(key) == "new") }
        }
    }

    @Test func everyKindOfChange() {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            for key in ["a", "b"] { try await object.put(key, "old") }
            try await object.put(dkey: "a".bytes, akey: "other".bytes, value: [1])
            try await object.update([])
            try await object.update([
                .remove(dkey: "a".bytes, akey: textKey, condition: .update),
                .remove(dkey: "b".bytes),
                .write(dkey: "array".bytes, akey: [], offset: 2, bytes: [5, 6]),
                .put("c", "new", .insert),
            ])
            #expect(try await object.listDkeys().keys == ["a", "array", "c"].map(\.bytes))
            #expect(try await object.listAkeys(dkey: "a".bytes).keys == ["other".bytes])
            #expect(try await object.arrayEnd(dkey: "array".bytes, akey: []) == 4)
            #expect(try await object.get("c") == "new")
        }
    }

    @Test func whatMakesNoSenseIsRefused() {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            let wrong: [DrayObject.Change] = [
                .put("b", String(repeating: "x", count: DrayObject.valueMax + 1)),
                .put(String(repeating: "x", count: 65_537), "1"),
                .write(dkey: [1], akey: [], offset: .max, bytes: [1, 2]),
                .write(dkey: [1], akey: [], offset: 0, bytes: []),
            ]
            for (index, change) in wrong.enumerated() {
                let (error, _) = try await rig.failure {
                    try await object.update([.put("a", "1"), change])
                }
                #expect(error.code == .invalidArgument, "\(index): \(error)")
                #expect(!error.mayHaveHappened, "\(index)")
            }
            #expect(try await object.listDkeys().keys == [])
        }
    }

    // MARK: - Conflicts without an end

    /// Who needs keys of several groups does not wait for one that another holds, but begins again.
    /// When its time is over it is told so, whatever it was doing at that moment: meeting the next
    /// conflict, or waiting for a leader that does not answer.
    @Test(arguments: [false, true]) func conflictsEndInTime(leaderIsSilent: Bool) {
        ClusterRig.run(targets: 2, .rp2g1) { rig in
            let other = try await rig.container(ofClient: 1)
            let object = try await rig.makeObject(ObjectClass("RP_2GX"))
            let layout = try #require(
                ObjectLayout(of: object.id, in: object.container.pool.record.map))
            let first = "first"
            let group = layout.group(ofDkey: first.bytes)
            let second = try #require(
                (0..<100).map { "second \($0)" }.first { layout.group(ofDkey: $0.bytes) != group })
            let members = layout.members(ofGroup: group).map { Int($0.rank) }
            // The conditional change of another client holds the key as long as a member does not
            // answer.
            rig.cluster.pause(rank: members[1])
            let holder = rig.client.xstream.spawnCancellable {
                do {
                    try await object.seen(in: other).put(first, "held", .insert)
                } catch {
                    Issue.record("\(error)")
                }
            }
            await rig.sleep(.milliseconds(10))
            if leaderIsSilent {
                rig.cluster.simulation.schedule(at: rig.now + .milliseconds(300)) {
                    rig.cluster.pause(rank: members[0])
                }
            }
            let limited = object.seen(in: rig.container.within(.milliseconds(500)))
            let (error, time) = try await rig.failure {
                try await limited.update([.put(first, "mine"), .put(second, "mine")])
            }
            #expect(error.code == .timedOut, "\(error)")
            #expect(error.mayHaveHappened == leaderIsSilent)
            #expect(time > .milliseconds(200) && time < .milliseconds(520), "\(time)")
            for rank in Set(members) { rig.cluster.resume(rank: rank) }
            await holder.value
            let values = [try await object.get(first), try await object.get(second)]
            #expect(values == ["held", nil])
        }
    }
}
