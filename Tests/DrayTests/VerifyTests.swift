import Dray
import DrayPlacement
import DrayRuntime
import DraySimulator
import Testing

/// Comparing replicas: `DrayObject.verify` and `Container.verify`.
@Suite struct VerifyTests {
    /// Longer than what stays in the index, and everywhere another.
    static let large = (0..<10_000).map { UInt8(truncatingIfNeeded: $0 &* 2_654_435_761 >> 13) }

    private func fill(_ object: DrayObject) async throws {
        try await object.put("a", "old")
        try await object.put("a", "12345")
        try await object.put(dkey: "large".bytes, akey: [], value: Self.large)
        try await object.put(dkey: "gone".bytes, akey: [], value: Self.large)
        try await object.remove(dkey: "gone".bytes)
        try await object.write(
            dkey: "array".bytes, akey: [], offset: 100, buffer: IOBuffer(copying: Self.large),
            range: 0..<6000)
    }

    @Test(arguments: [(.rp3g1, 3), (.rp2g1, 2), (.s1, 1)] as [(ObjectClass, UInt64)])
    func whatIsEqual(objectClass: ObjectClass, replicas: UInt64) {
        ClusterRig.run(objectClass) { rig in
            let object = try await rig.makeObject()
            #expect(try await object.verify().values == 0)
            try await fill(object)
            let report = try await object.verify()
            #expect(report.isEqual && report.differences.isEmpty)
            #expect(report.objects == 1)
            #expect(report.groups == 1)
            #expect(report.replicas == replicas)
            #expect(report.values == 3)
            #expect(report.bytes == 5 + 10_000 + 6000)
        }
    }

    @Test func aContainerIsVerifiedObjectByObject() {
        ClusterRig.run(targets: 2, .rp3gx) { rig in
            let empty = try await rig.container.verify { _ in Issue.record("there is nothing") }
            #expect(empty.objects == 0 && empty.isEqual)
            var objects = Set<ObjectID>()
            for _ in 0..<20 {
                let object = try await rig.makeObject()
                try await fill(object)
                objects.insert(object.id)
            }
            #expect(try await Set(rig.container.listObjects().objects) == objects)
            // The callbacks come on this very xstream.
            nonisolated(unsafe) var told: [VerificationReport] = []
            let report = try await rig.container.verify { told.append($0) }
            #expect(told.map(\.objects) == Array(1...20))
            #expect(told.last?.bytes == report.bytes)
            for (before, after) in zip(told, told.dropFirst()) {
                #expect(after.values > before.values && after.bytes > before.bytes)
            }
            #expect(report.isEqual)
            #expect(report.objects == 20)
            #expect(report.groups == 40)
            #expect(report.replicas == 120)
            #expect(report.values == 60)
            #expect(report.bytes == 20 * 16_005)
        }
    }

    /// Damages every value. Chance may spare one, but not again and again.
    private func damage(_ target: TargetAddress, _ rig: ClusterRig) {
        for _ in 0..<5 { #expect(rig.cluster.rot(rank: Int(target.rank), oneIn: 1) > 0) }
    }

    /// What is damaged in one replica is named, and the others answer.
    @Test func damageIsFound() {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            try await fill(object)
            let layout = try object.layout()
            let target = layout[1]
            damage(target, rig)
            let report = try await object.verify()
            #expect(!report.isEqual)
            #expect(report.values == 3)
            #expect(report.differenceCount == 2)
            #expect(report.differences.map(\.dkey) == ["array", "large"].map(\.bytes))
            for difference in report.differences {
                #expect(difference.object == object.id)
                #expect(difference.extent == (difference.dkey == "array".bytes ? 100..<6100 : nil))
                #expect(difference.replicas.map(\.target) == layout)
                for replica in difference.replicas {
                    switch replica.state {
                    case .corrupt: #expect(replica.target == target)
                    case .present(let count, _, _):
                        #expect(replica.target != target)
                        #expect(count == (difference.extent == nil ? 10_000 : 6000))
                    case .missing: Issue.record("nothing is missing")
                    }
                }
            }
            #expect(try await object.get(dkey: "large".bytes, akey: []) == Self.large)
            for replica in layout where replica != target { damage(replica, rig) }
            let (error, _) = try await rig.failure {
                _ = try await object.get(dkey: "large".bytes, akey: [])
            }
            #expect(error.code == .corrupt)
            #expect(!error.mayHaveHappened)
            // Which value, and where: one of the replicas.
            let text = "object \(object.id), dkey 'large', akey '', offset 0, 10000 bytes, epoch "
            #expect(error.message.contains(text), "\(error)")
            let places = layout.map { replica in
                let device = rig.cluster.devicePath(rank: Int(replica.rank), device: 0)
                return error.message.contains("data, engine \(replica.rank): ")
                    && error.message.contains("in \(device) at byte ")
            }
            #expect(places.count(where: { $0 }) == 1, "\(error)")
        }
    }

    /// Changes go on while replicas are compared, with pauses or one right after the other: none of
    /// them is taken for a difference, and none keeps the comparison waiting for long.
    @Test(arguments: [.milliseconds(80), .zero] as [Duration])
    func changesMayGoOn(pause: Duration) {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            try await fill(object)
            let limited = object.seen(in: rig.container.within(.milliseconds(100)))
            var isDone = false
            var count = 0
            try await rig.together([
                {
                    while !isDone {
                        count += 1
                        try await object.update([.put("a", "\(count)"), .put("b", "\(count)")])
                        try await object.put("\(count % 5)", "\(count)")
                        await rig.sleep(pause)
                    }
                },
                {
                    defer { isDone = true }
                    var comparisons = 0
                    // How many changes fall into one depends on the schedule.
                    while comparisons < 10 || count <= 3, comparisons < 1000 {
                        let report = try await limited.verify()
                        #expect(report.differences == [])
                        comparisons += 1
                    }
                },
            ])
            #expect(count > 3)
        }
    }
}
