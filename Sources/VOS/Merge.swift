internal import BIO
internal import DrayRuntime

/// Where a merge may write keys that were not there before: behind the tables of its level that
/// come before its own, and before those that come after.
struct MergeRoom {
    var after: IndexKey.Bytes = []
    var before: IndexKey.Bytes?
}

/// A merge under way: entries come in ascending order, and are written, in part or whole, or
/// dropped.
struct Merge {
    /// What is left of an extent, and waits until all that comes before it has been written.
    private struct Part {
        let key: IndexKey.Bytes
        let record: IndexRecord
        let hiddenFrom: UInt64?
    }

    var filter: VersionFilter
    private(set) var writer: TableWriter
    /// Nil: what comes was in no table before.
    private var copier: ExtentCopier?
    private let room: MergeRoom
    private var window: ExtentWindow
    /// The first comes last.
    private var parts: [Part] = []
    /// Blocks of values that were written by a flush, and of what was dropped.
    private var marked: [BlockExtent] = []
    private var dropped: [BlockExtent] = []
    private var addedUsages = UsageTable()
    private var removedUsages = UsageTable()
    /// How many extents parts have taken the place of, and their dkeys, as `KeyLocks` has them.
    private var extentsCut = 0
    private var cutDkeys: Set<UInt64> = []

    private var isFlush: Bool { copier == nil }

    /// A flush has no `copier`.
    init(
        filter: VersionFilter, writer: TableWriter, inlineThreshold: Int, copier: ExtentCopier?,
        room: MergeRoom
    ) {
        self.filter = filter
        self.writer = writer
        self.copier = copier
        self.room = room
        window = ExtentWindow(inlineThreshold: inlineThreshold, cutsExtents: copier != nil)
    }

    /// The blocks of everything that was written so far.
    var extents: [BlockExtent] { writer.extents + (copier?.extents ?? []) }

    mutating func add(_ entry: SourceCursor) async throws(VOSError) {
        let head = try entry.head()
        while unsafe window.mustDecide(before: entry.key, head) { try await decide() }
        switch unsafe filter.judge(entry.key, head) {
        case .drop: try unsafe drop(entry.key, entry.value, head)
        case .extent: window.add(entry, head)
        case .keep:
            while unsafe isPart(before: entry.key) { try await writePart() }
            if unsafe writer.mustEnd(before: entry.key) { try await writer.endTable() }
            if try unsafe keep(entry.key, entry.value, head, filter.hiddenFrom) {
                try await writer.flush()
            }
        }
    }

    /// Decides about the extents of a window.
    private mutating func decide() async throws(VOSError) {
        var verdicts = window.decide(filter)
        let extents = window.current
        for index in verdicts.indices {
            guard let left = verdicts[index].parts, !left.isEmpty else { continue }
            try await cut(extents, index, &verdicts[index])
        }
        parts.sort { IndexKey.compare($0.key, $1.key) > 0 }
        for (index, verdict) in verdicts.enumerated() {
            let head = extents.heads[index]
            if verdict.parts != nil {
                try unsafe extents.withEntry(index) { key, value throws(VOSError) in
                    try unsafe drop(key, value, head)
                }
                continue
            }
            while try isPart(before: extents, index) { try await writePart() }
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
        while !parts.isEmpty { try await writePart() }
        try await writer.endTable()
    }

    // MARK: - Parts of extents

    /// Copies what is left of an extent. When that cannot be, the verdict is that it stays as it
    /// is; if it is for want of room, a later merge can do it.
    private mutating func cut(
        _ extents: EntryBuffer, _ index: Int, _ verdict: inout ExtentVerdict
    ) async throws(VOSError) {
        guard let left = verdict.parts else { return }
        let head = extents.heads[index]
        let (key, record) = try unsafe extents.withEntry(index) { key, value throws(VOSError) in
            (unsafe IndexKey.Bytes(key), try unsafe decode(key, value))
        }
        let keys = left.map { Merge.key(of: $0, in: key, head) }
        let outcome = try await keys.allSatisfy { isRoom(for: $0) } ? copy(left, record) : .noRoom
        switch outcome {
        case .noRoom: verdict = ExtentVerdict(hiddenFrom: filter.bound)
        case .unreadable: verdict = ExtentVerdict(hiddenFrom: verdict.hiddenFrom)
        case .copied(let copies):
            for (key, copy) in zip(keys, copies) {
                parts.append(Part(key: key, record: copy, hiddenFrom: verdict.hiddenFrom))
            }
            extentsCut += 1
            cutDkeys.insert(KeyLocks.dkey(key, length: head.dkeyEnd))
        }
    }

    private mutating func copy(
        _ parts: [Range<UInt64>], _ record: IndexRecord
    ) async throws(VOSError) -> ExtentCopier.Outcome {
        try await copier?.copy(parts, of: record) ?? .noRoom
    }

    /// The key of a part of the extent that has a key and a head.
    private static func key(
        of part: Range<UInt64>, in key: IndexKey.Bytes, _ head: EntryHead
    ) -> IndexKey.Bytes {
        var bytes = Array(key[0...head.akeyEnd])
        bytes.append(
            extentAt: part.lowerBound, class: IndexKey.extentClass(length: part.count))
        bytes.append(contentsOf: key.suffix(IndexKey.versionLength))
        return bytes
    }

    /// Whether a key can be written though none of it has come: none behind it has been written.
    private func isRoom(for key: IndexKey.Bytes) -> Bool {
        IndexKey.compare(key, writer.last) > 0 && IndexKey.compare(key, room.after) > 0
            && room.before.map { IndexKey.compare(key, $0) < 0 } ?? true
    }

    private func isPart(before key: UnsafeRawBufferPointer) -> Bool {
        guard let part = parts.last else { return false }
        return unsafe IndexKey.compare(part.key, to: key) < 0
    }

    private func isPart(before extents: EntryBuffer, _ index: Int) throws(VOSError) -> Bool {
        guard !parts.isEmpty else { return false }
        return try unsafe extents.withEntry(index) { key, _ throws(VOSError) in
            unsafe isPart(before: key)
        }
    }

    /// Writes the first of the parts that wait.
    private mutating func writePart() async throws(VOSError) {
        guard let part = parts.popLast() else { return }
        let head = EntryHead(part.record)
        var value: [UInt8] = []
        EntryCoding.put(part.record, to: &value)
        if unsafe part.key.withUnsafeBytes({ unsafe writer.mustEnd(before: $0) }) {
            try await writer.endTable()
        }
        let isFull = unsafe part.key.withUnsafeBytes { key in
            unsafe addedUsages.add(key, head)
            return unsafe value.withUnsafeBytes { value in
                unsafe writer.add(key, value, head, hiddenFrom: part.hiddenFrom)
            }
        }
        if isFull { try await writer.flush() }
    }

    // MARK: - Entries

    /// Returns whether the writer must flush.
    private mutating func keep(
        _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, _ head: EntryHead,
        _ hiddenFrom: UInt64?
    ) throws(VOSError) -> Bool {
        if isFlush {
            unsafe addedUsages.add(key, head)
            if head.hasBlocks { marked += try unsafe decode(key, value).blocks }
        }
        return unsafe writer.add(key, value, head, hiddenFrom: hiddenFrom)
    }

    private mutating func drop(
        _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, _ head: EntryHead
    ) throws(VOSError) {
        if !isFlush { unsafe removedUsages.add(key, head) }
        if head.hasBlocks { dropped += try unsafe decode(key, value).blocks }
    }

    private func decode(
        _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer
    ) throws(VOSError) -> IndexRecord {
        guard let record = unsafe EntryCoding.record(key: key, value: value) else {
            throw .damaged(what: "an entry of the index")
        }
        return record
    }

    /// What it came to.
    func apply(to edit: inout VersionEdit) {
        edit.adding = writer.tables
        edit.copied = copier?.extents ?? []
        edit.marked = marked + edit.copied
        if isFlush { edit.released = dropped } else { edit.cleared = dropped }
        edit.addedUsages = addedUsages
        edit.removedUsages = removedUsages
        edit.extentsCut = extentsCut
        edit.cutDkeys = cutDkeys
    }
}
