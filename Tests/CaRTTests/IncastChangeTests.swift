import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

/// Members that come, go, and know different versions of the group.
@Suite struct IncastChangeTests {
    static let key = NoteKey()

    /// Whoever is on the way dies without a word; whether the group says so, or nobody does.
    @Test(arguments: FabricKind.allCases, [true, false])
    func aDeadParentLosesNothing(kind: FabricKind, isRemoved: Bool) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 13)
            try await cluster.variables[0].update(Self.key, Blob(number: 1))
            cluster.notes[0].delay = .milliseconds(100)
            var (fetched, updated): (UInt64?, IncastOutcome?)
            rig.xstream.spawn {
                let value = try? await cluster.variables[12].fetch(Self.key, version: .latest)
                fetched = value?.value.number
            }
            rig.xstream.spawn {
                updated = try? await cluster.variables[11].update(
                    NoteKey(1), Blob(number: 2), sync: .eager(.update))
            }
            try await rig.wait("both at the owner") {
                cluster.notes[0].log.contains("store 2") && cluster.notes[0].loads == 1
            }
            // As a crash does it: nobody is told.
            cluster.namespaces[3].close()
            cluster.contexts[3].shutDown()
            if isRemoved { try cluster.regroup((0..<13).filter { $0 != 3 }) }
            try await rig.wait("both") { fetched != nil && updated != nil }
            #expect(fetched == 1)
            #expect(cluster.notes[0].stored == [1, 2])
            #expect(updated?.missed.ranks == (isRemoved ? [] : [3]))
            #expect(updated?.reached == 11)
            for rank in 1..<13 where rank != 3 { #expect(cluster.copy(rank, NoteKey(1)) == 2) }
            #expect(cluster.sum(\.retries) > 0)
        }
    }

    /// Attempts that come again and again, over other ways, are stored once.
    @Test(arguments: FabricKind.allCases)
    func anUpdateIsStoredOnce(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 13)
            cluster.notes[0].delay = .milliseconds(100)
            var outcomes: [IncastOutcome] = []
            for rank in 4..<13 {
                rig.xstream.spawn {
                    let outcome = try? await cluster.variables[rank].update(
                        NoteKey(UInt32(rank)), Blob(number: UInt64(rank)), sync: .eager(.notify))
                    if let outcome { outcomes.append(outcome) }
                }
            }
            for _ in 0..<6 {
                await rig.xstream.sleep(for: .milliseconds(30))
                try cluster.regroup()
            }
            try await rig.wait("all") { outcomes.count == 9 }
            #expect(cluster.notes[0].stored.sorted() == Array(4..<13))
            #expect(cluster.sum(\.updatesRepeated) > 0)
            #expect(outcomes.allSatisfy { $0.reached == 12 && $0.missed.isEmpty })
            try await cluster.settle()
        }
    }

    /// Who knows another version of the group is not asked and not believed; the operation waits
    /// for it to learn, until its time is over.
    @Test(arguments: FabricKind.allCases)
    func versionsOfTheGroup(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 13)
            try await cluster.variables[0].update(
                Self.key, Blob(number: 1), sync: .eager(.update))
            try cluster.regroup(told: (0..<13).filter { $0 != 0 })
            #expect(
                await incastFailure { () throws(IncastError) in
                    try await cluster.variables[12].fetch(
                        Self.key, version: .latest, deadline: .after(.seconds(1)))
                } == .timedOut(last: .groupVersion))
            #expect(
                await incastFailure { () throws(IncastError) in
                    try await cluster.variables[0].update(
                        Self.key, Blob(number: 2), sync: .eager(.notify),
                        deadline: .after(.seconds(1)))
                } == .timedOut(last: .groupVersion))
            // Stored, but not spread to all.
            #expect(cluster.notes[0].stored == [1, 2])
            var outcome: IncastOutcome?
            rig.xstream.spawn {
                outcome = try? await cluster.variables[0].update(
                    Self.key, Blob(number: 3), sync: .eager(.update))
            }
            await rig.xstream.sleep(for: .milliseconds(50))
            #expect(outcome == nil)
            try cluster.contexts[0].group.apply(
                .replace(cluster.contexts[1].group.members), version: cluster.version)
            try await rig.wait("the update") { outcome != nil }
            #expect(outcome?.reached == 12)
            #expect(cluster.notes[0].stored == [1, 2, 3])
            for rank in 1..<13 { #expect(cluster.copy(rank) == 3) }
            try await cluster.settle()
        }
    }

    /// An attempt that the deadline cuts short does not hide why the one before it failed.
    @Test func theReasonOutlivesTheDeadline() async throws {
        try await withRig(.simulated) { rig in
            let cluster = try IncastCluster(rig, 13)
            try cluster.regroup(told: (0..<13).filter { $0 != 0 })
            cluster.notes[12].delay = .milliseconds(3)
            for step in 0..<100 {
                #expect(
                    await incastFailure { () throws(IncastError) in
                        try await cluster.variables[12].fetch(
                            Self.key, version: .latest,
                            deadline: .after(.microseconds(20_000 + 71 * step)))
                    } == .timedOut(last: .groupVersion))
            }
        }
    }

    @Test(arguments: FabricKind.allCases)
    func ownersChange(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 6, tree: .kAry(2), owner: nil)
            let (kept, moved) = (NoteKey(0), NoteKey(5))
            for key in [kept, moved] {
                try await cluster.variables[3].update(
                    key, Blob(number: 1), sync: .eager(.update))
            }
            #expect(cluster.notes[0].stored == [1] && cluster.notes[5].stored == [1])
            // Rank 5 leaves: its keys belong to rank 0.
            try cluster.regroup(Array(0..<5))
            for rank in 1..<5 {
                #expect(cluster.copy(rank, kept) == 1)
                #expect(cluster.copy(rank, moved) == nil)
            }
            let missing = IncastError.call(.application(code: 404, message: "no such note"))
            #expect(
                await incastFailure { () throws(IncastError) in
                    try await cluster.variables[3].fetch(moved)
                } == missing)
            try await cluster.variables[3].update(moved, Blob(number: 2), sync: .lazy(.update))
            #expect(cluster.notes[0].stored == [1, 2])
            try await cluster.settle()
            #expect(cluster.copy(4, moved) == 2)
            // It is out, and hears so.
            #expect(
                await incastFailure { () throws(IncastError) in
                    try await cluster.variables[5].fetch(kept)
                } == .notAMember)
            // It comes back, in another life; nobody keeps what the other owner gave.
            cluster.incarnations[5] = 1
            try cluster.regroup()
            for rank in 1..<5 {
                #expect(cluster.copy(rank, kept) == 1)
                #expect(cluster.copy(rank, moved) == nil)
            }
            #expect(cluster.sum(\.copiesForgotten) >= 8)
            #expect(try await cluster.variables[3].fetch(moved).value.number == 1)
            // The owner of both restarts; a version is missed.
            cluster.incarnations[0] = 1
            try cluster.regroup()
            for rank in 1..<5 { #expect(cluster.copy(rank, kept) == nil) }
            _ = try await cluster.variables[4].fetch(kept)
            try cluster.regroup(told: [0, 1, 2, 3, 5])
            try cluster.regroup()
            #expect(cluster.copy(4, kept) == nil)
            try await cluster.settle()
        }
    }

    @Test(arguments: FabricKind.allCases)
    func classesMayForgetWithEveryChange(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 4) { $0.discardsCopies = true }
            try await cluster.variables[0].update(
                Self.key, Blob(number: 1), sync: .eager(.update))
            for rank in 1..<4 { #expect(cluster.copy(rank) == 1) }
            try cluster.regroup()
            for rank in 1..<4 { #expect(cluster.copy(rank) == nil) }
            #expect(try await cluster.variables[3].fetch(Self.key).value.number == 1)
            try await cluster.settle()
        }
    }

    /// A change while news are on their way: eager ones reach the new members before the update
    /// returns, lazy ones in the end.
    @Test(arguments: FabricKind.allCases)
    func newsReachNewMembers(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            for sync in [IncastSync.eager(.update), .lazy(.update)] {
                let cluster = try IncastCluster(rig, 8, tree: .kAry(2))
                try cluster.regroup(Array(0..<7))
                for kind in cluster.notes { kind.delay = .milliseconds(40) }
                var outcome: IncastOutcome?
                rig.xstream.spawn {
                    outcome = try? await cluster.variables[6].update(
                        Self.key, Blob(number: 1), sync: sync)
                }
                try await rig.wait("news") {
                    cluster.notes[1].log.contains { $0.hasPrefix("refresh") }
                }
                try cluster.regroup()
                try await rig.wait("the update") { outcome != nil }
                if sync == .eager(.update) {
                    #expect(outcome?.reached == 7)
                    #expect(cluster.copy(7) == 1)
                }
                try await rig.wait("the last") { cluster.copy(7) == 1 }
                #expect(cluster.notes[0].stored == [1])
                try await cluster.settle()
            }
        }
    }

    /// Members that do not agree who the owner is do not send each other in circles.
    @Test(arguments: FabricKind.allCases)
    func disagreementEndsInAnError(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 6, tree: .kAry(2))
            for (rank, kind) in cluster.notes.enumerated() {
                kind.fixedOwner = UInt32((rank + 1) % 6)
            }
            // The first one needs connections, which take long with an adapter that is emulated.
            for deadline in [Deadline.after(.seconds(1)), .after(.milliseconds(300))] {
                let error = await incastFailure { () throws(IncastError) in
                    try await cluster.variables[3].fetch(Self.key, deadline: deadline)
                }
                #expect(error == .timedOut(last: .wrongRank))
            }
            #expect(cluster.sum(\.fetchesReceived) < 60)
            cluster.notes[3].fixedOwner = nil
            for kind in cluster.notes { kind.fixedOwner = 77 }
            #expect(
                await incastFailure { () throws(IncastError) in
                    try await cluster.variables[3].fetch(Self.key)
                } == .noOwner)
            try await cluster.settle()
        }
    }

    /// A member whose namespace is not there yet is waited for.
    @Test(arguments: FabricKind.allCases)
    func waitsForNamespaces(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 3, tree: .flat)
            cluster.namespaces[0].close()
            #expect(
                await incastFailure { () throws(IncastError) in
                    try await cluster.variables[1].fetch(
                        Self.key, deadline: .after(.milliseconds(300)))
                } == .timedOut(last: .unknownProcedure))
            let again = IncastNamespace(on: cluster.contexts[0], number: 3, tree: .flat)
            var value: UInt64?
            rig.xstream.spawn {
                value = (try? await cluster.variables[1].fetch(Self.key))?.value.number
            }
            await rig.xstream.sleep(for: .milliseconds(100))
            let kind = Notes(rig.xstream)
            kind.fixedOwner = 0
            _ = kind.memory.store(Blob(number: 8), for: 0, version: 1)
            let variables = again.register(kind)
            try await rig.wait("the value") { value != nil }
            #expect(value == 8)
            #expect(variables.isIdle)
        }
    }
}
