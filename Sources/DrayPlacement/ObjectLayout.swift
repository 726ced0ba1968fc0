public import DrayRuntime

/// Where the shards of one object are: group by group, the replicas of a group side by side.
public struct ObjectLayout: Hashable, Sendable {
    /// The target of each shard. Shard `group * replicaCount + replica` is that replica of that
    /// group.
    public let shards: [TargetAddress]

    /// How many shards each group has.
    public let replicaCount: Int

    /// The number of redundancy groups.
    public let groupCount: Int

    /// The most shards a layout may have.
    public static let shardsMax = Int(UInt16.max)

    /// Computes the layout of `object` in `map`; nil when the id is not one of Dray's or does not
    /// fit the map: too few engines for its replicas, or more groups than there is room for.
    ///
    /// Every shard goes to the engine, then to the target, that jump consistent hashing gives
    /// among those that `LayoutBuilder` allows. O(shards · (engines + targets of an engine)) at
    /// worst, and O(engines · log targets) to see whether the object fits.
    public init?(of object: ObjectID, in map: PoolMap) {
        guard let objectClass = object.objectClass else { return nil }
        let groups = object.groupCount
        let replicas = objectClass.replicaCount
        guard groups > 0, groups <= map.groupCountMax(replicas: replicas) else { return nil }
        var builder = LayoutBuilder(object, in: map, groupCount: groups, replicaCount: replicas)
        shards = builder.build()
        replicaCount = replicas
        groupCount = groups
        precondition(shards.count == groups * replicas, "every replica of every group has a place")
    }

    /// The group that holds `dkey`.
    public func group(ofDkey dkey: [UInt8]) -> Int {
        jumpConsistentHash(StableHash.hash(dkey), buckets: groupCount)
    }

    /// The shards of `group`, each on another engine. The first member is the group's leader:
    /// replica 0 leads.
    public func members(ofGroup group: Int) -> ArraySlice<TargetAddress> {
        precondition((0..<groupCount).contains(group), "the layout has this group")
        return shards[group * replicaCount..<(group + 1) * replicaCount]
    }

    /// The first member of `group`, replica 0.
    public func leader(ofGroup group: Int) -> TargetAddress {
        precondition((0..<groupCount).contains(group), "the layout has this group")
        return shards[group * replicaCount]
    }
}
