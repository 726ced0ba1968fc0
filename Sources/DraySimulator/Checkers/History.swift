package import DrayRuntime

/// One operation of a history: from when to when it was under way, and what it did.
package struct RecordedOperation<Action: Hashable & Sendable>: Hashable, Sendable {
    package var client: Int
    package var action: Action

    /// When it was invoked: a place in the order of all invocations and returns of the history.
    package var begin: Int
    /// Until when it has happened, if ever; nil for no limit.
    package var end: Int?
    /// Whether it has happened for certain. Otherwise it happened between `begin` and `end`, or
    /// never.
    package var isCertain: Bool
    /// When it was invoked, for people.
    package var time = Instant(nanoseconds: 0)

    package init(client: Int, action: Action, begin: Int, end: Int?, isCertain: Bool) {
        precondition(end.map { $0 > begin } ?? true, "an operation ends before it begins")
        precondition(end != nil || !isCertain, "an operation without an end is not certain")
        self.client = client
        self.action = action
        self.begin = begin
        self.end = end
        self.isCertain = isCertain
    }
}

/// What several clients did with keys that they share, and what they were told, in the order in
/// which it happened.
///
/// Each operation begins once. It ends by `finish` when its result is known, by `drop` when it did
/// not happen, or never: then it may have happened at any time since, up to its last moment.
package struct History<
    Key: Hashable & Comparable & Sendable, Action: Hashable & Sendable
>: Sendable {
    private struct Entry {
        var client: Int
        var key: Key
        /// What it does, for one that matters without its result.
        var change: Action?
        var begin: Int
        var time: Instant
        /// After this it has happened, or never will.
        var until: Instant
        var ending = Ending.none
    }

    private enum Ending {
        case none
        case finished(Action, end: Int)
        case dropped
    }

    /// Names an operation that has begun.
    package struct Token: Sendable {
        fileprivate let index: Int
    }

    private var entries: [Entry] = []
    private var position = 0

    package init() {}

    /// How many operations were begun.
    package var count: Int { entries.count }

    /// An operation is invoked. `change` is what it does, also if nobody hears of its result; nil
    /// for one that only reads. After `until` it does not happen any more.
    package mutating func begin(
        client: Int, key: Key, change: Action?, at time: Instant, until: Instant = .never
    ) -> Token {
        entries.append(
            Entry(
                client: client, key: key, change: change, begin: position, time: time,
                until: until))
        position += 1
        return Token(index: entries.count - 1)
    }

    /// The operation has returned: it was `action`.
    package mutating func finish(_ token: Token, as action: Action) {
        end(token, .finished(action, end: position))
        position += 1
    }

    /// The operation did not happen, and will not.
    package mutating func drop(_ token: Token) { end(token, .dropped) }

    private mutating func end(_ token: Token, _ ending: Ending) {
        guard case .none = entries[token.index].ending else {
            preconditionFailure("an operation ended twice")
        }
        entries[token.index].ending = ending
    }

    /// The operations of each key, by key.
    package func partitioned() -> [(key: Key, operations: [RecordedOperation<Action>])] {
        var groups: [Key: [RecordedOperation<Action>]] = [:]
        for entry in entries {
            let action: Action
            var end: Int?
            switch entry.ending {
            case .dropped: continue
            case .finished(let result, let position):
                action = result
                end = position
            case .none:
                guard let change = entry.change else { continue }
                action = change
            }
            let isCertain = end != nil
            if !isCertain { end = firstBegin(after: entry.until) }
            var operation = RecordedOperation(
                client: entry.client, action: action, begin: entry.begin, end: end,
                isCertain: isCertain)
            operation.time = entry.time
            groups[entry.key, default: []].append(operation)
        }
        return groups.keys.sorted().map { ($0, groups[$0] ?? []) }
    }

    /// The place of the first operation that begins after `time`; nil when there is none.
    private func firstBegin(after time: Instant) -> Int? {
        entries.partitioningIndex { $0.time > time }.map { entries[$0].begin }
    }

    /// Checks every key by itself, in order.
    package func check<Model: SequentialModel>(
        _ model: Model.Type, searchMax: Int = LinearizabilitySearch<Model>.searchMax
    ) -> [(key: Key, outcome: CheckOutcome)] where Model.Action == Action {
        partitioned().map {
            ($0.key, checkLinearizability($0.operations, of: model, searchMax: searchMax))
        }
    }
}

extension Array {
    /// The place of the first element that `isBehind` holds for, as it does for all that follow;
    /// nil when there is none. O(log n).
    func partitioningIndex(where isBehind: (Element) -> Bool) -> Int? {
        var (low, high) = (0, count)
        while low < high {
            let middle = (low + high) / 2
            if isBehind(self[middle]) { high = middle } else { low = middle + 1 }
        }
        return low < count ? low : nil
    }
}
