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
        holdEpoch(epoch)
        defer { releaseEpoch(epoch) }
        try await append(
            LogRecord.encodeSnapshot(name, epoch: epoch, isTaken: true)
        ) { [self] sequence in
            apply(.snapshot(name, epoch: epoch, isTaken: true), sequence: sequence)
        }
    }

    /// Keeps aggregation below an epoch, until `releaseEpoch`.
    func holdEpoch(_ epoch: UInt64) {
        epochsInFlight.append(epoch)
        epochsHeld += 1
    }

    func releaseEpoch(_ epoch: UInt64) {
        epochsHeld -= 1
        removeInFlight(epoch)
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

extension VOS {
    /// An epoch of a container that stays readable.
    public struct Snapshot: Hashable, Sendable {
        public var pool: UniqueID
        public var container: UniqueID
        public var epoch: UInt64
    }

    /// Every snapshot of every container, ordered by pool, container and epoch.
    public var allSnapshots: [Snapshot] {
        snapshots.epochs.keys.sorted().flatMap { name in
            snapshots.epochs(of: name).map {
                Snapshot(pool: name.pool, container: name.container, epoch: $0)
            }
        }
    }

    /// The pause between two looks at what is under way.
    private static let decisionPause: Duration = .milliseconds(1)

    /// Returns when whatever was given an epoch up to `epoch` is decided. Nothing may be given one
    /// any more: the clock is ahead of it. Throws `.undecided` when that takes until `deadline`,
    /// `.closed`.
    ///
    /// Then what is visible at that epoch stays as it is.
    public func waitForDecisions(upTo epoch: UInt64, until deadline: Instant) async throws(VOSError)
    {
        try await waitForDecisions(upTo: epoch, until: deadline) { _ in true }
    }

    /// The same of those updates alone that are under way now and may be of a container: what is
    /// prepared elsewhere may take long.
    func waitForUpdates(
        ofContainer prefix: IndexKey.Bytes, upTo epoch: UInt64, until deadline: Instant?
    ) async throws(VOSError) {
        let bound = min(epoch, epochsInFlight.max() ?? 0)
        let end = IndexKey.successor(ofPrefix: prefix)
        try await waitForDecisions(upTo: bound, until: deadline) { $0.isAnything(in: prefix, end) }
    }

    private func waitForDecisions(
        upTo epoch: UInt64, until deadline: Instant?, of concerns: (DTX) -> Bool
    ) async throws(VOSError) {
        var asked: Set<UniqueID> = []
        while epochsInFlight.contains(where: { $0 <= epoch }) {
            let prepared = undecided.filter { $0.epoch <= epoch }
            let wanted = prepared.filter(concerns)
            let others = prepared.count - wanted.count
            guard epochsInFlight.count(where: { $0 <= epoch }) > others else { return }
            guard !isClosed else { throw .closed }
            if let deadline, xstream.now >= deadline { throw .undecided }
            for dtx in wanted where asked.insert(dtx.id).inserted { blockedHandler?(dtx) }
            await xstream.sleep(for: VOS.decisionPause)
        }
    }
}
