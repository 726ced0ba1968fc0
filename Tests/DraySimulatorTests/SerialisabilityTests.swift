import DrayRuntime
import DraySimulator
import Testing

typealias Step = RecordedTransaction.Step

/// A transaction that committed.
func committed(_ begin: Int, _ end: Int, _ steps: Step...) -> RecordedTransaction {
    RecordedTransaction(
        client: begin, steps: steps, outcome: .committed, begin: begin, end: end)
}

func aborted(_ begin: Int, _ steps: Step...) -> RecordedTransaction {
    RecordedTransaction(client: begin, steps: steps, outcome: .aborted, begin: begin, end: nil)
}

func unknown(_ begin: Int, _ steps: Step..., by end: Int? = nil) -> RecordedTransaction {
    RecordedTransaction(client: begin, steps: steps, outcome: .unknown, begin: begin, end: end)
}

struct TransactionCase: Sendable, CustomTestStringConvertible {
    var testDescription: String
    var transactions: [RecordedTransaction]
    /// What the report says, among other things.
    var finding: String

    init(_ description: String, _ transactions: [RecordedTransaction], finding: String = "") {
        testDescription = description
        self.transactions = transactions
        self.finding = finding
    }
}

@Suite struct SerialisabilityTests {
    static let valid: [TransactionCase] = [
        TransactionCase("nothing", []),
        TransactionCase(
            "one after the other",
            [
                committed(0, 1, .read(1, nil), .write(1, 10), .write(2, 20)),
                committed(2, 3, .read(1, 10), .read(2, 20), .write(1, 11)),
                committed(4, 5, .read(1, 11), .read(2, 20)),
            ]),
        TransactionCase(
            "at once, in the order that they did not begin in",
            [committed(0, 4, .read(1, 10), .write(2, 20)), committed(1, 5, .write(1, 10))]),
        TransactionCase(
            "a transaction reads what it wrote itself",
            [committed(0, 1, .write(1, 10), .read(1, 10), .write(1, 11), .read(1, 11))]),
        TransactionCase(
            "an unknown one that happened, and one that did not",
            [
                unknown(0, .read(1, nil), .write(1, 10)), unknown(1, .read(1, nil), .write(1, 12)),
                committed(2, 3, .read(1, 10)),
            ]),
        TransactionCase(
            "an unknown one that happened late, and one of which nobody has seen anything",
            [
                unknown(0, .write(1, 10), by: 5), unknown(1, .read(1, 10), .write(1, 11), by: 3),
                committed(2, 3, .read(1, nil)), committed(4, 7, .read(1, nil)),
                committed(6, 8, .read(1, 10)),
            ]),
        TransactionCase(
            "an aborted one may have read anything",
            [
                committed(0, 1, .write(1, 10), .write(2, 20)),
                committed(2, 5, .write(1, 11), .write(2, 21)),
                aborted(3, .read(1, 11), .read(2, 20), .write(1, 12)),
                committed(6, 7, .read(1, 11)),
            ]),
        TransactionCase(
            "blind writes at once, in the order that the last read tells",
            [
                committed(0, 5, .write(1, 10), .write(2, 20)),
                committed(1, 6, .write(1, 11), .write(2, 21)),
                committed(7, 8, .read(1, 10), .read(2, 20)),
            ]),
        TransactionCase(
            "two transfers that share an account, one after the other",
            [
                committed(0, 1, .write(1, 10), .write(2, 20), .write(3, 30)),
                committed(2, 8, .read(1, 10), .read(2, 20), .write(1, 11), .write(2, 21)),
                committed(3, 9, .read(2, 21), .read(3, 30), .write(2, 22), .write(3, 31)),
            ]),
    ]

    @Test(arguments: valid)
    func isFine(_ valid: TransactionCase) {
        #expect(checkSerialisability(valid.transactions) == .passed)
    }

    static let broken: [TransactionCase] = [
        TransactionCase(
            "a value that nobody wrote", [committed(0, 1, .read(1, 9))], finding: "garbage"),
        TransactionCase(
            "an aborted read", [aborted(0, .write(1, 10)), committed(1, 2, .read(1, 10))],
            finding: "G1a"),
        TransactionCase(
            "an intermediate read",
            [committed(0, 3, .write(1, 10), .write(1, 11)), committed(1, 2, .read(1, 10))],
            finding: "G1b"),
        TransactionCase(
            "a read that does not see the transaction's own write",
            [committed(0, 1, .write(1, 10), .read(1, nil))], finding: "after it had written"),
        TransactionCase(
            "a read that is not repeatable",
            [
                committed(0, 3, .write(1, 10)), committed(1, 4, .read(1, nil), .read(1, 10)),
            ], finding: "before"),
        TransactionCase(
            "a lost update",
            [
                committed(0, 1, .write(1, 10)), committed(2, 4, .read(1, 10), .write(1, 11)),
                committed(3, 5, .read(1, 10), .write(1, 12)),
            ], finding: "lost update"),
        TransactionCase(
            "a lost update by one whose outcome is unknown, but was seen",
            [
                committed(0, 1, .write(1, 10)), unknown(2, .read(1, 10), .write(1, 11)),
                committed(3, 5, .read(1, 10), .write(1, 12)), committed(4, 6, .read(1, 11)),
            ], finding: "lost update"),
        TransactionCase(
            "an unknown one that is seen after its last moment, and not before",
            [
                unknown(0, .write(1, 10), by: 2), committed(3, 4, .read(1, nil)),
                committed(5, 6, .read(1, 10)),
            ], finding: "stale read (G-single) in real time"),
        TransactionCase(
            "write skew",
            [
                committed(0, 1, .write(1, 10), .write(2, 20)),
                committed(2, 4, .read(1, 10), .read(2, 20), .write(1, 11)),
                committed(3, 5, .read(1, 10), .read(2, 20), .write(2, 21)),
            ], finding: "write skew (G2)"),
        TransactionCase(
            "each reads what the other one wrote",
            [
                committed(0, 2, .write(1, 10), .read(2, 20)),
                committed(1, 3, .write(2, 20), .read(1, 10)),
            ], finding: "G1c"),
        TransactionCase(
            "half of a transaction",
            [
                committed(0, 1, .write(1, 10), .write(2, 20)),
                committed(2, 5, .read(1, 10), .read(2, 20), .write(1, 11), .write(2, 21)),
                committed(3, 4, .read(1, 11), .read(2, 20)),
            ], finding: "G-single"),
        TransactionCase(
            "half of a transaction that read nothing",
            [
                committed(0, 1, .write(1, 10), .write(2, 20)),
                committed(2, 3, .write(1, 11), .write(2, 21)),
                committed(4, 5, .read(1, 11), .read(2, 20)),
            ]),
        TransactionCase(
            "a stale read", [committed(0, 1, .write(1, 10)), committed(2, 3, .read(1, nil))],
            finding: "real time"),
        TransactionCase(
            "blind writes in different orders for two keys",
            [
                committed(0, 5, .write(1, 10), .write(2, 20)),
                committed(1, 6, .write(1, 11), .write(2, 21)),
                committed(7, 8, .read(1, 10), .read(2, 21)),
            ]),
        TransactionCase(
            "a long fork",
            [
                committed(0, 9, .write(1, 10)), committed(1, 8, .write(2, 20)),
                committed(2, 7, .read(1, 10), .read(2, nil)),
                committed(3, 6, .read(1, nil), .read(2, 20)),
            ]),
        TransactionCase(
            "a write that was replaced and comes back",
            [
                committed(0, 1, .write(1, 10)), committed(2, 3, .read(1, 10), .write(1, 11)),
                committed(4, 5, .read(1, 10)),
            ]),
    ]

    @Test(arguments: broken)
    func isFound(_ broken: TransactionCase) {
        let outcome = checkSerialisability(broken.transactions)
        #expect(isViolated(outcome))
        #expect(outcome.problem?.contains(broken.finding) == true, "\(outcome)")
    }

    @Test func aReportNamesEveryStepOfTheCycle() {
        let outcome = checkSerialisability([
            committed(0, 1, .write(1, 10), .write(2, 20)),
            committed(2, 4, .read(1, 10), .read(2, 20), .write(1, 11)),
            committed(3, 5, .read(1, 10), .read(2, 20), .write(2, 21)),
        ])
        #expect(
            outcome.problem == "write skew (G2): "
                + "T1 (client 2) did not see what T2 (client 3) wrote to key 2; "
                + "T2 (client 3) did not see what T1 (client 2) wrote to key 1")
    }

    /// Small histories against every order. Where each write comes after a read of the same key
    /// the order of the versions is known, and every violation is found; otherwise nothing that
    /// has an order is called a violation.
    @Test(arguments: [true, false])
    func theCheckAgreesWithEveryOrder(readsBeforeWrites: Bool) {
        var entropy = Entropy(seed: readsBeforeWrites ? 3 : 4)
        var passed = 0
        let rounds = 4_000
        for round in 0..<rounds {
            let transactions = random(&entropy, readsBeforeWrites: readsBeforeWrites)
            let expected = everyOrder(transactions)
            let outcome = checkSerialisability(transactions)
            if expected { passed += 1 }
            if expected || readsBeforeWrites {
                #expect((outcome == .passed) == expected, "\(round): \(transactions) \(outcome)")
            }
        }
        #expect(passed > rounds / 100)
        #expect(passed < rounds * 99 / 100)
    }

    /// A transaction of unknown outcome has until its last moment, and no longer.
    @Test(arguments: [(2, false), (3, true), (4, true)])
    func aHistoryKnowsLastMoments(seconds: UInt64, mayStillHappen: Bool) {
        func at(_ seconds: UInt64) -> Instant { Instant(nanoseconds: seconds * 1_000_000_000) }
        var history = TransactionHistory()
        let change = history.begin(client: 1, at: at(1), until: at(seconds))
        history.add(.write(1, 10), to: change)
        // The first one that begins after the last moment may have been there a little before.
        for _ in 0..<2 {
            let early = history.begin(client: 2, at: at(3))
            history.add(.read(1, nil), to: early)
            history.commit(early)
        }
        let late = history.begin(client: 2, at: at(5))
        history.add(.read(1, 10), to: late)
        history.commit(late)
        #expect((history.check() == .passed) == mayStillHappen)
        #expect(history.transactions[0].end == (seconds == 2 ? 1 : 5))
    }

    private func random(
        _ entropy: inout Entropy, readsBeforeWrites: Bool
    ) -> [RecordedTransaction] {
        // Values are ten times the writer plus the key, so that readers can guess them.
        (0..<4).map { index in
            let begin = Int(entropy.below(12))
            var steps: [Step] = []
            for key in 1...2 where entropy.chance(3, in: 4) {
                let writes = entropy.chance(1, in: 2)
                if !writes || readsBeforeWrites || entropy.chance(1, in: 2) {
                    var writer = entropy.below(5)
                    if writer == UInt64(index + 1) { writer = 0 }
                    steps.append(.read(key, writer == 0 ? nil : writer * 10 + UInt64(key)))
                }
                if writes { steps.append(.write(key, UInt64(index + 1) * 10 + UInt64(key))) }
            }
            return RecordedTransaction(
                client: begin, steps: steps, outcome: .committed, begin: begin,
                end: begin + 1 + Int(entropy.below(8)))
        }
    }

    private func everyOrder(_ transactions: [RecordedTransaction]) -> Bool {
        func search(_ left: [RecordedTransaction], _ state: [Int: UInt64]) -> Bool {
            if left.isEmpty { return true }
            for (index, next) in left.enumerated() {
                guard left.allSatisfy({ $0.end ?? .max >= next.begin }) else { continue }
                var after = state
                var isRight = true
                for step in next.steps {
                    switch step {
                    case .read(let key, let value): isRight = isRight && after[key] == value
                    case .write(let key, let value): after[key] = value
                    }
                }
                guard isRight else { continue }
                var rest = left
                rest.remove(at: index)
                if search(rest, after) { return true }
            }
            return false
        }
        return search(transactions, [:])
    }
}
