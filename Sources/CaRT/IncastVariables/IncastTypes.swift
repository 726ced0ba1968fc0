/// Which versions of an incast variable a fetch takes.
public enum IncastVersion: Hashable, Sendable {
    /// Any that is not older than what this member has had before: a copy will do. (DAOS: 0)
    case any
    /// This one or a newer one.
    case atLeast(UInt64)
    /// What the owner has once it is asked. (DAOS: −1)
    case latest
}

/// How an update reaches the members that are not on its way.
///
/// When and what are two types, so that neither can be taken for the other.
public enum IncastSync: Hashable, Sendable {
    /// What is spread.
    public enum Event: UInt8, Hashable, Sendable, CaseIterable {
        /// The version only: older copies are stale.
        case notify = 1
        /// The value: it replaces older copies.
        case update = 2
    }

    /// Not at all.
    case none
    /// After the update has returned.
    case lazy(Event)
    /// Before the update returns.
    case eager(Event)

    /// What is spread, if anything.
    public var event: Event? {
        switch self {
        case .none: nil
        case .lazy(let event), .eager(let event): event
        }
    }
}

/// Which way an operation takes to the owner.
public enum IncastShortcut: Hashable, Sendable {
    /// Up the tree, from rank to rank.
    case none
    /// Straight to the owner: for what is not worth a copy on the way.
    case toOwner
}

/// A value with its version.
public struct IncastVersioned<Value> {
    /// Grows with each value that the owner stores.
    public var version: UInt64
    /// The value at that version.
    public var value: Value

    /// A value at a version.
    public init(_ value: Value, version: UInt64) {
        self.version = version
        self.value = value
    }
}

extension IncastVersioned: Equatable where Value: Equatable {}
extension IncastVersioned: Sendable where Value: Sendable {}

/// Which update it is, through all attempts to get it to the owner.
public struct IncastUpdateID: Hashable, Sendable {
    /// `Context.instance` of the caller.
    public var instance: UInt64
    /// Which of that caller's updates.
    public var number: UInt64

    /// Names an update.
    public init(instance: UInt64, number: UInt64) {
        self.instance = instance
        self.number = number
    }
}

/// What became of an update.
public struct IncastOutcome: Hashable, Sendable {
    /// The variable's version once the update was stored.
    public var version: UInt64
    /// Members that an eager update reached, without the owner.
    public var reached = 0
    /// Members that it did not reach: how many, and the first of them.
    public var missed = IncastMissed()

    /// An outcome at which nobody was told yet.
    public init(version: UInt64) {
        self.version = version
    }
}

/// Members that did not take news.
public struct IncastMissed: Hashable, Sendable {
    /// Ranks that are listed; more are only counted.
    public static let ranksMax = 64

    /// How many there are.
    public internal(set) var count = 0
    /// At most `ranksMax` of them.
    public internal(set) var ranks: [UInt32] = []

    /// None.
    public init() {}

    /// Whether there is none.
    public var isEmpty: Bool { count == 0 }

    mutating func add(_ rank: UInt32) {
        count += 1
        if ranks.count < IncastMissed.ranksMax { ranks.append(rank) }
    }

    mutating func add(_ others: IncastMissed) {
        count += others.count
        ranks += others.ranks.prefix(IncastMissed.ranksMax - ranks.count)
    }
}

/// Where a callback runs, and for what.
public struct IncastPlace: Hashable, Sendable {
    /// Our rank.
    public var rank: UInt32
    /// Who owns the key.
    public var owner: UInt32
    /// The version of the group that the operation acts upon.
    public var groupVersion: UInt32
    /// Who sent it to us; nil when it began here.
    public var source: UInt32?
    /// Follows the operation through every process.
    public var trace: UInt64

    /// Whether we own the key. (DAOS: FLAG_ROOT)
    public var isOwner: Bool { rank == owner }
}

/// What a rank on the way does with a fetch.
public enum IncastFetchStep<Value> {
    /// Answers with the copy if it is new enough, else forwards.
    case copy
    /// Forwards, whatever copy there is.
    case forward
    /// Answers. A version that is older than what was asked for is forwarded instead.
    case answer(IncastVersioned<Value>)
}

/// What a rank on the way does with an update.
public enum IncastUpdateStep<Value> {
    /// Forwards it, as it is or changed.
    case forward(Value)
    /// Keeps it to itself: the update ends here, with this version, and is not spread.
    case absorbed(version: UInt64)
}

/// What is new of a variable at a rank.
public enum IncastNews<Value> {
    /// A value: spread by an update, fetched, or on its way back from a bidirectional update.
    case value(IncastVersioned<Value>)
    /// Copies below this version are stale.
    case stale(below: UInt64)
    /// A fetch that passed here failed.
    case failed(RPCError)
}

/// What an operation needs a variable for.
public enum IncastAccess: Hashable, Sendable {
    /// A fetch.
    case reading
    /// An update, an invalidation, or news of one.
    case writing
}

/// Why an operation on an incast variable failed.
public enum IncastError: Error, Hashable, Sendable {
    /// A class refused it, or a call failed in a way that trying again does not help.
    case call(RPCError)
    /// The deadline passed; why the last attempt that ended had failed. The owner may have stored
    /// an update.
    case timedOut(last: RPCError)
    /// The calling task was cancelled. The owner may have stored an update.
    case cancelled
    /// This process is not in the group, or has no rank.
    case notAMember
    /// The class names no owner, or one that is not in the group.
    case noOwner
    /// There is no version as new as the fetch asked for; the owner has this one.
    case olderVersion(UInt64)
    /// The update was stored, but did not reach every member, as it was asked to.
    case incomplete(IncastOutcome)
}

extension IncastError: CustomStringConvertible {
    /// What went wrong, in words for people.
    public var description: String {
        switch self {
        case .call(let error): error.description
        case .timedOut(let last): "no success before the deadline: \(last)"
        case .cancelled: "cancelled"
        case .notAMember: "this process is not in the group"
        case .noOwner: "no member owns the variable"
        case .olderVersion(let version): "the newest version is \(version)"
        case .incomplete(let outcome): "\(outcome.missed.count) members missed the update"
        }
    }
}
