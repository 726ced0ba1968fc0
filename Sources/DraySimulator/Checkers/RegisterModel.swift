/// A key that has a value or none. Every put has a value of its own.
package enum RegisterModel: SequentialModel {
    /// A number that tells one written value from all others; above zero.
    package typealias Value = UInt64

    /// Stands for any value that no read has returned: which one it is makes no difference.
    static let unread: Value = 0

    package enum Condition: Hashable, Sendable {
        case none
        case insert
        case update

        func holds(for state: Value?) -> Bool {
            switch self {
            case .none: true
            case .insert: state == nil
            case .update: state != nil
            }
        }
    }

    package enum Action: Hashable, Sendable {
        /// A read that returned this.
        case get(Value?)
        /// A put whose condition held.
        case put(Value, Condition)
        /// A removal whose condition held.
        case remove(Condition)
        /// A change that was refused: its condition did not hold.
        case refused(Condition)
    }

    package static func initialState(for operations: [RecordedOperation<Action>]) -> Value? { nil }

    package static func apply(_ action: Action, to state: Value?) -> Value?? {
        switch action {
        case .get(let value): value == state ? .some(state) : nil
        case .put(let value, let condition): condition.holds(for: state) ? .some(value) : nil
        case .remove(let condition): condition.holds(for: state) ? .some(nil) : nil
        case .refused(let condition): condition.holds(for: state) ? nil : .some(state)
        }
    }

    package static func isReadOnly(_ action: Action) -> Bool {
        switch action {
        case .get, .refused: true
        case .put, .remove: false
        }
    }

    package static func marks(of action: Action) -> [Value] {
        guard case .get(let value?) = action else { return [] }
        return [value]
    }

    package static func marksLost(by action: Action, from state: Value?) -> [Value] {
        guard let state, state != unread else { return [] }
        return [state]
    }

    /// A put of unknown outcome whose value was read has happened before that read returned. Of
    /// the others only the effect counts, and what is not read loses its name.
    package static func prepare(
        _ operations: [RecordedOperation<Action>]
    ) -> [RecordedOperation<Action>] {
        var firstSeen: [Value: Int] = [:]
        for operation in operations {
            guard case .get(let value?) = operation.action, let end = operation.end else {
                continue
            }
            firstSeen[value] = min(firstSeen[value] ?? end, end)
        }
        return operations.map { operation in
            var operation = operation
            switch operation.action {
            case .put(let value, let condition):
                if let seen = firstSeen[value] {
                    operation.narrow(to: seen)
                } else {
                    operation.action = .put(unread, condition)
                }
            case .remove:
                // Where there is nothing a removal of unknown outcome has no effect at all.
                if !operation.isCertain { operation.action = .remove(.update) }
            case .get, .refused: break
            }
            return operation
        }
    }

    package static func describe(_ action: Action) -> String {
        switch action {
        case .get(let value): "read \(describe(value))"
        case .put(let value, .none): "put \(describe(value))"
        case .put(let value, .insert): "inserted \(describe(value))"
        case .put(let value, .update): "updated to \(describe(value))"
        case .remove(.none): "removed"
        case .remove: "removed what was there"
        case .refused(.insert): "was told that there is a value"
        case .refused: "was told that there is nothing"
        }
    }

    package static func describe(_ state: Value?) -> String {
        switch state {
        case nil: "nothing"
        case unread?: "a value that nobody read"
        case let value?: "v\(value)"
        }
    }
}

extension RecordedOperation {
    /// It has happened, and by `seen` at the latest. What was seen before it began stays as it
    /// is: no order will explain that.
    mutating func narrow(to seen: Int) {
        guard seen > begin else { return }
        end = end.map { min($0, seen) } ?? seen
        isCertain = true
    }
}
