/// One target of a pool: the engine's rank and which of its targets.
public struct TargetAddress: Hashable, Comparable, Sendable {
    public var rank: UInt32
    /// 0 ..< the engine's number of targets. The RPC tag is one more: tag 0 is the system's.
    public var target: UInt32

    public init(rank: UInt32, target: UInt32) {
        self.rank = rank
        self.target = target
    }

    /// The tag of the context that serves this target.
    public var tag: UInt32 { target + 1 }

    public static func < (left: TargetAddress, right: TargetAddress) -> Bool {
        (left.rank, left.target) < (right.rank, right.target)
    }
}

/// Which engines, and how many targets of each, make up a pool. Versioned.
///
/// The fault domain is the engine.
public struct PoolMap: Hashable, Sendable {
    /// One engine of the pool.
    public struct Engine: Hashable, Sendable {
        public var rank: UInt32
        public var targetCount: UInt32

        public init(rank: UInt32, targetCount: UInt32) {
            self.rank = rank
            self.targetCount = targetCount
        }
    }

    /// Grows with every change.
    public var version: UInt32

    /// In the order in which they joined: placement depends on it, so it never changes.
    public var engines: [Engine]

    public init(version: UInt32, engines: [Engine]) {
        self.version = version
        self.engines = engines
    }

    /// The number of targets of all engines.
    public var targetCount: Int {
        engines.reduce(0) { $0 + Int($1.targetCount) }
    }

    /// The number of engines that have targets.
    public var engineCount: Int {
        engines.count { $0.targetCount > 0 }
    }

    /// Every target, in the order of the map.
    public var targets: [TargetAddress] {
        engines.flatMap { engine in
            (0..<engine.targetCount).map { TargetAddress(rank: engine.rank, target: $0) }
        }
    }

    /// The most redundancy groups that an object with so many replicas can have. 0 when fewer
    /// engines than `replicas` have targets. O(engines · log targets).
    ///
    /// Each replica of a group is on another engine, and no target holds two shards. So an engine
    /// is in at most min(its targets, groups) places, and these must add up to the groups'
    /// members. That is enough, too: number the places engine by engine and give each to the
    /// group that is its number modulo the groups, so that an engine's places are all in
    /// different ones (McNaughton's wrap-around rule, 1959). Nor is there a gap: the sum is
    /// concave in the number of groups, so fewer groups fit as well.
    func groupCountMax(replicas: Int) -> Int {
        precondition(replicas > 0, "a group has a member")
        var fits = 0
        var tooMany = min(targetCount, ObjectLayout.shardsMax) / replicas + 1
        while tooMany - fits > 1 {
            let groups = fits + (tooMany - fits) / 2
            let places = engines.reduce(0) { $0 + min(Int($1.targetCount), groups) }
            if places >= replicas * groups { fits = groups } else { tooMany = groups }
        }
        return fits
    }
}
