import DrayFabric
import DrayRuntime
import Testing

@testable import CaRT

/// A simulated cluster whose members die, restart, lose each other and learn late who belongs to
/// them, while all of them fetch and update; checked against what was stored.
@Suite struct IncastSimulationTests {
    /// What outlives owners: the values, as a replicated store would have them.
    final class Store {
        struct Entry {
            var value = IncastVersioned(Blob(), version: 0)
            var updates: [IncastUpdateID: UInt64] = [:]
        }

        var entries: [UInt32: Entry] = [:]
        /// The newest version of the group that an owner of the key has come with: older ones do
        /// not store any more.
        var fences: [UInt32: UInt32] = [:]

        func read(_ key: UInt32, _ groupVersion: UInt32) throws(RPCError) -> IncastVersioned<Blob> {
            guard groupVersion >= fences[key, default: 0] else { throw .groupVersion }
            fences[key] = groupVersion
            return entries[key, default: Entry()].value
        }

        func write(
            _ value: Blob?, _ key: UInt32, _ version: UInt64, _ update: IncastUpdateID,
            _ groupVersion: UInt32
        ) throws(RPCError) -> IncastVersioned<Blob> {
            guard groupVersion >= fences[key, default: 0] else { throw .groupVersion }
            fences[key] = groupVersion
            var entry = entries[key, default: Entry()]
            if entry.updates[update] != nil { return entry.value }
            let version = max(version, entry.value.version + 1)
            entry.value = IncastVersioned(value ?? entry.value.value, version: version)
            entry.updates[update] = version
            entries[key] = entry
            return entry.value
        }
    }

    final class Kind: IncastClass {
        typealias Key = NoteKey
        typealias Value = Blob

        let number: UInt32 = 1
        let isOrdered: Bool
        let keysMax: Int
        let store: Store
        let xstream: XStream
        var random: Entropy
        /// Updates that this life of the member was asked to store.
        var stored: Set<IncastUpdateID> = []
        var refreshed: [UInt32: UInt64] = [:]
        var refreshing: Set<UInt32> = []

        init(_ store: Store, _ xstream: XStream, _ random: Entropy, isOrdered: Bool, keysMax: Int) {
            self.store = store
            self.xstream = xstream
            self.random = random
            self.isOrdered = isOrdered
            self.keysMax = keysMax
        }

        private func wait() async {
            guard random.below(3) == 0 else { return }
            await xstream.sleep(for: .microseconds(Int64(random.below(3_000))))
        }

        func load(
            _ key: NoteKey, at place: IncastPlace
        ) async throws(RPCError) -> IncastVersioned<Blob> {
            await wait()
            let value = try store.read(key.number, place.groupVersion)
            await wait()
            return value
        }

        func store(
            _ value: Blob?, for key: NoteKey, version: UInt64, update: IncastUpdateID,
            at place: IncastPlace
        ) async throws(RPCError) -> IncastVersioned<Blob> {
            await wait()
            let result = try store.write(value, key.number, version, update, place.groupVersion)
            let isNew = stored.insert(update).inserted
            #expect(isNew, "an owner stored an update twice")
            await wait()
            return result
        }

        func refresh(
            _ key: NoteKey, _ news: IncastNews<Blob>, at place: IncastPlace
        ) async throws(RPCError) {
            if case .failed = news { return }
            let isAlone = refreshing.insert(key.number).inserted
            #expect(isAlone, "news of a key overlap")
            await wait()
            refreshing.remove(key.number)
            if random.below(50) == 0 { throw .application(code: 1, message: "not now") }
        }

        func willFetch(_ key: NoteKey, at place: IncastPlace) async { await wait() }
        func willUpdate(_ key: NoteKey, at place: IncastPlace) async { await wait() }
    }

    /// One life of a member.
    final class Member {
        let rank: Int
        let incarnation: Int
        let context: Context
        let namespace: IncastNamespace
        let kind: Kind
        let variables: IncastVariables<Kind>
        var isAlive = true
        /// Operations that have not ended.
        var running = 0
        /// The newest version that a fetch here has returned, by key.
        var seen: [UInt32: UInt64] = [:]

        init(
            _ rank: Int, _ incarnation: Int, _ context: Context, _ kind: Kind, _ tree: TreeTopology
        ) {
            (self.rank, self.incarnation, self.context, self.kind) =
                (rank, incarnation, context, kind)
            namespace = IncastNamespace(on: context, number: 1, tree: tree)
            variables = namespace.register(kind)
        }
    }

    final class Cluster {
        let simulation: Simulation
        let fabric: SimulatedFabric
        let store = Store()
        var random: Entropy
        let tree: TreeTopology
        let isOrdered: Bool
        let keysMax: Int
        let count: Int
        var members: [Member?]
        var incarnations: [Int]
        var former: [Member] = []
        /// Whoever says who belongs to the group.
        let group = Group(name: "default")
        var done: [String: Int] = [:]
        /// What the updates that have ended have stored at least, by key.
        var ended: [UInt32: UInt64] = [:]

        init(seed: UInt64, faults: FabricFaults) {
            simulation = Simulation(seed: seed)
            fabric = SimulatedFabric(simulation: simulation, faults: faults)
            random = simulation.entropy.fork("test")
            count = 4 + Int(random.below(7))
            tree = [.flat, .kAry(2), .kNomial(2), .kNomial(4)][Int(random.below(4))]
            isOrdered = random.below(2) == 0
            keysMax = random.below(3) == 0 ? 2 : 100
            members = Array(repeating: nil, count: count)
            incarnations = Array(repeating: -1, count: count)
            for rank in 0..<count { start(rank) }
            regroup()
        }

        func start(_ rank: Int) {
            incarnations[rank] += 1
            let incarnation = incarnations[rank]
            var world = simulation.world(node: rank + 1, incarnation: incarnation)
            world.fabric = fabric
            let xstream = world.makeXStream(name: "member \(rank)")
            let made = world
            xstream.simulate { [self] in
                var options = ContextOptions(clock: HybridLogicalClock(clock: made.clock))
                options.rank = UInt32(rank)
                options.eagerLimit = 2048
                do throws(RPCError) {
                    let context = try Context(
                        world: made, xstream: xstream, address: "sim://member\(rank)",
                        options: options)
                    let kind = Kind(
                        store, xstream, made.entropy.fork("kind"), isOrdered: isOrdered,
                        keysMax: keysMax)
                    members[rank] = Member(rank, incarnation, context, kind, tree)
                } catch {
                    Issue.record("member \(rank): \(error)")
                }
            }
            simulation.run(for: .seconds(1), until: { members[rank] != nil })
        }

        func kill(_ rank: Int) {
            guard let member = members[rank] else { return }
            member.isAlive = false
            simulation.kill(node: rank + 1, incarnation: member.incarnation)
            former.append(member)
            members[rank] = nil
        }

        /// The next version of the group: who lives, or most of them. Each hears of it some time.
        func regroup(leavingOut: Int? = nil) {
            let version = group.version + 1
            let next = members.compactMap { $0 }.filter { $0.rank != leavingOut }.map {
                Group.Member(
                    rank: UInt32($0.rank), incarnation: UInt64($0.incarnation),
                    addresses: [$0.context.address])
            }
            do throws(GroupError) {
                try group.apply(.replace(next), version: version)
            } catch {
                Issue.record("\(error)")
            }
            let snapshot = GroupSnapshot(group)
            for member in members.compactMap({ $0 }) {
                let delay = Duration.microseconds(Int64(random.below(200_000)))
                simulation.schedule(at: simulation.now + delay) {
                    guard member.isAlive else { return }
                    member.context.xstream.simulate {
                        _ = try? member.context.group.attach(snapshot)
                    }
                }
            }
        }

        // MARK: - Operations

        func operate() {
            let rank = Int(random.below(UInt64(count)))
            guard let member = members[rank] else { return }
            let key = NoteKey(UInt32(random.below(4)))
            let timeout = Duration.milliseconds(Int64(300 + random.below(3_000)))
            let choice = random.below(10)
            let syncs: [IncastSync] = [
                .none, .lazy(.notify), .lazy(.update), .eager(.notify), .eager(.update),
            ]
            let sync = syncs[Int(random.below(5))]
            let isBidirectional = random.below(2) == 0
            let shortcut: IncastShortcut = random.below(6) == 0 ? .toOwner : .none
            let size = random.below(4) == 0 ? 6_000 : 10
            let number = random.next()
            member.running += 1
            member.context.xstream.simulate { [self] in
                let begin = simulation.now
                switch choice {
                case 0...2: await fetch(member, key, .latest, shortcut, timeout)
                case 3...5: await fetch(member, key, .any, shortcut, timeout)
                case 6:
                    let least = member.seen[key.number] ?? 0
                    await fetch(member, key, .atLeast(least), shortcut, timeout)
                case 7:
                    let sync: IncastInvalidation = [.none, .lazy, .eager][Int(number % 3)]
                    await change(member, key, sync.sync) { () throws(IncastError) in
                        try await member.variables.invalidate(
                            key, sync: sync, shortcut: shortcut, deadline: .after(timeout))
                    }
                default:
                    let value = Blob(
                        number: number, bytes: Array(repeating: UInt8(number & 255), count: size))
                    await change(member, key, sync) { () throws(IncastError) in
                        try await member.variables.update(
                            key, value, sync: sync, isBidirectional: isBidirectional,
                            shortcut: shortcut, deadline: .after(timeout))
                    }
                }
                #expect(
                    simulation.now.since(begin) <= timeout + .milliseconds(50),
                    "an operation went on after its deadline")
                member.running -= 1
            }
        }

        private func fetch(
            _ member: Member, _ key: NoteKey, _ version: IncastVersion,
            _ shortcut: IncastShortcut, _ timeout: Duration
        ) async {
            let least = ended[key.number] ?? 0
            let seen = member.seen[key.number] ?? 0
            do throws(IncastError) {
                let value = try await member.variables.fetch(
                    key, version: version, shortcut: shortcut, deadline: .after(timeout))
                count("\(version == .any ? "any" : "latest") good")
                if version == .latest {
                    #expect(value.version >= least, "older than an update that had ended")
                }
                #expect(value.version >= seen, "a member went back, \(version)")
                member.seen[key.number] = max(member.seen[key.number] ?? 0, value.version)
            } catch {
                failed(error)
            }
        }

        private func change(
            _ member: Member, _ key: NoteKey, _ sync: IncastSync,
            _ body: () async throws(IncastError) -> IncastOutcome
        ) async {
            do throws(IncastError) {
                let outcome = try await body()
                count("\(sync) good")
                ended[key.number] = max(ended[key.number] ?? 0, outcome.version)
                let stored = store.entries[key.number]?.value.version ?? 0
                #expect(stored >= outcome.version, "an update that ended was not stored")
                member.seen[key.number] = max(member.seen[key.number] ?? 0, outcome.version)
                if case .eager = sync, outcome.missed.isEmpty {
                    checkNobodyIsBehind(member, key, outcome.version)
                }
            } catch {
                failed(error)
            }
        }

        /// Members in the same version of the group keep nothing older.
        private func checkNobodyIsBehind(_ member: Member, _ key: NoteKey, _ version: UInt64) {
            let groupVersion = member.context.group.version
            for other in members.compactMap({ $0 })
            where other.context.group.version == groupVersion {
                guard other.context.group.member(UInt32(other.rank)) != nil,
                    let copy = other.variables.copy(of: key)
                else { continue }
                #expect(copy.version >= version, "rank \(other.rank) was not reached")
            }
        }

        private func failed(_ error: IncastError) {
            switch error {
            case .timedOut: count("timed out")
            case .notAMember: count("not a member")
            default: Issue.record("\(error)")
            }
        }

        private func count(_ what: String) { done[what, default: 0] += 1 }

        // MARK: - What happens to it

        func disturb() {
            switch random.below(8) {
            case 0:
                let rank = Int(random.below(UInt64(count)))
                guard members.compactMap({ $0 }).count > 2 else { return }
                lose(rank)
            case 1, 2:
                for rank in 0..<count where members[rank] == nil {
                    start(rank)
                    regroup()
                    return
                }
            case 3:
                let side = Set((1...count).filter { _ in random.below(2) == 0 })
                fabric.partition(side, Set(1...count).subtracting(side))
            case 4, 5: fabric.heal()
            case 6: regroup(leavingOut: Int(random.below(UInt64(count))))
            default: regroup()
            }
        }

        /// Kills a member; the group learns of it a little later.
        private func lose(_ rank: Int) {
            guard members[rank] != nil else { return }
            kill(rank)
            let delay = Duration.milliseconds(Int64(random.below(400)))
            simulation.schedule(at: simulation.now + delay) { [self] in
                if group.member(UInt32(rank)) != nil, members[rank] == nil { regroup() }
            }
        }
    }

    @Test(arguments: 1...60)
    func keepsItsPromises(seed: UInt64) {
        let cluster = Cluster(seed: seed, faults: seed % 2 == 0 ? .none : .harsh)
        cluster.simulation.run(for: .milliseconds(300))
        for _ in 0..<120 {
            for _ in 0..<cluster.random.below(5) { cluster.operate() }
            if cluster.random.below(6) == 0 { cluster.disturb() }
            cluster.simulation.run(for: .milliseconds(Int64(cluster.random.below(60))))
        }
        cluster.finish()
    }
}

extension IncastSimulationTests.Cluster {
    /// All is well again: what is under way ends, everybody sees the same, and nothing is left.
    func finish() {
        fabric.heal()
        fabric.faults = .none
        for rank in 0..<count where members[rank] == nil { start(rank) }
        regroup()
        let all = members.compactMap { $0 }
        #expect(all.count == count)
        let isOver = simulation.run(
            for: .seconds(60),
            until: {
                all.allSatisfy {
                    $0.running == 0 && $0.namespace.isIdle && $0.context.usage.isIdle
                        && $0.context.group.version == group.version
                }
            })
        #expect(isOver, "something is left: \(all.map { ($0.running, $0.context.usage) })")
        var values: [UInt32: Set<UInt64>] = [:]
        var left = 0
        for member in all {
            left += 1
            member.context.xstream.simulate {
                for key in 0..<4 as Range<UInt32> {
                    let value = try? await member.variables.fetch(NoteKey(key), version: .latest)
                    if let value { values[key, default: []].insert(value.version) }
                }
                left -= 1
            }
        }
        #expect(simulation.run(for: .seconds(60), until: { left == 0 }))
        for key in 0..<4 as Range<UInt32> {
            #expect(values[key] == [store.entries[key]?.value.version ?? 0])
        }
        simulation.finish()
    }
}
