internal import DequeModule
internal import DrayRuntime

/// The transactions that were decided lately, so that a resend is not applied again and whoever
/// asks learns the outcome.
///
/// Bounded by count and by age in epochs. Entries leave in the order they came.
struct TransactionTable {
    struct Entry {
        let transaction: UniqueID
        let epoch: UInt64
        let isCommitted: Bool
    }

    /// What is remembered of one: its epoch, or 0 when it was aborted.
    private typealias Outcome = UInt64

    private let countMax: Int
    private let age: UInt64
    private var outcomes: [UniqueID: Outcome] = [:]
    /// In the order of the log.
    private(set) var entries = Deque<Entry>()
    private(set) var newest: UInt64 = 0
    /// The epochs up to this one may have been forgotten.
    private(set) var horizon: UInt64 = 0

    init(countMax: Int, age: UInt64) {
        self.countMax = max(1, countMax)
        self.age = age
    }

    /// The epoch at which the transaction was applied.
    func outcome(_ transaction: UniqueID) -> UInt64? {
        guard let outcome = outcomes[transaction], outcome > 0 else { return nil }
        return outcome
    }

    /// Whether the transaction is known to be aborted.
    func isAborted(_ transaction: UniqueID) -> Bool { outcomes[transaction] == 0 }

    mutating func add(_ transaction: UniqueID, epoch: UInt64, isCommitted: Bool = true) {
        newest = max(newest, epoch)
        guard transaction != .zero,
            outcomes.updateValue(isCommitted ? epoch : 0, forKey: transaction) == nil
        else { return }
        entries.append(Entry(transaction: transaction, epoch: epoch, isCommitted: isCommitted))
        let oldest = newest > age ? newest - age : 0
        while let first = entries.first, entries.count > countMax || first.epoch < oldest {
            entries.removeFirst()
            outcomes[first.transaction] = nil
            horizon = max(horizon, first.epoch)
        }
    }

    /// Sets the horizon that a checkpoint had.
    mutating func restore(horizon: UInt64) {
        self.horizon = max(self.horizon, horizon)
    }
}
