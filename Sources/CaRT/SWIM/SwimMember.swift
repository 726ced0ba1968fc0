public import DrayRuntime

/// How a member is.
public enum SwimState: UInt8, Sendable, Hashable, CaseIterable {
    /// It answers, or nothing is known to the contrary.
    case alive = 0
    /// It has not answered; it is dead unless it says otherwise within the suspicion time.
    case suspect = 1
    /// It is gone, or has not answered in time: what is under way to it was ended.
    case dead = 2
}

/// What somebody says of a member at one of its incarnations. The greatest one holds: of a newer
/// incarnation, or the worse one.
public enum SwimVerdict: UInt8, Sendable, Hashable, CaseIterable, Comparable {
    /// It answers.
    case alive = 0
    /// It did not answer somebody.
    case suspect = 1
    /// Dead: it has not answered for the suspicion time.
    case silent = 2
    /// Dead, and proved to be: nobody listens at its port.
    case gone = 3

    /// How a member is of which this holds.
    public var state: SwimState {
        switch self {
        case .alive: .alive
        case .suspect: .suspect
        case .silent, .gone: .dead
        }
    }

    public static func < (left: SwimVerdict, right: SwimVerdict) -> Bool {
        left.rawValue < right.rawValue
    }
}

/// A member of the group as another one sees it; also how it is told to others.
public struct SwimMember: Hashable, Sendable, ByteCodable {
    /// Its rank in the group.
    public var rank: UInt32
    /// Counts the member's lives, and its contradictions to those who took it for dead. 0: not
    /// heard of yet.
    public var incarnation: UInt64
    /// What is said of it at that incarnation.
    public var verdict: SwimVerdict

    /// Incarnations are below this, so that each has a successor. They begin as wall-clock time in
    /// nanoseconds, which comes here in 2116.
    public static let incarnationMax: UInt64 = 1 << 62

    /// A member of which nothing is known, unless it is said.
    public init(rank: UInt32, incarnation: UInt64 = 0, verdict: SwimVerdict = .alive) {
        self.rank = rank
        self.incarnation = incarnation
        self.verdict = verdict
    }

    public init() {
        self.init(rank: 0)
    }

    /// How the member is.
    public var state: SwimState { verdict.state }

    /// Whether this is news for who knows `other` of the same member.
    func overrides(_ other: SwimMember) -> Bool {
        (incarnation, verdict) > (other.incarnation, other.verdict)
    }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&rank)
        try coder.code(&incarnation)
        try coder.code(&verdict)
        guard incarnation < SwimMember.incarnationMax else { throw .invalidValue }
    }
}
