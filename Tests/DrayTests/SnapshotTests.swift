import Dray
import DrayFabric
import DrayPlacement
import DrayProtocol
import DrayRuntime
import DraySimulator
import Testing

/// Snapshots of containers, and reads at epochs.
@Suite struct SnapshotTests {
    /// Longer than versions are kept without a snapshot.
    static let longAfter: Duration = .seconds(25)

    /// All that a container shows.
    private struct State: Equatable {
        var objects: [ObjectID] = []
        var dkeys: [[[UInt8]]] = []
        var akeys: [[[UInt8]]] = []
        var values: [[UInt8]?] = []
        var ends: [UInt64] = []
        var arrays: [[UInt8]] = []

        init(of container: Container) async throws {
            objects = try await container.listObjects().objects
            for object in objects.map(container.object) {
                let keys = try await object.listDkeys().keys
                dkeys.append(keys)
                for dkey in keys {
                    let below = try await object.listAkeys(dkey: dkey).keys
                    akeys.append(below)
                    for akey in below {
                        values.append(try await object.get(dkey: dkey, akey: akey))
                        let end = try await object.arrayEnd(dkey: dkey, akey: akey)
                        ends.append(end)
                        let buffer = IOBuffer(count: Int(end) + 10)
                        try await object.read(
                            dkey: dkey, akey: akey, offset: 0, into: buffer,
                            range: 0..<buffer.count)
                        arrays.append(buffer.array(0..<buffer.count))
                    }
                }
            }
        }
    }

    private func write(_ object: DrayObject, _ dkey: String, at offset: UInt64, _ byte: UInt8)
        async throws
    {
        let buffer = IOBuffer(copying: [UInt8](repeating: byte, count: 5000))
        try await object.write(
            dkey: dkey.bytes, akey: "array".bytes, offset: offset, buffer: buffer, range: 0..<5000)
    }

    /// Some objects with something of everything.
    private func fill(_ rig: ClusterRig, _ objects: [DrayObject]) async throws {
        for (index, object) in objects.enumerated() {
            for key in ["a", "b", "c", "d", "e"] { try await object.put(key, "old \(index)") }
            try await object.put(
                dkey: "large".bytes, akey: [], value: [UInt8](repeating: 7, count: 90_000))
            try await write(object, "a", at: 100, 1)
            try await write(object, "a", at: 3000, 2)
        }
    }

    private func changeAll(_ rig: ClusterRig, _ objects: [DrayObject]) async throws {
        for object in objects {
            for key in ["a", "c", "z"] { try await object.put(key, "new") }
            try await object.remove(dkey: "b".bytes)
            try await object.remove(dkey: "d".bytes, akey: textKey)
            try await object.put(dkey: "large".bytes, akey: [], value: [1])
            try await write(object, "a", at: 2000, 3)
        }
        try await objects[0].punch()
        try await rig.makeObject().put("a", "another")
    }

    @Test(arguments: [.rp3g1, .rp3gx, .s1, .sx] as [ObjectClass])
    func aSnapshotShowsWhatWas(objectClass: ObjectClass) {
        ClusterRig.run(targets: 2, objectClass) { rig in
            let objects = [try await rig.makeObject(), try await rig.makeObject()]
            try await fill(rig, objects)
            let before = try await State(of: rig.container)
            let snapshot = try await rig.container.createSnapshot(label: "monday")
            try await changeAll(rig, objects)
            // Until every replica knows: a list of objects does not wait for it.
            await rig.sleep(.milliseconds(200))
            let after = try await State(of: rig.container)
            #expect(before != after)

            let other = try await rig.container(ofClient: 1).at(snapshot)
            let then = rig.container.at(snapshot)
            #expect(try await State(of: then) == before)
            #expect(try await State(of: other) == before)
            #expect(try await then.verify().isEqual)
            // What nobody holds is dropped.
            await rig.sleep(Self.longAfter)
            #expect(try await State(of: then) == before)
            for rank in 0..<3 { rig.cluster.kill(rank: rank) }
            for rank in 0..<3 { try await rig.cluster.start(rank: rank) }
            #expect(try await rig.container.snapshots() == [snapshot])
            #expect(try await State(of: other) == before)
            #expect(try await State(of: rig.container) == after)
            #expect(try await then.verify().isEqual)
            #expect(try await rig.container.verify().isEqual)
        }
    }

    @Test func snapshotsAreNamedListedAndDestroyed() {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            var snapshots: [SnapshotRecord] = []
            for label in ["one", "", "two", ""] {
                try await object.put("a", "before \(label)\(snapshots.count)")
                snapshots.append(try await rig.container.createSnapshot(label: label))
            }
            #expect(snapshots.map(\.label) == ["one", "", "two", ""])
            #expect(snapshots.map(\.epoch) == snapshots.map(\.epoch).sorted())
            #expect(try await rig.container.snapshots() == snapshots)
            let (taken, _) = try await rig.failure {
                try await rig.container.createSnapshot(label: "two")
            }
            #expect(taken.code == .exists && !taken.mayHaveHappened, "\(taken)")
            let (bad, _) = try await rig.failure {
                try await rig.container.createSnapshot(label: "a/b")
            }
            #expect(bad.code == .invalidArgument, "\(bad)")
            // Another container may use the label, and knows nothing of these.
            let second = try await rig.container.pool.createContainer(label: "second")
            #expect(try await second.snapshots() == [])
            try await second.createSnapshot(label: "two")

            try await object.put("a", "now")
            try await rig.container.destroySnapshot(snapshots[1])
            let (gone, _) = try await rig.failure {
                try await second.destroySnapshot(snapshots[0])
            }
            #expect(gone.code == .notFound, "\(gone)")
            #expect(
                try await rig.container.snapshots() == [snapshots[0], snapshots[2], snapshots[3]])
            await rig.sleep(Self.longAfter)
            // So that there is something to drop.
            try await object.put("b", "1")
            await rig.sleep(Self.longAfter)
            for (index, snapshot) in snapshots.enumerated() where index != 1 {
                let value = try await object.seen(in: rig.container.at(snapshot)).get("a")
                #expect(value == "before \(snapshot.label)\(index)")
            }
            let (old, time) = try await rig.failure {
                _ = try await object.seen(in: rig.container.at(snapshots[1])).get("a")
            }
            #expect(old.code == .tooOld, "\(old)")
            #expect(time < .milliseconds(100), "\(time)")
            try await rig.container.pool.destroyContainer("second")
            #expect(try await rig.container.snapshots().count == 3)
        }
    }

    /// Engines propose at the same time, and to each other while they store: no change is lost.
    @Test func changesAtTheSameTimeAreAllMade() {
        ClusterRig.run { rig in
            let containers = [rig.container, try await rig.container(ofClient: 1)]
            try await rig.together(
                (0..<6).map { number in
                    {
                        let container = containers[number % 2]
                        for round in 0..<8 {
                            let label = "\(number)-\(round)"
                            let snapshot = try await container.createSnapshot(label: label)
                            if round % 2 == 0 { try await container.destroySnapshot(snapshot) }
                        }
                    }
                })
            let labels = try await rig.container.snapshots().map(\.label).sorted()
            let expected = (0..<6).flatMap { number in
                [1, 3, 5, 7].map { "\(number)-\($0)" }
            }
            #expect(labels == expected.sorted())
        }
    }

    @Test func whatWasCanOnlyBeRead() {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            try await object.put("a", "1")
            let snapshot = try await rig.container.createSnapshot()
            let then = object.seen(in: rig.container.at(snapshot))
            let buffer = IOBuffer(count: 100)
            let changes: [() async throws -> Void] = [
                { try await then.put("a", "2") },
                { try await then.remove(dkey: "a".bytes) },
                { try await then.punch() },
                { try await then.update([.put("a", "2"), .put("b", "2")]) },
                {
                    try await then.write(
                        dkey: [1], akey: [], offset: 0, buffer: buffer, range: 0..<100)
                },
                {
                    try await rig.container.transaction { transaction in
                        try await transaction.put(object, "b", "2")
                        try await transaction.put(then, "a", "2")
                    }
                },
            ]
            for change in changes {
                let (error, _) = try await rig.failure { try await change() }
                #expect(error.code == .invalidArgument && !error.mayHaveHappened, "\(error)")
            }
            #expect(try await object.get("a") == "1")
            #expect(try await object.get("b") == nil)
            // A transaction may look at what was beside what is.
            try await object.put("a", "2")
            try await rig.container.transaction { transaction in
                let old = try await transaction.get(then, "a")
                try await transaction.put(object, "a", (old ?? "") + "!")
                #expect(try await transaction.get(object, "a") == "1!")
                #expect(try await transaction.get(then, "a") == "1")
            }
            #expect(try await object.get("a") == "1!")
        }
    }

    @Test func readsAtEpochs() {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            let world = rig.cluster.world(client: 0)
            var times: [UInt64] = []
            for number in 0..<3 {
                try await object.put("a", "\(number)")
                await rig.sleep(.milliseconds(100))
                times.append(world.clock.wallNanoseconds)
                await rig.sleep(.milliseconds(100))
            }
            for (number, time) in times.enumerated() {
                let then = rig.container.at(epoch: time)
                #expect(try await object.seen(in: then).get("a") == "\(number)")
                #expect(try await State(of: then).values == [Array("\(number)".utf8)])
            }
            // A leader whose clock is a little behind waits for the epoch, so that nothing can get
            // it any more.
            let ahead = world.clock.wallNanoseconds + 400_000_000
            #expect(try await object.seen(in: rig.container.at(epoch: ahead)).get("a") == "2")
            #expect(world.clock.wallNanoseconds >= ahead)
            let future = rig.container.at(epoch: times[2] + 10_000_000_000)
            let (early, _) = try await rig.failure {
                _ = try await object.seen(in: future).get("a")
            }
            #expect(early.code == .invalidArgument, "\(early)")
            await rig.sleep(Self.longAfter)
            try await object.put("a", "4")
            await rig.sleep(Self.longAfter)
            let (late, _) = try await rig.failure {
                _ = try await object.seen(in: rig.container.at(epoch: times[0])).get("a")
            }
            #expect(late.code == .tooOld, "\(late)")
        }
    }

    /// A snapshot beside transactions is one moment among them, and stays as it is.
    @Test(arguments: 0..<6 as Range<UInt64>)
    func aSnapshotIsOneMoment(seed: UInt64) {
        ClusterRig.run(seed: seed, targets: 2, .rp3gx) { rig in
            let objects = [
                try await rig.makeObject(), try await rig.makeObject(.rp2g1),
                try await rig.makeObject(.s1),
            ]
            var (acknowledged, begun, isOver) = (0, 0, false)
            let generation = { (container: Container) async throws -> [String?] in
                var values: [String?] = []
                for object in objects {
                    for key in ["a", "b", "c"] {
                        values.append(try await object.seen(in: container).get(key))
                    }
                }
                return values
            }
            let write = {
                while !isOver {
                    begun += 1
                    let number = begun
                    try await rig.container.transaction { transaction in
                        for object in objects {
                            for key in ["a", "b", "c"] {
                                try await transaction.put(object, key, "\(number)")
                            }
                        }
                    }
                    acknowledged = number
                }
            }
            let look = {
                defer { isOver = true }
                let second = try await rig.container(ofClient: 1)
                var seen: [(SnapshotRecord, [String?])] = []
                for _ in 0..<8 {
                    let floor = acknowledged
                    let snapshot = try await second.createSnapshot()
                    let ceiling = begun
                    let values = try await generation(rig.container.at(snapshot))
                    #expect(Set(values).count == 1, "\(values)")
                    let number = values[0].flatMap { Int($0) } ?? 0
                    #expect(floor <= number && number <= ceiling)
                    seen.append((snapshot, values))
                    await rig.sleep(.milliseconds(Int64(seed) * 3))
                }
                isOver = true
                await rig.sleep(Self.longAfter)
                for (snapshot, values) in seen {
                    #expect(try await generation(second.at(snapshot)) == values)
                    #expect(try await second.at(snapshot).verify().isEqual)
                }
            }
            try await rig.together([write, look])
        }
    }

    /// A replica that has not heard yet of a change that has its epoch already shows no other past
    /// later: a snapshot waits until it has.
    @Test(arguments: 0..<4 as Range<UInt64>)
    func everyReplicaShowsTheSameFromTheBeginning(seed: UInt64) {
        ClusterRig.run(seed: seed, .rp2g1) { rig in
            var entropy = Entropy(seed: seed).fork("delays")
            let object = try await rig.makeObject()
            let writer = try await rig.container(ofClient: 1)
            try await object.put("a", "0")
            // The reader asks the other replica, as it does not reach the leader.
            let leader = Int(try object.layout()[0].rank)
            rig.cluster.fabric.partition([rig.cluster.node(client: 0)], [leader])
            for round in 1...120 {
                rig.cluster.fabric.faults = .none
                _ = try await object.get("a")
                rig.cluster.fabric.faults.slowRate = FabricFaults.unit / 20
                rig.cluster.fabric.faults.slowLatencyMax = .milliseconds(40)
                var isPut = false
                try await rig.together([
                    {
                        try await object.seen(in: writer).put("a", "\(round)")
                        isPut = true
                    },
                    {
                        await rig.sleep(.microseconds(Int64(entropy.below(400))))
                        let then = rig.container.at(try await writer.createSnapshot())
                        let first = try await object.seen(in: then).get("a")
                        while !isPut { await rig.sleep(.milliseconds(1)) }
                        await rig.sleep(.milliseconds(200))
                        #expect(try await object.seen(in: then).get("a") == first)
                    },
                ])
            }
            rig.cluster.fabric.heal()
        }
    }

    /// What an engine whose clock is ahead has acknowledged is in the snapshot, or there is none.
    @Test func aClockThatIsAhead() {
        ClusterRig.run(.sx) { rig in
            let object = try await rig.makeObject()
            let ahead = Int(try object.layout()[0].rank)
            rig.cluster.simulation.stepWallClock(node: ahead, by: 1_700_000_000)
            let keys = (0..<24).map { "\($0)" }
            for key in keys { try await object.put(key, "1") }
            var refusals = 0
            for _ in 0..<3 {
                do {
                    let snapshot = try await rig.container.createSnapshot()
                    let then = object.seen(in: rig.container.at(snapshot))
                    for key in keys { #expect(try await then.get(key) == "1", "\(key)") }
                } catch let error as DrayError {
                    #expect(error.code == .unavailable, "\(error)")
                    #expect(!error.mayHaveHappened)
                    refusals += 1
                }
            }
            #expect(refusals > 0)
            // The clock is right again, once the others have come as far.
            rig.cluster.simulation.stepWallClock(node: ahead, by: -1_700_000_000)
            await rig.sleep(.seconds(2))
            let snapshot = try await rig.container.createSnapshot()
            let then = object.seen(in: rig.container.at(snapshot))
            for key in keys { #expect(try await then.get(key) == "1") }
        }
    }

    /// Without an engine there is no snapshot, and nothing of it is left.
    @Test(arguments: 0..<3) func anEngineThatIsDown(dead: Int) {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            try await object.put("a", "1")
            let kept = try await rig.container.createSnapshot()
            await rig.sleep(.milliseconds(200))
            rig.cluster.kill(rank: dead)
            let (error, time) = try await rig.failure {
                try await rig.container.within(.seconds(4)).createSnapshot(label: "no")
            }
            #expect(error.code == .unavailable || error.code == .timedOut, "\(error)")
            #expect(time < .milliseconds(4100), "\(time)")
            #expect(try await object.seen(in: rig.container.at(kept)).get("a") == "1")
            try await rig.cluster.start(rank: dead)
            if !error.mayHaveHappened { #expect(try await rig.container.snapshots() == [kept]) }
            try await expectSettled(rig)
            try await rig.container.createSnapshot(label: "yes")
            #expect(try await rig.container.snapshots().map(\.label).last == "yes")
        }
    }

    /// Some time later every target holds the snapshots that the metadata names, and no other.
    private func expectSettled(_ rig: ClusterRig) async throws {
        await rig.sleep(.seconds(20))
        let epochs = try await rig.container.snapshots().map(\.epoch)
        for rank in 0..<rig.cluster.engineCount {
            let held = await rig.cluster.heldEpochs(rank: rank)
            #expect(!held.isEmpty && held.allSatisfy { $0 == epochs }, "engine \(rank): \(held)")
        }
    }

    /// An engine is killed while snapshots are made and destroyed: each is there at every target or
    /// at none, and who was told that it was made finds what was there.
    @Test(arguments: 0..<24 as Range<UInt64>)
    func kills(seed: UInt64) {
        ClusterRig.run(seed: seed, targets: 2, .rp3gx) { rig in
            var entropy = Entropy(seed: seed).fork("kills")
            let object = try await rig.makeObject()
            for key in ["a", "b"] { try await object.put(key, "0") }
            var expected: [(snapshot: SnapshotRecord, value: String)] = []
            var failed: Set<String> = []
            for round in 0..<3 {
                let dead = Int(entropy.below(3))
                let delay = Duration.microseconds(Int64(entropy.below(6000)))
                let value = "\(round)"
                let limited = rig.container.within(.seconds(8))
                try await object.put("a", value)
                try await rig.together([
                    {
                        do {
                            let made = try await limited.createSnapshot(label: "s\(round)")
                            expected.append((made, value))
                        } catch let error as DrayError {
                            #expect(
                                [.unavailable, .timedOut].contains(error.code), "\(error)")
                            guard !error.mayHaveHappened else { return }
                            failed.insert("s\(round)")
                            let labels = try await rig.container.snapshots().map(\.label)
                            #expect(!labels.contains("s\(round)"))
                        }
                    },
                    {
                        await rig.sleep(delay)
                        rig.cluster.kill(rank: dead)
                        await rig.sleep(.milliseconds(Int64(entropy.below(3000))))
                        try await rig.cluster.start(rank: dead)
                    },
                ])
            }
            if let first = expected.first, entropy.below(2) == 0 {
                try await rig.container.destroySnapshot(first.snapshot)
                expected.removeFirst()
            }
            try await object.put("a", "later")
            try await expectSettled(rig)
            await rig.sleep(Self.longAfter)
            let listed = try await rig.container.snapshots()
            for (snapshot, value) in expected {
                #expect(listed.contains(snapshot))
                #expect(try await object.seen(in: rig.container.at(snapshot)).get("a") == value)
            }
            // None comes later, when its maker was told that there would be none.
            #expect(failed.isDisjoint(with: listed.map(\.label)))
            // All that is listed is whole for everybody, also where its maker never heard of it.
            let other = try await rig.container(ofClient: 1)
            #expect(try await other.snapshots() == listed)
            for snapshot in listed {
                let then = rig.container.at(snapshot)
                let state = try await State(of: then)
                #expect(state.objects == [object.id] && state.dkeys == [["a".bytes, "b".bytes]])
                #expect(try await State(of: other.at(snapshot)) == state)
                // What was written before it was asked for, or later.
                let value = try await object.seen(in: other.at(snapshot)).get("a") ?? "nothing"
                let round = try #require(Int(snapshot.label.dropFirst()))
                #expect(value == "later" || Int(value).map { $0 >= round } == true, "\(value)")
                #expect(try await object.seen(in: then).get("b") == "0")
                #expect(try await then.verify().isEqual)
            }
        }
    }
}
