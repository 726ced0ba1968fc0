import DrayRuntime
import DraySimulator
import Testing

/// Histories made from an execution one operation after another, so that they are right, with
/// random times around the moment of each.
struct RandomHistory {
    var entropy: Entropy
    var operations: [RegisterOperation] = []
    /// How many operations are under way at once, about.
    var overlap = 10

    init(seed: UInt64) { entropy = Entropy(seed: seed) }

    /// Around the moment `index`: times are tenths of a step of the execution.
    mutating func interval(_ index: Int) -> (begin: Int, end: Int) {
        let moment = (index + overlap) * 10
        let width = UInt64(overlap * 10)
        return (moment - Int(entropy.below(width)), moment + 1 + Int(entropy.below(width)))
    }

    mutating func register(count: Int) -> [RegisterOperation] {
        var state: UInt64?
        var operations: [RegisterOperation] = []
        for index in 0..<count {
            let (begin, end) = interval(index)
            let condition: RegisterModel.Condition =
                entropy.chance(1, in: 2) ? .none : entropy.chance(1, in: 2) ? .insert : .update
            var action: RegisterModel.Action
            switch entropy.below(4) {
            case 0, 1: action = .get(state)
            case 2: action = .put(UInt64(index + 1), condition)
            default: action = .remove(condition == .insert ? .none : condition)
            }
            if entropy.chance(1, in: 6) {
                // Nobody knows: it happens now, or not at all. Reads are of no interest then.
                if RegisterModel.isReadOnly(action) { continue }
                operations.append(
                    RegisterOperation(
                        client: index, action: action, begin: begin, end: nil, isCertain: false))
                if entropy.chance(1, in: 2), let next = RegisterModel.apply(action, to: state) {
                    state = next
                }
                continue
            }
            if let next = RegisterModel.apply(action, to: state) {
                state = next
            } else {
                action = .refused(condition)
            }
            operations.append(
                RegisterOperation(
                    client: index, action: action, begin: begin, end: end, isCertain: true))
        }
        return operations
    }

    mutating func array(count: Int, cells: Int) -> [RecordedOperation<CellArrayModel.Action>] {
        var state = Array(repeating: UInt32(0), count: cells)
        var operations: [RecordedOperation<CellArrayModel.Action>] = []
        for index in 0..<count {
            let (begin, end) = interval(index)
            let isCertain = !entropy.chance(1, in: 6)
            let first = Int(entropy.below(UInt64(cells)))
            let range = first..<(first + 1 + Int(entropy.below(UInt64(cells - first))))
            var action = CellArrayModel.Action.read(first: range.lowerBound, Array(state[range]))
            if entropy.chance(1, in: 2) {
                action = .write(UInt32(index + 1), range)
                if isCertain || entropy.chance(1, in: 2) {
                    for cell in range { state[cell] = UInt32(index + 1) }
                }
            } else if !isCertain {
                continue
            }
            operations.append(
                RecordedOperation(
                    client: index, action: action, begin: begin, end: isCertain ? end : nil,
                    isCertain: isCertain))
        }
        return operations
    }

    /// Transactions of a few keys, one after the other; some of unknown outcome, some aborted.
    mutating func transactions(count: Int, keys: Int) -> [RecordedTransaction] {
        var state: [UInt64?] = Array(repeating: nil, count: keys)
        var value: UInt64 = 0
        return (0..<count).map { index in
            let (begin, end) = interval(index)
            var outcome = RecordedTransaction.Outcome.committed
            if entropy.chance(1, in: 5) { outcome = entropy.chance(1, in: 2) ? .aborted : .unknown }
            var after = state
            var steps: [RecordedTransaction.Step] = []
            for _ in 0..<(1 + entropy.below(5)) {
                let key = Int(entropy.below(UInt64(keys)))
                if entropy.chance(1, in: 2) { steps.append(.read(key, after[key])) }
                if entropy.chance(1, in: 2) {
                    value += 1
                    steps.append(.write(key, value))
                    after[key] = value
                }
            }
            let happens =
                outcome == .committed || (outcome == .unknown && entropy.chance(1, in: 2))
            if happens { state = after }
            return RecordedTransaction(
                client: index % 7, steps: steps, outcome: outcome, begin: begin,
                end: outcome == .committed ? end : nil)
        }
    }
}

@Suite struct RandomHistoryTests {
    @Test func rightRegistersPass() {
        for seed in 1...60 as ClosedRange<UInt64> {
            var random = RandomHistory(seed: seed)
            random.overlap = 1 + Int(seed % 10)
            #expect(check(random.register(count: 300)) == .passed, "seed \(seed)")
        }
    }

    @Test func rightArraysPass() {
        for seed in 1...40 as ClosedRange<UInt64> {
            var random = RandomHistory(seed: seed)
            random.overlap = 1 + Int(seed % 10)
            let outcome = checkLinearizability(
                random.array(count: 200, cells: 12), of: CellArrayModel.self)
            #expect(outcome == .passed, "seed \(seed)")
        }
    }

    @Test func rightTransactionsPass() {
        for seed in 1...200 as ClosedRange<UInt64> {
            var random = RandomHistory(seed: seed)
            let outcome = checkSerialisability(random.transactions(count: 150, keys: 8))
            #expect(outcome == .passed, "seed \(seed)")
        }
    }

    /// A read in the middle returns what was there long before.
    @Test func staleReadsAreFound() {
        var planted = 0
        for seed in 1...60 as ClosedRange<UInt64> {
            var random = RandomHistory(seed: seed)
            random.overlap = 3
            var operations = random.register(count: 200)
            let reads = operations.indices.filter {
                if case .get(_?) = operations[$0].action { return true }
                return false
            }
            guard let first = reads.first, let last = reads.last,
                operations[first].action != operations[last].action
            else { continue }
            planted += 1
            operations[last].action = operations[first].action
            #expect(isViolated(check(operations)), "seed \(seed)")
        }
        #expect(planted > 50)
    }

    /// Small histories with any results, against a search of every order.
    @Test func theSearchAgreesWithEveryOrder() {
        var entropy = Entropy(seed: 1)
        var passed = 0
        let rounds = 6_000
        for round in 0..<rounds {
            var operations: [RegisterOperation] = []
            for index in 0..<6 {
                let begin = Int(entropy.below(20))
                let end = begin + 1 + Int(entropy.below(12))
                let condition: RegisterModel.Condition =
                    [.none, .insert, .update][Int(entropy.below(3))]
                let action: RegisterModel.Action
                switch entropy.below(6) {
                case 0, 1, 2:
                    let value = entropy.below(7)
                    action = .get(value == 0 ? nil : value)
                case 3, 4: action = .put(UInt64(index + 1), condition)
                default:
                    action =
                        entropy.chance(1, in: 2)
                        ? .remove(condition == .insert ? .none : condition)
                        : .refused(entropy.chance(1, in: 2) ? .insert : .update)
                }
                let mayBeUnknown = !RegisterModel.isReadOnly(action)
                if mayBeUnknown, entropy.chance(1, in: 3) {
                    operations.append(
                        unknown(begin, action, by: entropy.chance(1, in: 2) ? end : nil))
                } else {
                    operations.append(certain(begin, end, action))
                }
            }
            let expected = everyOrder(operations)
            if expected { passed += 1 }
            #expect(
                (check(operations) == .passed) == expected, "round \(round): \(operations)")
        }
        #expect(passed > rounds / 20)
        #expect(passed < rounds * 19 / 20)
    }

    /// Whether any order explains the results: by trying them all.
    private func everyOrder(_ operations: [RegisterOperation]) -> Bool {
        func search(_ left: [RegisterOperation], _ state: UInt64?) -> Bool {
            if left.allSatisfy({ !$0.isCertain }) { return true }
            for (index, next) in left.enumerated() {
                // Nothing that is left, and happens, may have ended before this one begins.
                let isFirst = left.allSatisfy { other in
                    !other.isCertain || other.end.map { $0 >= next.begin } ?? true
                }
                guard isFirst, let after = RegisterModel.apply(next.action, to: state) else {
                    continue
                }
                var rest = left
                rest.remove(at: index)
                // What may happen and was to have happened before this one has not.
                rest.removeAll { other in
                    !other.isCertain && other.end.map { $0 < next.begin } ?? false
                }
                if search(rest, after) { return true }
            }
            return false
        }
        return search(operations, nil)
    }
}
