internal import BIO

/// What opening the store would have to replay, if the process ended now: the log after the last
/// checkpoint.
package struct ReplayCost: Hashable, Sendable {
    package var records: UInt64
    /// Versions and punches that the records put into the index: up to 1,024 each.
    package var entries: UInt64
    /// Of the log, in whole blocks: a record that is alone in its group takes one.
    package var bytes: UInt64

    /// Nanoseconds for each. A processor of 2020 needs half of that for records and entries; bytes
    /// are read twice, at 500 MB/s.
    private static let perRecord: UInt64 = 1000
    private static let perEntry: UInt64 = 2000
    private static let perByte: UInt64 = 4

    /// How long that takes, in nanoseconds, on a machine that is not fast.
    package var nanoseconds: UInt64 {
        records * ReplayCost.perRecord + entries * ReplayCost.perEntry + bytes * ReplayCost.perByte
    }
}

extension VOS {
    /// What would be replayed now. What is on its way into the log is not in it.
    package var replayCost: ReplayCost {
        let frozenCount = frozen?.memtable.tree.count ?? 0
        return ReplayCost(
            records: lastSequence - checkpointSequence,
            entries: UInt64(active.tree.count + frozenCount), bytes: store.logUsed)
    }

    /// Bytes of the tables of the index.
    package var indexTableBytes: UInt64 {
        version.tables.reduce(0) { $0 + UInt64($1.info.blocks) } * UInt64(BlockDevice.blockSize)
    }
}
