internal import BIO

/// What to merge, and where to.
struct MergeJob {
    var inputs: [IndexTable]
    /// The level of the result.
    var level: Int
}

/// Decides when tables are merged, and which: leveled, with sizes counted from the last level
/// (O'Neil 1996; Dong 2017 for the sizes).
///
/// The last level has no limit; each one above it may have an eighth of the one below it, so that
/// what newer versions hide there is a small part of everything. Levels that would be smaller than
/// a few memtables are left out: level 0 is merged into the first that is not.
struct MergePicker {
    private static let ratio = 8
    /// So many tables in level 0 are merged.
    private static let level0Max = 4
    /// They are, too, when they weigh this part of everything.
    private static let weightShare: UInt64 = 12

    let version: IndexVersion
    /// The least that a level is worth its while.
    let levelBytesMin: Int
    let tableBytesMax: Int

    private var last: Int { IndexVersion.levelMax }

    private func size(_ level: Int) -> Int {
        version.levels[level].reduce(0) { $0 + $1.info.byteCount }
    }

    private func weight(_ tables: [IndexTable]) -> UInt64 {
        tables.reduce(0) { $0 + $1.info.weight }
    }

    /// How large a level may be.
    private func sizeMax(_ level: Int) -> Int {
        guard level < last else { return .max }
        return (level..<last).reduce(size(last)) { size, _ in size / MergePicker.ratio }
    }

    /// Where level 0 goes: no further than the first level that has anything.
    var base: Int {
        var base = last
        while base > 1, sizeMax(base - 1) >= levelBytesMin { base -= 1 }
        let first = (1...last).first { !version.levels[$0].isEmpty } ?? last
        return min(base, first)
    }

    func pick() -> MergeJob? {
        let level0 = version.levels[0]
        if level0.count >= MergePicker.level0Max
            || !level0.isEmpty
                && weight(level0) > weight(version.tables) / MergePicker.weightShare
        {
            return job(level0, to: base)
        }
        // The one that has most too much.
        var best: (level: Int, excess: Double)?
        for level in 1..<last where !version.levels[level].isEmpty {
            let excess = Double(size(level)) / Double(max(1, sizeMax(level)))
            if excess > 1, excess > best?.excess ?? 0 { best = (level, excess) }
        }
        guard let best else { return nil }
        return pushDown(from: best.level)
    }

    /// Merges a table of a level into the next: the one that overlaps least for its size.
    private func pushDown(from level: Int) -> MergeJob? {
        var best: (job: MergeJob, cost: Double)?
        for table in version.levels[level] {
            let job = job([table], to: level + 1)
            let size = job.inputs.reduce(0) { $0 + $1.info.byteCount }
            let cost = Double(size) / Double(table.info.byteCount)
            if cost < best?.cost ?? .infinity { best = (job, cost) }
        }
        return best?.job
    }

    /// The job that merges `tables`, of one level, into `level`, with what overlaps them there:
    /// with every version of what they have versions of. Small neighbours are taken along, so that
    /// small flushes do not leave many small tables.
    func job(_ tables: [IndexTable], to level: Int) -> MergeJob {
        let bounds = tables.map(\.info.bounds)
        guard let start = bounds.map(\.start).min(by: { IndexKey.compare($0, $1) < 0 }),
            let end = bounds.map(\.end).max(by: { IndexKey.compare($0, $1) < 0 })
        else { return MergeJob(inputs: [], level: level) }
        let others = version.levels[level].filter { table in
            !tables.contains { $0 === table }
        }
        var low = others.count
        var high = 0
        for (index, table) in others.enumerated() {
            let bounds = table.info.bounds
            guard IndexKey.compare(bounds.start, end) < 0 else {
                low = min(low, index)
                break
            }
            if IndexKey.compare(bounds.end, start) > 0 { low = min(low, index) }
            high = index + 1
        }
        low = min(low, high)
        if low > 0, isSmall(others[low - 1]) { low -= 1 }
        if high < others.count, isSmall(others[high]) { high += 1 }
        return MergeJob(inputs: tables + others[low..<high], level: level)
    }

    private func isSmall(_ table: IndexTable) -> Bool {
        table.info.byteCount < tableBytesMax / 2
    }
}
