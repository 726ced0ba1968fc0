internal import DrayProtocol
internal import DrayRuntime
internal import Logging
internal import VOS

/// What a target keeps for snapshots: what the metadata names, and what is held for those that are
/// being made.
extension TargetService {
    /// How long, in nanoseconds of epochs, the metadata may come to name a snapshot after its epoch
    /// was chosen. What is held and not named by newer metadata than that will never be.
    static let holdWindow: UInt64 = 10_000_000_000

    /// Keeps what is visible in a container at an epoch, durably, and returns when everything up to
    /// that epoch is decided here. The clock is ahead of it.
    func hold(_ snapshot: SnapshotReference, until deadline: Instant) async throws(VOSError) {
        try await vos.takeSnapshot(
            pool: snapshot.pool, container: snapshot.container, epoch: snapshot.epoch)
        try await vos.waitForDecisions(upTo: snapshot.epoch, until: deadline)
    }

    /// Gives up a snapshot that the metadata does not name and never will.
    func release(_ snapshot: SnapshotReference) async throws(VOSError) {
        guard !namedSnapshots.contains(snapshot) else { return }
        try await drop(snapshot)
    }

    /// The snapshots here that the metadata does not name.
    var unnamedSnapshots: [SnapshotReference] {
        let named = Set(namedSnapshots)
        return heldSnapshots.filter { !named.contains($0) }
    }

    private var heldSnapshots: [SnapshotReference] {
        vos.allSnapshots.map {
            SnapshotReference(pool: $0.pool, container: $0.container, epoch: $0.epoch)
        }
    }

    /// Makes the snapshots here those of the metadata, which were accepted at `stamp`.
    func reconcileSnapshots(acceptedAt stamp: UInt64) async {
        for snapshot in unnamedSnapshots where snapshot.epoch + TargetService.holdWindow < stamp {
            // Newer metadata may have come meanwhile, here and below.
            guard !namedSnapshots.contains(snapshot) else { continue }
            await logging { () async throws(VOSError) in try await drop(snapshot) }
        }
        let held = Set(heldSnapshots)
        for snapshot in namedSnapshots where !held.contains(snapshot) {
            guard namedSnapshots.contains(snapshot) else { continue }
            // It was held before the metadata named it: only damage leads here.
            await logging { () async throws(VOSError) in
                try await vos.takeSnapshot(
                    pool: snapshot.pool, container: snapshot.container, epoch: snapshot.epoch)
            }
        }
    }

    private func drop(_ snapshot: SnapshotReference) async throws(VOSError) {
        do throws(VOSError) {
            try await vos.dropSnapshot(
                pool: snapshot.pool, container: snapshot.container, epoch: snapshot.epoch)
        } catch .notFound {
            // Somebody else has.
        }
    }

    private func logging(_ body: () async throws(VOSError) -> Void) async {
        do throws(VOSError) {
            try await body()
        } catch {
            world.log.logger(.engine).error("a snapshot is not as it should be: \(error)")
        }
    }
}
