import DrayRuntime
import DrayTestSupport
import Testing

@testable import CaRT

/// Fetches, updates and invalidations in a group that stays as it is.
@Suite struct IncastTests {
    /// With the tree of these tests (three children each, rank 0 the owner), rank 12 is below 3.
    static let key = NoteKey()

    @Test(arguments: FabricKind.allCases)
    func fetchesLeaveCopiesOnTheWay(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 13)
            let first = try await cluster.variables[0].update(Self.key, Blob(number: 5))
            #expect(first.version > 0)
            let value = try await cluster.variables[12].fetch(Self.key)
            #expect(value == IncastVersioned(Blob(number: 5), version: first.version))
            for rank in 0..<13 {
                #expect(cluster.copy(rank) == ([3, 12].contains(rank) ? 5 : nil))
            }
            // Neither the next fetch here nor that of a sibling reaches the owner.
            _ = try await cluster.variables[12].fetch(Self.key)
            _ = try await cluster.variables[11].fetch(Self.key)
            #expect(cluster.namespaces[0].counters.fetchesReceived == 1)
            #expect(cluster.notes[0].loads == 1)
            #expect(cluster.sum(\.fetchesSent) == 3)
            #expect(cluster.sum(\.copiesUsed) == 2)
            // The owner answers itself from what it has; two keys that are equal are one.
            _ = try await cluster.variables[0].fetch(NoteKey(0, hint: 9))
            _ = try await cluster.variables[12].fetch(NoteKey(0, hint: 9))
            #expect(cluster.sum(\.fetchesSent) == 3)
            #expect(cluster.notes[0].loads == 2)
            try await cluster.settle()
        }
    }

    @Test(arguments: FabricKind.allCases)
    func versions(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 13)
            let leaf = cluster.variables[12]
            let one = try await cluster.variables[0].update(Self.key, Blob(number: 1)).version
            _ = try await leaf.fetch(Self.key)
            let two = try await cluster.variables[0].update(Self.key, Blob(number: 2)).version
            #expect(two > one)
            // Nobody was told: the copies are good enough for whoever asks for no more.
            #expect(try await leaf.fetch(Self.key).version == one)
            #expect(try await leaf.fetch(Self.key, version: .atLeast(one)).version == one)
            #expect(cluster.notes[0].loads == 1)
            #expect(try await leaf.fetch(Self.key, version: .atLeast(two)).version == two)
            let three = try await cluster.variables[0].update(Self.key, Blob(number: 3)).version
            #expect(try await leaf.fetch(Self.key).version == two)
            #expect(try await leaf.fetch(Self.key, version: .latest).version == three)
            #expect(try await leaf.fetch(Self.key).version == three)
            #expect(cluster.copy(3) == 3)
            #expect(
                await incastFailure { () throws(IncastError) in
                    try await leaf.fetch(Self.key, version: .atLeast(three + 1))
                } == .olderVersion(three))
            // At the owner, too.
            #expect(
                await incastFailure { () throws(IncastError) in
                    try await cluster.variables[0].fetch(Self.key, version: .atLeast(three + 1))
                } == .olderVersion(three))
            try await cluster.settle()
        }
    }

    /// However many ask: one request for each edge of the tree.
    @Test(arguments: FabricKind.allCases)
    func mergesFetches(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 13)
            try await cluster.variables[0].update(Self.key, Blob(number: 4))
            cluster.notes[0].delay = .milliseconds(30)
            var values: [UInt64] = []
            await concurrently(rig.xstream, 900) { index in
                guard let value = try? await cluster.variables[4 + index % 9].fetch(Self.key)
                else { return }
                values.append(value.value.number)
            }
            #expect(values == Array(repeating: 4, count: 900))
            #expect(cluster.notes[0].loads == 3)
            #expect(cluster.namespaces[0].counters.fetchesReceived == 3)
            for rank in 1...3 { #expect(cluster.namespaces[rank].counters.fetchesReceived == 3) }
            #expect(cluster.sum(\.fetchesSent) == 12)
            try await cluster.settle()
        }
    }

    /// Those of the latest version share the flight that has not left; failures are shared too.
    @Test(arguments: FabricKind.allCases)
    func mergesFetchesOfTheLatestAndFailures(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 13)
            try await cluster.variables[0].update(Self.key, Blob(number: 4))
            cluster.notes[0].delay = .milliseconds(30)
            var values: [UInt64] = []
            await concurrently(rig.xstream, 100) { index in
                guard
                    let value = try? await cluster.variables[4 + index % 9].fetch(
                        Self.key, version: .latest)
                else { return }
                values.append(value.value.number)
            }
            #expect(values == Array(repeating: 4, count: 100))
            // At most two for each edge, and two rounds at each of two levels.
            #expect(cluster.notes[0].loads <= 12)
            #expect(cluster.sum(\.fetchesSent) <= 9 * 2 + 3 * 4)
            var failures: [IncastError?] = []
            let (before, key) = (cluster.notes[0].loads, NoteKey(99))
            await concurrently(rig.xstream, 100) { index in
                failures.append(
                    await incastFailure { () throws(IncastError) in
                        try await cluster.variables[4 + index % 9].fetch(key)
                    })
            }
            let expected = IncastError.call(.application(code: 404, message: "no such note"))
            #expect(failures == Array(repeating: expected, count: 100))
            #expect(cluster.notes[0].loads == before + 3)
            #expect(cluster.notes[12].log.contains("refresh failed"))
            try await cluster.settle()
        }
    }

    // MARK: - Modes

    struct Mode: CustomStringConvertible {
        var sync: IncastSync
        var isBidirectional: Bool
        var description: String { "\(sync)\(isBidirectional ? ", both ways" : "")" }

        static let all: [Mode] = [
            IncastSync.none, .lazy(.notify), .lazy(.update), .eager(.notify), .eager(.update),
        ].flatMap {
            [Mode(sync: $0, isBidirectional: false), Mode(sync: $0, isBidirectional: true)]
        }
    }

    /// What each rank keeps when the update returns (eager), and in the end.
    @Test(arguments: FabricKind.allCases)
    func modes(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 13)
            for (index, mode) in Mode.all.enumerated() {
                try await Self.check(mode, cluster, NoteKey(UInt32(index)))
            }
        }
    }

    private static func check(
        _ mode: Mode, _ cluster: IncastCluster, _ key: NoteKey
    ) async throws {
        try await cluster.variables[0].update(key, Blob(number: 1))
        for rank in 1..<13 { _ = try await cluster.variables[rank].fetch(key) }
        for rank in 1..<13 { #expect(cluster.copy(rank, key) == 1) }
        for kind in cluster.notes { (kind.refreshed, kind.log) = ([], []) }
        // News take a while, so that what an update does not wait for is not there yet.
        for kind in cluster.notes { kind.delay = .milliseconds(5) }
        let outcome = try await cluster.variables[12].update(
            key, Blob(number: 2), sync: mode.sync, isBidirectional: mode.isBidirectional)
        for rank in 1..<13 {
            let isOnTheWay = [3, 12].contains(rank)
            let expected: UInt64?? =
                switch mode.sync {
                case .eager(.update): .some(2)
                // A fetched copy of the notified version comes with the answer.
                case .eager(.notify): isOnTheWay && mode.isBidirectional ? .some(2) : .some(nil)
                case .none where !isOnTheWay: .some(1)
                case .none, .lazy: isOnTheWay ? (mode.isBidirectional ? .some(2) : nil) : nil
                }
            if let expected {
                #expect(cluster.copy(rank, key) == expected, "\(mode), rank \(rank) at once")
            }
            // Where it passed, the old value is not given out any more.
            if isOnTheWay { #expect(cluster.copy(rank, key) != 1) }
        }
        if case .eager = mode.sync {
            #expect(outcome.reached == 12)
        } else {
            #expect(outcome.reached == 0)
        }
        #expect(outcome.missed.isEmpty)
        try await cluster.settle()
        for rank in 1..<13 {
            let isOnTheWay = [3, 12].contains(rank)
            let expected: UInt64? =
                switch mode.sync.event {
                case .update?: 2
                case .notify?: isOnTheWay && mode.isBidirectional ? 2 : nil
                case nil: isOnTheWay ? (mode.isBidirectional ? 2 : nil) : 1
                }
            #expect(cluster.copy(rank, key) == expected, "\(mode), rank \(rank) in the end")
            // The class was told as much.
            let isTold = mode.sync != .none || isOnTheWay
            #expect(cluster.notes[rank].refreshed.isEmpty == !isTold)
            #expect(cluster.notes[rank].refreshed.last == (isTold ? expected ?? 0 : nil))
        }
        for kind in cluster.notes { kind.delay = nil }
        for rank in 0..<13 {
            let number = try await cluster.variables[rank].fetch(key).value.number
            #expect(number == (mode.sync == .none && ![0, 3, 12].contains(rank) ? 1 : 2))
        }
        try await cluster.settle()
    }

    @Test(arguments: FabricKind.allCases)
    func invalidates(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 13)
            let modes: [IncastInvalidation] = [.eager, .lazy, .none]
            for (index, sync) in modes.enumerated() {
                let key = NoteKey(UInt32(index))
                let one = try await cluster.variables[5].update(
                    key, Blob(number: 1), sync: .eager(.update)
                ).version
                for rank in 1..<13 { #expect(cluster.copy(rank, key) == 1) }
                let two = try await cluster.variables[12].invalidate(key, sync: sync).version
                #expect(two > one)
                try await cluster.settle()
                for rank in 1..<13 {
                    let isTold = sync != .none || [3, 12].contains(rank)
                    #expect(cluster.copy(rank, key) == (isTold ? nil : 1))
                }
                // The value has not changed.
                let value = try await cluster.variables[12].fetch(key)
                #expect(value == IncastVersioned(Blob(number: 1), version: two))
                #expect(cluster.notes[0].stored.count == index + 1)
                #expect(cluster.notes[0].storedUpdates.count == 2 * (index + 1))
                try await cluster.settle()
            }
        }
    }

    @Test(arguments: FabricKind.allCases)
    func shortcutsSkipTheWay(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 13)
            let leaf = cluster.variables[12]
            try await leaf.update(Self.key, Blob(number: 1), shortcut: .toOwner)
            #expect(cluster.namespaces[3].counters.updatesReceived == 0)
            #expect(cluster.namespaces[0].counters.updatesReceived == 1)
            #expect(try await leaf.fetch(Self.key, shortcut: .toOwner).value.number == 1)
            #expect(cluster.namespaces[3].counters.fetchesReceived == 0)
            #expect((cluster.copy(3), cluster.copy(12)) == (nil, 1))
            #expect(try cluster.variables[0].childCount(of: Self.key) == 3)
            #expect(try cluster.variables[3].childCount(of: Self.key) == 3)
            #expect(try leaf.childCount(of: Self.key) == 0)
            try await cluster.settle()
        }
    }

    // MARK: - Callbacks

    /// Every callback, in order, at the caller, on the way, and at the owner.
    @Test(arguments: FabricKind.allCases)
    func callbacks(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 13)
            let leaf = cluster.variables[12]
            try await leaf.update(Self.key, Blob(number: 1))
            #expect(
                cluster.notes[0].log == [
                    "willUpdate", "begin writing", "store 1", "end writing",
                ])
            for rank in [3, 12] {
                #expect(
                    cluster.notes[rank].log == [
                        "willUpdate", "begin writing", "update 1", "willRefresh",
                        "begin writing", "refresh stale", "end writing", "end writing",
                    ])
            }
            cluster.clearLogs()
            _ = try await leaf.fetch(Self.key)
            #expect(cluster.notes[0].log == ["willFetch", "begin reading", "load", "end reading"])
            for rank in [3, 12] {
                #expect(
                    cluster.notes[rank].log == [
                        "willFetch", "begin reading", "fetch", "willRefresh", "begin writing",
                        "refresh 1", "end writing", "end reading",
                    ])
            }
            cluster.clearLogs()
            try await cluster.variables[0].update(
                Self.key, Blob(number: 2), sync: .eager(.update))
            #expect(
                cluster.notes[0].log == [
                    "willUpdate", "begin writing", "store 2", "willSpread", "end writing",
                ])
            #expect(
                cluster.notes[3].log.sorted() == [
                    "begin writing", "end writing", "refresh 2", "willRefresh", "willSpread",
                ])
            #expect(
                cluster.notes[12].log == [
                    "willRefresh", "begin writing", "refresh 2", "end writing",
                ])
            cluster.clearLogs()
            try await leaf.invalidate(Self.key)
            #expect(cluster.notes[0].log.contains("store nothing"))
            #expect(cluster.notes[7].log.contains("refresh stale"))
            #expect(cluster.notes[1].log.filter { $0 == "refresh stale" }.count == 1)
            try await cluster.settle()
        }
    }

    /// What a callback throws reaches the caller; nothing stays open.
    @Test(arguments: [
        (12, "begin"), (12, "fetch"), (3, "begin"), (3, "fetch"), (0, "begin"), (0, "load"),
        (12, "update"), (3, "update"), (0, "store"),
    ])
    func refusals(rank: Int, word: String) async throws {
        try await withRig(.simulated) { rig in
            let cluster = try IncastCluster(rig, 13)
            try await cluster.variables[0].update(Self.key, Blob(number: 1))
            let error = RPCError.application(code: 7, message: "not today")
            cluster.notes[rank].failures = [word: error]
            if !["update", "store"].contains(word) {
                #expect(
                    await incastFailure { () throws(IncastError) in
                        try await cluster.variables[12].fetch(Self.key)
                    } == .call(error))
                #expect(cluster.copy(12) == nil)
            }
            if !["fetch", "load"].contains(word) {
                #expect(
                    await incastFailure { () throws(IncastError) in
                        try await cluster.variables[12].update(Self.key, Blob(number: 2))
                    } == .call(error))
                #expect(cluster.notes[0].memory[0]?.value.number == 1)
            }
            #expect(cluster.sum(\.retries) == 0)
            // Refused is refused once only.
            cluster.notes[rank].failures = [:]
            try await cluster.variables[12].update(Self.key, Blob(number: 3))
            #expect(try await cluster.variables[12].fetch(Self.key).value.number == 3)
            try await cluster.settle()
        }
    }

    /// A rank that does not take news is missed, and keeps nothing old.
    @Test(arguments: FabricKind.allCases)
    func ranksThatMissNews(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 13)
            try await cluster.variables[0].update(
                Self.key, Blob(number: 1), sync: .eager(.update))
            let error = RPCError.application(code: 7, message: "not today")
            cluster.notes[3].failures = ["refresh": error]
            let outcome = try await cluster.variables[5].update(
                Self.key, Blob(number: 2), sync: .eager(.update))
            #expect(outcome.reached == 11)
            #expect(outcome.missed.ranks == [3])
            #expect((cluster.copy(3), cluster.copy(12)) == (nil, 2))
            // It will not pass them on: those below miss them, too.
            cluster.notes[3].failures = ["willSpread": error]
            let other = try await cluster.variables[5].update(
                Self.key, Blob(number: 3), sync: .eager(.update))
            #expect(other.missed.ranks == [10, 11, 12])
            #expect((cluster.copy(3), cluster.copy(12)) == (3, 2))
            guard
                case .incomplete(let third) = await incastFailure({ () throws(IncastError) in
                    try await cluster.variables[5].update(
                        Self.key, Blob(number: 4), sync: .eager(.notify), requiresAll: true)
                })
            else {
                Issue.record("an update that missed members succeeded")
                return
            }
            #expect(third.missed.count == 3)
            #expect(third.version == cluster.notes[0].memory[0]?.version)
            try await cluster.settle()
        }
    }

    /// Ranks on the way change an update, keep it to themselves, and answer fetches.
    @Test(arguments: FabricKind.allCases)
    func ranksOnTheWayTakePart(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 13)
            cluster.notes[3].onUpdate = { blob, _ in .forward(Blob(number: blob.number + 100)) }
            try await cluster.variables[12].update(
                Self.key, Blob(number: 1), isBidirectional: true)
            #expect(cluster.notes[0].stored == [101])
            #expect((cluster.copy(3), cluster.copy(12)) == (101, 101))
            cluster.notes[3].onUpdate = { _, _ in .absorbed(version: 1) }
            let outcome = try await cluster.variables[12].update(
                Self.key, Blob(number: 2), sync: .eager(.update))
            #expect(outcome.version == 1 && outcome.reached == 0)
            #expect(cluster.notes[0].stored == [101])
            let version = cluster.notes[0].memory[0]!.version
            cluster.notes[3].onFetch = { _, place in
                #expect(place.source == 11 && place.owner == 0 && !place.isOwner)
                return .answer(IncastVersioned(Blob(number: 9), version: version))
            }
            #expect(try await cluster.variables[11].fetch(Self.key).value.number == 9)
            // For the latest the owner is asked all the same.
            #expect(
                try await cluster.variables[11].fetch(Self.key, version: .latest).value.number
                    == 101)
            let loads = cluster.notes[0].loads
            cluster.notes[3].onFetch = { copy, _ in
                #expect(copy != nil)
                return .forward
            }
            _ = try await cluster.variables[10].fetch(Self.key)
            #expect(cluster.notes[0].loads == loads + 1)
            try await cluster.settle()
        }
    }

    // MARK: - Order

    /// Ordered: all see the updates of a rank in the order of their calls. Where messages of one
    /// connection do not pass each other, they see every one of them.
    @Test(arguments: FabricKind.allCases)
    func ordered(kind: FabricKind) async throws {
        let keepsOrder = [FabricKind.tcp, .simulated].contains(kind)
        try await withRig(kind) { rig in
            for sync in [IncastSync.eager(.update), .lazy(.update)] {
                let cluster = try IncastCluster(rig, 13) { $0.isOrdered = true }
                for (rank, kind) in cluster.notes.enumerated() {
                    kind.delay = .microseconds(100 * (13 - rank))
                }
                var number: UInt64 = 0
                await concurrently(rig.xstream, 40) { _ in
                    number += 1
                    _ = try? await cluster.variables[12].update(
                        Self.key, Blob(number: number), sync: sync)
                }
                try await cluster.settle()
                #expect(cluster.notes[0].stored == Array(1...40))
                for rank in 1..<13 {
                    // On its way back the version itself may come before the value.
                    let seen = cluster.notes[rank].refreshed.filter { $0 > 0 }
                    if keepsOrder {
                        #expect(seen == Array(1...40))
                    } else {
                        #expect(seen == Set(seen).sorted())
                        #expect(seen.last == 40)
                    }
                }
            }
        }
    }

    /// Not ordered: the newest wins everywhere, and nobody goes back.
    @Test(arguments: FabricKind.allCases)
    func unordered(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 13)
            for (rank, kind) in cluster.notes.enumerated() {
                kind.delay = .microseconds(100 * (13 - rank))
            }
            var seen = Array(repeating: [UInt64](), count: 13)
            await concurrently(rig.xstream, 130) { index in
                let rank = index % 13
                _ = try? await cluster.variables[rank].update(
                    Self.key, Blob(number: UInt64(index)), sync: .eager(.update))
                if let value = try? await cluster.variables[rank].fetch(Self.key) {
                    if rank > 0 { seen[rank].append(value.version) }
                }
            }
            try await cluster.settle()
            let last = try #require(cluster.notes[0].memory[0])
            for rank in 1..<13 {
                #expect(cluster.variables[rank].copy(of: Self.key) == last)
                #expect(seen[rank] == seen[rank].sorted())
            }
            #expect(Set(cluster.notes[0].storedUpdates).count == 130)
            #expect(cluster.notes[0].storedUpdates.count == 130)
        }
    }

    // MARK: - Large values

    @Test(arguments: FabricKind.allCases)
    func largeValues(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 5, tree: .kAry(2))
            let big = Blob(number: 1, bytes: pattern(1 << 20))
            try await cluster.variables[4].update(Self.key, big)
            #expect(cluster.notes[0].memory[0]?.value == big)
            #expect(try await cluster.variables[3].fetch(Self.key).value == big)
            let other = Blob(number: 2, bytes: pattern(1 << 20, 3))
            let outcome = try await cluster.variables[3].update(
                Self.key, other, sync: .eager(.update), isBidirectional: true)
            #expect(outcome.reached == 4)
            for rank in 1..<5 {
                #expect(cluster.variables[rank].copy(of: Self.key)?.value == other)
            }
            #expect(cluster.contexts.reduce(0) { $0 + $1.counters.bulkBytes } > 6 << 20)
            let huge = Blob(number: 3, bytes: Array(repeating: 1, count: 20 << 20))
            cluster.notes[0].memory = IncastMemory()
            if kind != .simulated { return }
            // The simulated fabric carries no more than 16 MiB at a time, CaRT cuts it up.
            try await cluster.variables[4].update(Self.key, huge)
            try await cluster.settle()
        }
    }

    // MARK: - The hook

    /// All that comes for a namespace passes the hook, which may put it off, or drop it.
    @Test(arguments: FabricKind.allCases)
    func theInboundHookDecides(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 13)
            try await cluster.variables[0].update(Self.key, Blob(number: 1))
            var jobs: [(Int, IncastJob.Kind, UInt32?, RequestPriority)] = []
            var held: [IncastJob] = []
            var holds = false
            for (rank, namespace) in cluster.namespaces.enumerated() {
                namespace.priority = .high
                namespace.inbound = { job in
                    jobs.append((rank, job.kind, job.source, job.priority))
                    if holds { held.append(job) } else { rig.xstream.spawn { await job.run() } }
                }
            }
            _ = try await cluster.variables[12].fetch(Self.key)
            #expect(jobs.map(\.0) == [3, 0, 3, 12])
            #expect(jobs.map(\.1) == [.fetch, .fetch, .response, .response])
            #expect(jobs.map(\.2) == [12, 3, 0, 3])
            #expect(jobs.allSatisfy { $0.3 == .high })
            jobs = []
            try await cluster.variables[1].update(Self.key, Blob(number: 2), sync: .eager(.notify))
            #expect(jobs.filter { $0.1 == .refresh }.count == 12)
            #expect(jobs.filter { $0.1 == .response }.count == 13)
            #expect(jobs.filter { $0.1 == .update }.count == 1)
            // One at a time, when the test likes it.
            holds = true
            var ended = false
            rig.xstream.spawn {
                let value = try? await cluster.variables[12].fetch(Self.key)
                #expect(value?.value.number == 2)
                ended = true
            }
            for _ in 0..<4 {
                try await rig.wait("a job") { held.count == 1 }
                await rig.xstream.sleep(for: .milliseconds(50))
                #expect(!ended)
                let job = held.removeFirst()
                rig.xstream.spawn { await job.run() }
            }
            try await rig.wait("the end") { ended }
            // One that is dropped is tried again.
            rig.xstream.spawn {
                ended = false
                _ = try? await cluster.variables[12].fetch(Self.key, version: .latest)
                ended = true
            }
            try await rig.wait("a job") { held.count == 1 }
            holds = false
            held = []
            try await rig.wait("the end") { ended }
            #expect(cluster.sum(\.retries) == 1)
            try await cluster.settle()
        }
    }

    // MARK: - Ends

    @Test(arguments: FabricKind.allCases)
    func deadlinesAndCancellation(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 13)
            try await cluster.variables[0].update(Self.key, Blob(number: 1))
            cluster.notes[0].loadDelay = .milliseconds(400)
            let start = rig.xstream.now
            let error = await incastFailure { () throws(IncastError) in
                try await cluster.variables[12].fetch(
                    Self.key, deadline: .after(.milliseconds(100)))
            }
            #expect(error == .timedOut(last: .timedOut))
            #expect(rig.xstream.now.since(start) < .milliseconds(350))
            // Somebody with more time gets the value all the same.
            var value: UInt64?
            rig.xstream.spawn {
                let fetched = try? await cluster.variables[12].fetch(Self.key, version: .latest)
                value = fetched?.value.number
            }
            var cancelled: IncastError?
            let task = rig.xstream.spawnCancellable {
                cancelled = await incastFailure { () throws(IncastError) in
                    try await cluster.variables[12].fetch(Self.key)
                }
            }
            await rig.xstream.sleep(for: .milliseconds(50))
            task.cancel()
            try await rig.wait("cancelled") { cancelled != nil }
            #expect(cancelled == .cancelled)
            #expect(value == nil)
            try await rig.wait("the value") { value != nil }
            #expect(value == 1)
            try await cluster.settle()
            // Ended by closing.
            var closed: IncastError?
            rig.xstream.spawn {
                closed = await incastFailure { () throws(IncastError) in
                    try await cluster.variables[12].fetch(Self.key, version: .latest)
                }
            }
            await rig.xstream.sleep(for: .milliseconds(50))
            cluster.namespaces[12].close()
            try await rig.wait("closed") { closed != nil }
            #expect(closed == .call(.closed))
        }
    }

    @Test func updatesThatAreRememberedAreForgotten() async throws {
        try await withRig(.simulated) { rig in
            let cluster = try IncastCluster(rig, 4)
            for number in 0..<50 as Range<UInt64> {
                try await cluster.variables[3].update(
                    Self.key, Blob(number: number), deadline: .after(.seconds(5)))
            }
            #expect(cluster.variables[0].updates.count == 50)
            await rig.xstream.sleep(for: .seconds(8))
            #expect(cluster.variables[0].updates.count == 0)
        }
    }

    @Test(arguments: FabricKind.allCases)
    func copiesAreBounded(kind: FabricKind) async throws {
        try await withRig(kind) { rig in
            let cluster = try IncastCluster(rig, 4) { $0.keysMax = 10 }
            for number in 0..<40 as Range<UInt32> {
                try await cluster.variables[0].update(
                    NoteKey(number), Blob(number: UInt64(number)))
                #expect(
                    try await cluster.variables[3].fetch(NoteKey(number)).value.number
                        == UInt64(number))
            }
            #expect(cluster.variables[3].keys.count <= 10)
            #expect(cluster.variables[3].order.count == cluster.variables[3].keys.count)
            #expect(cluster.copy(3, NoteKey(39)) == 39 && cluster.copy(3, NoteKey(0)) == nil)
            try await cluster.variables[0].update(NoteKey(0), Blob(number: 77))
            // What was forgotten may have been newer than a copy on the way.
            #expect(try await cluster.variables[3].fetch(NoteKey(0)).value.number == 77)
            try await cluster.settle()
        }
    }
}
