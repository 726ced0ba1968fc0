internal import DrayRuntime

/// Tells which versions nobody can read any more, of entries in ascending order: what a newer
/// version or a punch hides at every epoch that can still be read. Those are the epochs from the
/// bound on, and the snapshots of the container.
///
/// What it sees need not be all there is: it says of nothing that it can go unless what it saw
/// proves it. Which extents of an array hide each other it leaves to `ExtentWindow`.
struct VersionFilter {
    enum Verdict {
        case keep
        case drop
        /// An extent that no punch hides.
        case extent
    }

    /// Aggregation has come up to here.
    let bound: UInt64
    let snapshots: SnapshotTable
    let destroyed: [DestroyedRange]
    /// Whether there may be anything older than an epoch, beside what the filter sees, of what the
    /// given bytes name.
    let mayHideMore: (IndexKey.Bytes, UInt64) -> Bool

    /// Of the container that the last entry belongs to.
    private(set) var epochs: [UInt64] = []
    private var destroyedThere: [DestroyedRange] = []
    private var previous: IndexKey.Bytes = []
    /// The punches of the object, dkey and akey that the last entry belongs to, newest first, and
    /// how long their names are.
    private var punches: [[EntryHead]] = [[], [], []]
    private var nameEnds = [IndexKey.objectLength, 0, 0]
    /// The version of a single value that came last.
    private var single: EntryHead?
    private var singleEnd = 0

    /// The epoch from which on the entry that was judged last cannot be seen, though it must be
    /// kept for now; `UInt64.max` when a snapshot holds it, nil when nothing hides it.
    private(set) var hiddenFrom: UInt64?

    init(
        bound: UInt64, snapshots: SnapshotTable, destroyed: [DestroyedRange],
        mayHideMore: @escaping (IndexKey.Bytes, UInt64) -> Bool
    ) {
        self.bound = bound
        self.snapshots = snapshots
        self.destroyed = destroyed
        self.mayHideMore = mayHideMore
    }

    /// Begins in the middle: a punch before the first entry, of something that has it.
    mutating func begin(at key: IndexKey.Bytes, punch: EntryHead) {
        unsafe key.withUnsafeBytes { unsafe enter($0) }
        add(punch)
    }

    mutating func judge(_ key: UnsafeRawBufferPointer, _ head: EntryHead) -> Verdict {
        unsafe enter(key)
        hiddenFrom = nil
        for range in destroyedThere where unsafe range.hides(key, head) { return .drop }
        if isHiddenByPunch(head) { return .drop }
        switch head.kind {
        case .objectPunch, .dkeyPunch, .akeyPunch:
            add(head)
            return unsafe canDrop(punch: head, key) ? .drop : .keep
        case .single:
            let newer = single
            single = head
            singleEnd = head.akeyEnd + 1
            return newer.map { hides($0, head) } ?? false ? .drop : .keep
        case .extent: return .extent
        }
    }

    /// Whether a snapshot shows a version at `epoch` that something at `hider` hides later.
    func isInSnapshot(_ epoch: UInt64, before hider: UInt64) -> Bool {
        epochs.contains { $0 >= epoch && $0 < hider }
    }

    /// Which of the ranges between snapshots an epoch belongs to.
    func stripe(_ epoch: UInt64) -> Int { epochs.count { $0 < epoch } }

    // MARK: - Names

    /// Forgets what belongs to names that `key` does not have.
    private mutating func enter(_ key: UnsafeRawBufferPointer) {
        let common = unsafe previous.withUnsafeBytes { unsafe IndexKey.common($0, key) }
        if common < 32 || previous.isEmpty { unsafe enterContainer(key) }
        for level in 0..<3 where !punches[level].isEmpty && common < nameEnds[level] {
            punches[level] = []
        }
        if common < singleEnd { single = nil }
        previous.removeAll(keepingCapacity: true)
        unsafe previous.append(contentsOf: key)
    }

    private mutating func enterContainer(_ key: UnsafeRawBufferPointer) {
        epochs = unsafe snapshots.epochs(of: ContainerName(key))
        guard !destroyed.isEmpty else { return }
        let container = IndexKey.Prefix(unsafe IndexKey.Bytes(key[0..<32]))
        destroyedThere = destroyed.filter { $0.overlaps(container) }
    }

    // MARK: - Punches

    private mutating func add(_ punch: EntryHead) {
        let level = Int(punch.kind.rawValue) - 1
        nameEnds[level] = punch.nameEnd
        punches[level].append(punch)
    }

    private mutating func isHiddenByPunch(_ head: EntryHead) -> Bool {
        for list in punches {
            for punch in list where hides(punch, head) { return true }
        }
        return false
    }

    /// Whether `newer` hides `head` wherever somebody may read; if not, but later it will,
    /// `hiddenFrom` says when.
    private mutating func hides(_ newer: EntryHead, _ head: EntryHead) -> Bool {
        guard newer.isNewer(than: head) else { return false }
        if isInSnapshot(head.epoch, before: newer.epoch) {
            hiddenFrom = hiddenFrom ?? .max
            return false
        }
        if newer.epoch <= bound { return true }
        hiddenFrom = min(hiddenFrom ?? .max, newer.epoch)
        return false
    }

    /// A punch can go when there is nothing left for it to hide.
    private func canDrop(punch: EntryHead, _ key: UnsafeRawBufferPointer) -> Bool {
        guard punch.epoch <= bound, epochs.first.map({ $0 >= punch.epoch }) ?? true else {
            return false
        }
        let name = unsafe IndexKey.Bytes(key[0..<punch.nameEnd])
        return !mayHideMore(name, punch.epoch)
    }
}
