/// What something does when one operation at a time is applied to it.
package protocol SequentialModel {
    associatedtype State: Hashable
    /// An operation together with its result.
    associatedtype Action: Hashable & Sendable

    /// Something in a state that never comes back once it is gone, such as a unique value.
    associatedtype Mark: Hashable

    /// Before the first operation.
    static func initialState(for operations: [RecordedOperation<Action>]) -> State

    /// The state after `action`; nil when it could not have had this result in `state`.
    static func apply(_ action: Action, to state: State) -> State?

    /// Whether the action leaves every state as it is.
    static func isReadOnly(_ action: Action) -> Bool

    /// What a state must have for `action`, a read, to be right.
    static func marks(of action: Action) -> [Mark]

    /// What `state` loses by `action`, a change.
    static func marksLost(by action: Action, from state: State) -> [Mark]

    /// The same history, easier to search: without what cannot matter, and with narrower times.
    static func prepare(
        _ operations: [RecordedOperation<Action>]
    ) -> [RecordedOperation<Action>]

    static func describe(_ action: Action) -> String
    static func describe(_ state: State) -> String
}
