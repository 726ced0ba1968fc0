import DrayRuntime
import DraySimulator
import Testing

typealias RegisterOperation = RecordedOperation<RegisterModel.Action>

/// One operation, on its own line of a table: from when to when, and what.
func certain(_ begin: Int, _ end: Int, _ action: RegisterModel.Action) -> RegisterOperation {
    RegisterOperation(client: begin, action: action, begin: begin, end: end, isCertain: true)
}

/// An operation whose outcome nobody knows.
func unknown(_ begin: Int, _ action: RegisterModel.Action, by end: Int? = nil) -> RegisterOperation
{
    RegisterOperation(client: begin, action: action, begin: begin, end: end, isCertain: false)
}

func check(_ operations: [RegisterOperation]) -> CheckOutcome {
    checkLinearizability(operations, of: RegisterModel.self)
}

func isViolated(_ outcome: CheckOutcome) -> Bool {
    if case .violated = outcome { return true }
    return false
}

struct RegisterCase: Sendable, CustomTestStringConvertible {
    var testDescription: String
    var operations: [RegisterOperation]

    init(_ description: String, _ operations: [RegisterOperation]) {
        testDescription = description
        self.operations = operations
    }
}

@Suite struct RegisterTests {
    static let valid: [RegisterCase] = [
        RegisterCase("nothing at all", []),
        RegisterCase("a key that was never written", [certain(0, 1, .get(nil))]),
        RegisterCase(
            "a read after a write", [certain(0, 1, .put(1, .none)), certain(2, 3, .get(1))]),
        RegisterCase(
            "reads beside a write see either value, then the new one",
            [
                certain(0, 1, .put(1, .none)), certain(2, 9, .put(2, .none)),
                certain(3, 4, .get(1)), certain(5, 6, .get(2)), certain(7, 8, .get(2)),
            ]),
        RegisterCase(
            "writes at once, in the order that the readers tell",
            [
                certain(0, 5, .put(1, .none)), certain(1, 6, .put(2, .none)),
                certain(7, 8, .get(1)), certain(9, 10, .get(1)),
            ]),
        RegisterCase(
            "a write of unknown outcome that appears late",
            [
                unknown(0, .put(1, .none)), certain(1, 2, .get(nil)),
                certain(3, 4, .put(2, .none)), certain(5, 6, .get(2)), certain(7, 8, .get(1)),
            ]),
        RegisterCase(
            "a write of unknown outcome that never appears",
            [unknown(0, .put(1, .none)), certain(1, 2, .get(nil)), certain(3, 4, .get(nil))]),
        RegisterCase(
            "an insert that was refused because of an unknown write",
            [unknown(0, .put(1, .none)), certain(1, 2, .refused(.insert))]),
        RegisterCase(
            "unknown writes and removals explain one refusal each",
            [
                unknown(0, .put(1, .none)), unknown(1, .remove(.none)),
                unknown(2, .put(2, .insert)),
                certain(3, 4, .refused(.insert)), certain(5, 6, .refused(.update)),
                certain(7, 8, .refused(.insert)),
            ]),
        RegisterCase(
            "an unknown update that found something to update",
            [
                certain(0, 1, .put(1, .insert)), unknown(2, .put(2, .update)),
                certain(3, 4, .get(1)), certain(5, 6, .get(2)), certain(7, 8, .remove(.update)),
                certain(9, 10, .get(nil)),
            ]),
        RegisterCase(
            "of two inserts at once one is refused",
            [
                certain(0, 4, .put(1, .insert)), certain(1, 3, .refused(.insert)),
                certain(5, 6, .get(1)),
            ]),
        RegisterCase(
            "removals at once",
            [
                certain(0, 1, .put(1, .none)), certain(2, 6, .remove(.update)),
                certain(3, 5, .refused(.update)), certain(7, 8, .get(nil)),
            ]),
    ]

    @Test(arguments: valid)
    func isFine(_ valid: RegisterCase) {
        #expect(check(valid.operations) == .passed)
    }

    static let broken: [RegisterCase] = [
        RegisterCase("a value that nobody wrote", [certain(0, 1, .get(7))]),
        RegisterCase(
            "a value that is written later",
            [certain(0, 1, .get(1)), certain(2, 3, .put(1, .none))]),
        RegisterCase(
            "a value whose write of unknown outcome begins later",
            [certain(0, 1, .get(1)), unknown(2, .put(1, .none))]),
        RegisterCase(
            "a stale read",
            [
                certain(0, 1, .put(1, .none)), certain(2, 3, .put(2, .none)),
                certain(4, 5, .get(1)),
            ]),
        RegisterCase(
            "a lost write", [certain(0, 1, .put(1, .none)), certain(2, 3, .get(nil))]),
        RegisterCase(
            "a read that goes back",
            [
                certain(0, 1, .put(1, .none)), certain(2, 9, .put(2, .none)),
                certain(3, 4, .get(2)), certain(5, 6, .get(1)),
            ]),
        RegisterCase(
            "two readers that disagree",
            [
                certain(0, 5, .put(1, .none)), certain(1, 6, .put(2, .none)),
                certain(7, 8, .get(1)), certain(9, 10, .get(2)),
            ]),
        RegisterCase(
            "a removed value that comes back",
            [
                certain(0, 1, .put(1, .none)), certain(2, 3, .remove(.none)),
                certain(4, 5, .get(nil)), certain(6, 7, .get(1)),
            ]),
        RegisterCase(
            "a write of unknown outcome that comes back after it was replaced",
            [
                unknown(0, .put(1, .none)), certain(1, 2, .get(1)),
                certain(3, 4, .put(2, .none)), certain(5, 6, .get(2)), certain(7, 8, .get(1)),
            ]),
        RegisterCase(
            "a write of unknown outcome after its last moment",
            [
                unknown(0, .put(1, .none), by: 3), certain(4, 5, .get(nil)),
                certain(6, 7, .get(1)),
            ]),
        RegisterCase(
            "two inserts without a removal",
            [certain(0, 5, .put(1, .insert)), certain(1, 4, .put(2, .insert))]),
        RegisterCase("an update of nothing", [certain(0, 1, .put(1, .update))]),
        RegisterCase(
            "an insert that was refused without a reason", [certain(0, 1, .refused(.insert))]),
        RegisterCase(
            "one unknown write explains only one refusal",
            [
                unknown(0, .put(1, .none)), certain(1, 2, .refused(.insert)),
                certain(3, 4, .remove(.update)), certain(5, 6, .refused(.insert)),
            ]),
        RegisterCase(
            "a failed condition although nothing had changed",
            [
                certain(0, 1, .put(1, .none)), certain(2, 3, .refused(.update)),
                certain(4, 5, .get(1)),
            ]),
    ]

    @Test(arguments: broken)
    func isFound(_ broken: RegisterCase) {
        #expect(isViolated(check(broken.operations)))
    }

    @Test func aReportSaysWhatWasPossible() {
        let outcome = check([
            certain(0, 1, .put(1, .none)), certain(2, 3, .put(2, .none)), certain(4, 5, .get(2)),
            certain(6, 7, .get(1)),
        ])
        #expect(outcome.problem == "client 6 read v1; before that there was v2")
    }

    @Test func aSearchThatIsTooLargeDoesNotPass() {
        // Every order of twelve writes is possible until the reads tell.
        var operations = (0..<12).map { certain($0, 100 + $0, .put(UInt64($0 + 1), .none)) }
        operations += (0..<12).map { certain(20 + 2 * $0, 21 + 2 * $0, .get(UInt64($0 + 1))) }
        let outcome = checkLinearizability(operations, of: RegisterModel.self, searchMax: 5)
        guard case .gaveUp = outcome else {
            Issue.record("not given up: \(outcome)")
            return
        }
        #expect(outcome.problem != nil)
        #expect(check(operations) == .passed)
    }

    @Test func aHistoryKnowsTheLastMomentOfAnOperation() {
        var history = History<String, RegisterModel.Action>()
        func time(_ nanoseconds: UInt64) -> Instant { Instant(nanoseconds: nanoseconds) }
        _ = history.begin(client: 1, key: "a", change: .put(1, .none), at: time(1), until: time(5))
        for moment in [3, 6, 7, 8] as [UInt64] {
            let read = history.begin(client: 2, key: "a", change: nil, at: time(moment))
            history.finish(read, as: .get(moment < 8 ? nil : 1))
        }
        #expect(history.partitioned()[0].operations[0].end == 3)
        #expect(history.check(RegisterModel.self)[0].outcome.problem != nil)
    }

    @Test func aHistorySortsOperationsByKey() {
        var history = History<String, RegisterModel.Action>()
        let time = Instant(nanoseconds: 0)
        let first = history.begin(client: 1, key: "b", change: .put(1, .none), at: time)
        let read = history.begin(client: 2, key: "a", change: nil, at: time)
        let refused = history.begin(client: 3, key: "a", change: .put(3, .none), at: time)
        history.finish(read, as: .get(2))
        history.drop(refused)
        _ = history.begin(client: 3, key: "a", change: nil, at: time)
        _ = history.begin(client: 2, key: "a", change: .put(2, .none), at: time)
        history.finish(first, as: .put(1, .none))
        let parts = history.partitioned()
        #expect(parts.map(\.key) == ["a", "b"])
        #expect(parts.map(\.operations.count) == [2, 1])
        let outcomes = history.check(RegisterModel.self)
        #expect(outcomes.map(\.outcome.problem).map { $0 == nil } == [false, true])
    }
}
