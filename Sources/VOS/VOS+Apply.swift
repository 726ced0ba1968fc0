internal import BIO
internal import DrayRuntime

/// How log records change the index: the same when they have just become durable and when they
/// are replayed. Runs in the order of the log and never suspends.
extension VOS {
    func apply(_ record: LogRecord, sequence: UInt64) {
        switch record {
        case .update(let epoch, let transaction, let operations):
            applyUpdate(
                epoch: epoch, transaction: transaction, operations: operations, sequence: sequence)
        case .prepared(let dtx):
            lastSequence = sequence
            didPrepare(dtx, sequence: sequence)
        case .outcomes(let outcomes):
            lastSequence = sequence
            replay(outcomes)
        case .snapshot(let name, let epoch, let isTaken):
            lastSequence = sequence
            if isTaken { snapshots.insert(epoch, name) } else { snapshots.remove(epoch, name) }
        case .range(let from, let to):
            lastSequence = sequence
            let range = DestroyedRange(from: from, to: to, stamp: VOS.stamp(after: sequence))
            snapshots.removeAll(between: from, to)
            destroy(range)
        case .discard(let from, let to, let epochs):
            lastSequence = sequence
            let stamp = VOS.stamp(after: sequence)
            destroy(DestroyedRange(from: from, to: to, epochs: epochs, stamp: stamp))
        }
    }

    func applyUpdate(
        epoch: UInt64, transaction: UniqueID, operations: [PreparedOperation], sequence: UInt64
    ) {
        lastSequence = sequence
        apply(operations, sequence: sequence)
        transactions.add(transaction, epoch: epoch)
    }

    /// Puts changes into the index. `sequence` is that of the record that holds them.
    func apply(_ operations: [PreparedOperation], sequence: UInt64) {
        var stamp = sequence * VOSLimits.stampsPerRecord
        for operation in operations {
            operation.record.stamp = stamp
            var key = operation.key
            key.append(word: ~stamp)
            records.didChange(key, dkeyEnd: Int(operation.record.dkeyEnd))
            active.insert(key, operation.record)
            weightApplied += EntryHead(operation.record).weight
            stamp += 1
        }
    }

    /// All changes of log records up to this one have stamps below it.
    static func stamp(after sequence: UInt64) -> UInt64 {
        (sequence &+ 1) &* VOSLimits.stampsPerRecord
    }

    /// What a range is about is garbage from now on.
    private func destroy(_ range: DestroyedRange) {
        records.didChangeAll()
        removeUndecided(range)
        destroyed.removeAll(where: range.covers)
        destroyed.append(range)
    }
}
