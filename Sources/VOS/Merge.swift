internal import BIO
internal import DrayRuntime

/// A merge under way: entries come in ascending order, and are written or dropped.
struct Merge {
    var filter: VersionFilter
    private(set) var writer: TableWriter
    /// What comes was in no table before.
    private let isFlush: Bool
    private var window = ExtentWindow()
    /// Blocks of values that were written by a flush, and of what was dropped.
    private var marked: [BlockExtent] = []
    private var dropped: [BlockExtent] = []
    private var addedUsages = UsageTable()
    private var removedUsages = UsageTable()

    init(filter: VersionFilter, writer: TableWriter, isFlush: Bool) {
        self.filter = filter
        self.writer = writer
        self.isFlush = isFlush
    }

    mutating func add(_ entry: SourceCursor) async throws(VOSError) {
        let head = try entry.head()
        while unsafe window.mustDecide(before: entry.key, head) { try await decide() }
        switch unsafe filter.judge(entry.key, head) {
        case .drop: try unsafe drop(entry.key, entry.value, head)
        case .extent: window.add(entry, head)
        case .keep:
            if unsafe writer.mustEnd(before: entry.key) { try await writer.endTable() }
            if try unsafe keep(entry.key, entry.value, head, filter.hiddenFrom) {
                try await writer.flush()
            }
        }
    }

    /// Decides about the extents of a window.
    private mutating func decide() async throws(VOSError) {
        let verdicts = window.decide(filter)
        let extents = window.current
        for (index, verdict) in verdicts.enumerated() {
            let head = extents.heads[index]
            if verdict.isHidden {
                try unsafe extents.withEntry(index) { key, value throws(VOSError) in
                    try unsafe drop(key, value, head)
                }
                continue
            }
            let mustEnd = try unsafe extents.withEntry(index) { key, _ throws(VOSError) in
                unsafe writer.mustEnd(before: key)
            }
            if mustEnd { try await writer.endTable() }
            let isFull = try unsafe extents.withEntry(index) { key, value throws(VOSError) in
                try unsafe keep(key, value, head, verdict.hiddenFrom)
            }
            if isFull { try await writer.flush() }
        }
        window.advance()
    }

    mutating func finish() async throws(VOSError) {
        while !window.isEmpty { try await decide() }
        try await writer.endTable()
    }

    /// Returns whether the writer must flush.
    private mutating func keep(
        _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, _ head: EntryHead,
        _ hiddenFrom: UInt64?
    ) throws(VOSError) -> Bool {
        if isFlush {
            unsafe addedUsages.add(key, head)
            if head.hasBlocks { marked += try unsafe blocks(key, value) }
        }
        return unsafe writer.add(key, value, head, hiddenFrom: hiddenFrom)
    }

    private mutating func drop(
        _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, _ head: EntryHead
    ) throws(VOSError) {
        if !isFlush { unsafe removedUsages.add(key, head) }
        if head.hasBlocks { dropped += try unsafe blocks(key, value) }
    }

    private func blocks(
        _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer
    ) throws(VOSError) -> [BlockExtent] {
        guard let record = unsafe EntryCoding.record(key: key, value: value) else {
            throw .damaged(what: "an entry of the index")
        }
        return record.blocks
    }

    /// What it came to.
    func apply(to edit: inout VersionEdit) {
        edit.adding = writer.tables
        edit.marked = marked
        if isFlush { edit.released = dropped } else { edit.cleared = dropped }
        edit.addedUsages = addedUsages
        edit.removedUsages = removedUsages
    }
}
