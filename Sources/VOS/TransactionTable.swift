internal import DequeModule
internal import DrayRuntime

/// The transactions that were decided lately, so that a resend is not applied again and whoever
/// asks learns the outcome.
///
/// Bounded by count and by age in epochs. Entries leave in the order they came.
final class TransactionTable {
    struct Entry {
        let transaction: UniqueID
        let epoch: UInt64
        let isCommitted: Bool
    }

    /// What is remembered of one: its epoch, or 0 when it was aborted.
    private typealias Outcome = UInt64

    private let countMax: Int
    private let age: UInt64
    @safe @exclusivity(unchecked) private var outcomes: [UniqueID: Outcome] = [:]
    /// In the order of the log.
    @safe @exclusivity(unchecked) private(set) var entries = EntryQueue()
    @safe @exclusivity(unchecked) private(set) var newest: UInt64 = 0
    /// The epochs up to this one may have been forgotten.
    @safe @exclusivity(unchecked) private(set) var horizon: UInt64 = 0

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

    func add(_ transaction: UniqueID, epoch: UInt64, isCommitted: Bool = true) {
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
    func restore(horizon: UInt64) {
        self.horizon = max(self.horizon, horizon)
    }
}

extension TransactionTable {
    /// A queue in pieces, so that who keeps a copy of it costs the next change one piece, not all.
    struct EntryQueue: Sequence {
        private static let pieceCount = 1024

        private var pieces = Deque<[Entry]>()
        /// How many of the first piece have left.
        private var left = 0
        private(set) var count = 0

        var first: Entry? { count > 0 ? pieces[0][left] : nil }

        mutating func append(_ entry: Entry) {
            if pieces.last.map({ $0.count == EntryQueue.pieceCount }) ?? true {
                var piece: [Entry] = []
                piece.reserveCapacity(EntryQueue.pieceCount)
                pieces.append(piece)
            }
            pieces[pieces.count - 1].append(entry)
            count += 1
        }

        /// There must be one.
        mutating func removeFirst() {
            left += 1
            count -= 1
            if left == pieces[0].count {
                pieces.removeFirst()
                left = 0
            }
        }

        func makeIterator() -> AnyIterator<Entry> {
            var piece = 0
            var index = left
            return AnyIterator {
                guard piece < pieces.count else { return nil }
                defer {
                    index += 1
                    if index == pieces[piece].count { (piece, index) = (piece + 1, 0) }
                }
                return pieces[piece][index]
            }
        }
    }
}
