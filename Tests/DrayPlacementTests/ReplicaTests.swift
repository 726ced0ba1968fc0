import DrayPlacement
import DrayRuntime
import Testing

@Suite struct ReplicaTests {
    /// The most groups that fit, counted up from none.
    private func groupsByDefinition(_ targets: [UInt32], replicas: Int) -> Int {
        var groups = 0
        while targets.reduce(0, { $0 + min(Int($1), groups + 1) }) >= replicas * (groups + 1) {
            groups += 1
        }
        return groups
    }

    private func map(_ targets: [UInt32]) -> PoolMap {
        PoolMap(
            version: 1,
            engines: targets.enumerated().map {
                PoolMap.Engine(rank: UInt32(10 + $0.offset), targetCount: $0.element)
            })
    }

    /// Makes an object of as many groups as fit, and checks all that holds for any layout.
    private func check(_ targets: [UInt32], replicas: Int, random: UInt64) throws {
        let map = map(targets)
        let name = replicas == 1 ? "SX" : "RP_\(replicas)GX"
        let objectClass = try #require(ObjectClass(name))
        let most = groupsByDefinition(targets, replicas: replicas)
        let object = ObjectID(objectClass: objectClass, in: map, random: (random, 1))
        guard let object else {
            #expect(most == 0, "\(name) \(targets)")
            return
        }
        #expect(object.groupCount == most, "\(name) \(targets)")
        let layout = try #require(ObjectLayout(of: object, in: map))
        #expect(layout.replicaCount == replicas)
        #expect(layout.groupCount == most)
        #expect(layout.shards.count == most * replicas)
        #expect(Set(layout.shards).count == layout.shards.count, "\(name) \(targets)")
        for group in 0..<most {
            let members = layout.members(ofGroup: group)
            #expect(members.startIndex == group * replicas)
            #expect(members.first == layout.leader(ofGroup: group))
            #expect(Set(members.map(\.rank)).count == replicas, "\(name) \(targets)")
        }
        for shard in layout.shards {
            let targetCount = targets[Int(shard.rank) - 10]
            #expect(shard.target < targetCount, "\(name) \(targets)")
        }
        let wider = ObjectID(high: object.high + 1 << 32, low: object.low)
        #expect(ObjectLayout(of: wider, in: map) == nil, "\(name) \(targets)")
    }

    /// All maps of up to five engines with up to three targets each.
    @Test(arguments: 1...6)
    func whateverFitsASmallMapHasALayout(replicas: Int) throws {
        for number in 0..<1024 {
            let targets = (0..<5).map { UInt32(number >> (2 * $0) & 3) }
            try check(targets, replicas: replicas, random: UInt64(number))
        }
    }

    /// Maps of up to twelve engines, among them some with very many targets.
    @Test(arguments: 1...6)
    func whateverFitsAnUnevenMapHasALayout(replicas: Int) throws {
        var entropy = Entropy(seed: UInt64(replicas))
        for _ in 0..<600 {
            let targets = (0...entropy.below(12)).map { _ in
                let bits = entropy.below(6)
                return UInt32(entropy.below(1 << bits + 1))
            }
            try check(targets, replicas: replicas, random: entropy.next())
        }
    }

    /// One engine is in every group that fits: it must never be passed over.
    @Test func aLargeEngineIsInEveryGroup() throws {
        let map = map([1, 1, 1, 1, 1, 1, 6])
        let objectClass = try #require(ObjectClass("RP_2GX"))
        for object in try objects(100, objectClass, in: map) {
            let layout = try #require(ObjectLayout(of: object, in: map))
            #expect(layout.groupCount == 6)
            for group in 0..<6 {
                #expect(layout.members(ofGroup: group).contains { $0.rank == 16 })
            }
        }
    }

    @Test(arguments: ["RP_2G1", "RP_3G1", "RP_3G4", "RP_2GX", "RP_3GX", "RP_6GX"])
    func shardsAndLeadersSpreadEvenly(name: String) throws {
        let engines = 7
        let map = evenMap(engines: engines, targets: 4)
        let objectClass = try #require(ObjectClass(name))
        var leads = [Double](repeating: 0, count: engines)
        var shards: [TargetAddress: Double] = [:]
        for object in try objects(7_000, objectClass, in: map) {
            let layout = try #require(ObjectLayout(of: object, in: map))
            for shard in layout.shards { shards[shard, default: 0] += 1 }
            for group in 0..<layout.groupCount {
                leads[Int(layout.leader(ofGroup: group).rank)] += 1
            }
        }
        let leadsMean = leads.reduce(0, +) / Double(engines)
        #expect(leads.allSatisfy { (0.9...1.1).contains($0 / leadsMean) }, "\(leads)")
        let shardsMean = shards.values.reduce(0, +) / Double(map.targetCount)
        #expect(shards.count == map.targetCount)
        #expect(shards.values.allSatisfy { (0.85...1.15).contains($0 / shardsMean) })
    }

    /// A single object of many groups keeps all engines busy: no engine leads many more than
    /// another.
    @Test(arguments: 2...6)
    func oneObjectsLeadersSpreadEvenly(replicas: Int) throws {
        let objectClass = try #require(ObjectClass("RP_\(replicas)GX"))
        for engines in replicas...8 {
            let map = evenMap(engines: engines, targets: 8)
            for object in try objects(100, objectClass, in: map) {
                let layout = try #require(ObjectLayout(of: object, in: map))
                var leads = [Int](repeating: 0, count: engines)
                for group in 0..<layout.groupCount {
                    leads[Int(layout.leader(ofGroup: group).rank)] += 1
                }
                #expect(leads.max()! - leads.min()! <= 3, "\(objectClass) \(engines): \(leads)")
            }
        }
    }

    /// The new engine takes its share of the places. What moves besides are members that were
    /// refused once, or are now: a group cannot have an engine twice.
    @Test func aJoiningEngineTakesLittleMoreThanItsShare() throws {
        let before = evenMap(engines: 5, targets: 4)
        let after = evenMap(engines: 6, targets: 4)
        let count = 4_000
        var arrived = 0
        var shuffled = 0
        for object in try objects(count, .rp3g1, in: before) {
            let old = Set(try #require(ObjectLayout(of: object, in: before)).shards)
            let new = Set(try #require(ObjectLayout(of: object, in: after)).shards)
            for shard in new.subtracting(old) {
                if shard.rank == 5 { arrived += 1 } else { shuffled += 1 }
            }
        }
        let shards = Double(count * 3)
        #expect((0.15...0.18).contains(Double(arrived) / shards))
        #expect(Double(shuffled) / shards < 0.06)
    }
}
