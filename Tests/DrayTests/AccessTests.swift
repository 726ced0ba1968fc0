import Dray
import DrayPlacement
import DrayProtocol
import DrayRuntime
import DraySimulator
import Testing

/// A container that was opened for reading only.
@Suite struct AccessTests {
    @Test(arguments: [.rp3g1, .s1] as [ObjectClass])
    func whatIsOpenedForReadingIsRead(objectClass: ObjectClass) {
        ClusterRig.run(objectClass) { rig in
            let written = try await rig.makeObject()
            try await written.put("key", "value")
            let container = try await rig.client.pool("tank").container("data", .readOnly)
            #expect(container.access == .readOnly && rig.container.access == .readWrite)
            let object = written.seen(in: container)
            #expect(try await object.get("key") == "value")
            #expect(try await object.listDkeys().keys == ["key".bytes])
            #expect(try await container.listObjects().objects == [object.id])
            #expect(try await container.verify().isEqual)
            let value = try await container.transaction { try await $0.get(object, "key") }
            #expect(value == "value")
            let snapshot = try await rig.container.createSnapshot()
            #expect(try await container.snapshots() == [snapshot])
            #expect(try await written.seen(in: container.at(snapshot)).get("key") == "value")
            let all = try await rig.client.pool("tank").containers(.readOnly)
            #expect(all.map(\.access) == [.readOnly] && all.map(\.id) == [container.id])
        }
    }

    @Test(arguments: [.rp3g1, .s1] as [ObjectClass])
    func whatIsOpenedForReadingCannotBeChanged(objectClass: ObjectClass) {
        ClusterRig.run(objectClass) { rig in
            let written = try await rig.makeObject()
            try await written.put("key", "value")
            let container = try await rig.client.pool("tank").container("data", .readOnly)
            let object = written.seen(in: container)
            func refused(
                location: SourceLocation = #_sourceLocation, _ body: () async throws -> Void
            ) async throws {
                let (error, time) = try await rig.failure(location: location, body)
                #expect(
                    error.code == .notPermitted && !error.mayHaveHappened, "\(error)",
                    sourceLocation: location)
                #expect(error.message.contains("for reading only"), sourceLocation: location)
                #expect(time < .seconds(1), "it was tried again", sourceLocation: location)
            }
            try await refused { try await object.put("key", "other") }
            try await refused {
                try await object.put("key", String(repeating: "x", count: 300_000))
            }
            try await refused { try await object.remove(dkey: "key".bytes) }
            try await refused { try await object.punch() }
            try await refused { try await object.update([.put("a", "1"), .put("b", "2")]) }
            try await refused { try await container.createSnapshot() }
            let snapshot = try await rig.container.createSnapshot()
            try await refused { try await container.destroySnapshot(snapshot) }
            #expect(try await rig.container.snapshots() == [snapshot])
            // Not even beside changes that are permitted.
            try await refused {
                try await rig.container.transaction { transaction in
                    try await transaction.put(written, "beside", "1")
                    try await transaction.put(object, "key", "other")
                }
            }
            #expect(try await written.listDkeys().keys == ["key".bytes])
            #expect(try await written.get("key") == "value")
        }
    }

    @Test func noSuchContainer() {
        ClusterRig.run { rig in
            let pool = rig.container.pool
            for label in ["other", "", "no/label", String(repeating: "x", count: 5000)] {
                let (error, _) = try await rig.failure { _ = try await pool.container(label) }
                #expect(error.code == .notFound && !error.mayHaveHappened, "\(error)")
                #expect(error.message.contains("there is no container"), "\(error)")
            }
            try await rig.client.destroyPool("tank")
            let (error, _) = try await rig.failure { _ = try await pool.containers() }
            #expect(error.code == .notFound, "\(error)")
        }
    }
}
