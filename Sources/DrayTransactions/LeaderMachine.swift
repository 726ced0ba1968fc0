/// What the leader of a transaction does, as a synchronous state machine.
///
/// The leader alone decides. It commits when every member, itself included, has prepared durably
/// before the deadline; anything else aborts. Two-phase commit with presumed abort (Mohan, Lindsay
/// 1983): a commit is remembered until every member knows of it, so that a leader which knows
/// nothing of a transaction can say that it was aborted.
public struct LeaderMachine: Sendable {
    /// A member, by its place in the list of members. 0 is the leader.
    public typealias Member = Int

    /// How far the transaction is.
    public enum State: Hashable, Sendable {
        /// Not everybody has answered.
        case preparing(missing: MemberSet)
        /// It will be aborted, once the leader's own prepare has ended: one that is under way
        /// cannot be called back.
        case failing
        /// Its abort is on the way to the log.
        case aborting
        case aborted
        /// Visible at the leader. These do not know yet.
        case committed(missing: MemberSet)
        /// Everybody knows.
        case completed
    }

    /// What happened.
    public enum Event: Hashable, Sendable {
        /// The member has it on stable storage.
        case prepared(Member)
        /// The member has it not, or did not say.
        case failed(Member)
        /// The deadline passed, or the client is gone.
        case expired
        /// The leader's abort is on stable storage.
        case abortIsDurable
        /// The member has the commit on stable storage.
        case acknowledged(Member)
    }

    /// What is to be done, in this order.
    public enum Action: Hashable, Sendable {
        /// Make it visible at the leader, and tell the client.
        case commit
        /// Log the abort at the leader.
        case abort
        /// Tell the client that nothing happened.
        case replyAborted
        /// Tell all members but the leader that it was committed.
        case tellCommitted
        /// Tell all members but the leader that it was aborted.
        case tellAborted
        /// Log that nobody will ask for the outcome any more.
        case complete
    }

    public private(set) var state: State
    private let count: Int

    /// - Parameter count: how many members there are, the leader included.
    public init(count: Int) {
        precondition(count > 0, "a transaction has a leader")
        self.count = count
        state = .preparing(missing: MemberSet(0..<count))
    }

    /// A commit that was found in the leader's log after a restart.
    public init(committedBy count: Int) {
        self.init(count: count)
        state = .committed(missing: MemberSet(1..<count))
    }

    /// Whether the client has its answer.
    public var isDecided: Bool {
        switch state {
        case .preparing, .failing, .aborting: false
        case .aborted, .committed, .completed: true
        }
    }

    /// Takes note of what happened; returns what is to be done about it.
    public mutating func on(_ event: Event) -> [Action] {
        switch (state, event) {
        case (.preparing(var missing), .prepared(let member)):
            missing.remove(member)
            guard missing.isEmpty else {
                state = .preparing(missing: missing)
                return []
            }
            guard count > 1 else {
                state = .completed
                return [.commit, .complete]
            }
            state = .committed(missing: MemberSet(1..<count))
            return [.commit, .tellCommitted]
        case (.preparing, .failed(0)):
            state = .aborted
            return [.replyAborted, .tellAborted]
        case (.preparing(let missing), .failed), (.preparing(let missing), .expired):
            if missing.contains(0) {
                state = .failing
                return []
            }
            state = .aborting
            return [.abort]
        case (.failing, .prepared(0)):
            state = .aborting
            return [.abort]
        case (.failing, .failed(0)):
            state = .aborted
            return [.replyAborted, .tellAborted]
        case (.aborting, .abortIsDurable):
            state = .aborted
            return [.replyAborted, .tellAborted]
        case (.committed(var missing), .acknowledged(let member)):
            missing.remove(member)
            state = missing.isEmpty ? .completed : .committed(missing: missing)
            return missing.isEmpty ? [.complete] : []
        case (.preparing, .abortIsDurable), (.preparing, .acknowledged), (.failing, _),
            (.aborting, _), (.aborted, _), (.committed, _), (.completed, _):
            // Late, or said twice.
            return []
        }
    }
}
