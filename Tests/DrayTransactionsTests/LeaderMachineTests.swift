import DrayTransactions
import Testing

/// What a leader with one other member does in every state with every event.
@Suite struct LeaderMachineTests {
    typealias State = LeaderMachine.State
    typealias Event = LeaderMachine.Event
    typealias Action = LeaderMachine.Action

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

    static let events: [Event] = [
        .prepared(0), .prepared(1), .failed(0), .failed(1), .expired, .abortIsDurable,
        .acknowledged(0), .acknowledged(1),
    ]

    /// How each state comes about.
    static let ways: [State: [Event]] = [
        .preparing(missing: [0, 1]): [],
        .preparing(missing: [0]): [.prepared(1)],
        .preparing(missing: [1]): [.prepared(0)],
        .failing: [.expired],
        .aborting: [.prepared(0), .expired],
        .aborted: [.failed(0)],
        .committed(missing: [1]): [.prepared(0), .prepared(1)],
        .completed: [.prepared(0), .prepared(1), .acknowledged(1)],
    ]

    static func ignored(_ state: State, _ events: Event...) -> [Row] {
        events.map { Row(state, $0, state) }
    }

    static let table: [Row] =
        [
            Row(.preparing(missing: [0, 1]), .prepared(0), .preparing(missing: [1])),
            Row(.preparing(missing: [0, 1]), .prepared(1), .preparing(missing: [0])),
            Row(.preparing(missing: [0, 1]), .failed(0), .aborted, .replyAborted, .tellAborted),
            Row(.preparing(missing: [0, 1]), .failed(1), .failing),
            Row(.preparing(missing: [0, 1]), .expired, .failing),

            Row(
                .preparing(missing: [0]), .prepared(0), .committed(missing: [1]), .commit,
                .tellCommitted),
            Row(.preparing(missing: [0]), .failed(0), .aborted, .replyAborted, .tellAborted),
            Row(.preparing(missing: [0]), .failed(1), .failing),
            Row(.preparing(missing: [0]), .expired, .failing),

            Row(
                .preparing(missing: [1]), .prepared(1), .committed(missing: [1]), .commit,
                .tellCommitted),
            Row(.preparing(missing: [1]), .failed(0), .aborted, .replyAborted, .tellAborted),
            Row(.preparing(missing: [1]), .failed(1), .aborting, .abort),
            Row(.preparing(missing: [1]), .expired, .aborting, .abort),

            Row(.failing, .prepared(0), .aborting, .abort),
            Row(.failing, .failed(0), .aborted, .replyAborted, .tellAborted),
            Row(.aborting, .abortIsDurable, .aborted, .replyAborted, .tellAborted),
            Row(.committed(missing: [1]), .acknowledged(1), .completed, .complete),
        ]
        + ignored(
            .preparing(missing: [0, 1]), .abortIsDurable, .acknowledged(0), .acknowledged(1))
        + ignored(
            .preparing(missing: [0]), .prepared(1), .abortIsDurable, .acknowledged(0),
            .acknowledged(1))
        + ignored(
            .preparing(missing: [1]), .prepared(0), .abortIsDurable, .acknowledged(0),
            .acknowledged(1))
        + ignored(
            .failing, .prepared(1), .failed(1), .expired, .abortIsDurable, .acknowledged(0),
            .acknowledged(1))
        + ignored(
            .aborting, .prepared(0), .prepared(1), .failed(0), .failed(1), .expired,
            .acknowledged(0), .acknowledged(1))
        + ignored(
            .aborted, .prepared(0), .prepared(1), .failed(0), .failed(1), .expired,
            .abortIsDurable, .acknowledged(0), .acknowledged(1))
        + ignored(
            .committed(missing: [1]), .prepared(0), .prepared(1), .failed(0), .failed(1), .expired,
            .abortIsDurable, .acknowledged(0))
        + ignored(
            .completed, .prepared(0), .prepared(1), .failed(0), .failed(1), .expired,
            .abortIsDurable, .acknowledged(0), .acknowledged(1))

    /// A machine with two members that is in `state`.
    private func machine(in state: State) throws -> LeaderMachine {
        var machine = LeaderMachine(count: 2)
        for event in try #require(Self.ways[state]) { _ = machine.on(event) }
        try #require(machine.state == state)
        return machine
    }

    @Test(arguments: table)
    func stateAndEvent(row: Row) throws {
        var machine = try machine(in: row.state)
        let actions = machine.on(row.event)
        #expect(machine.state == row.next)
        #expect(actions == row.actions)
    }

    /// Every state that any events lead to, with every event, once.
    @Test func theTableIsComplete() {
        var found: Set<State> = []
        var open = [LeaderMachine(count: 2)]
        while let machine = open.popLast() {
            guard found.insert(machine.state).inserted else { continue }
            for event in Self.events {
                var next = machine
                _ = next.on(event)
                open.append(next)
            }
        }
        #expect(found == Set(Self.ways.keys))
        for state in found {
            for event in Self.events {
                let count = Self.table.count { $0.state == state && $0.event == event }
                #expect(count == 1, "\(state), \(event)")
            }
        }
        #expect(Self.table.count == found.count * Self.events.count)
    }

    @Test func aLeaderAloneNeedsNobody() {
        var machine = LeaderMachine(count: 1)
        #expect(!machine.isDecided)
        #expect(machine.on(.prepared(0)) == [.commit, .complete])
        #expect(machine.state == .completed && machine.isDecided)
        var failed = LeaderMachine(count: 1)
        #expect(failed.on(.failed(0)) == [.replyAborted, .tellAborted])
        #expect(failed.isDecided)
    }

    @Test func aCommitFoundInTheLogIsTold() {
        var machine = LeaderMachine(committedBy: 3)
        #expect(machine.state == .committed(missing: [1, 2]) && machine.isDecided)
        #expect(machine.on(.acknowledged(2)) == [])
        #expect(machine.on(.acknowledged(2)) == [])
        #expect(machine.on(.acknowledged(1)) == [.complete])
        #expect(machine.state == .completed)
    }

    /// With three members in every order: it commits when all have prepared and nothing else came
    /// before, it never does both, and it answers once.
    @Test func anyOrderOfAnswers() {
        let events: [Event] = [
            .prepared(0), .prepared(1), .prepared(2), .failed(0), .failed(1), .failed(2), .expired,
            .abortIsDurable, .acknowledged(1), .acknowledged(2),
        ]
        var paths = 0
        func explore(_ machine: LeaderMachine, _ past: [Event], _ done: [Action]) {
            paths += 1
            let commits = done.count { $0 == .commit }
            let aborts = done.count { $0 == .replyAborted }
            #expect(commits + aborts == (machine.isDecided ? 1 : 0))
            if commits > 0 {
                #expect([0, 1, 2].allSatisfy { past.contains(.prepared($0)) })
            }
            if done.contains(.complete) {
                #expect([1, 2].allSatisfy { past.contains(.acknowledged($0)) })
            }
            guard past.count < 5 else { return }
            for event in events where !past.contains(event) {
                var next = machine
                let actions = next.on(event)
                // What leads nowhere is not followed, but for what may matter later.
                if actions.isEmpty, next.state == machine.state { continue }
                explore(next, past + [event], done + actions)
            }
        }
        explore(LeaderMachine(count: 3), [], [])
        #expect(paths > 100)
    }
}
