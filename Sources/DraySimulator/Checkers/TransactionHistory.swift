package import DrayRuntime

/// A transaction as its client saw it.
package struct RecordedTransaction: Hashable, Sendable {
    /// A key of one of the objects.
    package typealias Key = Int
    /// A number that tells one written value from all others.
    package typealias Value = UInt64

    package enum Step: Hashable, Sendable {
        /// A read that returned this; nil for what stands before any write.
        case read(Key, Value?)
        case write(Key, Value)
    }

    package enum Outcome: Hashable, Sendable {
        case committed
        /// It did not happen.
        case aborted
        /// Nobody knows: it counts as committed when anything that it wrote was read.
        case unknown
    }

    package var client: Int
    package var steps: [Step]
    package var outcome: Outcome
    /// When it began: a place in the order of all beginnings and ends.
    package var begin: Int
    /// By when it has happened, if ever: when its client knew that it had committed; of unknown
    /// outcome, after which it cannot happen any more, nil for no limit. Nil when it was aborted.
    package var end: Int?

    package init(client: Int, steps: [Step], outcome: Outcome, begin: Int, end: Int?) {
        precondition(end.map { $0 > begin } ?? true, "a transaction ends before it begins")
        precondition(outcome != .committed || end != nil, "a committed one has an end")
        precondition(outcome != .aborted || end == nil, "an aborted one has no end")
        self.client = client
        self.steps = steps
        self.outcome = outcome
        self.begin = begin
        self.end = end
    }
}

/// Transactions in the order in which they begin.
package struct TransactionHistory: Sendable {
    /// Names a transaction that has begun.
    package struct Token: Sendable {
        fileprivate let index: Int
    }

    private struct Entry {
        var transaction: RecordedTransaction
        var time: Instant
        /// After this it has happened, or never will.
        var until: Instant
    }

    private var entries: [Entry] = []
    private var position = 0

    package init() {}

    /// A transaction begins. Until it ends its outcome is unknown; after `until` it does not happen
    /// any more.
    package mutating func begin(
        client: Int, at time: Instant, until: Instant = .never
    ) -> Token {
        let transaction = RecordedTransaction(
            client: client, steps: [], outcome: .unknown, begin: position, end: nil)
        entries.append(Entry(transaction: transaction, time: time, until: until))
        position += 1
        return Token(index: entries.count - 1)
    }

    /// The transaction is tried again from its beginning: what it read and wrote does not count.
    package mutating func restart(_ token: Token) {
        entries[token.index].transaction.steps = []
    }

    package mutating func add(_ step: RecordedTransaction.Step, to token: Token) {
        entries[token.index].transaction.steps.append(step)
    }

    package mutating func commit(_ token: Token) {
        entries[token.index].transaction.outcome = .committed
        entries[token.index].transaction.end = position
        position += 1
    }

    package mutating func abort(_ token: Token) {
        entries[token.index].transaction.outcome = .aborted
    }

    /// The transactions in the order in which they began. One of unknown outcome has happened when
    /// the first one begins after its last moment, or never will.
    package var transactions: [RecordedTransaction] {
        entries.map { entry in
            var transaction = entry.transaction
            if transaction.outcome == .unknown {
                let next = entries.partitioningIndex { $0.time > entry.until }
                transaction.end = next.map { entries[$0].transaction.begin }
            }
            return transaction
        }
    }

    package func check() -> CheckOutcome { checkSerialisability(transactions) }
}
