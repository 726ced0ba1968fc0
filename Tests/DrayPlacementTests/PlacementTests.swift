import DrayPlacement
import DrayRuntime
import Testing

/// A map of equal engines.
func evenMap(engines: Int, targets: UInt32) -> PoolMap {
    PoolMap(
        version: 1,
        engines: (0..<engines).map { PoolMap.Engine(rank: UInt32($0), targetCount: targets) })
}

/// Objects made for `map`, the same in every run.
func objects(_ count: Int, _ objectClass: ObjectClass, in map: PoolMap) throws -> [ObjectID] {
    var entropy = Entropy(seed: 7)
    return try (0..<count).map { _ in
        try #require(
            ObjectID(
                objectClass: objectClass, in: map, random: (entropy.next(), entropy.next())))
    }
}

@Suite struct PlacementTests {
    @Test func hashesAreStable() {
        // Changing any of these loses every object that is stored.
        #expect(StableHash.hash([]) == 0xefd01f60ba992926)
        #expect(StableHash.hash(Array("dray".utf8)) == 0xdffab914aa301985)
        #expect(jumpConsistentHash(1, buckets: 1) == 0)
        #expect(jumpConsistentHash(42, buckets: 57) == 43)
        #expect(jumpConsistentHash(0xdead_10cc, buckets: 666) == 361)
        #expect(jumpConsistentHash(256, buckets: 1024) == 520)
    }

    /// A digest of many layouts on even and uneven maps. Changing one loses every object that is
    /// stored.
    @Test(
        arguments: [
            ("S", 0xb08e_9cb9_6e00_03f3), ("RP_2G", 0xdf3a_74e0_2b54_687b),
            ("RP_3G", 0x0201_ff3f_ec02_11d9), ("RP_6G", 0xdea9_cee9_bfc4_76b0),
        ] as [(String, UInt64)])
    func layoutsAreStable(prefix: String, digest: UInt64) throws {
        var found: UInt64 = 0
        for seed in 0..<40 as Range<UInt64> {
            let engines = (0...seed % 7).map { index in
                PoolMap.Engine(
                    rank: UInt32(index), targetCount: UInt32(StableHash.hash(seed, index) % 9))
            }
            let map = PoolMap(version: 1, engines: engines)
            for groups in ["1", "2", "4", "6", "8", "12", "16", "32", "X"] {
                let objectClass = try #require(ObjectClass(prefix + groups))
                for number in 0..<8 as Range<UInt64> {
                    let id = ObjectID(
                        objectClass: objectClass, in: map,
                        random: (number, StableHash.hash(seed, number)))
                    guard let id else {
                        found = StableHash.hash(found, 1)
                        continue
                    }
                    for shard in try #require(ObjectLayout(of: id, in: map)).shards {
                        found = StableHash.hash(
                            found, UInt64(shard.rank) << 32 | UInt64(shard.target))
                    }
                }
            }
        }
        #expect(found == digest, "\(String(found, radix: 16))")
    }

    @Test(arguments: 1...7, [1, 2, 3, 8] as [UInt32])
    func layoutsUseEveryTargetOnceAndEnginesEvenly(engines: Int, targets: UInt32) throws {
        let map = evenMap(engines: engines, targets: targets)
        for objectClass in ObjectClass.allCases where objectClass.replicaCount <= engines {
            for object in try objects(20, objectClass, in: map) {
                let layout = try #require(ObjectLayout(of: object, in: map))
                #expect(Set(layout.shards).count == layout.shards.count)
                #expect(layout.shards.allSatisfy { map.targets.contains($0) })
                let perEngine = (0..<engines).map { rank in
                    layout.shards.count { $0.rank == UInt32(rank) }
                }
                #expect(perEngine.max()! - perEngine.min()! <= 1)
                if objectClass == .sx { #expect(layout.shards.count == map.targetCount) }
            }
        }
    }

    @Test func singleShardsSpreadEvenly() throws {
        let map = evenMap(engines: 4, targets: 2)
        var count: [TargetAddress: Int] = [:]
        for object in try objects(8_000, .s1, in: map) {
            count[try #require(ObjectLayout(of: object, in: map)).shards[0], default: 0] += 1
        }
        #expect(count.count == 8)
        #expect(count.values.allSatisfy { (850...1_150).contains($0) })
    }

    @Test func aJoiningEngineTakesOnlyItsShare() throws {
        let before = evenMap(engines: 4, targets: 2)
        let after = evenMap(engines: 5, targets: 2)
        var moved = 0
        for object in try objects(5_000, .s1, in: before) {
            let old = try #require(ObjectLayout(of: object, in: before)).shards[0]
            let new = try #require(ObjectLayout(of: object, in: after)).shards[0]
            if old != new {
                moved += 1
                #expect(new.rank == 4)
            }
        }
        #expect((800...1_200).contains(moved))
    }

    @Test func foreignIdsHaveNoLayout() throws {
        let small = evenMap(engines: 2, targets: 1)
        #expect(ObjectLayout(of: ObjectID(high: 0, low: 1), in: small) == nil)
        let none = ObjectID(high: UInt64(ObjectClass.s1.code) << 56, low: 1)
        #expect(ObjectLayout(of: none, in: small) == nil)
        let wide = try objects(1, .sx, in: evenMap(engines: 3, targets: 1))[0]
        #expect(ObjectLayout(of: wide, in: small) == nil)
        #expect(ObjectLayout(of: wide, in: PoolMap(version: 1, engines: [])) == nil)
        let three = ObjectID(singleGroupOf: .rp3gx, random: (0, 0))
        #expect(ObjectLayout(of: three, in: evenMap(engines: 2, targets: 8)) == nil)
        #expect(ObjectLayout(of: three, in: evenMap(engines: 3, targets: 1)) != nil)
    }

    @Test(arguments: [ObjectClass.sx, ObjectClass("RP_2GX")!])
    func dkeysSpreadOverGroups(objectClass: ObjectClass) throws {
        let map = evenMap(engines: 2, targets: 2 * UInt32(objectClass.replicaCount))
        let object = try objects(1, objectClass, in: map)[0]
        let layout = try #require(ObjectLayout(of: object, in: map))
        var count = [0, 0, 0, 0]
        for index in 0..<4_000 { count[layout.group(ofDkey: Array("key\(index)".utf8))] += 1 }
        #expect(count.allSatisfy { (850...1_150).contains($0) })
    }
}
