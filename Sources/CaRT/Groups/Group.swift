public import DrayFabric

/// A set of processes that call each other by rank, as one process knows it: who belongs to it,
/// and where each member's contexts listen.
///
/// Its versions are made elsewhere, one after another, by whoever may say who belongs to it. Each
/// change is applied as a whole or not at all. Confined to the xstream of the context that uses it.
public final class Group {
    /// One member.
    public struct Member: Hashable, Sendable {
        /// Below 2^32 − 1. Ranks need not be consecutive.
        public var rank: UInt32

        /// Which life of the process at this rank: larger after every restart.
        public var incarnation: UInt64

        /// Where its contexts listen, by tag. At least the first; a context looks up the others
        /// there when it needs one.
        public var addresses: [FabricAddress]

        /// A member; 1 to 1,024 addresses, by tag.
        public init(rank: UInt32, incarnation: UInt64 = 0, addresses: [FabricAddress]) {
            self.rank = rank
            self.incarnation = incarnation
            self.addresses = addresses
        }
    }

    /// How a version differs from the one before.
    public enum Change: Sendable {
        /// New members, or new lives of members: a larger incarnation, with other addresses.
        case add([Member])
        /// Ranks that are members no more.
        case remove([UInt32])
        /// The whole set.
        case replace([Member])
    }

    /// What a change came to, for observers. Ranks ascending.
    public struct Event: Hashable, Sendable {
        /// The version from now on.
        public var version: UInt32
        /// Members that were none before.
        public var added: [UInt32] = []
        /// Ranks that are members no more.
        public var removed: [UInt32] = []
        /// Members with a new incarnation or other addresses.
        public var changed: [UInt32] = []
        /// Those of `changed` with a new incarnation.
        public var restarted: [UInt32] = []
    }

    /// Names an observer.
    public struct Observation: Hashable, Sendable {
        fileprivate var number: UInt64
    }

    /// 1 to `nameBytesMax` letters, digits and `. _ -`.
    public let name: String

    /// The version of the set; 0 when nothing is known yet. Grows with every change.
    public private(set) var version: UInt32 = 0

    /// Ascending by rank.
    public private(set) var members: [Member] = []

    /// Counts everything that makes addresses in caches invalid.
    private(set) var generation: UInt32 = 0

    private var observers: [(number: UInt64, body: (Event) -> Void)] = []
    private var nextObserver: UInt64 = 1
    /// Events that observers have not seen.
    private var events: [Event] = []
    private var isTelling = false

    /// The longest name of a group.
    public static let nameBytesMax = 64

    /// The most members of a group.
    public static let membersMax = 1 << 20

    /// A group that nothing is known of yet. The name must be good (`isName`).
    public init(name: String) {
        precondition(Group.isName(name), "\(name) cannot be a group's name")
        self.name = name
    }

    /// Whether a group can have this name.
    public static func isName(_ text: String) -> Bool {
        (1...nameBytesMax).contains(text.utf8.count)
            && text.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"),
                    UInt8(ascii: "-"):
                    true
                default: false
                }
            }
    }

    // MARK: - Members

    /// Where `tag` of `rank` listens, if that is known. O(log members).
    public func address(rank: UInt32, tag: UInt32) -> FabricAddress? {
        guard let member = member(rank), Int(tag) < member.addresses.count else { return nil }
        return member.addresses[Int(tag)]
    }

    /// The member `rank`. O(log members).
    public func member(_ rank: UInt32) -> Member? {
        position(rank).map { members[$0] }
    }

    /// Where `rank` is among the members. O(log members).
    func position(_ rank: UInt32) -> Int? {
        var low = 0
        var high = members.count
        while low < high {
            let middle = (low + high) / 2
            if members[middle].rank < rank { low = middle + 1 } else { high = middle }
        }
        return low < members.count && members[low].rank == rank ? low : nil
    }

    // MARK: - Changes

    /// Makes the next version by `change`, and tells the observers.
    ///
    /// O(members).
    ///
    /// - Parameters:
    ///   - change: who comes and goes.
    ///   - version: of the set with the change; larger than the one before.
    /// - Throws: why the change was not applied; then nothing has changed.
    public func apply(_ change: Change, version: UInt32) throws(GroupError) {
        guard version > self.version else {
            throw .staleVersion(given: version, known: self.version)
        }
        let next = try members(after: change)
        guard next.count <= Group.membersMax else { throw .tooManyMembers }
        var event = Event(version: version)
        var (old, new) = (members[...], next[...])
        while let first = old.first ?? new.first {
            if let left = old.first, let right = new.first, left.rank == right.rank {
                if left != right { event.changed.append(left.rank) }
                if left.incarnation != right.incarnation { event.restarted.append(left.rank) }
                old.removeFirst()
                new.removeFirst()
            } else if old.isEmpty || new.first.map({ $0.rank < first.rank }) == true {
                event.added.append(new.removeFirst().rank)
            } else {
                event.removed.append(old.removeFirst().rank)
            }
        }
        self.version = version
        members = next
        generation &+= 1
        tell(event)
    }

    private func members(after change: Change) throws(GroupError) -> [Member] {
        switch change {
        case .add(let added):
            let added = try checked(added)
            let ranks = Set(added.map(\.rank))
            return (members.filter { !ranks.contains($0.rank) } + added)
                .sorted { $0.rank < $1.rank }
        case .remove(let ranks):
            for rank in ranks where position(rank) == nil { throw .notAMember(rank: rank) }
            let ranks = Set(ranks)
            return members.filter { !ranks.contains($0.rank) }
        case .replace(let all):
            return try checked(all)
        }
    }

    /// The members in order, if they can be in the set.
    private func checked(_ members: [Member]) throws(GroupError) -> [Member] {
        let sorted = members.sorted { $0.rank < $1.rank }
        for (left, right) in zip(sorted, sorted.dropFirst()) where left.rank == right.rank {
            throw .duplicateRank(left.rank)
        }
        for member in sorted {
            guard member.rank != WireHeader.anyRank,
                (1...InternalProtocol.tagsMax).contains(member.addresses.count)
            else { throw .badMember(rank: member.rank) }
            guard let known = self.member(member.rank), known != member else { continue }
            // Another life has another incarnation; only addresses that are not known yet may come
            // later.
            guard
                member.incarnation > known.incarnation
                    || (member.incarnation == known.incarnation
                        && (member.addresses.starts(with: known.addresses)
                            || known.addresses.starts(with: member.addresses)))
            else {
                throw .staleIncarnation(
                    rank: member.rank, given: member.incarnation, known: known.incarnation)
            }
        }
        return sorted
    }

    /// The members that come after `rank`, the lowest after the highest; at most `max`.
    func ranks(after rank: UInt32, max: Int) -> [UInt32] {
        guard let position = position(rank) else { return [] }
        return (1..<members.count).prefix(max).map {
            members[(position + $0) % members.count].rank
        }
    }

    /// Somebody has said where the contexts of a member listen. Returns false, and learns nothing,
    /// when that was another life of it, or contradicts what is known.
    func learn(_ addresses: [FabricAddress], rank: UInt32, incarnation: UInt64) -> Bool {
        guard let position = position(rank), members[position].incarnation == incarnation else {
            return false
        }
        let known = members[position].addresses
        if addresses.starts(with: known) { members[position].addresses = addresses }
        return members[position].addresses.starts(with: addresses)
    }

    // MARK: - Observers

    /// Calls `body` after every change, on the xstream, once the change is in force. It may not
    /// wait for anything; changes that it makes itself are reported after it has returned.
    @discardableResult
    public func observe(_ body: @escaping (Event) -> Void) -> Observation {
        let number = nextObserver
        nextObserver += 1
        observers.append((number, body))
        return Observation(number: number)
    }

    /// Ends an observation. Harmless when it has ended.
    public func remove(_ observation: Observation) {
        observers.removeAll { $0.number == observation.number }
    }

    private func tell(_ event: Event) {
        events.append(event)
        guard !isTelling else { return }
        isTelling = true
        while !events.isEmpty {
            let event = events.removeFirst()
            for observer in observers { observer.body(event) }
        }
        isTelling = false
    }
}

/// Why a change of a group was refused.
public enum GroupError: Error, Hashable, Sendable {
    /// The version is not newer than the one that is known.
    case staleVersion(given: UInt32, known: UInt32)
    /// A change names a rank twice.
    case duplicateRank(UInt32)
    /// The rank to remove is not a member.
    case notAMember(rank: UInt32)
    /// A member without addresses, with too many, or with a rank that cannot be one.
    case badMember(rank: UInt32)
    /// An older life of a member, or the same one elsewhere.
    case staleIncarnation(rank: UInt32, given: UInt64, known: UInt64)
    /// More than `Group.membersMax` members.
    case tooManyMembers
}

extension GroupError: CustomStringConvertible {
    /// What was wrong with the change, in words for people.
    public var description: String {
        switch self {
        case .staleVersion(let given, let known):
            "version \(given) of the group is not newer than version \(known)"
        case .duplicateRank(let rank): "rank \(rank) is twice in the group"
        case .notAMember(let rank): "rank \(rank) is not in the group"
        case .badMember(let rank):
            "rank \(rank) needs 1 to \(InternalProtocol.tagsMax) addresses"
        case .staleIncarnation(let rank, let given, let known):
            "incarnation \(given) of rank \(rank) cannot follow incarnation \(known)"
        case .tooManyMembers: "a group has at most \(Group.membersMax) members"
        }
    }
}
