import DrayPlacement
import DrayRuntime
import Testing

@Suite struct PlacementTests {
    private func map(engines: Int, targets: UInt32) -> PoolMap {
        PoolMap(
            version: 1,
            engines: (0..<engines).map { PoolMap.Engine(rank: UInt32($0), targetCount: targets) })
    }

    private func objects(_ count: Int, _ objectClass: ObjectClass, targets: Int) -> [ObjectID] {
        var entropy = Entropy(seed: 7)
        return (0..<count).map { _ in
            ObjectID(
                objectClass: objectClass, targetCount: targets,
                random: (entropy.next(), entropy.next()))
        }
    }

    @Test func hashesAreStable() {
        // Changing any of these loses every object that is stored.
        #expect(StableHash.hash([]) == 0xefd01f60ba992926)
        #expect(StableHash.hash(Array("dray".utf8)) == 0xdffab914aa301985)
        #expect(jumpConsistentHash(1, buckets: 1) == 0)
        #expect(jumpConsistentHash(42, buckets: 57) == 43)
        #expect(jumpConsistentHash(0xdead_10cc, buckets: 666) == 361)
        #expect(jumpConsistentHash(256, buckets: 1024) == 520)
    }

    @Test(arguments: 1...5, [1, 2, 3, 8] as [UInt32])
    func layoutsUseEveryTargetOnceAndEnginesEvenly(engines: Int, targets: UInt32) throws {
        let map = map(engines: engines, targets: targets)
        for objectClass in ObjectClass.allCases {
            for object in objects(20, objectClass, targets: map.targetCount) {
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
        let map = map(engines: 4, targets: 2)
        var count: [TargetAddress: Int] = [:]
        for object in objects(8_000, .s1, targets: 8) {
            count[try #require(ObjectLayout(of: object, in: map)).shards[0], default: 0] += 1
        }
        #expect(count.count == 8)
        #expect(count.values.allSatisfy { (850...1_150).contains($0) })
    }

    @Test func aJoiningEngineTakesOnlyItsShare() throws {
        let before = map(engines: 4, targets: 2)
        let after = map(engines: 5, targets: 2)
        var moved = 0
        for object in objects(5_000, .s1, targets: 8) {
            let old = try #require(ObjectLayout(of: object, in: before)).shards[0]
            let new = try #require(ObjectLayout(of: object, in: after)).shards[0]
            if old != new {
                moved += 1
                #expect(new.rank == 4)
            }
        }
        #expect((800...1_200).contains(moved))
    }

    @Test func foreignIdsHaveNoLayout() {
        #expect(ObjectLayout(of: ObjectID(high: 0, low: 1), in: map(engines: 2, targets: 1)) == nil)
        let wide = ObjectID(objectClass: .sx, targetCount: 9, random: (0, 0))
        #expect(ObjectLayout(of: wide, in: map(engines: 2, targets: 1)) == nil)
        #expect(ObjectLayout(of: wide, in: PoolMap(version: 1, engines: [])) == nil)
    }

    @Test func dkeysSpreadOverShards() throws {
        let map = map(engines: 2, targets: 2)
        let object = objects(1, .sx, targets: 4)[0]
        let layout = try #require(ObjectLayout(of: object, in: map))
        var count = [0, 0, 0, 0]
        for index in 0..<4_000 { count[layout.shard(ofDkey: Array("key\(index)".utf8))] += 1 }
        #expect(count.allSatisfy { (850...1_150).contains($0) })
    }

    @Test(arguments: ObjectClass.allCases)
    func classesHaveNamesAndCodes(objectClass: ObjectClass) {
        #expect(ObjectClass(objectClass.description) == objectClass)
        #expect(ObjectClass(code: objectClass.code) == objectClass)
        let object = ObjectID(objectClass: objectClass, targetCount: 64, random: (.max, .max))
        #expect(object.objectClass == objectClass)
    }
}
