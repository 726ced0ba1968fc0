/// Some members of a group under ranks of their own: those that hold the replicas of one thing,
/// for instance.
///
/// Confined to the xstream of its primary group.
public final class SecondaryGroup {
    /// 1 to `Group.nameBytesMax` letters, digits and `. _ -`.
    public let name: String

    /// The group whose members these are.
    public let primary: Group

    /// The version of the set; 0 when nothing was added yet. Grows with every change.
    public private(set) var version: UInt32 = 0

    /// Pairs of ranks, ascending by the rank in this group.
    public private(set) var members: [(rank: UInt32, primaryRank: UInt32)] = []

    private var byPrimary: [UInt32: UInt32] = [:]
    private var observation: Group.Observation?

    /// A group without members.
    ///
    /// - Parameters:
    ///   - name: must be good (`Group.isName`).
    ///   - primary: whose members it has.
    ///   - follows: whether who leaves the primary group leaves this one too.
    public init(name: String, of primary: Group, follows: Bool = true) {
        precondition(Group.isName(name), "\(name) cannot be a group's name")
        self.name = name
        self.primary = primary
        guard follows else { return }
        observation = primary.observe { [weak self] event in self?.removeLost(event.removed) }
    }

    deinit {
        if let observation { primary.remove(observation) }
    }

    /// The rank in the primary group of `rank` in this one. O(log members).
    public func primaryRank(of rank: UInt32) -> UInt32? {
        var low = 0
        var high = members.count
        while low < high {
            let middle = (low + high) / 2
            if members[middle].rank < rank { low = middle + 1 } else { high = middle }
        }
        return low < members.count && members[low].rank == rank ? members[low].primaryRank : nil
    }

    /// The rank in this group of `primaryRank` in the primary one. O(1).
    public func rank(ofPrimary primaryRank: UInt32) -> UInt32? { byPrimary[primaryRank] }

    /// Whom to call for `tag` of `rank`.
    ///
    /// - Throws: `.staleGroup` when there is no such member.
    public func destination(rank: UInt32, tag: UInt32) throws(RPCError) -> Destination {
        guard let primaryRank = primaryRank(of: rank) else { throw .staleGroup }
        return .rank(primaryRank, tag: tag)
    }

    /// Adds members, all or none.
    ///
    /// - Parameters:
    ///   - added: pairs of the rank in this group and the one in the primary group.
    ///   - version: of the set with them; larger than the one before.
    /// - Throws: why nothing was added: a rank of either group is there twice, is here already, or
    ///   is not in the primary group.
    public func add(
        _ added: [(rank: UInt32, primaryRank: UInt32)], version: UInt32
    ) throws(GroupError) {
        try check(version)
        var next = members
        var ranks = Set(members.map(\.rank))
        var primaryRanks = Set(members.map(\.primaryRank))
        for member in added {
            guard ranks.insert(member.rank).inserted else { throw .duplicateRank(member.rank) }
            guard primaryRanks.insert(member.primaryRank).inserted else {
                throw .duplicateRank(member.primaryRank)
            }
            guard primary.member(member.primaryRank) != nil else {
                throw .notAMember(rank: member.primaryRank)
            }
            next.append(member)
        }
        set(next, version)
    }

    /// Removes members by their ranks in this group, all or none.
    ///
    /// - Throws: why nothing was removed.
    public func remove(_ ranks: [UInt32], version: UInt32) throws(GroupError) {
        try check(version)
        for rank in ranks where primaryRank(of: rank) == nil { throw .notAMember(rank: rank) }
        let ranks = Set(ranks)
        set(members.filter { !ranks.contains($0.rank) }, version)
    }

    private func check(_ version: UInt32) throws(GroupError) {
        guard version > self.version else {
            throw .staleVersion(given: version, known: self.version)
        }
    }

    private func set(_ next: [(rank: UInt32, primaryRank: UInt32)], _ version: UInt32) {
        members = next.sorted { $0.rank < $1.rank }
        byPrimary = [:]
        for member in members { byPrimary[member.primaryRank] = member.rank }
        self.version = version
    }

    private func removeLost(_ primaryRanks: [UInt32]) {
        let lost = Set(primaryRanks)
        guard members.contains(where: { lost.contains($0.primaryRank) }) else { return }
        set(members.filter { !lost.contains($0.primaryRank) }, version + 1)
    }
}
