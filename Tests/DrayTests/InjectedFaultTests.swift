import Dray
import DrayProtocol
import DrayRuntime
import Testing

/// Faults injected into running engines, and what a client sees of them.
@Suite struct InjectedFaultTests {
    private static func set(_ rig: ClusterRig, _ rules: String...) async throws {
        var request = TuneRequest()
        request.faults = rules
        for (_, reply) in await rig.client.tune(request) { _ = try reply.get() }
    }

    /// What each engine has struck, by rank.
    private static func struck(_ rig: ClusterRig) async throws -> [UInt64] {
        try await rig.client.tune().map { try $0.reply.get().faults.reduce(0) { $0 + $1.struck } }
    }

    /// Whatever stands in the way for a while is got over; what does not change is reported, and
    /// changes nothing.
    @Test func objectRequestsFail() {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            try await object.put("a", "old")
            for error in ["busy", "stale-map"] {
                try await Self.set(rig, "engine.object,error=\(error),count=2")
                try await object.put("a", error)
                #expect(try await object.get("a") == error)
                #expect(try await Self.struck(rig).contains(2))
            }
            for (error, code) in [("no-space", .noSpace), ("io", .device)]
                as [(String, DrayError.Code)]
            {
                try await Self.set(rig, "engine.object,error=\(error)")
                let (found, _) = try await rig.failure { try await object.put("a", "new") }
                #expect(found.code == code, "\(found)")
                try await Self.set(rig)
                #expect(try await object.get("a") == "stale-map")
            }
            try await Self.set(rig, "engine.object,delay=200ms")
            let start = rig.now
            try await object.put("a", "late")
            #expect(rig.now.since(start) >= .milliseconds(200))
        }
    }

    /// A member that does not prepare makes the leader begin again, or give up; replicas agree.
    @Test func membersDoNotPrepare() {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            try await object.put("a", "old")
            try await Self.set(rig, "engine.prepare,count=1")
            try await object.put("a", "new")
            #expect(try await Self.struck(rig).reduce(0, +) > 0)
            try await Self.set(rig)
            #expect(try await object.get("a") == "new")
            try await Self.set(rig, "engine.prepare,delay=100ms")
            let start = rig.now
            try await object.put("a", "late")
            #expect(rig.now.since(start) >= .milliseconds(100))
            try await Self.set(rig)
            #expect(try await object.get("a") == "late")
        }
    }

    @Test func metadataCannotBeStored() {
        ClusterRig.run { rig in
            let pool = rig.container.pool
            try await Self.set(rig, "metadata.store")
            let (error, _) = try await rig.failure {
                _ = try await pool.createContainer(label: "more")
            }
            #expect(error.code == .device && "\(error)".contains("(injected)"), "\(error)")
            // Nobody has stored anything of it.
            try await Self.set(rig)
            _ = try await pool.createContainer(label: "more")
        }
    }
}
