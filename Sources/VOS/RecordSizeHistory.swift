internal import DrayRuntime

/// Finds arrays whose extents have records of several sizes where somebody can see them together:
/// at an epoch that can be read, and with no punch between them.
///
/// The index is walked twice. The first time tells which arrays have had several sizes at all, of
/// which there are few; it takes some 40 bytes for each array. The second gathers every version of
/// those.
struct RecordSizeHistory {
    /// When something was written or punched, in the order that decides what hides what.
    struct Version: Comparable {
        var epoch: UInt64
        var stamp: UInt64

        static func < (left: Version, right: Version) -> Bool {
            left.epoch != right.epoch ? left.epoch < right.epoch : left.stamp < right.stamp
        }
    }

    /// Two extents that can be seen together, of which the newer one should not be there.
    struct Disagreement {
        var newer: StoreEntry.Name
        var sizes: (older: UInt32, newer: UInt32)
    }

    private struct Versions {
        /// How long the parts of its name are that name its object and its dkey.
        var dkeyEnd: Int
        var extents: [(version: Version, name: StoreEntry.Name)] = []
    }

    /// The first size that was seen of an array, by the hash of its name.
    private var sizes: [UInt64: UInt32] = [:]
    /// Arrays with several, by their names.
    private var arrays: [IndexKey.Bytes: Versions] = [:]
    /// Punches of such an array, or of the dkey or object that it belongs to, by what they name.
    private var punches: [IndexKey.Bytes: [Version]] = [:]

    /// Whether there is anything to walk for again.
    var needsVersions: Bool { !arrays.isEmpty }

    // MARK: - The first walk

    /// An entry of the index. `notesAll`: entries of its container are noted whatever their record
    /// size; else only those whose records are not single bytes need to be.
    mutating func note(_ key: IndexKey.Bytes, _ head: EntryHead, notesAll: Bool) {
        guard head.kind == .extent else { return }
        guard notesAll else {
            if head.recordSize != 1 { follow(key, head) }
            return
        }
        let hash = unsafe key.withPrefix(head.akeyEnd) { unsafe TableFilter.path($0) }
        if sizes[hash, default: head.recordSize] != head.recordSize { follow(key, head) }
        sizes[hash] = sizes[hash] ?? head.recordSize
    }

    private mutating func follow(_ key: IndexKey.Bytes, _ head: EntryHead) {
        let name = IndexKey.Bytes(key[0..<head.akeyEnd])
        guard arrays[name] == nil else { return }
        arrays[name] = Versions(dkeyEnd: head.dkeyEnd)
        for end in [IndexKey.objectLength, head.dkeyEnd, head.akeyEnd] {
            punches[IndexKey.Bytes(key[0..<end])] = []
        }
    }

    // MARK: - The second walk

    /// An entry of the index, which `name` describes.
    mutating func add(_ key: IndexKey.Bytes, _ head: EntryHead, _ name: StoreEntry.Name) {
        guard head.kind == .extent || head.kind.isPunch else { return }
        let version = Version(epoch: name.epoch, stamp: name.stamp)
        let bytes = IndexKey.Bytes(key[0..<head.nameEnd])
        if head.kind == .extent {
            arrays[bytes]?.extents.append((version, name))
        } else {
            punches[bytes]?.append(version)
        }
    }

    /// At most one of each array. `firstReadable` is the first epoch from the given one on at which
    /// a container can be read.
    func disagreements(
        _ firstReadable: (ContainerName, UInt64) -> UInt64
    ) -> [Disagreement] {
        arrays.keys.sorted { IndexKey.compare($0, $1) < 0 }.compactMap { name in
            let container = unsafe name.withUnsafeBytes { unsafe ContainerName($0) }
            return disagreement(in: name) { firstReadable(container, $0) }
        }
    }

    private func disagreement(
        in name: IndexKey.Bytes, _ firstReadable: (UInt64) -> UInt64
    ) -> Disagreement? {
        guard let array = arrays[name] else { return nil }
        let ends = [IndexKey.objectLength, array.dkeyEnd, name.count]
        let punches = ends.flatMap { self.punches[IndexKey.Bytes(name[0..<$0])] ?? [] }
        let extents = array.extents.sorted { $0.version < $1.version }
        for (older, newer) in zip(extents, extents.dropFirst()) {
            guard let size = older.name.recordSize, let newSize = newer.name.recordSize,
                size != newSize
            else { continue }
            let epoch = firstReadable(newer.version.epoch)
            let isHidden = punches.contains { older.version < $0 && $0.epoch <= epoch }
            if !isHidden { return Disagreement(newer: newer.name, sizes: (size, newSize)) }
        }
        return nil
    }
}
