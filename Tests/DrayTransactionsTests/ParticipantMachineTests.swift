import DrayTransactions
import Testing

/// What a member does in every state with every event.
@Suite struct ParticipantMachineTests {
    typealias State = ParticipantMachine.State
    typealias Event = ParticipantMachine.Event
    typealias Action = ParticipantMachine.Action

    struct Row: Sendable, CustomTestStringConvertible {
        var state: State
        var event: Event
        var next: State
        var actions: [Action]

        init(_ state: State, _ event: Event, _ next: State, _ actions: Action...) {
            self.state = state
            self.event = event
            self.next = next
            self.actions = actions
        }

        var testDescription: String { "\(state), \(event)" }
    }

    static let table: [Row] = [
        Row(.unknown, .prepare, .preparing, .startPrepare),
        Row(.unknown, .commit, .unknown, .acknowledge),
        Row(.unknown, .abort, .aborted, .refuse, .acknowledge),
        Row(.unknown, .query, .aborted, .refuse, .report),
        Row(.unknown, .peek, .unknown, .report),
        Row(.unknown, .forward, .preparing, .startPrepare),

        Row(.preparing, .prepare, .preparing, .replyFailed),
        Row(.preparing, .didPrepare, .prepared, .replyPrepared),
        Row(.preparing, .didFail, .aborted, .replyFailed),
        Row(.preparing, .commit, .preparing, .protest),
        Row(.preparing, .abort, .doomed, .acknowledge),
        Row(.preparing, .query, .preparing, .report),
        Row(.preparing, .peek, .preparing, .report),
        Row(.preparing, .forward, .preparing, .report),

        Row(.doomed, .prepare, .doomed, .replyFailed),
        Row(.doomed, .didPrepare, .aborted, .abort, .replyFailed),
        Row(.doomed, .didFail, .aborted, .replyFailed),
        Row(.doomed, .commit, .doomed, .protest),
        Row(.doomed, .abort, .doomed, .acknowledge),
        Row(.doomed, .query, .doomed, .report),
        Row(.doomed, .peek, .doomed, .report),
        Row(.doomed, .forward, .doomed, .report),

        Row(.prepared, .prepare, .prepared, .replyPrepared),
        Row(.prepared, .commit, .committed, .commit, .acknowledge),
        Row(.prepared, .abort, .aborted, .abort, .acknowledge),
        Row(.prepared, .query, .prepared, .report),
        Row(.prepared, .peek, .prepared, .report),
        Row(.prepared, .forward, .prepared, .report),

        Row(.committed, .prepare, .committed, .replyPrepared),
        Row(.committed, .commit, .committed, .acknowledge),
        Row(.committed, .abort, .committed, .protest),
        Row(.committed, .query, .committed, .report),
        Row(.committed, .peek, .committed, .report),
        Row(.committed, .forward, .committed, .report),

        Row(.aborted, .prepare, .aborted, .replyFailed),
        Row(.aborted, .commit, .aborted, .protest),
        Row(.aborted, .abort, .aborted, .acknowledge),
        Row(.aborted, .query, .aborted, .report),
        Row(.aborted, .peek, .aborted, .report),
        Row(.aborted, .forward, .aborted, .report),
    ]

    /// A prepare that ends without being under way is a mistake of the caller: it traps.
    static let traps: [(state: State, event: Event)] = [
        (.unknown, .didPrepare), (.unknown, .didFail), (.prepared, .didPrepare),
        (.prepared, .didFail), (.committed, .didPrepare), (.committed, .didFail),
        (.aborted, .didPrepare), (.aborted, .didFail),
    ]

    @Test(arguments: table)
    func stateAndEvent(row: Row) {
        var machine = ParticipantMachine(row.state)
        let actions = machine.on(row.event)
        #expect(machine.state == row.next)
        #expect(actions == row.actions)
    }

    @Test(arguments: traps.indices)
    func aPrepareEndsThatWasNotUnderWay(index: Int) async {
        await #expect(processExitsWith: .failure) { [index] in
            let (state, event) = ParticipantMachineTests.traps[index]
            var machine = ParticipantMachine(state)
            _ = machine.on(event)
        }
    }

    @Test func theTableIsComplete() {
        for state in State.allCases {
            for event in Event.allCases {
                let rows = Self.table.count { $0.state == state && $0.event == event }
                let traps = Self.traps.count { $0.state == state && $0.event == event }
                #expect(rows + traps == 1, "\(state), \(event)")
            }
        }
        let all = State.allCases.count * Event.allCases.count
        #expect(Self.table.count + Self.traps.count == all)
    }
}
