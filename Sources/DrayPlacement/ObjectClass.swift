/// How an object is protected and over how many redundancy groups it is spread, in DAOS's terms.
///
/// `S1`, `S2`, … spread over that many targets without redundancy; `SX` over all of them.
/// `RP_2G1`, … `RP_6GX` keep 2 to 6 replicas in each of that many groups (`X`: as many as fit).
public struct ObjectClass: Hashable, Sendable, CustomStringConvertible {
    /// How one redundancy group protects its data.
    public enum Redundancy: Hashable, Sendable {
        /// One shard a group: a lost target loses its part.
        case none
        /// So many shards a group, each on another engine and each with all of the group's data.
        case replicas(Int)
    }

    /// The number of redundancy groups.
    public enum Groups: Hashable, Sendable {
        case count(Int)
        /// As many as fit into the pool when the object is made (`X`).
        case all
    }

    public let redundancy: Redundancy
    public let groups: Groups

    init(redundancy: Redundancy, groups: Groups) {
        self.redundancy = redundancy
        self.groups = groups
    }

    public static var s1: ObjectClass { ObjectClass(redundancy: .none, groups: .count(1)) }
    public static var s2: ObjectClass { ObjectClass(redundancy: .none, groups: .count(2)) }
    public static var sx: ObjectClass { ObjectClass(redundancy: .none, groups: .all) }
    public static var rp2g1: ObjectClass {
        ObjectClass(redundancy: .replicas(2), groups: .count(1))
    }
    public static var rp3g1: ObjectClass {
        ObjectClass(redundancy: .replicas(3), groups: .count(1))
    }
    public static var rp3gx: ObjectClass {
        ObjectClass(redundancy: .replicas(3), groups: .all)
    }

    /// The group counts that have a name, as in DAOS.
    static let groupCounts = [1, 2, 4, 6, 8, 12, 16, 32]

    /// The numbers of replicas that have a name, as in DAOS.
    static let replicaCounts = 2...6

    /// Every class there is: those without redundancy, then by the number of replicas.
    public static var allCases: [ObjectClass] {
        let groups = groupCounts.map(Groups.count) + [.all]
        let redundancies = [Redundancy.none] + replicaCounts.map(Redundancy.replicas)
        return redundancies.flatMap { redundancy in
            groups.map { ObjectClass(redundancy: redundancy, groups: $0) }
        }
    }

    /// Parses a name such as `S2`, `sx` or `RP_3GX`. Nil when there is no such class.
    public init?(_ name: String) {
        let upper = name.uppercased()
        guard let found = ObjectClass.allCases.first(where: { $0.description == upper }) else {
            return nil
        }
        self = found
    }

    public var description: String {
        let count =
            switch groups {
            case .count(let count): "\(count)"
            case .all: "X"
            }
        return switch redundancy {
        case .none: "S" + count
        case .replicas(let replicas): "RP_\(replicas)G" + count
        }
    }

    /// How many shards a group has: 1 without redundancy. O(1).
    public var replicaCount: Int {
        switch redundancy {
        case .none: 1
        case .replicas(let count): count
        }
    }

    /// How many bytes of data fit into `raw` bytes of devices.
    public func usable(raw: UInt64) -> UInt64 {
        raw / UInt64(replicaCount)
    }

    /// The number of groups that an object of this class gets in `map`: the named count, or the
    /// most that fit when that is less, or `X`. Nil when not even one group fits, which is when
    /// fewer than `replicaCount` engines have targets.
    public func groupCount(in map: PoolMap) -> Int? {
        let most = map.groupCountMax(replicas: replicaCount)
        guard most > 0 else { return nil }
        return switch groups {
        case .count(let count): min(count, most)
        case .all: most
        }
    }
}
