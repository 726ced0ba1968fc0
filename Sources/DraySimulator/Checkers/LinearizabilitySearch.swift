internal import DrayRuntime

/// Whether the operations on one thing can be put into an order that keeps to real time and
/// explains every result (Herlihy and Wing 1990).
///
/// The search goes from one invocation or return to the next and carries every situation that is
/// possible there: the state, and which of the operations under way have taken effect (Wing and
/// Gong 1993; Lowe 2017). Operations take effect as late as can be: only when one that returns
/// needs it. Situations that another one covers are forgotten.
package func checkLinearizability<Model: SequentialModel>(
    _ operations: [RecordedOperation<Model.Action>], of model: Model.Type,
    searchMax: Int = LinearizabilitySearch<Model>.searchMax
) -> CheckOutcome {
    let initial = Model.initialState(for: operations)
    let prepared = Model.prepare(operations)
    var search = LinearizabilitySearch<Model>(
        prepared, initial: initial, searchMax: searchMax, looksAhead: true)
    let outcome = search.run()
    guard case .violated = outcome else { return outcome }
    // Whoever looks ahead stops before the operation that shows the violation best.
    search = LinearizabilitySearch<Model>(
        prepared, initial: initial, searchMax: searchMax, looksAhead: false)
    let report = search.run()
    guard case .violated = report else { return outcome }
    return report
}

package struct LinearizabilitySearch<Model: SequentialModel> {
    package typealias Operation = RecordedOperation<Model.Action>

    /// Situations that one search looks at before it gives up.
    package static var searchMax: Int { 500_000 }

    /// The states that a report names.
    private static var describedMax: Int { 6 }

    /// Everything that matters for what can come.
    private struct Situation: Hashable {
        var state: Model.State
        /// Slots of operations that must happen and have.
        var done = SlotSet()
        /// Slots of operations that may happen and have.
        var spent = SlotSet()
    }

    private struct Event {
        var position: Int
        var isEnd: Bool
        var operation: Int
    }

    private let operations: [Operation]
    private let searchMax: Int
    private var looked = 0

    // What is under way, by slot.
    private var slots: [Int?] = []
    private var slotOfOperation: [Int: Int] = [:]
    /// Slots in use, by the ends of their operations.
    private var open: [Int] = []

    /// The reads, not returned yet, that need something of a state.
    private var needed: [Model.Mark: [Int]] = [:]

    private var situations: [Situation]

    /// A search that looks ahead leaves out what a later read excludes.
    init(_ operations: [Operation], initial: Model.State, searchMax: Int, looksAhead: Bool) {
        self.operations = operations
        self.searchMax = searchMax
        situations = [Situation(state: initial)]
        guard looksAhead else { return }
        for (index, operation) in operations.enumerated() where operation.isCertain {
            for mark in Model.marks(of: operation.action) {
                needed[mark, default: []].append(index)
            }
        }
    }

    mutating func run() -> CheckOutcome {
        for event in events() {
            guard event.isEnd else {
                guard begin(event.operation) else {
                    return .gaveUp("over \(SlotSet.slotsMax) operations under way at once")
                }
                continue
            }
            let before = situations
            let slot = slotOfOperation[event.operation]!
            guard reach(slot) else {
                return .gaveUp("over \(searchMax) situations for \(operations.count) operations")
            }
            if situations.isEmpty { return .violated(report(event.operation, before)) }
            close(slot)
        }
        return .passed
    }

    /// Invocations and returns in order. Where they share a position the invocation comes first:
    /// the operations may have overlapped.
    private func events() -> [Event] {
        var events: [Event] = []
        for (index, operation) in operations.enumerated() {
            events.append(Event(position: operation.begin, isEnd: false, operation: index))
            if let end = operation.end {
                events.append(Event(position: end, isEnd: true, operation: index))
            }
        }
        return events.sorted {
            ($0.position, $0.isEnd ? 1 : 0, $0.operation)
                < ($1.position, $1.isEnd ? 1 : 0, $1.operation)
        }
    }

    private func operation(at slot: Int) -> Operation { operations[slots[slot]!] }

    private func operationEnd(at slot: Int) -> Int { operation(at: slot).end ?? .max }

    /// Takes up an operation. False when there are too many.
    private mutating func begin(_ operation: Int) -> Bool {
        let slot = slots.firstIndex { $0 == nil } ?? slots.count
        guard slot < SlotSet.slotsMax else { return false }
        if slot == slots.count { slots.append(nil) }
        slots[slot] = operation
        slotOfOperation[operation] = slot
        let end = operations[operation].end ?? .max
        open.insert(slot, at: open.firstIndex { end < operationEnd(at: $0) } ?? open.count)
        if Model.isReadOnly(operations[operation].action) {
            for index in situations.indices { settle(slot, &situations[index]) }
        }
        return true
    }

    /// Forgets an operation that has returned.
    private mutating func close(_ slot: Int) {
        for index in situations.indices {
            situations[index].done.remove(slot)
            situations[index].spent.remove(slot)
        }
        let operation = slots[slot]!
        let action = operations[operation].action
        slotOfOperation[operation] = nil
        slots[slot] = nil
        open.removeAll { $0 == slot }
        for mark in Model.marks(of: action) { needed[mark]?.removeAll { $0 == operation } }
        situations = LinearizabilitySearch.withoutCovered(situations)
    }

    /// What only reads takes effect as soon as its result is right: later it could only be wrong.
    private func settle(_ slot: Int, _ situation: inout Situation) {
        let operation = operation(at: slot)
        guard Model.isReadOnly(operation.action), !situation.done.contains(slot),
            Model.apply(operation.action, to: situation.state) != nil
        else { return }
        situation.done.insert(slot)
    }

    /// The situation after the operation in `slot` has taken effect; nil when it cannot, or need
    /// not.
    private func after(_ slot: Int, _ situation: Situation) -> Situation? {
        let operation = operation(at: slot)
        guard let state = Model.apply(operation.action, to: situation.state) else { return nil }
        var next = situation
        if operation.isCertain {
            next.done.insert(slot)
        } else {
            guard state != situation.state else { return nil }
            next.spent.insert(slot)
        }
        guard state != situation.state else { return next }
        for mark in Model.marksLost(by: operation.action, from: situation.state)
        where isNeeded(mark, in: situation) { return nil }
        next.state = state
        for slot in open { settle(slot, &next) }
        return next
    }

    /// Whether a read that has not taken effect needs what a state has.
    private func isNeeded(_ mark: Model.Mark, in situation: Situation) -> Bool {
        needed[mark]?.contains { reader in
            slotOfOperation[reader].map { !situation.done.contains($0) } ?? true
        } ?? false
    }

    /// Leaves the situations in which the operation in `slot`, which returns now, has taken effect
    /// (or has not, if it need not). False when there are too many.
    private mutating func reach(_ slot: Int) -> Bool {
        let isCertain = operation(at: slot).isCertain
        var reached: [Situation] = []
        var waiting: [Situation] = []
        var seen: Set<Situation> = []
        for situation in situations {
            let isDone = situation.done.contains(slot) || situation.spent.contains(slot)
            if isDone || !isCertain { reached.append(situation) }
            if !isDone, seen.insert(situation).inserted { waiting.append(situation) }
        }
        while let situation = waiting.popLast() {
            looked += 1
            guard looked <= searchMax else { return false }
            var tried: [Model.Action] = []
            var triedOptional: [Model.Action] = []
            for other in open
            where !situation.done.contains(other) && !situation.spent.contains(other) {
                let operation = operation(at: other)
                guard other == slot || !Model.isReadOnly(operation.action) else { continue }
                // Of several that are alike the one whose end comes first does; what need not
                // happen, and has no end, comes after all that must.
                let action = operation.action
                if operation.isCertain {
                    if other != slot, tried.contains(action) { continue }
                    tried.append(action)
                } else {
                    if other != slot, triedOptional.contains(action) { continue }
                    if operation.end == nil, tried.contains(action) { continue }
                    triedOptional.append(action)
                }
                guard let next = after(other, situation) else { continue }
                if next.done.contains(slot) || next.spent.contains(slot) {
                    reached.append(next)
                } else if seen.insert(next).inserted {
                    waiting.append(next)
                }
            }
        }
        situations = LinearizabilitySearch.withoutCovered(reached)
        return true
    }

    /// Without repetitions, and without situations that another one covers: the same, but more of
    /// what may happen is still to come.
    private static func withoutCovered(_ situations: [Situation]) -> [Situation] {
        guard situations.count > 1 else { return situations }
        var groups: [Situation: [Int]] = [:]
        var kept: [Situation?] = []
        for situation in situations {
            var group = situation
            group.spent = SlotSet()
            var members = groups[group] ?? []
            if members.contains(where: { kept[$0]!.spent.isSubset(of: situation.spent) }) {
                continue
            }
            members.removeAll { member in
                guard situation.spent.isSubset(of: kept[member]!.spent) else { return false }
                kept[member] = nil
                return true
            }
            members.append(kept.count)
            kept.append(situation)
            groups[group] = members
        }
        return kept.compactMap { $0 }
    }

    // MARK: - Reports

    private func report(_ operation: Int, _ before: [Situation]) -> String {
        var states: [String] = []
        for situation in before {
            let state = Model.describe(situation.state)
            if !states.contains(state) { states.append(state) }
        }
        let more = max(0, states.count - LinearizabilitySearch.describedMax)
        var text =
            describe(operation) + "; before that there was "
            + states.prefix(LinearizabilitySearch.describedMax).joined(separator: " or ")
        if more > 0 { text += " or \(more) others" }
        let others = open.compactMap { slots[$0] }.filter { $0 != operation }
        if !others.isEmpty {
            text += "; under way: " + others.map(describe).joined(separator: ", ")
        }
        return text
    }

    private func describe(_ index: Int) -> String {
        let operation = operations[index]
        let time = operation.time.nanoseconds / 1_000
        return "client \(operation.client) "
            + (operation.isCertain ? "" : "perhaps ") + Model.describe(operation.action)
            + (time > 0 ? " at \(time) us" : "")
    }
}
