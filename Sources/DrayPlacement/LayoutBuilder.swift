internal import DrayRuntime

/// Chooses a target for each shard of an object, group by group.
///
/// Each shard goes to one of the least loaded engines that are not in its group and have a free
/// target; the leader of a group to one of those that lead the fewest groups. Where engines have
/// different numbers of targets, that alone could use up the small engines until the large ones
/// are too few for a group. So the builder looks ahead, with a count that tells exactly whether
/// the rest still fits.
///
/// With `m` groups to go, `replicas` engines each, and `free` targets left on an engine, the rest
/// fits if and only if the engines' min(free, m) add up to at least `m · replicas`
/// (`PoolMap.groupCountMax` has the argument). An engine with free ≥ m loses one from its term
/// whether it is chosen or not, since `m` falls; any other loses one only when chosen. Hence a
/// group may leave out no more of the former, the *needed* engines, than the sum exceeds
/// `m · replicas` by: its *slack*. As soon as the places left in a group are all owed to needed
/// engines, only those are allowed.
struct LayoutBuilder {
    /// What is known of one engine that has targets.
    private struct Engine {
        let rank: UInt32
        let targetCount: Int
        /// How many of the targets hold a shard already.
        var load = 0
        var leads = 0
        /// The last group that it became a member of.
        var group = -1

        var free: Int { targetCount - load }
    }

    private let groupCount: Int
    private let replicaCount: Int
    private let base: UInt64
    private var engines: [Engine]
    /// Which targets of each engine hold a shard already.
    private var isUsed: [[Bool]]

    /// - Precondition: `groupCount` groups of `replicaCount` fit into `map`.
    init(_ object: ObjectID, in map: PoolMap, groupCount: Int, replicaCount: Int) {
        self.groupCount = groupCount
        self.replicaCount = replicaCount
        base = StableHash.hash(object.high, object.low)
        engines = map.engines.filter { $0.targetCount > 0 }.map {
            Engine(rank: $0.rank, targetCount: Int($0.targetCount))
        }
        isUsed = engines.map { [Bool](repeating: false, count: $0.targetCount) }
    }

    /// The target of each shard, group by group.
    mutating func build() -> [TargetAddress] {
        var shards: [TargetAddress] = []
        shards.reserveCapacity(groupCount * replicaCount)
        for group in 0..<groupCount {
            let left = groupCount - group
            var needed = engines.count { $0.free >= left }
            let room = engines.reduce(0) { $0 + min($1.free, left) }
            let slack = room - left * replicaCount
            precondition(slack >= 0, "the groups that are left fit")
            for replica in 0..<replicaCount {
                let places = replicaCount - replica
                let mustBeNeeded = needed - slack >= places
                let engine = chooseEngine(
                    shard: shards.count, group: group, isLeader: replica == 0,
                    freeMin: mustBeNeeded ? left : 1)
                if engines[engine].free >= left { needed -= 1 }
                shards.append(take(engine, shard: shards.count, group: group))
                if replica == 0 { engines[engine].leads += 1 }
            }
        }
        return shards
    }

    private func chooseEngine(shard: Int, group: Int, isLeader: Bool, freeMin: Int) -> Int {
        var load = Int.max
        var leads = Int.max
        for engine in engines where engine.group != group && engine.free >= freeMin {
            if engine.load < load {
                load = engine.load
                leads = engine.leads
            } else if engine.load == load {
                leads = min(leads, engine.leads)
            }
        }
        return LayoutBuilder.pick(
            StableHash.hash(base, UInt64(shard) << 32), count: engines.count,
            where: {
                let engine = engines[$0]
                return engine.group != group && engine.free >= freeMin && engine.load == load
                    && (!isLeader || engine.leads == leads)
            })
    }

    private mutating func take(_ index: Int, shard: Int, group: Int) -> TargetAddress {
        let rank = engines[index].rank
        let target = LayoutBuilder.pick(
            // One more than the rank: the engine and the target must not share a key.
            StableHash.hash(base, UInt64(shard) << 32 | (UInt64(rank) + 1)),
            count: engines[index].targetCount, where: { !isUsed[index][$0] })
        precondition(engines[index].group != group, "a group has an engine once")
        isUsed[index][target] = true
        engines[index].load += 1
        engines[index].group = group
        return TargetAddress(rank: rank, target: UInt32(target))
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
}
