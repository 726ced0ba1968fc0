internal import BIO
internal import DrayRuntime
internal import Glibc

/// The tables of the index at one moment. Immutable: a flush or a merge makes the next one.
///
/// Whoever reads keeps the version it began with, and so every table and every value in it. A
/// version keeps the one after it, and, when it goes, gives back the blocks that the next one does
/// without: so they are free only when nobody reads that or an older version.
final class IndexVersion {
    static let levelMax = 6

    /// By level. Those of level 0 in the order they were written, the others by their keys.
    let levels: [[IndexTable]]
    private var next: IndexVersion?
    private var release: (() -> Void)?

    init(levels: [[IndexTable]]) {
        precondition(levels.count == IndexVersion.levelMax + 1)
        self.levels = levels
    }

    convenience init() {
        self.init(levels: Array(repeating: [], count: IndexVersion.levelMax + 1))
    }

    deinit { release?() }

    /// `next` has taken the place of this one; `release` gives back what it does without.
    func replace(by next: IndexVersion, _ release: @escaping () -> Void) {
        precondition(self.next == nil, "a version was replaced twice")
        self.next = next
        self.release = release
    }

    var tables: [IndexTable] { levels.flatMap { $0 } }

    /// Whether any table has punches.
    private(set) lazy var hasPunches = levels.contains { $0.contains { $0.info.punches > 0 } }

    /// The blocks that a merge of level 0 into `base` may need.
    func mergedBlocks(base: Int) -> Int {
        levels[0].reduce(0) { $0 + $1.info.blocks } + levels[base].reduce(0) { $0 + $1.info.blocks }
    }

    /// The version without some tables and with others.
    func changed(removing: Set<UInt64>, adding: [IndexTable]) -> IndexVersion {
        var levels = self.levels.map { $0.filter { !removing.contains($0.info.id) } }
        for table in adding { levels[table.info.level].append(table) }
        for level in 1...IndexVersion.levelMax {
            levels[level].sort { IndexKey.compare($0.info.firstKey, $1.info.firstKey) < 0 }
        }
        return IndexVersion(levels: levels)
    }

    /// The first of `tables`, ordered and disjoint, whose last key is not below `key`.
    static func lowerBound(_ tables: ArraySlice<IndexTable>, _ key: IndexKey.Bytes) -> Int {
        unsafe key.withUnsafeBytes { unsafe lowerBound(tables, $0) }
    }

    private static func lowerBound(
        _ tables: ArraySlice<IndexTable>, _ key: UnsafeRawBufferPointer
    ) -> Int {
        var low = tables.startIndex
        var high = tables.endIndex
        while low < high {
            let middle = (low + high) / 2
            let order = unsafe tables[middle].info.lastKey.withUnsafeBytes {
                unsafe IndexKey.compare($0, key)
            }
            if order < 0 {
                low = middle + 1
            } else {
                high = middle
            }
        }
        return low
    }

    /// The first table of a level from `first` on that may have keys with the prefix; above level
    /// 0 only the first of all. `isAlone`: no other table of the level has more of them, so that a
    /// name that the filter does not have is not there.
    static func candidate(
        _ tables: [IndexTable], _ level: Int, from first: Int, _ prefix: IndexKey.Prefix
    ) -> (index: Int, isAlone: Bool)? {
        guard first < tables.count else { return nil }
        if level == 0 {
            let index = tables[first...].firstIndex { table in
                isBelowEnd(table.info.firstKey, prefix) && prefix.compare(table.info.lastKey) <= 0
            }
            return index.map { ($0, true) }
        }
        guard first == 0 else { return nil }
        let index = unsafe prefix.withBytes { unsafe lowerBound(tables[...], $0) }
        guard index < tables.count, isBelowEnd(tables[index].info.firstKey, prefix) else {
            return nil
        }
        let isAlone =
            index + 1 == tables.count || !prefix.begins(tables[index + 1].info.firstKey)
        return (index, isAlone)
    }

    /// A table that may have what is sought.
    struct Candidate {
        let table: IndexTable
        /// Whether no other table of the level has more of it: then a name that the filter does
        /// not have is not there.
        let isAlone: Bool
    }

    /// The tables that may have keys from `target` on that begin with its first `prefix` bytes: of
    /// each level above 0 only the first.
    func candidates(from target: IndexKey.Bytes, prefix: Int) -> [Candidate] {
        var candidates: [Candidate] = []
        for table in levels[0] {
            guard IndexKey.compare(table.info.lastKey, target) >= 0,
                IndexVersion.isBelowEnd(table.info.firstKey, target, prefix: prefix)
            else { continue }
            candidates.append(Candidate(table: table, isAlone: true))
        }
        for tables in levels[1...] where !tables.isEmpty {
            let index = IndexVersion.lowerBound(tables[...], target)
            guard index < tables.count,
                IndexVersion.isBelowEnd(tables[index].info.firstKey, target, prefix: prefix)
            else { continue }
            let isAlone =
                index + 1 == tables.count
                || !IndexKey.agree(tables[index + 1].info.firstKey, target, length: prefix)
            candidates.append(Candidate(table: tables[index], isAlone: isAlone))
        }
        return candidates
    }

    /// Whether `first` is not above everything that begins with the prefix.
    static func isBelowEnd(_ first: IndexKey.Bytes, _ prefix: IndexKey.Prefix) -> Bool {
        isBelowEnd(first, prefix.bytes, prefix: prefix.count)
    }

    /// Whether `first` is not above everything that begins with the first `prefix` bytes of
    /// `target`.
    static func isBelowEnd(
        _ first: IndexKey.Bytes, _ target: IndexKey.Bytes, prefix: Int
    ) -> Bool {
        unsafe first.withUnsafeBytes { first in
            unsafe target.withUnsafeBytes { target in
                let length = min(prefix, first.count)
                return unsafe length == 0
                    || memcmp(first.baseAddress!, target.baseAddress!, length) <= 0
            }
        }
    }
}
