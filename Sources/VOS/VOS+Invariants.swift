internal import BIO
internal import DrayRuntime

extension VOS {
    /// Traps when the store's own counts contradict each other, or blocks have leaked. Nothing may
    /// be under way. O(n); for tests and simulations.
    package func checkInvariants() {
        precondition(operations == 0 && inProgress.isEmpty)
        precondition(active.count == undecided.count, "a transaction is neither here nor there")
        precondition(epochsInFlight.count == active.count, "an epoch is still in flight")
        let held = undecided.reduce(0) { $0 + $1.locks.count }
        precondition(locks.heldCount == held, "a key is still locked")
        precondition(preparedBytes == undecided.reduce(0) { $0 + $1.record.count })
        index.checkInvariants()
        var punchCount = 0
        var bytes = 0
        var blocks: UInt64 = 0
        var pins = 0
        index.forEach { key, record in
            if record.kind.isPunch { punchCount += 1 }
            bytes += key.count + record.checkpointBytes
            blocks += record.blockCount
            pins += Int(record.pins)
            for extent in record.blocks { precondition(store.allocator.isUsed(extent)) }
            return true
        }
        precondition(punchCount == punches.total, "the count of punches is wrong")
        precondition(bytes == indexBytes, "the size of the index is wrong")
        precondition(blocks == valueBlocks, "the count of blocks is wrong")
        precondition(pins == 0, "a reader has left its pin")
        let extents = checkpointExtents + (store.checkpoint?.extents ?? [])
        let used =
            blocks + undecided.flatMap(\.blocks).reduce(0) { $0 + UInt64($1.count) }
            + extents.reduce(0) { $0 + UInt64($1.count) }
            + UInt64(store.allocator.quarantinedBlocks)
        precondition(
            used == UInt64(store.allocator.usedBlocks),
            "\(store.allocator.usedBlocks) blocks are in use, and \(used) are referred to")
        store.allocator.checkInvariants()
    }
}
