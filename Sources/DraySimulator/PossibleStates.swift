/// What a value may be, as far as its only writer can know: one state after an acknowledged
/// change, several after changes whose outcome is unknown.
struct PossibleStates<State: Hashable> {
    private(set) var states: [State]

    /// More than this many and the owner must look before it changes the value again.
    static var statesMax: Int { 16 }

    init(_ state: State) { states = [state] }

    var needsLook: Bool { states.count >= PossibleStates.statesMax }

    /// A change was acknowledged: it was applied to whichever state it was.
    mutating func acknowledge(_ change: (State) -> State) {
        states = PossibleStates.unique(states.map(change))
    }

    /// A change may have happened or not.
    mutating func doubt(_ change: (State) -> State) {
        states = PossibleStates.unique(states + states.map(change))
    }

    /// The value was seen. Returns false when it cannot be.
    mutating func observe(_ matches: (State) -> Bool) -> Bool {
        let remaining = states.filter(matches)
        guard !remaining.isEmpty else { return false }
        states = remaining
        return true
    }

    private static func unique(_ states: [State]) -> [State] {
        var seen = Set<State>()
        return states.filter { seen.insert($0).inserted }
    }
}
