internal import DrayRuntime

/// What of a table is hidden by the rest of it, to compare with what its `TableInfo` says.
///
/// Who wrote the table knew more: what hid versions from outside of it, which extents of an array
/// hide each other, and the snapshots of that time. So the info says at least this much.
struct HiddenVersions {
    /// Nothing can go at epoch 0: it only says which version hides which.
    private var filter = VersionFilter(
        bound: 0, snapshots: SnapshotTable(), destroyed: [], mayHideMore: { _, _ in true })
    private var weight: UInt64 = 0
    private var weightMax: UInt64 = 0
    /// Versions that are hidden before the epoch of the info: snapshots must have held them.
    private var heldMin: UInt64 = 0

    /// Adds the next entry, in the order of the table. `epoch` is the info's `hiddenEpoch`.
    mutating func add(_ key: UnsafeRawBufferPointer, _ head: EntryHead, below epoch: UInt64) {
        // A merge counts those extents only that others hide.
        guard unsafe filter.judge(key, head) == .keep, let hiddenFrom = filter.hiddenFrom else {
            return
        }
        weight &+= head.weight
        weightMax = max(weightMax, head.weight)
        if hiddenFrom < epoch { heldMin += 1 }
    }

    /// All that is hidden is counted, but for what snapshots held; and no more than there is.
    func agreesAboutWeight(with info: TableInfo) -> Bool {
        let (held, overflow) = weightMax.multipliedReportingOverflow(by: info.held)
        let isEnough = overflow || weight <= held || info.hiddenWeight >= weight - held
        return isEnough && info.hiddenWeight <= info.weight
    }

    /// There is one if, and only if, something is hidden: no earlier than what it hides.
    func agreesAboutEpoch(with info: TableInfo) -> Bool {
        (info.hiddenEpoch == .max) == (info.hiddenWeight == 0) && info.hiddenEpoch >= info.epochMin
    }

    /// What is hidden earlier than the info says was held by a snapshot.
    func agreesAboutHeld(with info: TableInfo) -> Bool {
        heldMin <= info.held && info.held <= info.entries
    }
}
