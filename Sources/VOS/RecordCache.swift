internal import DrayRuntime

/// Which record is all that is visible of a single value, or of a range of an array, of those that
/// are read again and again: such a fetch searches no index.
///
/// A row says what is newest, so it holds at every epoch from its record's on, until something of
/// its dkey changes, or its object is punched. Changes are noted in slots, which keys with the same
/// hash share; then a row goes that could have stayed.
struct RecordCache {
    @safe private final class Row {
        let path: NamePath
        /// Of an array; empty for a single value.
        let range: Range<UInt64>
        let record: IndexRecord
        /// Where the changes of its dkey and its object are noted.
        let dkeySlot: Int
        let objectSlot: Int
        /// How many changes there had been before the search that found the record.
        let changes: UInt64

        init(
            _ path: NamePath, _ range: Range<UInt64>, _ record: IndexRecord, changes: UInt64
        ) {
            self.path = path
            self.range = range
            self.record = record
            dkeySlot = RecordCache.slot(KeyLocks.dkey(path.bytes, length: path.dkeyEnd))
            objectSlot = RecordCache.slot(KeyLocks.object(path.bytes))
            self.changes = changes
        }

        /// What it takes, about.
        var byteCount: Int {
            RecordCache.rowBytes + path.bytes.count + record.inline.count
                + 8 * record.moreBlocks.count + 4 * record.moreChecksums.count
        }
    }

    /// Of a row and its record, without what varies.
    private static let rowBytes = 320
    /// Rows that may take each other's place.
    private static let ways = 4
    private static let slots: UInt64 = 4096

    private let bytesMax: Int
    private(set) var bytes = 0
    private var rows: ContiguousArray<Row?>
    /// Of each row; 0 where there is none.
    private var hashes: ContiguousArray<UInt64>
    /// Of what was found once, part of the hash, in as many places as there are rows. A row is made
    /// when the same is found again: where there is more to read than rows, most of them would
    /// be made for nothing.
    private var found: ContiguousArray<UInt32>
    /// The row that is looked at next when they take too much.
    private var hand = 0
    /// How many changes there have been.
    private(set) var changes: UInt64 = 0
    /// The last change of everything, of dkeys, and of whole objects.
    private var changedAll: UInt64 = 0
    private var changedDkeys = ContiguousArray<UInt64>(repeating: 0, count: Int(slots))
    private var changedObjects = ContiguousArray<UInt64>(repeating: 0, count: Int(slots))

    init(bytesMax: Int) {
        self.bytesMax = bytesMax
        var count = RecordCache.ways
        while count * RecordCache.rowBytes < bytesMax { count *= 2 }
        rows = ContiguousArray(repeating: nil, count: count)
        hashes = ContiguousArray(repeating: 0, count: count)
        found = ContiguousArray(repeating: 0, count: count)
    }

    private static func slot(_ hash: UInt64) -> Int { Int(hash % slots) }

    // MARK: - Changes

    /// A version of a value, or a punch, has come into the index.
    mutating func didChange(_ key: IndexKey.Bytes, dkeyEnd: Int) {
        guard dkeyEnd == 0 else {
            didChange(dkey: KeyLocks.dkey(key, length: dkeyEnd))
            return
        }
        changes += 1
        changedObjects[RecordCache.slot(KeyLocks.object(key))] = changes
    }

    /// Something of a dkey, by its hash, has changed, or lies elsewhere now.
    mutating func didChange(dkey: UInt64) {
        changes += 1
        changedDkeys[RecordCache.slot(dkey)] = changes
    }

    /// A pool or container was destroyed.
    mutating func didChangeAll() {
        changes += 1
        changedAll = changes
    }

    private func isValid(_ row: Row) -> Bool {
        row.changes >= changedAll && row.changes >= changedDkeys[row.dkeySlot]
            && row.changes >= changedObjects[row.objectSlot]
    }

    // MARK: - Rows

    private static func hash(_ path: NamePath, _ range: Range<UInt64>) -> UInt64 {
        let seed = range.lowerBound &* 0x9e37_79b9_7f4a_7c15 ^ range.upperBound
        return StableKeyHash.hash(path.bytes, first: path.akeyEnd, seed: seed) | 1
    }

    /// The first of the places where a row may be.
    private func place(_ hash: UInt64) -> Int {
        Int(hash >> 1) & (rows.count / RecordCache.ways - 1) * RecordCache.ways
    }

    /// The record that is all that a fetch at `epoch` sees; nil when that is not known.
    func record(_ path: NamePath, _ range: Range<UInt64>, at epoch: UInt64) -> IndexRecord? {
        let hash = RecordCache.hash(path, range)
        let first = place(hash)
        for index in first..<first + RecordCache.ways where hashes[index] == hash {
            guard let row = rows[index], row.range == range,
                IndexKey.compare(row.path.bytes, path.bytes) == 0
            else { continue }
            return isValid(row) && row.record.epoch <= epoch ? row.record : nil
        }
        return nil
    }

    /// A search that began after so many `changes` has found that `record` is all that is visible,
    /// and the newest. It is known from the second time on.
    mutating func insert(
        _ path: NamePath, _ range: Range<UInt64>, _ record: IndexRecord, changes: UInt64
    ) {
        let hash = RecordCache.hash(path, range)
        guard wasFound(hash) else { return }
        let row = Row(path, range, record, changes: changes)
        guard row.byteCount <= bytesMax / RecordCache.ways, isValid(row) else { return }
        let first = place(hash)
        let places = first..<first + RecordCache.ways
        let chosen =
            places.first { hashes[$0] == hash }
            ?? places.first { index in rows[index].map { !isValid($0) } ?? true }
            ?? first + Int(hash >> 40) % RecordCache.ways
        replace(chosen, by: row, hash)
        while bytes > bytesMax {
            if hand != chosen { replace(hand, by: nil, 0) }
            hand = (hand + 1) % rows.count
        }
    }

    /// Whether a search has found this lately; from now on, it has.
    private mutating func wasFound(_ hash: UInt64) -> Bool {
        let mark = UInt32(truncatingIfNeeded: hash) | 1
        let index = Int(hash >> 32) & (found.count - 1)
        defer { found[index] = mark }
        return found[index] == mark
    }

    private mutating func replace(_ index: Int, by row: Row?, _ hash: UInt64) {
        bytes += (row?.byteCount ?? 0) - (rows[index]?.byteCount ?? 0)
        rows[index] = row
        hashes[index] = hash
    }

    /// What is known, without order. For tests.
    var known: [(path: NamePath, range: Range<UInt64>, record: IndexRecord)] {
        rows.compactMap { row in
            guard let row, isValid(row) else { return nil }
            return (row.path, row.range, row.record)
        }
    }
}
