/// How a member that has prepared a transaction finds out what became of it, as a synchronous
/// state machine.
///
/// It asks the leader. When the leader does not answer, it asks the others: any that knows the
/// outcome tells it, and one that has nothing promises never to prepare, so the leader can never
/// commit. When all others have prepared too, only the leader knows: no guess is made. A leader
/// that restarted asks all others and decides: all have prepared, commit; else abort. When its
/// client has sent the transaction again, it asks by forwarding it: who lacks it may take it.
public struct ResolutionMachine: Sendable {
    /// A member, by its place in the list of members. 0 is the leader.
    public typealias Member = Int

    /// What a member says of the transaction.
    public enum Answer: UInt8, Hashable, Sendable, CaseIterable {
        /// It is under way, and not durable or, at the leader, not decided.
        case undecided = 1
        case committed = 2
        /// Aborted; or not here, or not at this epoch, and it never will be.
        case aborted = 3
        /// It is prepared, and the member knows no more.
        case prepared = 4
    }

    /// What has been found out.
    public enum State: Hashable, Sendable {
        case askingLeader
        /// `arePrepared`: so far all who have answered are.
        case askingOthers(missing: MemberSet, arePrepared: Bool)
        case committed
        case aborted
        /// It cannot be known now.
        case blocked
    }

    /// What happened.
    public enum Event: Hashable, Sendable {
        case answered(Member, Answer)
        case silent(Member)
    }

    /// What is to be done.
    public enum Action: Hashable, Sendable {
        case ask([Member])
        case commit
        case abort
        /// Ask again later.
        case wait
    }

    public private(set) var state: State
    private let own: Member
    private let others: [Member]

    /// - Parameters:
    ///   - own: the place of the member that resolves; 0 for a leader after its restart.
    ///   - count: how many members there are.
    public init(own: Member, count: Int) {
        precondition(own >= 0 && own < count, "whoever resolves is a member")
        self.own = own
        others = (1..<max(1, count)).filter { $0 != own }
        state =
            own == 0
            ? .askingOthers(missing: MemberSet(others), arePrepared: true) : .askingLeader
    }

    /// What to do first.
    public mutating func start() -> [Action] {
        guard own == 0 else { return [.ask([0])] }
        guard others.isEmpty else { return [.ask(others)] }
        state = .committed
        return [.commit]
    }

    /// Takes note of what happened; returns what is to be done about it.
    public mutating func on(_ event: Event) -> [Action] {
        switch (state, event) {
        case (.askingLeader, .answered(0, .committed)),
            (.askingOthers, .answered(_, .committed)):
            state = .committed
            return [.commit]
        case (.askingLeader, .answered(0, .aborted)), (.askingOthers, .answered(_, .aborted)):
            state = .aborted
            return [.abort]
        case (.askingLeader, .answered(0, .undecided)), (.askingLeader, .answered(0, .prepared)):
            state = .blocked
            return [.wait]
        case (.askingLeader, .silent(0)):
            guard !others.isEmpty else {
                state = .blocked
                return [.wait]
            }
            state = .askingOthers(missing: MemberSet(others), arePrepared: false)
            return [.ask(others)]
        case (.askingOthers(let missing, let known), .answered(let member, .prepared)):
            return heard(of: member, missing, arePrepared: known)
        case (.askingOthers(let missing, _), .answered(let member, .undecided)),
            (.askingOthers(let missing, _), .silent(let member)):
            return heard(of: member, missing, arePrepared: false)
        case (.askingLeader, _), (.committed, _), (.aborted, _), (.blocked, _):
            return []
        }
    }

    private mutating func heard(
        of member: Member, _ missing: MemberSet, arePrepared: Bool
    ) -> [Action] {
        let rest = missing.removing(member)
        guard rest.isEmpty else {
            state = .askingOthers(missing: rest, arePrepared: arePrepared)
            return []
        }
        // Everybody has prepared, and the one who decides is asking.
        if own == 0, arePrepared {
            state = .committed
            return [.commit]
        }
        state = .blocked
        return [.wait]
    }
}
