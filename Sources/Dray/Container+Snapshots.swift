internal import CaRT
public import DrayProtocol

/// Snapshots: a container as it was at one epoch.
///
/// A snapshot shows every change that had returned before it was asked for, and none that begins
/// when it is made; of those in between each is in it whole, or not at all. What it shows never
/// changes, until it is destroyed. `docs/consistency.md` says what happens when something fails.
extension Container {
    /// Makes a snapshot of everything in the container. All engines must answer.
    ///
    /// - Parameter label: empty, or a name that no other snapshot of the container has.
    /// - Throws: `exists` for a label that is taken, `invalidArgument` for a bad one, `noSpace`
    ///   when there are too many, `unavailable` when an engine does not answer, `notPermitted`
    ///   when the container was opened for reading only.
    @discardableResult
    public func createSnapshot(label: String = "") async throws(DrayError) -> SnapshotRecord {
        let container = self
        return try await pool.cluster.onCore { core throws(DrayError) in
            try await core.createSnapshot(of: container, label: label)
        }
    }

    /// The snapshots, oldest first.
    public func snapshots() async throws(DrayError) -> [SnapshotRecord] {
        let metadata = try await pool.cluster.onCore { core throws(DrayError) in
            try await core.refresh()
        }
        return metadata.snapshots(of: id)
    }

    /// Gives a snapshot up: what only it showed is dropped in time. Throws `notFound`, or
    /// `notPermitted` when the container was opened for reading only.
    public func destroySnapshot(_ snapshot: SnapshotRecord) async throws(DrayError) {
        try checkWritable(snapshotSubject)
        var change = MetadataChange()
        change.kind = .destroySnapshot
        change.pool = pool.id
        change.container = id
        change.epoch = snapshot.epoch
        let (message, subject) = (change, snapshotSubject)
        try await pool.cluster.onCore { core throws(DrayError) in
            _ = try await core.change(message, subject: subject)
        }
    }

    /// The container as the snapshot shows it. It can only be read.
    ///
    /// Any replica answers. When the snapshot is destroyed, reads fail with `tooOld` sooner or
    /// later.
    public func at(_ snapshot: SnapshotRecord) -> Container {
        precondition(snapshot.container == id, "a snapshot of another container")
        return reading(at: snapshot.epoch, isHeld: true)
    }

    /// The container as it was at an epoch of the last few seconds (20, unless a device or the
    /// pool is nearly full). It can only be read.
    ///
    /// The first replica alone is asked. Values and lists of keys stay as they were read. Reads
    /// fail with `tooOld` when the epoch's versions are not kept any more; they wait for an epoch
    /// that lies in the future, and fail with `invalidArgument` when that is more than a second.
    /// Epochs are nanoseconds since 1970.
    public func at(epoch: UInt64) -> Container {
        reading(at: epoch, isHeld: false)
    }

    var snapshotSubject: String { "snapshot of \(pool.label)/\(label)" }
}

extension ClientCore {
    func createSnapshot(
        of container: Container, label: String
    ) async throws(DrayError) -> SnapshotRecord {
        try container.checkWritable(container.snapshotSubject)
        if let epoch = container.epoch {
            throw DrayError(
                .invalidArgument,
                "\(container.snapshotSubject): what was at epoch \(epoch) can only be read")
        }
        var change = MetadataChange()
        change.kind = .createSnapshot
        change.pool = container.pool.id
        change.container = container.id
        change.snapshot = newID()
        change.label = label
        let (message, subject) = (change, container.snapshotSubject)
        let metadata = try await callAnyEngine(
            ManagementProtocol.change, message, subject: subject,
            until: operationEnd(in: container))
        guard let record = metadata.snapshots.first(where: { $0.id == message.snapshot }) else {
            // It was made, and destroyed at once.
            throw DrayError(.notFound, "\(subject): it does not exist any more")
        }
        return record
    }
}
