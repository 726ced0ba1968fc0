/// What a target holds of transactions at a moment.
///
/// Other things may stay when all is quiet, and go later or are of no weight: the list of what was
/// prepared for others, decided or not, for `decisionTimeout`, and empty queues of news.
package struct TransactionCounts: Hashable, Sendable {
    /// Led here, and their clients wait.
    package var leading = 0
    /// Committed here, and some members do not know of it.
    package var committed = 0
    /// Members that are being told of commits.
    package var telling = 0
    /// Members that something is gathered for, to be prepared there.
    package var outgoing = 0
    /// Aborted while their prepare was under way.
    package var doomed = 0
    /// Whose outcome is being looked for.
    package var resolving = 0

    /// Whether nothing is under way.
    package var isIdle: Bool {
        leading + committed + telling + outgoing + doomed + resolving == 0
    }
}

extension TransactionService {
    var counts: TransactionCounts {
        var counts = TransactionCounts()
        counts.leading = leading.count
        counts.committed = committed.count
        counts.telling = telling.count
        counts.outgoing = outgoing.count
        counts.doomed = doomed.count
        counts.resolving = resolving.count
        return counts
    }
}
