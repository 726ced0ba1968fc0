public import DrayRuntime

/// Epochs of a container that stay readable, whatever aggregation drops.
extension VOS {
    /// Keeps what is visible in a container at `epoch`, until `dropSnapshot`. Durable when it
    /// returns; nothing changes when there is one already.
    ///
    /// Throws `.epochTooOld` when versions of that epoch may be gone, `.badArgument`, `.noSpace`,
    /// `.device`, `.closed`.
    public func takeSnapshot(
        pool: UniqueID, container: UniqueID, epoch: UInt64
    ) async throws(VOSError) {
        guard epoch > 0, epoch < .max else { throw .badArgument("a snapshot of epoch \(epoch)") }
        let name = ContainerName(pool: pool, container: container)
        try begin()
        defer { end() }
        guard !snapshots.epochs(of: name).contains(epoch) else { return }
        try checkEpoch(epoch)
        // Aggregation stays below it until the snapshot is in the log.
        epochsInFlight.append(epoch)
        defer { removeInFlight(epoch) }
        try await append(
            LogRecord.encodeSnapshot(name, epoch: epoch, isTaken: true)
        ) { [self] sequence in
            apply(.snapshot(name, epoch: epoch, isTaken: true), sequence: sequence)
        }
    }

    /// Gives up a snapshot: aggregation drops what only it held. Throws `.notFound`, `.noSpace`,
    /// `.device`, `.closed`.
    public func dropSnapshot(
        pool: UniqueID, container: UniqueID, epoch: UInt64
    ) async throws(VOSError) {
        let name = ContainerName(pool: pool, container: container)
        try begin()
        defer { end() }
        guard snapshots.epochs(of: name).contains(epoch) else { throw .notFound }
        try await append(
            LogRecord.encodeSnapshot(name, epoch: epoch, isTaken: false)
        ) { [self] sequence in
            apply(.snapshot(name, epoch: epoch, isTaken: false), sequence: sequence)
        }
    }

    /// The snapshots of a container, in ascending order.
    public func snapshots(pool: UniqueID, container: UniqueID) -> [UInt64] {
        snapshots.epochs(of: ContainerName(pool: pool, container: container))
    }
}
