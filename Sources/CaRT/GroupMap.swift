public import DrayFabric

/// The members of the group as one context knows them: the addresses of each rank, by tag.
///
/// Confined to the context's xstream. A newer version replaces an older one as a whole.
public final class GroupMap {
    /// One member: where each of its tags listens, by tag.
    public struct Member: Hashable, Sendable {
        public var rank: UInt32
        public var addresses: [FabricAddress]

        public init(rank: UInt32, addresses: [FabricAddress]) {
            self.rank = rank
            self.addresses = addresses
        }
    }

    /// The version of the set; 0 when nothing was set yet.
    public private(set) var version: UInt32 = 0

    /// Ascending by rank.
    public private(set) var members: [Member] = []

    /// Counts replacements, for caches.
    private(set) var generation: UInt32 = 0

    init() {}

    /// Replaces the set. Returns false, and changes nothing, when `version` is not newer.
    /// Ranks must be unique.
    @discardableResult
    public func replace(version: UInt32, members: [Member]) -> Bool {
        guard version > self.version else { return false }
        let sorted = members.sorted { $0.rank < $1.rank }
        for (left, right) in zip(sorted, sorted.dropFirst()) {
            precondition(left.rank != right.rank, "rank \(left.rank) is twice in the group")
        }
        self.version = version
        self.members = sorted
        generation &+= 1
        return true
    }

    /// Where `tag` of `rank` listens, if the group has them. O(log members).
    public func address(rank: UInt32, tag: UInt32) -> FabricAddress? {
        guard let member = member(rank), Int(tag) < member.addresses.count else { return nil }
        return member.addresses[Int(tag)]
    }

    /// The member `rank`. O(log members).
    public func member(_ rank: UInt32) -> Member? {
        var low = 0
        var high = members.count
        while low < high {
            let middle = (low + high) / 2
            if members[middle].rank < rank { low = middle + 1 } else { high = middle }
        }
        return low < members.count && members[low].rank == rank ? members[low] : nil
    }
}
