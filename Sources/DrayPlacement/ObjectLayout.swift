public import DrayRuntime

extension ObjectID {
    // The upper 32 bits of `high`: object class (8), reserved (8), group count (16). The count is
    // fixed when the object is made, so that its layout outlives an extension of the pool.

    /// Makes the id of a new object.
    ///
    /// - Parameters:
    ///   - random: 96 bits that make the object unique; the upper 32 of `high` are ignored.
    ///   - targetCount: how many targets the pool has now.
    public init(
        objectClass: ObjectClass, targetCount: Int, random: (high: UInt64, low: UInt64)
    ) {
        precondition(targetCount > 0, "a pool has at least one target")
        let groups =
            switch objectClass.groups {
            case .count(let count): min(count, targetCount)
            case .all: min(targetCount, Int(UInt16.max))
            }
        let type = UInt64(objectClass.code) << 56 | UInt64(groups) << 32
        self.init(high: type | random.high & 0xffff_ffff, low: random.low)
    }

    /// The class of the object. Nil when the id was not made by Dray.
    public var objectClass: ObjectClass? {
        ObjectClass(code: UInt8(high >> 56))
    }

    /// The number of redundancy groups. 0 when the id was not made by Dray.
    public var groupCount: Int {
        Int(high >> 32 & 0xffff)
    }
}

/// Where the shards of one object are.
public struct ObjectLayout: Hashable, Sendable {
    /// The target of each shard.
    public let shards: [TargetAddress]

    /// The most shards a layout may have.
    public static let shardsMax = Int(UInt16.max)

    /// Computes the layout of `object` in `map`; nil when the id is not one of Dray's or wants
    /// more groups than the pool has targets.
    ///
    /// Every shard goes to the engine, then to the target, that jump consistent hashing gives. An
    /// engine that has a shard already is passed over while others have none; a target never gets
    /// two. O(shards · log targets) expected.
    public init?(of object: ObjectID, in map: PoolMap) {
        let groups = object.groupCount
        guard object.objectClass != nil, groups > 0, groups <= map.targetCount else { return nil }
        let engines = map.engines.filter { $0.targetCount > 0 }
        var used = Set<TargetAddress>()
        var load = [Int](repeating: 0, count: engines.count)
        var round = 0
        var shards: [TargetAddress] = []
        shards.reserveCapacity(groups)
        let base = StableHash.hash(object.high, object.low)
        for shard in 0..<groups {
            // Each round every engine gets one shard, as far as it has targets left.
            while engines.indices.allSatisfy({
                load[$0] > round || load[$0] >= Int(engines[$0].targetCount)
            }) { round += 1 }
            let engine = ObjectLayout.pick(
                StableHash.hash(base, UInt64(shard) << 32), count: engines.count,
                where: { load[$0] <= round && load[$0] < Int(engines[$0].targetCount) })
            let rank = engines[engine].rank
            let target = ObjectLayout.pick(
                // One more than the rank: the engine and the target must not share a key.
                StableHash.hash(base, UInt64(shard) << 32 | (UInt64(rank) + 1)),
                count: Int(engines[engine].targetCount),
                where: { !used.contains(TargetAddress(rank: rank, target: UInt32($0))) })
            let address = TargetAddress(rank: rank, target: UInt32(target))
            used.insert(address)
            load[engine] += 1
            shards.append(address)
        }
        self.shards = shards
    }

    /// The bucket for `key` among those that `accepts` allows: jump hash, rehashed on a refusal,
    /// and after a few refusals the next allowed one in order. At least one must be allowed.
    private static func pick(
        _ key: UInt64, count: Int, where accepts: (Int) -> Bool
    ) -> Int {
        var key = key
        for _ in 0..<8 {
            let bucket = jumpConsistentHash(key, buckets: count)
            if accepts(bucket) { return bucket }
            key = StableHash.hash(key, 0x5bd1_e995)
        }
        let start = jumpConsistentHash(key, buckets: count)
        for step in 0..<count where accepts((start + step) % count) {
            return (start + step) % count
        }
        preconditionFailure("no bucket of \(count) is allowed")
    }

    /// The shard that holds `dkey`.
    public func shard(ofDkey dkey: [UInt8]) -> Int {
        jumpConsistentHash(StableHash.hash(dkey), buckets: shards.count)
    }
}
