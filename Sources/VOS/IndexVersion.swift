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

    /// The first and the last object of those that have punches, in one table or in several that
    /// overlap. In order, and disjoint.
    private lazy var punched: [(first: IndexKey.Bytes, last: IndexKey.Bytes)] = {
        var ranges: [(first: IndexKey.Bytes, last: IndexKey.Bytes)] = []
        let tables = tables.filter { $0.info.punches > 0 }.sorted {
            IndexKey.compare($0.info.firstPunched, $1.info.firstPunched) < 0
        }
        for info in tables.map(\.info) {
            if let last = ranges.last, IndexKey.compare(info.firstPunched, last.last) <= 0 {
                if IndexKey.compare(last.last, info.lastPunched) < 0 {
                    ranges[ranges.count - 1].last = info.lastPunched
                }
            } else {
                ranges.append((info.firstPunched, info.lastPunched))
            }
        }
        return ranges
    }()

    /// Whether a table may have a punch at or below the object of `key`.
    func mayHavePunch(for key: IndexKey.Bytes) -> Bool {
        unsafe key.withPrefix(IndexKey.objectLength) { object in
            var low = 0
            var high = punched.count
            while low < high {
                let middle = (low + high) / 2
                if unsafe IndexKey.compare(punched[middle].last, to: object) < 0 {
                    low = middle + 1
                } else {
                    high = middle
                }
            }
            return unsafe low < punched.count
                && IndexKey.compare(punched[low].first, to: object) <= 0
        }
    }

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
    static func lowerBound(_ tables: ArraySlice<IndexTable>, _ key: IndexKey.Prefix) -> Int {
        var low = tables.startIndex
        var high = tables.endIndex
        while low < high {
            let middle = (low + high) / 2
            if key.compare(tables[middle].info.lastKey) > 0 {
                low = middle + 1
            } else {
                high = middle
            }
        }
        return low
    }

    /// The tables that may have keys from `low` on that begin with `prefix`: of each level above 0
    /// only the first.
    func candidates(from low: IndexKey.Prefix, prefix: IndexKey.Prefix) -> TableCandidates {
        TableCandidates(version: self, low: low, prefix: prefix)
    }

    /// Whether `first` is not above everything that begins with the prefix.
    static func isBelowEnd(_ first: IndexKey.Bytes, _ prefix: IndexKey.Prefix) -> Bool {
        unsafe first.withUnsafeBytes { first in
            unsafe prefix.withBytes { prefix in
                let length = min(prefix.count, first.count)
                return unsafe length == 0
                    || memcmp(first.baseAddress!, prefix.baseAddress!, length) <= 0
            }
        }
    }
}

/// A table that may have what is sought.
struct TableCandidate {
    /// It, and those of its level behind it that may have more.
    let run: ArraySlice<IndexTable>
    /// Whether there are none of these: then a name that the filter does not have is not there.
    var isAlone: Bool { run.count == 1 }
    var table: IndexTable { run[run.startIndex] }
}

/// The candidates of a search, found as they are needed.
struct TableCandidates: Sequence, IteratorProtocol {
    private let version: IndexVersion
    private let low: IndexKey.Prefix
    private let prefix: IndexKey.Prefix
    private var level = 0
    /// Of level 0, where to go on.
    private var index = 0

    fileprivate init(version: IndexVersion, low: IndexKey.Prefix, prefix: IndexKey.Prefix) {
        self.version = version
        self.low = low
        self.prefix = prefix
    }

    mutating func next() -> TableCandidate? {
        while level == 0, index < version.levels[0].count {
            defer { index += 1 }
            let info = version.levels[0][index].info
            guard IndexVersion.isBelowEnd(info.firstKey, prefix), low.compare(info.lastKey) <= 0
            else { continue }
            return TableCandidate(run: version.levels[0][index..<index + 1])
        }
        while level + 1 < version.levels.count {
            level += 1
            let tables = version.levels[level]
            let first = IndexVersion.lowerBound(tables[...], low)
            guard first < tables.count,
                IndexVersion.isBelowEnd(tables[first].info.firstKey, prefix)
            else { continue }
            let isAlone =
                first + 1 == tables.count || !prefix.begins(tables[first + 1].info.firstKey)
            return TableCandidate(run: isAlone ? tables[first...first] : tables[first...])
        }
        return nil
    }
}
