import DrayFabric
import DrayRuntime
import Glibc
import Testing

@testable import CaRT

@Suite struct GroupTests {
    static func address(_ number: UInt8) -> FabricAddress {
        FabricAddress(provider: "sim", bytes: [UInt8(ascii: "a") + number])
    }

    static func member(_ rank: UInt32, _ incarnation: UInt64 = 0, _ place: UInt8 = 0)
        -> Group.Member
    {
        Group.Member(rank: rank, incarnation: incarnation, addresses: [address(place)])
    }

    @Test func changesAreWholeOrNothing() throws {
        let group = Group(name: "g")
        try group.apply(.add([Self.member(3), Self.member(1)]), version: 4)
        #expect(group.members.map(\.rank) == [1, 3])
        let refused: [(Group.Change, UInt32, GroupError)] = [
            (.add([Self.member(5)]), 4, .staleVersion(given: 4, known: 4)),
            (.add([Self.member(5), Self.member(5)]), 5, .duplicateRank(5)),
            (.add([Self.member(6), Self.member(.max)]), 5, .badMember(rank: .max)),
            (.add([Group.Member(rank: 7, addresses: [])]), 5, .badMember(rank: 7)),
            (.remove([1, 2]), 5, .notAMember(rank: 2)),
            (
                .add([Self.member(1, 0, 9)]), 5,
                .staleIncarnation(rank: 1, given: 0, known: 0)
            ),
            (
                .replace([Self.member(8), Self.member(8)]), 5, .duplicateRank(8)
            ),
        ]
        for (change, version, error) in refused {
            #expect(throws: error) { try group.apply(change, version: version) }
            #expect(group.version == 4)
            #expect(group.members == [Self.member(1), Self.member(3)])
        }
        try group.apply(.add([Self.member(1, 2, 9), Self.member(2)]), version: 9)
        #expect(group.address(rank: 1, tag: 0) == Self.address(9))
        #expect(group.address(rank: 1, tag: 1) == nil)
        #expect(throws: GroupError.staleIncarnation(rank: 1, given: 1, known: 2)) {
            try group.apply(.replace([Self.member(1, 1, 9)]), version: 10)
        }
        try group.apply(.remove([3, 1]), version: 10)
        #expect(group.members == [Self.member(2)])
    }

    @Test func observersSeeEveryChangeOnce() throws {
        let group = Group(name: "g")
        var seen: [Group.Event] = []
        let observation = group.observe { event in
            seen.append(event)
            // A change by an observer is told after this one.
            if event.version == 1 { try? group.apply(.remove([2]), version: 2) }
        }
        var order: [UInt32] = []
        group.observe { event in order.append(event.version) }
        try group.apply(.replace([Self.member(1), Self.member(2)]), version: 1)
        try group.apply(.replace([Self.member(1, 5, 3), Self.member(4)]), version: 3)
        #expect(
            seen == [
                Group.Event(version: 1, added: [1, 2]), Group.Event(version: 2, removed: [2]),
                Group.Event(version: 3, added: [4], changed: [1], restarted: [1]),
            ])
        #expect(order == [1, 2, 3])
        group.remove(observation)
        try group.apply(.remove([4]), version: 4)
        #expect(seen.count == 3 && order.count == 4)
    }

    /// Random changes against a dictionary.
    @Test(arguments: 1...20)
    func behavesLikeAModel(seed: UInt64) throws {
        var random = Entropy(seed: seed)
        let group = Group(name: "g")
        let secondary = SecondaryGroup(name: "s", of: group)
        var model: [UInt32: Group.Member] = [:]
        var replayed: Set<UInt32> = []
        group.observe { event in
            replayed.formUnion(event.added)
            replayed.subtract(event.removed)
        }
        for _ in 0..<300 {
            let version = group.version &+ UInt32(random.below(3))
            var next = model
            let change: Group.Change
            var isGood = version > group.version
            switch random.below(3) {
            case 0:
                let member = Self.member(
                    UInt32(random.below(12)), random.below(4), UInt8(random.below(4)))
                change = .add([member])
                if let known = model[member.rank], known != member {
                    isGood = isGood && member.incarnation > known.incarnation
                }
                next[member.rank] = member
            case 1:
                let rank = UInt32(random.below(12))
                change = .remove([rank])
                isGood = isGood && model[rank] != nil
                next[rank] = nil
            default:
                let kept = model.values.filter { $0.rank % 3 != UInt32(seed % 3) }
                change = .replace(kept)
                next = Dictionary(uniqueKeysWithValues: kept.map { ($0.rank, $0) })
            }
            do {
                try group.apply(change, version: version)
                #expect(isGood)
                model = next
            } catch {
                #expect(!isGood)
            }
            #expect(group.members == model.values.sorted { $0.rank < $1.rank })
            #expect(replayed == Set(model.keys))
            if let member = group.members.last, random.chance(1, in: 3) {
                try? secondary.add(
                    [(rank: UInt32(random.below(50)), primaryRank: member.rank)],
                    version: secondary.version + 1)
            }
            for (rank, primaryRank) in secondary.members {
                #expect(model[primaryRank] != nil)
                #expect(secondary.rank(ofPrimary: primaryRank) == rank)
                #expect(secondary.primaryRank(of: rank) == primaryRank)
            }
        }
    }

    @Test func secondaryGroupsHaveRanksOfTheirOwn() throws {
        let group = Group(name: "g")
        try group.apply(.replace([1, 5, 9].map { Self.member($0) }), version: 1)
        let secondary = SecondaryGroup(name: "replicas", of: group)
        let free = SecondaryGroup(name: "free", of: group, follows: false)
        try secondary.add([(rank: 0, primaryRank: 9), (rank: 1, primaryRank: 5)], version: 1)
        try free.add([(rank: 0, primaryRank: 9)], version: 1)
        #expect(try secondary.destination(rank: 1, tag: 3) == .rank(5, tag: 3))
        #expect(throws: RPCError.staleGroup) { try secondary.destination(rank: 2, tag: 0) }
        for (added, error) in [
            ((rank: UInt32(0), primaryRank: UInt32(1)), GroupError.duplicateRank(0)),
            ((rank: 2, primaryRank: 9), .duplicateRank(9)),
            ((rank: 2, primaryRank: 4), .notAMember(rank: 4)),
        ] {
            #expect(throws: error) { try secondary.add([added], version: 2) }
        }
        #expect(throws: GroupError.staleVersion(given: 1, known: 1)) {
            try secondary.remove([0], version: 1)
        }
        try group.apply(.remove([9]), version: 2)
        #expect(secondary.members.map(\.rank) == [1])
        #expect(secondary.version == 2)
        #expect(free.members.map(\.primaryRank) == [9])
        try secondary.remove([1], version: 3)
        #expect(secondary.members.isEmpty)
    }

    @Test func namesAreChecked() {
        for name in ["a", "tank-1.b_C", String(repeating: "x", count: 64)] {
            #expect(Group.isName(name))
        }
        for name in ["", "a b", "ä", "a/b", "a\n", String(repeating: "x", count: 65)] {
            #expect(!Group.isName(name))
        }
    }

    // MARK: - Snapshots

    static func snapshot() throws -> GroupSnapshot {
        let group = Group(name: "tank")
        try group.apply(
            .replace([
                Group.Member(
                    rank: 0, incarnation: 77,
                    addresses: [
                        try FabricAddress(parsing: "ofi+tcp://127.0.0.1:4000"),
                        try FabricAddress(parsing: "ofi+tcp;ofi_rxm://[::1]:4001"),
                    ]),
                Group.Member(
                    rank: 4, incarnation: .max,
                    addresses: [try FabricAddress(parsing: "ofi+shm://engine.4")]),
            ]), version: 12)
        return GroupSnapshot(group)
    }

    @Test func snapshotsSurviveTextAndWire() throws {
        let snapshot = try Self.snapshot()
        #expect(try GroupSnapshot(parsing: snapshot.text) == snapshot)
        let bytes = snapshot.encoded()
        #expect(try bytes.withUnsafeBytes { try GroupSnapshot(decoding: $0) } == snapshot)
        #expect(try GroupSnapshot(parsing: GroupSnapshot(Group(name: "x")).text).members.isEmpty)
    }

    private func refusal(_ body: () throws(AttachError) -> Void) -> AttachError? {
        do throws(AttachError) {
            try body()
            return nil
        } catch {
            return error
        }
    }

    /// Every cut and every change of a line is found, and the line is named.
    @Test func badTextIsRefused() throws {
        let text = try Self.snapshot().text
        for length in 0..<text.utf8.count - 1 {
            let cut = String(decoding: Array(text.utf8.prefix(length)), as: UTF8.self)
            #expect(throws: AttachError.self) { try GroupSnapshot(parsing: cut) }
        }
        let cases: [(String, String, Int)] = [
            ("dray-group 1", "dray-group 2", 1), ("name tank", "name ta nk", 2),
            ("version 12", "version -1", 3), ("member 0 77", "member x 77", 4),
            ("127.0.0.1:4000", "127.0.0.1:400000", 4), ("members 2", "members 3", 6),
            ("members 2", "members 2\nmore", 7),
        ]
        for (old, new, line) in cases {
            var changed = text
            changed.replaceSubrange(try #require(text.firstRange(of: old)), with: new)
            let error = refusal { () throws(AttachError) in
                _ = try GroupSnapshot(parsing: changed)
            }
            guard case .badLine(line, _) = error else {
                Issue.record("\(new): \(String(describing: error))")
                continue
            }
        }
    }

    @Test(arguments: 1...5)
    func noiseIsRefused(seed: UInt64) throws {
        var random = Entropy(seed: seed)
        let bytes = Array(try Self.snapshot().text.utf8)
        for _ in 0..<300 {
            var changed = bytes
            for _ in 0...random.below(3) {
                changed[Int(random.below(UInt64(bytes.count)))] = UInt8(random.below(256))
            }
            guard let read = try? GroupSnapshot(parsing: String(decoding: changed, as: UTF8.self))
            else { continue }
            let group = Group(name: read.name)
            _ = try? group.attach(read)
        }
    }

    @Test func attachFilesAreReplacedWhole() throws {
        var template = Array("/tmp/dray-group-XXXXXX".utf8CString)
        let directory = try #require(mkdtemp(&template).map { String(cString: $0) })
        let path = directory + "/tank.group"
        defer {
            unlink(path)
            rmdir(directory)
        }
        #expect(
            refusal { () throws(AttachError) in _ = try AttachFile.read(path) }
                == .file(path: path, message: "No such file or directory"))
        let snapshot = try Self.snapshot()
        try AttachFile.write(snapshot, to: path)
        #expect(try AttachFile.read(path) == snapshot)
        var newer = snapshot
        newer.version += 1
        newer.members.removeLast()
        try AttachFile.write(newer, to: path)
        #expect(try AttachFile.read(path) == newer)
        #expect(access(path + ".new", F_OK) != 0)
        let nowhere = directory + "/none/tank.group"
        #expect(
            refusal { () throws(AttachError) in try AttachFile.write(snapshot, to: nowhere) }
                == .file(path: nowhere + ".new", message: "No such file or directory"))
        let group = Group(name: "tank")
        #expect(try group.attach(newer))
        #expect(try !group.attach(snapshot))
        #expect(throws: AttachError.otherGroup(name: "tank")) {
            try Group(name: "other").attach(newer)
        }
    }
}
