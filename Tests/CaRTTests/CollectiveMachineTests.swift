import DrayRuntime
import Testing

@testable import CaRT

@Suite struct CollectiveMachineTests {
    typealias Machine = CollectiveMachine
    typealias Failure = CollectiveFailures.Failure

    /// The part of position 4 of eight in a binomial tree: its children are 6 (with 7) and 5.
    static func make(position: Int? = 4, isFailFast: Bool = false) -> Machine {
        Machine(
            tree: .kNomial(2), count: 8, root: 0, position: position, isFailFast: isFailFast)
    }

    static func failures(_ list: (Int, RPCError)..., total: Int? = nil) -> CollectiveFailures {
        CollectiveFailures(
            listed: list.map { Failure(position: $0.0, error: $0.1) }, total: total ?? list.count)
    }

    /// A state to test events in: how it is reached.
    enum State: CaseIterable {
        case prepared
        /// The handler runs, both children are pending.
        case forwarded
        /// The handler has replied, both children are pending.
        case handled
        /// The handler has failed, both children are pending.
        case handlerFailed
        /// The handler runs, child 6 has answered.
        case parked
        /// The handler runs, both children have answered.
        case childrenAnswered
        /// Child 6 is gone, and its child 7 adopted; the handler runs.
        case adopted
        case answered

        var machine: Machine {
            var machine = CollectiveMachineTests.make()
            #expect(machine.begin() == [.prepare])
            for event in events { _ = machine.on(event) }
            machine.checkInvariants()
            return machine
        }

        private var events: [Machine.Event] {
            switch self {
            case .prepared: []
            case .forwarded: [.accepted]
            case .handled: [.accepted, .handled]
            case .handlerFailed: [.accepted, .handlerFailed(.noReply)]
            case .parked: [.accepted, .childAnswered(6, succeeded: 2, failures: .init())]
            case .childrenAnswered:
                [
                    .accepted, .childAnswered(6, succeeded: 2, failures: .init()),
                    .childAnswered(5, succeeded: 1, failures: .init()),
                ]
            case .adopted: [.accepted, .childFailed(6, .unreachable)]
            case .answered: [.accepted, .cancelled]
            }
        }
    }

    struct Row {
        var state: State
        var event: Machine.Event
        var actions: [Machine.Action]
        var phase: Machine.Phase
        var succeeded = 0
        var failures = CollectiveFailures()
    }

    static let five = Machine.Event.childAnswered(5, succeeded: 1, failures: .init())
    static let six = Machine.Event.childAnswered(6, succeeded: 2, failures: .init())
    static let failed = RPCError.application(code: 1, message: "no")
    static let allLate = failures((4, .timedOut), (6, .timedOut), (7, .timedOut), (5, .timedOut))
    static let noReply = (4, RPCError.noReply)
    static let gone = (6, RPCError.unreachable)

    /// Every state with every event that can happen in it.
    static let table: [Row] = preparedRows + forwardedRows + handledRows + otherRows

    static let preparedRows: [Row] = [
        Row(
            state: .prepared, event: .accepted, actions: [.forward(6), .forward(5), .handle],
            phase: .forwarded),
        Row(
            state: .prepared, event: .refused(failed), actions: [.answer], phase: .answered,
            failures: failures((4, failed), (5, failed), (6, failed), (7, failed))),
        Row(
            state: .prepared, event: .outOfTime, actions: [.answer], phase: .answered,
            failures: failures(
                (4, .timedOut), (5, .timedOut), (6, .timedOut), (7, .timedOut))),
        Row(
            state: .prepared, event: .cancelled, actions: [.answer], phase: .answered,
            failures: failures(
                (4, .cancelled), (5, .cancelled), (6, .cancelled), (7, .cancelled))),
    ]

    static let forwardedRows: [Row] = [
        Row(
            state: .forwarded, event: .handled, actions: [.takeOwn], phase: .forwarded,
            succeeded: 1),
        Row(
            state: .forwarded, event: .handlerFailed(failed), actions: [], phase: .forwarded,
            failures: failures((4, failed))),
        Row(state: .forwarded, event: five, actions: [], phase: .forwarded, succeeded: 1),
        Row(
            state: .forwarded,
            event: .childAnswered(6, succeeded: 1, failures: failures((7, failed))), actions: [],
            phase: .forwarded, succeeded: 1, failures: failures((7, failed))),
        // It accounts for a position that is not below it, or for too few.
        Row(
            state: .forwarded,
            event: .childAnswered(6, succeeded: 1, failures: failures((5, failed))), actions: [],
            phase: .forwarded, failures: failures((6, .badMessage), (7, .badMessage))),
        Row(
            state: .forwarded, event: .childAnswered(6, succeeded: 1, failures: .init()),
            actions: [], phase: .forwarded,
            failures: failures((6, .badMessage), (7, .badMessage))),
        Row(
            state: .forwarded, event: .childAnswered(6, succeeded: 3, failures: .init()),
            actions: [], phase: .forwarded,
            failures: failures((6, .badMessage), (7, .badMessage))),
        Row(
            state: .forwarded, event: .childFailed(6, .timedOut), actions: [], phase: .forwarded,
            failures: failures((6, .timedOut), (7, .timedOut))),
        Row(
            state: .forwarded, event: .childFailed(6, .peerRestarted), actions: [.forward(7)],
            phase: .forwarded, failures: failures((6, .peerRestarted))),
        Row(
            state: .forwarded, event: .childFailed(5, .overloaded), actions: [],
            phase: .forwarded, failures: failures((5, .overloaded))),
        Row(
            state: .forwarded, event: .outOfTime,
            actions: [.cancelHandler, .cancelChild(6), .cancelChild(5), .answer],
            phase: .answered, failures: allLate),
        Row(
            state: .forwarded, event: .cancelled,
            actions: [.cancelHandler, .cancelChild(6), .cancelChild(5), .answer],
            phase: .answered,
            failures: failures(
                (4, .cancelled), (6, .cancelled), (7, .cancelled), (5, .cancelled))),
    ]

    static let handledRows: [Row] = [
        Row(
            state: .handled, event: six, actions: [.aggregate(6)], phase: .forwarded,
            succeeded: 3),
        Row(
            state: .handled,
            event: .childAnswered(
                6, succeeded: 0, failures: failures((6, failed), (7, failed))),
            actions: [], phase: .forwarded, succeeded: 1,
            failures: failures((6, failed), (7, failed))),
        Row(
            state: .handled, event: .childFailed(6, .closed), actions: [.forward(7)],
            phase: .forwarded, succeeded: 1, failures: failures((6, .closed))),
        Row(
            state: .handled, event: .outOfTime,
            actions: [.cancelChild(6), .cancelChild(5), .answer], phase: .answered, succeeded: 1,
            failures: failures((6, .timedOut), (7, .timedOut), (5, .timedOut))),
        Row(
            state: .handled, event: .cancelled,
            actions: [.cancelChild(6), .cancelChild(5), .answer], phase: .answered, succeeded: 1,
            failures: failures((6, .cancelled), (7, .cancelled), (5, .cancelled))),
        Row(
            state: .handlerFailed, event: six, actions: [.aggregate(6)], phase: .forwarded,
            succeeded: 2, failures: failures(noReply)),
        Row(
            state: .handlerFailed, event: .childFailed(6, .unreachable), actions: [.forward(7)],
            phase: .forwarded, failures: failures(noReply, gone)),
        Row(
            state: .handlerFailed, event: .outOfTime,
            actions: [.cancelChild(6), .cancelChild(5), .answer], phase: .answered,
            failures: failures(noReply, (6, .timedOut), (7, .timedOut), (5, .timedOut))),
        Row(
            state: .handlerFailed, event: .cancelled,
            actions: [.cancelChild(6), .cancelChild(5), .answer], phase: .answered,
            failures: failures(noReply, (6, .cancelled), (7, .cancelled), (5, .cancelled))),
    ]

    static let otherRows: [Row] = [
        Row(
            state: .parked, event: .handled, actions: [.takeOwn, .aggregate(6)],
            phase: .forwarded, succeeded: 3),
        Row(
            state: .parked, event: .handlerFailed(failed), actions: [.aggregate(6)],
            phase: .forwarded, succeeded: 2, failures: failures((4, failed))),
        Row(state: .parked, event: five, actions: [], phase: .forwarded, succeeded: 3),
        Row(
            state: .parked, event: .childFailed(5, .timedOut), actions: [], phase: .forwarded,
            succeeded: 2, failures: failures((5, .timedOut))),
        Row(
            state: .parked, event: .outOfTime,
            actions: [.aggregate(6), .cancelHandler, .cancelChild(5), .answer],
            phase: .answered, succeeded: 2, failures: failures((4, .timedOut), (5, .timedOut))),
        Row(
            state: .parked, event: .cancelled,
            actions: [.aggregate(6), .cancelHandler, .cancelChild(5), .answer],
            phase: .answered, succeeded: 2, failures: failures((4, .cancelled), (5, .cancelled))),
        Row(
            state: .childrenAnswered, event: .handled,
            actions: [.takeOwn, .aggregate(6), .aggregate(5), .answer], phase: .answered,
            succeeded: 4),
        Row(
            state: .childrenAnswered, event: .handlerFailed(failed),
            actions: [.aggregate(6), .aggregate(5), .answer], phase: .answered, succeeded: 3,
            failures: failures((4, failed))),
        Row(
            state: .childrenAnswered, event: .outOfTime,
            actions: [.aggregate(6), .aggregate(5), .cancelHandler, .answer], phase: .answered,
            succeeded: 3, failures: failures((4, .timedOut))),
        Row(
            state: .childrenAnswered, event: .cancelled,
            actions: [.aggregate(6), .aggregate(5), .cancelHandler, .answer], phase: .answered,
            succeeded: 3, failures: failures((4, .cancelled))),
        Row(
            state: .adopted, event: .childAnswered(7, succeeded: 1, failures: .init()),
            actions: [], phase: .forwarded, succeeded: 1, failures: failures(gone)),
        Row(
            state: .adopted, event: .childFailed(7, .unreachable), actions: [],
            phase: .forwarded, failures: failures(gone, (7, .unreachable))),
        Row(
            state: .adopted, event: .handled, actions: [.takeOwn], phase: .forwarded,
            succeeded: 1, failures: failures(gone)),
        Row(
            state: .adopted, event: .handlerFailed(.noReply), actions: [], phase: .forwarded,
            failures: failures(gone, noReply)),
        Row(
            state: .adopted, event: .outOfTime,
            actions: [.cancelHandler, .cancelChild(5), .cancelChild(7), .answer],
            phase: .answered,
            failures: failures(gone, (4, .timedOut), (5, .timedOut), (7, .timedOut))),
        Row(
            state: .adopted, event: .cancelled,
            actions: [.cancelHandler, .cancelChild(5), .cancelChild(7), .answer],
            phase: .answered,
            failures: failures(gone, (4, .cancelled), (5, .cancelled), (7, .cancelled))),
    ]

    @Test(arguments: table.indices)
    func followsTheTable(index: Int) {
        let row = Self.table[index]
        var machine = row.state.machine
        #expect(machine.on(row.event) == row.actions, "\(row)")
        #expect(machine.phase == row.phase, "\(row)")
        #expect(machine.succeeded == row.succeeded, "\(row)")
        #expect(machine.failures == row.failures, "\(row)")
        machine.checkInvariants()
    }

    /// What comes after the answer changes nothing.
    @Test func nothingHappensAfterTheAnswer() {
        let before = State.answered.machine
        let events: [Machine.Event] = [
            .accepted, .refused(.noReply), .handled, .handlerFailed(.noReply), Self.five, Self.six,
            .childFailed(5, .unreachable), .outOfTime, .cancelled,
        ]
        for event in events {
            var machine = before
            #expect(machine.on(event) == [])
            #expect(machine.succeeded == before.succeeded)
            #expect(machine.failures == before.failures)
        }
    }

    /// The table leaves nothing out that can happen.
    @Test func theTableIsComplete() {
        func kind(_ event: Machine.Event) -> String {
            switch event {
            case .accepted: "accepted"
            case .refused: "refused"
            case .handled: "handled"
            case .handlerFailed: "handlerFailed"
            case .childAnswered: "childAnswered"
            case .childFailed: "childFailed"
            case .outOfTime: "outOfTime"
            case .cancelled: "cancelled"
            }
        }
        for state in State.allCases where state != .answered {
            let tested = Set(Self.table.filter { $0.state == state }.map { kind($0.event) })
            let machine = state.machine
            var possible: Set = ["outOfTime", "cancelled"]
            if machine.phase == .prepared { possible.formUnion(["accepted", "refused"]) }
            if machine.phase == .forwarded, machine.handler == .running {
                possible.formUnion(["handled", "handlerFailed"])
            }
            if machine.pendingCount > 0 { possible.formUnion(["childAnswered", "childFailed"]) }
            #expect(tested == possible, "\(state)")
        }
    }

    @Test func theFirstFailureIsEnough() {
        let events: [(Machine.Event, RPCError, Int)] = [
            (.handlerFailed(Self.failed), Self.failed, 4),
            (.childFailed(5, .unreachable), .unreachable, 5),
            (.childFailed(6, .timedOut), .timedOut, 6),
            (
                .childAnswered(
                    6, succeeded: 0, failures: Self.failures((7, Self.failed), total: 2)),
                Self.failed, 7
            ),
            (.childAnswered(6, succeeded: 9, failures: .init()), .badMessage, 6),
        ]
        for (event, error, position) in events {
            var machine = Self.make(isFailFast: true)
            _ = machine.begin()
            _ = machine.on(.accepted)
            let actions = machine.on(event)
            #expect(machine.phase == .answered)
            #expect(machine.succeeded == 0)
            #expect(machine.failures == Self.failures((position, error), total: 4))
            #expect(actions.last == .answer)
            let isHandler = event == .handlerFailed(Self.failed)
            #expect(actions.contains(.cancelHandler) == !isHandler)
            let child: Int? = isHandler ? nil : position == 5 ? 5 : 6
            #expect(actions.contains(.cancelChild(6)) == (child != 6))
            #expect(actions.contains(.cancelChild(5)) == (child != 5))
            machine.checkInvariants()
        }
        // One that replied before the failure counts no more, and nothing is adopted.
        var machine = Self.make(isFailFast: true)
        _ = machine.begin()
        _ = machine.on(.accepted)
        _ = machine.on(.handled)
        #expect(machine.on(.childFailed(6, .unreachable)) == [.cancelChild(5), .answer])
        #expect(machine.failures == Self.failures((6, .unreachable), total: 4))
    }

    @Test func theInitiatorAsksTheRootAndAdopts() {
        var machine = Self.make(position: nil)
        #expect(machine.begin() == [.forward(0)])
        machine.checkInvariants()
        #expect(machine.on(.childFailed(0, .unreachable)) == [4, 2, 1].map { .forward($0) })
        #expect(
            machine.on(.childAnswered(4, succeeded: 4, failures: .init())) == [.aggregate(4)])
        #expect(
            machine.on(.childAnswered(1, succeeded: 1, failures: .init())) == [.aggregate(1)])
        #expect(machine.on(.childFailed(2, .timedOut)) == [.answer])
        #expect(machine.succeeded == 5)
        #expect(
            machine.failures == Self.failures((0, .unreachable), (2, .timedOut), (3, .timedOut)))
        machine.checkInvariants()
    }

    @Test func listsSomeFailuresAndCountsAll() {
        var machine = Machine(
            tree: .flat, count: 1000, root: 10, position: nil, isFailFast: false)
        _ = machine.begin()
        #expect(machine.on(.childFailed(10, .timedOut)) == [.answer])
        #expect(machine.failures.total == 1000)
        #expect(machine.failures.listed.count == CollectiveFailures.listedMax)
        machine.checkInvariants()
    }

    /// Whole trees of machines under random failures: every position is asked at most once by
    /// whoever is responsible for it, and counted once.
    @Test(arguments: 1...300)
    func countsEveryPositionOnce(seed: UInt64) {
        var entropy = Entropy(seed: seed)
        let tree = TreeTopologyTests.trees[
            Int(entropy.below(UInt64(TreeTopologyTests.trees.count)))]
        let count = Int(entropy.below(60)) + 1
        let root = Int(entropy.below(UInt64(count)))
        var world = MachineWorld(
            tree: tree, count: count, root: root, isFailFast: entropy.chance(1, in: 4),
            failureRate: entropy.below(40), entropy: entropy)
        world.run()
    }
}

/// A collective among machines: events happen in random order.
private struct MachineWorld {
    let count: Int
    var machines: [Int: CollectiveMachine] = [:]
    /// What each part has aggregated: the positions.
    var aggregated: [Int: Set<Int>] = [:]
    var answers: [Int: Set<Int>] = [:]
    var parents: [Int: [Int]] = [:]
    var ran: [Int: Int] = [:]
    var dead: Set<Int> = []
    var begun: Set<Int> = []
    var due: [(part: Int, event: CollectiveMachine.Event)] = []
    let failureRate: UInt64
    var entropy: Entropy
    static let initiator = -1

    init(
        tree: TreeTopology, count: Int, root: Int, isFailFast: Bool, failureRate: UInt64,
        entropy: Entropy
    ) {
        self.count = count
        self.failureRate = failureRate
        self.entropy = entropy
        for position in 0..<count {
            machines[position] = CollectiveMachine(
                tree: tree, count: count, root: root, position: position, isFailFast: isFailFast)
            if self.entropy.chance(failureRate, in: 200) { dead.insert(position) }
        }
        machines[Self.initiator] = CollectiveMachine(
            tree: tree, count: count, root: root, position: nil, isFailFast: isFailFast)
    }

    mutating func run() {
        perform(machines[Self.initiator]!.begin(), Self.initiator)
        while !due.isEmpty {
            due.swapAt(Int(entropy.below(UInt64(due.count))), due.count - 1)
            let (part, event) = due.removeLast()
            guard let machine = machines[part], machine.phase != .answered else { continue }
            perform(machines[part]!.on(event), part)
            machines[part]!.checkInvariants()
        }
        let end = machines[Self.initiator]!
        #expect(end.phase == .answered)
        #expect(end.succeeded + end.failures.total == count)
        #expect(ran.values.allSatisfy { $0 == 1 })
        if !end.isFailFast {
            #expect(answers[Self.initiator]?.count == end.succeeded)
            let failed = Set(end.failures.listed.map(\.position))
            #expect(failed.count == end.failures.listed.count)
            #expect(failed.isDisjoint(with: answers[Self.initiator] ?? []))
        }
    }

    mutating func perform(_ actions: [CollectiveMachine.Action], _ part: Int) {
        for action in actions {
            switch action {
            case .prepare:
                due.append(
                    (part, entropy.chance(failureRate, in: 400) ? .refused(.noReply) : .accepted))
            case .handle:
                ran[part, default: 0] += 1
                let fails = entropy.chance(failureRate, in: 200)
                due.append((part, fails ? .handlerFailed(.noReply) : .handled))
            case .forward(let child): ask(child, by: part)
            case .takeOwn: aggregated[part, default: []].insert(part)
            case .aggregate(let child):
                let theirs = answers[child]!
                #expect(aggregated[part, default: []].isDisjoint(with: theirs))
                aggregated[part, default: []].formUnion(theirs)
            case .cancelHandler: break
            case .cancelChild(let child): due.append((child, .cancelled))
            case .answer:
                answers[part] = aggregated[part] ?? []
                for parent in parents[part] ?? [] { answer(part, to: parent) }
            }
        }
    }

    private mutating func ask(_ child: Int, by part: Int) {
        if dead.contains(child) {
            due.append(
                (part, .childFailed(child, entropy.chance(1, in: 2) ? .unreachable : .timedOut)))
            return
        }
        parents[child, default: []].append(part)
        if answers[child] != nil { answer(child, to: part) }
        guard begun.insert(child).inserted else { return }
        // Its connection may break at any time: then its children are asked by others as well.
        if entropy.chance(failureRate, in: 200) {
            due.append((part, .childFailed(child, .unreachable)))
            parents[child]!.removeAll { $0 == part }
        }
        perform(machines[child]!.begin(), child)
    }

    private mutating func answer(_ child: Int, to parent: Int) {
        let machine = machines[child]!
        due.append(
            (
                parent,
                .childAnswered(
                    child, succeeded: machine.succeeded, failures: machine.failures)
            ))
    }
}
