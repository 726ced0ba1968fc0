/// What a member that does not lead does with a transaction, as a synchronous state machine.
public struct ParticipantMachine: Sendable {
    /// What the member has of the transaction.
    public enum State: Hashable, Sendable, CaseIterable {
        /// Nothing.
        case unknown
        /// Its prepare is under way.
        case preparing
        /// Its prepare is under way, and it was aborted meanwhile.
        case doomed
        /// On stable storage, undecided.
        case prepared
        case committed
        case aborted
    }

    /// What happened.
    public enum Event: Hashable, Sendable, CaseIterable {
        /// The leader sends the member's part.
        case prepare
        /// The part is on stable storage.
        case didPrepare
        /// It could not be brought there; nothing is left of it.
        case didFail
        /// It is decided: committed.
        case commit
        /// It is decided: aborted.
        case abort
        /// Another member wants to know; it will abort if nothing is here.
        case query
        /// The leader wants to know, and may send the part again.
        case peek
        /// The leader, whom the client has sent it again, sends the part once more, and wants to
        /// know what became of it here.
        case forward
    }

    /// What is to be done, in this order.
    public enum Action: Hashable, Sendable {
        /// Lock the keys, bring the data, log.
        case startPrepare
        /// Tell the leader that it is prepared.
        case replyPrepared
        /// Tell the leader that it is not, and never will be.
        case replyFailed
        /// Make it visible.
        case commit
        /// Log that it is gone.
        case abort
        /// Log that it must not be prepared any more.
        case refuse
        /// Tell who asked that the decision is on stable storage here.
        case acknowledge
        /// Tell who asked what is here.
        case report
        /// The leader contradicts itself: say so, change nothing.
        case protest
    }

    public private(set) var state: State

    public init(_ state: State = .unknown) {
        self.state = state
    }

    /// Takes note of what happened; returns what is to be done about it.
    public mutating func on(_ event: Event) -> [Action] {
        switch (state, event) {
        case (.unknown, .prepare), (.unknown, .forward):
            state = .preparing
            return [.startPrepare]
        case (.preparing, .prepare), (.doomed, .prepare), (.aborted, .prepare):
            return [.replyFailed]
        case (.prepared, .prepare), (.committed, .prepare):
            return [.replyPrepared]
        case (.preparing, .didPrepare):
            state = .prepared
            return [.replyPrepared]
        case (.doomed, .didPrepare):
            state = .aborted
            return [.abort, .replyFailed]
        case (.preparing, .didFail), (.doomed, .didFail):
            state = .aborted
            return [.replyFailed]
        case (.prepared, .commit):
            state = .committed
            return [.commit, .acknowledge]
        case (.unknown, .commit), (.committed, .commit):
            // Committed before, and forgotten since.
            return [.acknowledge]
        case (.preparing, .commit), (.doomed, .commit), (.aborted, .commit), (.committed, .abort):
            return [.protest]
        case (.unknown, .abort):
            state = .aborted
            return [.refuse, .acknowledge]
        case (.preparing, .abort):
            state = .doomed
            return [.acknowledge]
        case (.prepared, .abort):
            state = .aborted
            return [.abort, .acknowledge]
        case (.doomed, .abort), (.aborted, .abort):
            return [.acknowledge]
        case (.unknown, .query):
            state = .aborted
            return [.refuse, .report]
        case (.preparing, .query), (.doomed, .query), (.prepared, .query), (.committed, .query),
            (.aborted, .query), (_, .peek), (.preparing, .forward), (.doomed, .forward),
            (.prepared, .forward), (.committed, .forward), (.aborted, .forward):
            return [.report]
        case (.unknown, .didPrepare), (.unknown, .didFail), (.prepared, .didPrepare),
            (.prepared, .didFail), (.committed, .didPrepare), (.committed, .didFail),
            (.aborted, .didPrepare), (.aborted, .didFail):
            preconditionFailure("a prepare ended that was not under way")
        }
    }
}
