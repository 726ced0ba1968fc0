import DrayRuntime
import Testing

@testable import CaRT

/// What a member does for each event, and the tables beside it.
@Suite struct IncastKeyTests {
    typealias Machine = IncastKey<String>
    typealias Event = Machine.Event
    typealias Action = Machine.Action

    private static func value(_ version: UInt64) -> IncastVersioned<String> {
        IncastVersioned("v\(version)", version: version)
    }

    private static func fetch(_ waiter: UInt64, _ least: UInt64 = 0) -> Event {
        .fetch(waiter: waiter, .atLeast(least), usesCopy: true)
    }

    private static func latest(_ waiter: UInt64) -> Event {
        .fetch(waiter: waiter, .latest, usesCopy: true)
    }

    private static func landed(_ flight: UInt64, _ version: UInt64, keeps: Bool = true) -> Event {
        .landed(flight: flight, value(version), keeps: keeps)
    }

    struct Case: CustomTestStringConvertible, Sendable {
        var name: String
        var steps: [(Event, [Action])]
        /// What is known, and the version of the copy.
        var known: UInt64
        var copy: UInt64?
        var wasForgotten = false
        var testDescription: String { name }
    }

    static let cases: [Case] = [
        Case(
            name: "a first fetch flies, and its answer is kept",
            steps: [
                (fetch(1), [.depart(flight: 1, .atLeast(0))]),
                (landed(1, 5), [.answer(waiter: 1, value(5))]),
                (fetch(2), [.answer(waiter: 2, value(5))]),
                (fetch(3, 5), [.answer(waiter: 3, value(5))]),
                (fetch(4, 6), [.depart(flight: 4, .atLeast(6))]),
            ], known: 5, copy: 5),
        Case(
            name: "who wants no more joins the flight",
            steps: [
                (fetch(1, 3), [.depart(flight: 1, .atLeast(3))]),
                (fetch(2, 3), []), (fetch(3, 1), []),
                (
                    landed(1, 4),
                    [
                        .answer(waiter: 1, value(4)), .answer(waiter: 2, value(4)),
                        .answer(waiter: 3, value(4)),
                    ]
                ),
            ], known: 4, copy: 4),
        Case(
            name: "who wants more takes the next, with all that board it",
            steps: [
                (fetch(1), [.depart(flight: 1, .atLeast(0))]),
                (fetch(2, 3), []), (fetch(3, 7), []), (fetch(4, 0), []),
                (
                    landed(1, 2),
                    [
                        .answer(waiter: 1, value(2)), .answer(waiter: 4, value(2)),
                        .depart(flight: 2, .atLeast(7)),
                    ]
                ),
                (landed(2, 8), [.answer(waiter: 2, value(8)), .answer(waiter: 3, value(8))]),
            ], known: 8, copy: 8),
        Case(
            name: "the latest is never taken from a copy or a flight that has left",
            steps: [
                (.value(value(3)), []),
                (latest(1), [.depart(flight: 1, .latest)]),
                (latest(2), []), (latest(3), []),
                (fetch(4), [.answer(waiter: 4, value(3))]),
                (fetch(5, 4), []),
                (
                    landed(1, 4),
                    [
                        .answer(waiter: 1, value(4)), .answer(waiter: 5, value(4)),
                        .depart(flight: 2, .latest),
                    ]
                ),
                (landed(2, 4), [.answer(waiter: 2, value(4)), .answer(waiter: 3, value(4))]),
            ], known: 4, copy: 4),
        Case(
            name: "failures reach all that wait, and the next flight leaves",
            steps: [
                (fetch(1), [.depart(flight: 1, .atLeast(0))]),
                (fetch(2), []), (latest(3), []),
                (
                    .failed(flight: 1, .unreachable),
                    [
                        .fail(waiter: 1, .unreachable), .fail(waiter: 2, .unreachable),
                        .depart(flight: 3, .latest),
                    ]
                ),
                (.failed(flight: 3, .overloaded), [.fail(waiter: 3, .overloaded)]),
                (.failed(flight: 3, .overloaded), []),
                (landed(1, 9), []),
            ], known: 0, copy: nil),
        Case(
            name: "news end a copy; who comes then needs the new version",
            steps: [
                (.value(value(3)), []), (.notice(3), []),
                (fetch(1), [.answer(waiter: 1, value(3))]),
                (.notice(5), []),
                (fetch(2), [.depart(flight: 2, .atLeast(5))]),
                (.value(value(4)), []),
                (fetch(3), []),
                (landed(2, 5), [.answer(waiter: 2, value(5)), .answer(waiter: 3, value(5))]),
                (.value(value(4)), []), (.notice(2), []),
            ], known: 5, copy: 5),
        Case(
            name: "who waited before the news may have the old value, once",
            steps: [
                (fetch(1), [.depart(flight: 1, .atLeast(0))]),
                (.notice(5), []),
                (fetch(2), []),
                (landed(1, 4), [.answer(waiter: 1, value(4)), .depart(flight: 2, .atLeast(5))]),
                (landed(2, 5), [.answer(waiter: 2, value(5))]),
            ], known: 5, copy: 5),
        Case(
            name: "nothing older than what was given out is given out",
            steps: [
                (fetch(1), [.depart(flight: 1, .atLeast(0))]),
                (.given(6), []),
                (landed(1, 5), [.depart(flight: 1, .atLeast(6))]),
                (landed(1, 6), [.answer(waiter: 1, value(6))]),
            ], known: 6, copy: 6),
        Case(
            name: "a newer value that came another way is the answer",
            steps: [
                (fetch(1), [.depart(flight: 1, .atLeast(0))]),
                (.value(value(7)), []),
                (landed(1, 5), [.answer(waiter: 1, value(7))]),
            ], known: 7, copy: 7),
        Case(
            name: "an owner that has less than was asked for",
            steps: [
                (.notice(5), []),
                (fetch(1), [.depart(flight: 1, .atLeast(5))]),
                (latest(2), []),
                (landed(1, 4), [.refuse(waiter: 1, value(4)), .depart(flight: 2, .latest)]),
                (landed(2, 4), [.refuse(waiter: 2, value(4))]),
            ], known: 5, copy: nil),
        Case(
            name: "who joined a flight of the latest, and knows of something newer still",
            steps: [
                (latest(1), [.depart(flight: 1, .latest)]),
                (.notice(5), []),
                (fetch(2), []), (fetch(3, 2), []),
                (landed(1, 4), [.answer(waiter: 1, value(4)), .depart(flight: 2, .atLeast(5))]),
                (landed(2, 6), [.answer(waiter: 2, value(6)), .answer(waiter: 3, value(6))]),
            ], known: 6, copy: 6),
        Case(
            name: "a value that is not to be kept",
            steps: [
                (fetch(1), [.depart(flight: 1, .atLeast(0))]),
                (landed(1, 4, keeps: false), [.answer(waiter: 1, value(4))]),
                (fetch(2), [.depart(flight: 2, .atLeast(4))]),
            ], known: 4, copy: nil),
        Case(
            name: "a copy that the class does not want to use",
            steps: [
                (.value(value(3)), []),
                (
                    .fetch(waiter: 1, .atLeast(0), usesCopy: false),
                    [.depart(flight: 1, .atLeast(3))]
                ),
                (landed(1, 3), [.answer(waiter: 1, value(3))]),
            ], known: 3, copy: 3),
        Case(
            name: "a flight ends with the last that waits for it",
            steps: [
                (fetch(1), [.depart(flight: 1, .atLeast(0))]),
                (fetch(2), []), (latest(3), []), (latest(4), []),
                (.left(waiter: 1), []), (.left(waiter: 3), []), (.left(waiter: 9), []),
                (.left(waiter: 2), [.cancel(flight: 1), .depart(flight: 3, .latest)]),
                (landed(1, 5), []),
                (.left(waiter: 4), [.cancel(flight: 3)]),
                (.left(waiter: 4), []),
            ], known: 0, copy: nil),
        Case(
            name: "a change of the group ends flights, and leaves the copy",
            steps: [
                (.value(value(3)), []),
                (latest(1), [.depart(flight: 1, .latest)]), (latest(2), []),
                (
                    .groupChanged(forgets: false),
                    [
                        .fail(waiter: 1, .groupVersion), .fail(waiter: 2, .groupVersion),
                        .cancel(flight: 1),
                    ]
                ),
                (fetch(3), [.answer(waiter: 3, value(3))]),
            ], known: 3, copy: 3),
        Case(
            name: "once all is forgotten, only the owner's word counts",
            steps: [
                (.value(value(30)), []), (fetch(1), [.answer(waiter: 1, value(30))]),
                (.groupChanged(forgets: true), []),
                (fetch(2), [.depart(flight: 2, .latest)]),
                (fetch(3), []), (latest(4), []),
                (
                    landed(2, 3),
                    [
                        .answer(waiter: 2, value(3)), .answer(waiter: 3, value(3)),
                        .depart(flight: 4, .latest),
                    ]
                ),
                (fetch(5), [.answer(waiter: 5, value(3))]),
                (landed(4, 3), [.answer(waiter: 4, value(3))]),
            ], known: 3, copy: 3),
        Case(
            name: "news are the owner's word",
            steps: [
                (.value(value(30)), []), (.groupChanged(forgets: true), []),
                (.value(value(31)), []),
                (fetch(1), [.answer(waiter: 1, value(31))]),
                (.groupChanged(forgets: true), []),
                (.notice(32), []),
                (fetch(2), [.depart(flight: 2, .atLeast(32))]),
            ], known: 32, copy: nil),
        Case(
            name: "a key that was forgotten: news may be old",
            steps: [
                (.value(value(2)), []), (.notice(1), []),
                (fetch(1), [.depart(flight: 1, .latest)]),
                (landed(1, 5), [.answer(waiter: 1, value(5))]),
                (fetch(2), [.answer(waiter: 2, value(5))]),
            ], known: 5, copy: 5, wasForgotten: true),
    ]

    @Test(arguments: cases)
    func table(_ one: Case) {
        var machine = Machine(wasForgotten: one.wasForgotten)
        for (event, expected) in one.steps {
            let actions = machine.on(event)
            #expect(actions == expected, "\(event)")
        }
        #expect(machine.known == one.known)
        #expect(machine.copy?.version == one.copy)
    }

    /// Whatever happens in whatever order: each waiter hears once, in time gets what it asked for,
    /// and nobody gets less than somebody before.
    @Test(arguments: 1...200)
    func anyOrder(seed: UInt64) {
        var random = Entropy(seed: seed)
        var machine = Machine()
        var owner: UInt64 = 1
        var (waiting, flying): ([UInt64: UInt64], [(UInt64, UInt64)]) = ([:], [])
        var given: UInt64 = 0
        for number in 1...300 as ClosedRange<UInt64> {
            let event: Event
            switch random.below(9) {
            case 0: event = Self.latest(number)
            case 1, 2: event = Self.fetch(number, random.below(owner + 1))
            case 3:
                owner += 1
                event = .notice(owner)
            case 4:
                owner += 1
                event = .value(Self.value(owner))
            case 5: event = .left(waiter: random.below(number) + 1)
            case 6 where random.below(8) == 0: event = .groupChanged(forgets: false)
            default:
                guard let flight = flying.popLast() else { continue }
                event =
                    random.below(5) == 0
                    ? .failed(flight: flight.0, .unreachable)
                    : Self.landed(
                        flight.0, max(flight.1, owner - random.below(min(owner - flight.1, 3) + 1)),
                        keeps: random.below(3) > 0)
            }
            if case .fetch(let waiter, let demand, _) = event {
                if case .atLeast(let least) = demand { waiting[waiter] = least }
                if case .latest = demand { waiting[waiter] = owner }
            }
            if case .left(let waiter) = event { waiting[waiter] = nil }
            for action in machine.on(event) {
                switch action {
                case .answer(let waiter, let value):
                    guard let least = waiting.removeValue(forKey: waiter) else {
                        Issue.record("\(waiter) was answered and did not wait")
                        continue
                    }
                    #expect(value.version >= least && value.version >= given)
                    given = max(given, value.version)
                case .fail(let waiter, _):
                    let least = waiting.removeValue(forKey: waiter)
                    #expect(least != nil)
                case .refuse(let waiter, _):
                    // The owner has all that anybody asks for.
                    Issue.record("\(waiter) was refused")
                case .depart(let flight, let demand):
                    switch demand {
                    case .latest: flying.append((flight, owner))
                    case .atLeast(let least): flying.append((flight, max(least, given)))
                    }
                case .cancel(let flight): flying.removeAll { $0.0 == flight }
                }
            }
            #expect(machine.isIdle == waiting.isEmpty)
        }
    }

    // MARK: - Updates

    @Test func anUpdateIsStoredOnce() {
        var table = UpdateTable<Int>(entriesMax: 2)
        let (one, two, three) = (Self.id(1), Self.id(2), Self.id(3))
        #expect(Self.text(table.begin(one, waiter: 1, forgetAt: 100, now: 0)) == "store")
        #expect(Self.text(table.begin(one, waiter: 2, forgetAt: 100, now: 1)) == "wait")
        #expect(Self.text(table.begin(one, waiter: 3, forgetAt: 100, now: 2)) == "wait")
        let waiters = table.ended(one, 7)
        #expect(waiters == [2, 3])
        #expect(Self.text(table.begin(one, waiter: 4, forgetAt: 100, now: 3)) == "7")
        // One that was refused may come again.
        #expect(Self.text(table.begin(two, waiter: 5, forgetAt: 50, now: 4)) == "store")
        #expect(Self.text(table.begin(three, waiter: 6, forgetAt: 90, now: 4)) == "full")
        let others = table.ended(two, nil)
        #expect(others == [])
        #expect(Self.text(table.begin(three, waiter: 6, forgetAt: 90, now: 5)) == "store")
        #expect(table.nextExpiry == 50)
        // What is being stored is not forgotten.
        #expect(Self.text(table.begin(three, waiter: 7, forgetAt: 90, now: 99)) == "wait")
        let last = table.ended(three, 8)
        #expect(last == [7])
        table.expire(now: 100)
        #expect(table.count == 1)
        table.expire(now: .max / 2)
        #expect(table.count == 0)
        #expect(table.nextExpiry == nil)
    }

    private static func id(_ number: UInt64) -> IncastUpdateID {
        IncastUpdateID(instance: 1, number: number)
    }

    private static func text(_ admission: UpdateTable<Int>.Admission) -> String {
        switch admission {
        case .store: "store"
        case .wait: "wait"
        case .answer(let result): "\(result)"
        case .full: "full"
        }
    }

    @Test func turnsAreTakenInOrder() {
        var queue = OrderedQueue<Int>()
        let entered = [(1, 5), (2, 5), (3, 5), (4, 5), (5, 6)].map { number, key in
            queue.enter(UInt64(number), key)
        }
        #expect(entered == [true, false, false, false, true])
        let givenUp = [queue.giveUp(3, 5), queue.giveUp(1, 5), queue.giveUp(9, 5)]
        #expect(givenUp == [true, false, false])
        let next = [queue.leave(5), queue.leave(5), queue.leave(5)]
        #expect(next == [2, 4, nil])
        #expect(queue.count == 1)
        let last = queue.leave(6)
        #expect(last == nil)
        #expect(queue.count == 0)
    }

    @Test func onlyAMembersOwnKeysMove() {
        let members = (0..<20).map { Group.Member(rank: UInt32($0) * 3, addresses: []) }
        var counts: [UInt32: Int] = [:]
        for number in 0..<4000 as Range<UInt64> {
            let key = Blob(number: number).encoded()
            let winner = RendezvousHash.winner(for: key, among: members)
            counts[winner!, default: 0] += 1
            let less = members.filter { $0.rank != 9 }
            let other = RendezvousHash.winner(for: key, among: less)
            #expect(winner == 9 ? other != 9 : other == winner)
        }
        #expect(counts.count == 20)
        #expect(counts.values.allSatisfy { (120...280).contains($0) })
        #expect(RendezvousHash.winner(for: [], among: []) == nil)
    }
}
