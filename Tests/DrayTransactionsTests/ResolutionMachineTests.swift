import DrayTransactions
import Testing

/// How one of three members finds out, in every state with every event.
@Suite struct ResolutionMachineTests {
    typealias State = ResolutionMachine.State
    typealias Event = ResolutionMachine.Event
    typealias Action = ResolutionMachine.Action

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

    static let events: [Event] = (0..<3).flatMap { member in
        [.silent(member)] + ResolutionMachine.Answer.allCases.map { .answered(member, $0) }
    }

    static func ignored(_ state: State, _ events: [Event]) -> [Row] {
        events.map { Row(state, $0, state) }
    }

    // MARK: - A member

    /// Member 2 has not answered.
    static let asksOther = State.askingOthers(missing: [2], arePrepared: false)

    /// The table of member 1.
    static let member: [Row] =
        [
            Row(.askingLeader, .answered(0, .committed), .committed, .commit),
            Row(.askingLeader, .answered(0, .aborted), .aborted, .abort),
            Row(.askingLeader, .answered(0, .undecided), .blocked, .wait),
            Row(.askingLeader, .answered(0, .prepared), .blocked, .wait),
            Row(.askingLeader, .silent(0), asksOther, .ask([2])),

            Row(asksOther, .answered(2, .committed), .committed, .commit),
            Row(asksOther, .answered(2, .aborted), .aborted, .abort),
            // All others are prepared, and only the leader knows.
            Row(asksOther, .answered(2, .prepared), .blocked, .wait),
            Row(asksOther, .answered(2, .undecided), .blocked, .wait),
            Row(asksOther, .silent(2), .blocked, .wait),
            // The leader speaks after all, or what others say comes late: the word of whoever
            // knows the outcome counts.
            Row(asksOther, .answered(0, .committed), .committed, .commit),
            Row(asksOther, .answered(1, .committed), .committed, .commit),
            Row(asksOther, .answered(0, .aborted), .aborted, .abort),
            Row(asksOther, .answered(1, .aborted), .aborted, .abort),
        ]
        + ignored(.askingLeader, events.filter { !isAbout(0, $0) })
        + ignored(
            asksOther,
            [
                .silent(0), .answered(0, .undecided), .answered(0, .prepared), .silent(1),
                .answered(1, .undecided), .answered(1, .prepared),
            ])
        + ignored(.committed, events) + ignored(.aborted, events) + ignored(.blocked, events)

    static let memberWays: [State: [Event]] = [
        .askingLeader: [],
        asksOther: [.silent(0)],
        .committed: [.answered(0, .committed)],
        .aborted: [.answered(0, .aborted)],
        .blocked: [.answered(0, .undecided)],
    ]

    // MARK: - The leader after its restart

    static let asksBoth = State.askingOthers(missing: [1, 2], arePrepared: true)

    /// One of the two has answered.
    static func asks(_ last: Int, _ arePrepared: Bool) -> State {
        .askingOthers(missing: [last], arePrepared: arePrepared)
    }

    static let leader: [Row] =
        [
            Row(asksBoth, .answered(1, .prepared), asks(2, true)),
            Row(asksBoth, .answered(2, .prepared), asks(1, true)),
            Row(asksBoth, .answered(1, .undecided), asks(2, false)),
            Row(asksBoth, .answered(2, .undecided), asks(1, false)),
            Row(asksBoth, .silent(1), asks(2, false)),
            Row(asksBoth, .silent(2), asks(1, false)),

            // Everybody is prepared, and the one who decides is asking.
            Row(asks(1, true), .answered(1, .prepared), .committed, .commit),
            Row(asks(2, true), .answered(2, .prepared), .committed, .commit),
            Row(asks(1, true), .answered(1, .undecided), .blocked, .wait),
            Row(asks(2, true), .answered(2, .undecided), .blocked, .wait),
            Row(asks(1, true), .silent(1), .blocked, .wait),
            Row(asks(2, true), .silent(2), .blocked, .wait),

            Row(asks(1, false), .answered(1, .prepared), .blocked, .wait),
            Row(asks(2, false), .answered(2, .prepared), .blocked, .wait),
            Row(asks(1, false), .answered(1, .undecided), .blocked, .wait),
            Row(asks(2, false), .answered(2, .undecided), .blocked, .wait),
            Row(asks(1, false), .silent(1), .blocked, .wait),
            Row(asks(2, false), .silent(2), .blocked, .wait),

            // Who has answered takes it back.
            Row(asks(1, true), .answered(2, .undecided), asks(1, false)),
            Row(asks(2, true), .answered(1, .undecided), asks(2, false)),
            Row(asks(1, true), .silent(2), asks(1, false)),
            Row(asks(2, true), .silent(1), asks(2, false)),
            // Nobody answers for the leader; if somebody does, it is no reason to commit.
            Row(asksBoth, .silent(0), .askingOthers(missing: [1, 2], arePrepared: false)),
            Row(
                asksBoth, .answered(0, .undecided),
                .askingOthers(missing: [1, 2], arePrepared: false)),
            Row(asks(1, true), .silent(0), asks(1, false)),
            Row(asks(2, true), .silent(0), asks(2, false)),
            Row(asks(1, true), .answered(0, .undecided), asks(1, false)),
            Row(asks(2, true), .answered(0, .undecided), asks(2, false)),
        ]
        + ignored(asksBoth, [.answered(0, .prepared)])
        + ignored(asks(1, true), [.answered(0, .prepared), .answered(2, .prepared)])
        + ignored(asks(2, true), [.answered(0, .prepared), .answered(1, .prepared)])
        + ignored(asks(1, false), indecisive(0) + indecisive(2))
        + ignored(asks(2, false), indecisive(0) + indecisive(1))
        + asksBothInVain
        + [asksBoth, asks(1, true), asks(2, true), asks(1, false), asks(2, false)].flatMap(decided)
        + ignored(.committed, events) + ignored(.aborted, events) + ignored(.blocked, events)

    /// Both are missing, and it will not be committed without a new round.
    static let asksBothInVain: [Row] = {
        let state = State.askingOthers(missing: [1, 2], arePrepared: false)
        return decided(state) + ignored(state, indecisive(0))
            + indecisive(1).map { Row(state, $0, asks(2, false)) }
            + indecisive(2).map { Row(state, $0, asks(1, false)) }
    }()

    static func indecisive(_ member: Int) -> [Event] {
        [.silent(member), .answered(member, .undecided), .answered(member, .prepared)]
    }

    /// Whoever knows the outcome is believed, whatever the others said.
    static func decided(_ state: State) -> [Row] {
        (0..<3).flatMap { member in
            [
                Row(state, .answered(member, .committed), .committed, .commit),
                Row(state, .answered(member, .aborted), .aborted, .abort),
            ]
        }
    }

    static let leaderWays: [State: [Event]] = [
        asksBoth: [],
        asks(1, true): [.answered(2, .prepared)],
        asks(2, true): [.answered(1, .prepared)],
        asks(1, false): [.answered(2, .undecided)],
        asks(2, false): [.silent(1)],
        .askingOthers(missing: [1, 2], arePrepared: false): [.silent(0)],
        .committed: [.answered(1, .committed)],
        .aborted: [.answered(2, .aborted)],
        .blocked: [.silent(1), .silent(2)],
    ]

    // MARK: - Checks

    static func isAbout(_ member: Int, _ event: Event) -> Bool {
        switch event {
        case .answered(let who, _), .silent(let who): who == member
        }
    }

    private func check(_ row: Row, own: Int, _ ways: [State: [Event]]) throws {
        var machine = ResolutionMachine(own: own, count: 3)
        #expect(machine.start() == (own == 0 ? [.ask([1, 2])] : [.ask([0])]))
        for event in try #require(ways[row.state]) { _ = machine.on(event) }
        try #require(machine.state == row.state)
        let actions = machine.on(row.event)
        #expect(machine.state == row.next)
        #expect(actions == row.actions)
    }

    @Test(arguments: member)
    func stateAndEventOfAMember(row: Row) throws {
        try check(row, own: 1, Self.memberWays)
    }

    @Test(arguments: leader)
    func stateAndEventOfALeader(row: Row) throws {
        try check(row, own: 0, Self.leaderWays)
    }

    @Test(arguments: [0, 1])
    func theTablesAreComplete(own: Int) {
        var found: Set<State> = []
        var open = [ResolutionMachine(own: own, count: 3)]
        while let machine = open.popLast() {
            guard found.insert(machine.state).inserted else { continue }
            for event in Self.events {
                var next = machine
                _ = next.on(event)
                open.append(next)
            }
        }
        let table = own == 0 ? Self.leader : Self.member
        #expect(found == Set((own == 0 ? Self.leaderWays : Self.memberWays).keys))
        for state in found {
            for event in Self.events {
                let count = table.count { $0.state == state && $0.event == event }
                #expect(count == 1, "\(state), \(event)")
            }
        }
        #expect(table.count == found.count * Self.events.count)
    }

    @Test func fewMembers() {
        // Nobody else has a say.
        var alone = ResolutionMachine(own: 0, count: 1)
        #expect(alone.start() == [.commit])
        #expect(alone.state == .committed)
        // The only other member is the leader, and it is silent.
        var pair = ResolutionMachine(own: 1, count: 2)
        #expect(pair.start() == [.ask([0])])
        #expect(pair.on(.silent(0)) == [.wait])
        #expect(pair.state == .blocked)
    }
}
