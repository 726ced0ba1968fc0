internal import DrayRuntime

/// What a value may be, as far as its only writer can know: one state after an acknowledged
/// change, several after changes whose outcome is unknown.
struct PossibleStates<State: Hashable> {
    private(set) var states: [State]

    /// Changes that may still happen, each until a moment.
    private var pending: [(change: (State) -> State, until: Instant)] = []

    /// More than this many and the owner must look before it changes the value again.
    static var statesMax: Int { 16 }
    static var pendingMax: Int { 3 }

    init(_ state: State) { states = [state] }

    var needsLook: Bool {
        states.count >= PossibleStates.statesMax || pending.count >= PossibleStates.pendingMax
    }

    /// A change was acknowledged: it was applied to whichever state it was.
    mutating func acknowledge(at now: Instant, _ change: (State) -> State) {
        catchUp()
        states = PossibleStates.unique(states.map(change))
        settle(at: now)
    }

    /// A change may have happened or not, or may happen before `until`.
    mutating func doubt(at now: Instant, until: Instant, _ change: @escaping (State) -> State) {
        settle(at: now)
        pending.append((change, until))
        settle(at: now)
    }

    /// The value was seen. Returns false when it cannot be.
    mutating func observe(at now: Instant, _ matches: (State) -> Bool) -> Bool {
        catchUp()
        let remaining = states.filter(matches)
        guard !remaining.isEmpty else { return false }
        states = remaining
        settle(at: now)
        return true
    }

    /// Until when something may still happen by itself.
    var settled: Instant { pending.map(\.until).max() ?? Instant(nanoseconds: 0) }

    /// What is pending may have happened by now; what is overdue happens no more. To be called
    /// before each operation: what was overdue when that began has not happened during it.
    mutating func settle(at now: Instant) {
        catchUp()
        pending.removeAll { $0.until < now }
    }

    /// Adds every state that what is pending may have led to.
    private mutating func catchUp() {
        guard !pending.isEmpty else { return }
        var next = 0
        var seen = Set(states)
        while next < states.count {
            for entry in pending {
                let state = entry.change(states[next])
                if seen.insert(state).inserted { states.append(state) }
            }
            next += 1
        }
    }

    private static func unique(_ states: [State]) -> [State] {
        var seen = Set<State>()
        return states.filter { seen.insert($0).inserted }
    }
}
