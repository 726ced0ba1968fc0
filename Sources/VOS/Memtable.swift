internal import BIO
internal import DrayRuntime

/// The newest part of the index, in memory: what was logged since the last flush. While it is
/// written to a table, another one takes what comes.
final class Memtable {
    @safe @exclusivity(unchecked) private(set) var tree = IndexTree()
    private let arena = EntryArena()
    /// How often something was inserted: who walks it looks anew for its place then.
    @safe @exclusivity(unchecked) private(set) var changes = 0
    /// About how much memory it takes.
    @safe @exclusivity(unchecked) private(set) var bytes = 0
    @safe @exclusivity(unchecked) private(set) var punchCount = 0
    @safe @exclusivity(unchecked) private(set) var epochMin: UInt64 = .max
    /// Of its values, as in `TableInfo`.
    @safe @exclusivity(unchecked) private(set) var weight: UInt64 = 0
    @safe @exclusivity(unchecked) private(set) var valueBlocks: UInt64 = 0
    @safe @exclusivity(unchecked) private(set) var usages = UsageTable()
    @safe @exclusivity(unchecked) private var punches = PunchCounts()

    /// What an entry takes beside its key and its value: its header, and a place in a node.
    private static let overhead = ArenaEntry.headerLength + 24

    func insert(_ key: IndexKey.Bytes, _ record: IndexRecord) {
        let entry = arena.put(key, record)
        tree.insert(entry)
        changes += 1
        unsafe bytes += entry.key.count + entry.value.count + Memtable.overhead
        epochMin = min(epochMin, record.epoch)
        let head = EntryHead(record)
        weight += head.weight
        valueBlocks += head.blockCount
        unsafe usages.add(entry.key, head)
        if record.kind.isPunch {
            punchCount += 1
            punches.add(key)
        }
    }

    /// Frees some of it; false when that was all. Nobody may read it any more.
    func dismantle() -> Bool { tree.dismantle() || arena.freeSlab() }

    /// Whether there is a punch at or below the object of `key`.
    func hasPunch(for key: IndexKey.Bytes) -> Bool { punches.hasAny(for: key) }

    /// The first entry that is not below `target`, if it begins with the first `prefix` bytes of
    /// that and is older than `limit`.
    func first(
        from target: IndexKey.Bytes, prefix: Int, below limit: UInt64
    ) -> (key: IndexKey.Bytes, record: IndexRecord)? {
        var found: ArenaEntry?
        unsafe target.withUnsafeBytes { target in
            unsafe tree.forEach(from: target) { entry in
                let key = unsafe entry.key
                guard key.count >= prefix, unsafe IndexKey.common(key, target) >= prefix else {
                    return false
                }
                guard entry.stamp < limit else { return true }
                found = entry
                return false
            }
        }
        return found.map { unsafe ([UInt8](copying: $0.key), $0.record) }
    }

    func checkInvariants() {
        tree.checkInvariants()
        var punchCount = 0
        tree.forEach { entry in
            if entry.head.kind.isPunch { punchCount += 1 }
            return true
        }
        precondition(punchCount == self.punchCount && punchCount == punches.total)
    }
}
