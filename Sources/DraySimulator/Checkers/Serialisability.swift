/// Whether transactions can be put into an order that keeps to real time and explains what each
/// one read: strict serialisability.
///
/// Reads name the transaction that wrote what they returned, since every value is written once.
/// Which version follows which is inferred as far as it is certain: a transaction that read one
/// version and wrote the next, the order in real time, and whatever follows from the order of
/// transactions that is known so far. A cycle of dependencies is a violation (Adya 1999; Kingsbury
/// and Alvaro, "Elle", 2020). So is a read of a value that was never written, or written by a
/// transaction that did not happen, or not its last one.
package func checkSerialisability(_ transactions: [RecordedTransaction]) -> CheckOutcome {
    var check = SerialisabilityCheck(transactions)
    return check.run()
}

struct SerialisabilityCheck {
    typealias Key = RecordedTransaction.Key
    typealias Value = RecordedTransaction.Value
    typealias Reason = DependencyGraph.Reason

    private struct Writer {
        var transaction: Int
        var key: Key
        /// Whether it is the last one that the transaction wrote to the key.
        var isLast: Bool
    }

    /// What one key went through.
    private struct KeyHistory {
        /// The transactions that wrote it and count.
        var writers: [Int] = []
        /// Who read the version of which writer; nil for what stood there first.
        var reads: [(reader: Int, writer: Int?)] = []
    }

    private let transactions: [RecordedTransaction]
    private var writers: [Value: Writer] = [:]
    /// Whether the transaction has happened, as far as anybody saw.
    private var counts: [Bool]
    private var keys: [Key: KeyHistory] = [:]
    private var keyOrder: [Key] = []
    private var graph: DependencyGraph

    init(_ transactions: [RecordedTransaction]) {
        self.transactions = transactions
        counts = transactions.map { $0.outcome == .committed }
        graph = DependencyGraph(
            count: transactions.count, moments: transactions.count { $0.end != nil })
    }

    mutating func run() -> CheckOutcome {
        if let problem = findWriters() { return .violated(problem) }
        countUnknown()
        if let problem = checkReads() ?? checkUpdates() { return .violated(problem) }
        addRealTime()
        for key in keyOrder { addReads(of: key) }
        while true {
            guard let order = graph.topologicalOrder() else {
                return .violated(report(graph.findCycle() ?? []))
            }
            let later = graph.reachable(order)
            var isLarger = false
            for key in keyOrder where addVersions(of: key, later) { isLarger = true }
            if !isLarger { return .passed }
        }
    }

    // MARK: - Single transactions

    private mutating func findWriters() -> String? {
        for (index, transaction) in transactions.enumerated() {
            var last: [Key: Value] = [:]
            for case .write(let key, let value) in transaction.steps {
                if let other = writers[value] {
                    return "v\(value) is written twice, by \(name(other.transaction)) and "
                        + name(index)
                }
                if let earlier = last[key] { writers[earlier]?.isLast = false }
                last[key] = value
                writers[value] = Writer(transaction: index, key: key, isLast: true)
            }
        }
        return nil
    }

    /// Transactions of unknown outcome count from the moment that somebody who counts has read
    /// what they wrote.
    private mutating func countUnknown() {
        var waiting = counts.indices.filter { counts[$0] }
        while let index = waiting.popLast() {
            for case .read(_, let value?) in transactions[index].steps {
                guard let writer = writers[value]?.transaction, !counts[writer],
                    transactions[writer].outcome == .unknown
                else { continue }
                counts[writer] = true
                waiting.append(writer)
            }
        }
    }

    private mutating func checkReads() -> String? {
        for (index, transaction) in transactions.enumerated() where counts[index] {
            var own: [Key: Value] = [:]
            var seen: [Key: Value?] = [:]
            for step in transaction.steps {
                switch step {
                case .write(let key, let value): own[key] = value
                case .read(let key, let value):
                    let what = "\(name(index)) read \(describe(value)) from key \(key)"
                    if let mine = own[key] {
                        if value != mine { return what + ", after it had written v\(mine)" }
                        continue
                    }
                    if let before = seen[key], before != value {
                        return what + ", and \(describe(before)) before"
                    }
                    guard seen.updateValue(value, forKey: key) == nil else { continue }
                    if let problem = source(of: value, key, reader: index) {
                        return what + ", " + problem
                    }
                    let writer = value.flatMap { writers[$0]?.transaction }
                    history(of: key) { $0.reads.append((index, writer)) }
                }
            }
            for key in own.keys.sorted() { history(of: key) { $0.writers.append(index) } }
        }
        keyOrder = keys.keys.sorted()
        return nil
    }

    private mutating func history(of key: Key, _ change: (inout KeyHistory) -> Void) {
        change(&keys[key, default: KeyHistory()])
    }

    /// Why nobody may have read `value`; nil when that is all right.
    private func source(of value: Value?, _ key: Key, reader: Int) -> String? {
        guard let value else { return nil }
        guard let writer = writers[value] else { return "which nobody wrote (garbage)" }
        if writer.key != key { return "which \(name(writer.transaction)) wrote to another key" }
        if writer.transaction == reader { return "which it wrote later itself" }
        if transactions[writer.transaction].outcome == .aborted {
            return "which \(name(writer.transaction)) wrote, which was aborted (G1a)"
        }
        if !writer.isLast {
            return "which \(name(writer.transaction)) wrote and replaced itself (G1b)"
        }
        return nil
    }

    /// Two transactions that read the same version and both replaced it.
    private func checkUpdates() -> String? {
        for key in keyOrder {
            guard let history = keys[key] else { continue }
            let writers = Set(history.writers)
            var updates: [Int?: Int] = [:]
            for read in history.reads where writers.contains(read.reader) {
                if let other = updates.updateValue(read.reader, forKey: read.writer) {
                    return "lost update of key \(key): \(name(other)) and \(name(read.reader)) "
                        + "both read the version of \(read.writer.map(name) ?? "the beginning") "
                        + "and replaced it"
                }
            }
        }
        return nil
    }

    // MARK: - Dependencies

    /// A chain of moments, one for each end: who ended leads to its moment, and the last moment
    /// before a beginning leads to who began. Who was seen and could not happen any more has ended.
    private mutating func addRealTime() {
        let count = transactions.count
        let ended = transactions.indices.filter { counts[$0] && transactions[$0].end != nil }
            .sorted { transactions[$0].end! < transactions[$1].end! }
        for (moment, index) in ended.enumerated() {
            graph.add(index, count + moment, .realTime)
            if moment > 0 { graph.add(count + moment - 1, count + moment, .realTime) }
        }
        let ends = ended.map { transactions[$0].end! }
        for index in transactions.indices where counts[index] {
            let begin = transactions[index].begin
            let before = ends.firstIndex { $0 >= begin } ?? ends.count
            if before > 0 { graph.add(count + before - 1, index, .realTime) }
        }
    }

    private mutating func addReads(of key: Key) {
        guard let history = keys[key] else { return }
        let writers = Set(history.writers)
        for read in history.reads {
            guard let writer = read.writer else {
                // The first version comes before all that anybody wrote.
                for other in history.writers { graph.add(read.reader, other, .readWrite(key: key)) }
                continue
            }
            graph.add(writer, read.reader, .writeRead(key: key))
            if writers.contains(read.reader) {
                graph.add(writer, read.reader, .writeWrite(key: key))
            }
        }
    }

    /// Adds what is certain about the order of versions when `later` is who comes after whom.
    /// Returns whether that was anything new.
    private mutating func addVersions(of key: Key, _ later: [BitRow]) -> Bool {
        guard let history = keys[key] else { return false }
        var isNew = false
        for (reader, writer) in history.reads {
            guard let writer else { continue }
            for other in history.writers where other != writer && other != reader {
                if later[writer].contains(other) {
                    // The version that was read was replaced by `other`, so later than the read.
                    if !later[reader].contains(other) {
                        isNew = graph.add(reader, other, .readWrite(key: key)) || isNew
                    }
                } else if later[other].contains(reader), !later[other].contains(writer) {
                    // `other` came before the read and was not read: it was replaced.
                    isNew = graph.add(other, writer, .writeWrite(key: key)) || isNew
                }
            }
        }
        return isNew
    }

    // MARK: - Reports

    private func name(_ index: Int) -> String {
        "T\(index) (client \(transactions[index].client))"
    }

    private func describe(_ value: Value?) -> String {
        value.map { "v\($0)" } ?? "nothing"
    }

    private func report(_ cycle: [(transaction: Int, reason: Reason)]) -> String {
        var parts: [String] = []
        for (position, step) in cycle.enumerated() {
            let next = cycle[(position + 1) % cycle.count].transaction
            let (first, second) = (name(step.transaction), name(next))
            switch step.reason {
            case .writeWrite(let key):
                parts.append("\(second) replaced what \(first) wrote to key \(key)")
            case .writeRead(let key):
                parts.append("\(second) read what \(first) wrote to key \(key)")
            case .readWrite(let key):
                parts.append("\(first) did not see what \(second) wrote to key \(key)")
            case .realTime: parts.append("\(first) had ended when \(second) began")
            }
        }
        return kind(of: cycle.map(\.reason)) + ": " + parts.joined(separator: "; ")
    }

    private func kind(of reasons: [Reason]) -> String {
        var reads = 0
        var missed = 0
        var realTime = false
        for reason in reasons {
            switch reason {
            case .writeWrite: break
            case .writeRead: reads += 1
            case .readWrite: missed += 1
            case .realTime: realTime = true
            }
        }
        let kind =
            missed > 1
            ? "write skew (G2)" : missed == 1 ? "stale read (G-single)" : reads > 0 ? "G1c" : "G0"
        return kind + (realTime ? " in real time" : "")
    }
}
