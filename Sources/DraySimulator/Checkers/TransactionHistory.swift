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
    /// When its client knew that it had committed; nil unless it did.
    package var end: Int?

    package init(client: Int, steps: [Step], outcome: Outcome, begin: Int, end: Int?) {
        precondition(end.map { $0 > begin } ?? true, "a transaction ends before it begins")
        precondition((outcome == .committed) == (end != nil), "only a committed one has an end")
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

    package private(set) var transactions: [RecordedTransaction] = []
    private var position = 0

    package init() {}

    /// A transaction begins. Until it ends its outcome is unknown.
    package mutating func begin(client: Int) -> Token {
        transactions.append(
            RecordedTransaction(
                client: client, steps: [], outcome: .unknown, begin: position, end: nil))
        position += 1
        return Token(index: transactions.count - 1)
    }

    /// The transaction is tried again from its beginning: what it read and wrote does not count.
    package mutating func restart(_ token: Token) { transactions[token.index].steps = [] }

    package mutating func add(_ step: RecordedTransaction.Step, to token: Token) {
        transactions[token.index].steps.append(step)
    }

    package mutating func commit(_ token: Token) {
        transactions[token.index].outcome = .committed
        transactions[token.index].end = position
        position += 1
    }

    package mutating func abort(_ token: Token) {
        transactions[token.index].outcome = .aborted
    }

    package func check() -> CheckOutcome { checkSerialisability(transactions) }
}
