internal import BIO
internal import DrayRuntime
internal import Glibc

/// Walks the entries of one part of the index: those that begin with a prefix, in ascending order
/// or, reversed, in descending order.
///
/// Whatever may need the device is in two: `step` and `jump` do what they can without, and say
/// whether that was all; if not, `finish` does the rest.
@safe class SourceCursor {
    /// Whether there is a current entry.
    final var isValid = false
    /// Whether it was never asked for a place.
    final var isNew = true
    /// What keys must begin with.
    private let prefix: IndexKey.Prefix
    let isReversed: Bool
    // SAFETY: owned, and written only by `setKey`.
    private var memory: UnsafeMutableRawPointer?
    private var capacity = 0
    // SAFETY: in `memory`, or where a subclass keeps it until the cursor moves.
    private var keyStart: UnsafeRawPointer?
    final private(set) var keyCount = 0
    @safe @exclusivity(unchecked) private var knownHead: EntryHead?

    init(prefix: IndexKey.Prefix, isReversed: Bool = false) {
        self.prefix = prefix
        self.isReversed = isReversed
    }

    deinit { unsafe memory?.deallocate() }

    /// The key of the current entry. Valid until the cursor moves.
    @inline(__always)
    final var key: UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(start: keyStart, count: keyCount)
    }

    /// Makes the key of `count` bytes from the first `kept` of what it was, and `rest`.
    @inline(__always)
    final func setKey(keeping kept: Int, _ rest: UnsafeRawBufferPointer) {
        let count = kept + rest.count
        if count > capacity { grow(to: count, keeping: kept) }
        if let first = rest.baseAddress, let memory = unsafe memory {
            unsafe memcpy(memory + kept, first, rest.count)
        }
        keyCount = count
        knownHead = nil
    }

    /// Takes a key from where it is: the memory stays as it is until the cursor moves.
    @inline(__always)
    final func setKey(at key: UnsafeRawBufferPointer) {
        unsafe keyStart = key.baseAddress
        keyCount = key.count
        knownHead = nil
    }

    private func grow(to count: Int, keeping kept: Int) {
        capacity = max(256, count * 2)
        let larger = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 8)
        if let memory = unsafe memory {
            unsafe memcpy(larger, memory, kept)
            unsafe memory.deallocate()
        }
        unsafe memory = larger
        unsafe keyStart = UnsafeRawPointer(larger)
    }

    /// The current entry has the prefix, or there is none.
    final func checkPrefix() { isValid = unsafe prefix.begins(key) }

    /// Whether a table may have keys with the prefix.
    final func mayHavePrefix(_ info: TableInfo) -> Bool {
        IndexVersion.isBelowEnd(info.firstKey, prefix) && prefix.compare(info.lastKey) <= 0
    }

    /// What the current entry is.
    final func head() throws(VOSError) -> EntryHead {
        if let knownHead { return knownHead }
        let head = try readHead()
        knownHead = head
        return head
    }

    func readHead() throws(VOSError) -> EntryHead { abstract() }
    /// The current entry's record.
    func record() throws(VOSError) -> IndexRecord { abstract() }
    /// What a table has of the current entry behind its key. Valid until the cursor moves.
    var value: UnsafeRawBufferPointer { abstract() }
    /// To the next entry. False: call `finish`.
    func step() -> Bool { abstract() }
    /// To the first entry that is not below `target`; reversed: to the last that is below it.
    /// False: call `finish`.
    func jump(_ target: IndexKey.Bytes) -> Bool { abstract() }
    func finish() async throws(VOSError) { abstract() }

    private func abstract() -> Never { preconditionFailure("SourceCursor is abstract") }
}

/// Walks a memtable, which may change meanwhile.
final class MemtableCursor: SourceCursor {
    /// Keeps the entries, too.
    private let memtable: Memtable
    private let limit: UInt64
    private var leaf: IndexNode?
    private var index = 0
    private var changes = 0
    private var current: ArenaEntry?

    init(
        _ memtable: Memtable, prefix: IndexKey.Prefix, below limit: UInt64,
        isReversed: Bool = false
    ) {
        self.memtable = memtable
        self.limit = limit
        super.init(prefix: prefix, isReversed: isReversed)
    }

    private var valid: ArenaEntry {
        guard let current else { preconditionFailure("no current entry") }
        return current
    }

    override func readHead() -> EntryHead { valid.head }
    override func record() -> IndexRecord { valid.record }
    override var value: UnsafeRawBufferPointer { unsafe valid.value }

    override func jump(_ target: IndexKey.Bytes) -> Bool {
        isNew = false
        seek(target)
        if !settle() { return step() }
        return true
    }

    override func step() -> Bool {
        repeat {
            let next = isReversed ? index - 1 : index + 1
            if changes == memtable.changes, let leaf, leaf.entries.indices.contains(next) {
                index = next
            } else {
                seek(unsafe [UInt8](copying: key) + (isReversed ? [] : [0]))
            }
        } while !settle()
        return true
    }

    private func seek(_ target: IndexKey.Bytes) {
        changes = memtable.changes
        let position = unsafe target.withUnsafeBytes { target in
            unsafe isReversed
                ? memtable.tree.position(below: target) : memtable.tree.position(from: target)
        }
        leaf = position?.leaf
        index = position?.index ?? 0
    }

    /// Takes the entry at the place; false when it is too new.
    private func settle() -> Bool {
        guard let leaf else {
            isValid = false
            current = nil
            return true
        }
        let entry = leaf.entries[index]
        current = entry
        unsafe setKey(at: entry.key)
        checkPrefix()
        return !isValid || entry.stamp < limit
    }
}

/// Walks tables that are ordered and do not overlap: a level, or one table of level 0.
final class RunCursor: SourceCursor {
    private let tables: ArraySlice<IndexTable>
    /// Nil: blocks go through the cache. Else they are read in larger pieces that nobody else
    /// needs.
    private let reader: PieceReader?

    private var tableIndex = 0
    @safe @exclusivity(unchecked) private var fences: CachedBlock?
    private var fenceIndex = 0
    @safe @exclusivity(unchecked) private var block: CachedBlock?
    private var index = 0
    /// Where the entries of `block` are.
    private var entries: EntryBlock?

    /// What `finish` has to do: go to the place of this; nil: to the next block.
    private var target: IndexKey.Bytes?

    init(
        _ tables: ArraySlice<IndexTable>, prefix: IndexKey.Prefix, reader: PieceReader? = nil,
        isReversed: Bool = false
    ) {
        self.tables = tables
        self.reader = reader
        super.init(prefix: prefix, isReversed: isReversed)
    }

    override var value: UnsafeRawBufferPointer {
        guard let entries else { preconditionFailure("no current entry") }
        return unsafe entries.entry(index).value
    }

    override func readHead() throws(VOSError) -> EntryHead {
        guard let head = unsafe EntryCoding.head(key: key, value: value) else { throw malformed }
        return head
    }

    override func record() throws(VOSError) -> IndexRecord {
        guard let record = unsafe EntryCoding.record(key: key, value: value) else {
            throw malformed
        }
        return record
    }

    /// The block with the current entry has others that are none.
    private var malformed: VOSError {
        guard let block else { preconditionFailure("no current entry") }
        return tables[tableIndex].malformed(block.place)
    }

    override func step() -> Bool {
        guard let entries else {
            isValid = false
            return true
        }
        let next = isReversed ? index - 1 : index + 1
        guard next >= 0, next < entries.count else {
            target = nil
            return false
        }
        index = next
        unsafe setKey(keeping: entries.prefixLength, entries.entry(index).rest)
        checkPrefix()
        return true
    }

    override func jump(_ target: IndexKey.Bytes) -> Bool {
        // Often it is near.
        if let entries, isValid {
            let bound = unsafe target.withUnsafeBytes { unsafe entries.lowerBound($0) }
            if isReversed ? bound > 0 && bound <= index : bound < entries.count && bound >= index {
                show(entries, isReversed ? bound - 1 : bound)
                return true
            }
        }
        isNew = false
        if jumpInMemory(target) { return true }
        self.target = target
        return false
    }

    /// The usual case: everything is in the cache, and the entry in the first block that may have
    /// it. False: it is not so.
    private func jumpInMemory(_ target: IndexKey.Bytes) -> Bool {
        let place = IndexVersion.lowerBound(tables, IndexKey.Prefix(target))
        guard reader == nil, tables.indices.contains(place) else { return false }
        let table = tables[place]
        guard let fences = table.cached(table.info.fencePlace),
            let fenceEntries = fences.entries
        else { return false }
        let index = unsafe target.withUnsafeBytes { target in
            unsafe TableFences.index(of: target, in: fenceEntries)
        }
        guard let block = table.cached(TableFences.place(index, in: fenceEntries).place),
            let entries = block.entries
        else { return false }
        let bound = unsafe target.withUnsafeBytes { unsafe entries.lowerBound($0) }
        let position = isReversed ? bound - 1 : bound
        guard position >= 0, position < entries.count else { return false }
        tableIndex = place
        self.fences = fences
        fenceIndex = index
        self.block = block
        show(entries, position)
        return true
    }

    private func show(_ entries: EntryBlock, _ position: Int) {
        self.entries = entries
        index = position
        unsafe setKey(keeping: 0, entries.prefix)
        unsafe setKey(keeping: entries.prefixLength, entries.entry(position).rest)
        checkPrefix()
    }

    override func finish() async throws(VOSError) {
        guard let target else {
            fenceIndex += isReversed ? -1 : 1
            try await show(from: nil)
            return
        }
        self.target = nil
        tableIndex = IndexVersion.lowerBound(tables, IndexKey.Prefix(target))
        if tableIndex == tables.endIndex, isReversed { tableIndex -= 1 }
        fences = nil
        guard tables.indices.contains(tableIndex) else {
            end()
            return
        }
        let fences = try await tables[tableIndex].fences()
        self.fences = fences
        guard let fenceEntries = fences.entries else {
            throw tables[tableIndex].malformed(fences.place)
        }
        fenceIndex = unsafe target.withUnsafeBytes { target in
            unsafe TableFences.index(of: target, in: fenceEntries)
        }
        try await show(from: target)
    }

    private func end() {
        isValid = false
        entries = nil
        block = nil
    }

    /// From the current block on, goes to the place of `target`, or to the next entry.
    private func show(from target: IndexKey.Bytes?) async throws(VOSError) {
        while tables.indices.contains(tableIndex) {
            let table = tables[tableIndex]
            let fences: CachedBlock
            if let known = self.fences {
                fences = known
            } else {
                fences = try await table.fences()
                self.fences = fences
                fenceIndex = isReversed ? (fences.entries?.count ?? 0) - 1 : 0
            }
            guard let fenceEntries = fences.entries else { throw table.malformed(fences.place) }
            while fenceIndex >= 0, fenceIndex < fenceEntries.count {
                let (place, blocks) = TableFences.place(fenceIndex, in: fenceEntries)
                let block: CachedBlock
                if let reader {
                    block = try await reader.block(of: table, place: place, blocks: blocks)
                } else {
                    block = try await table.block(.entries, place: place, blocks: blocks)
                }
                guard let entries = block.entries else { throw table.malformed(place) }
                self.block = block
                let bound =
                    target.map { target in
                        unsafe target.withUnsafeBytes { unsafe entries.lowerBound($0) }
                    } ?? (isReversed ? entries.count : 0)
                let position = isReversed ? bound - 1 : bound
                if position >= 0, position < entries.count {
                    show(entries, position)
                    return
                }
                fenceIndex += isReversed ? -1 : 1
            }
            tableIndex += isReversed ? -1 : 1
            self.fences = nil
            guard tables.indices.contains(tableIndex), mayHavePrefix(tables[tableIndex].info)
            else { break }
        }
        end()
    }
}

/// Reads the blocks of one table after the other, many at a time, past the cache.
final class PieceReader {
    /// The most bytes of one read: the log waits behind it.
    private static let pieceBytes = 64 << 10

    private let store: BlockStore
    private var piece: IOBuffer?
    private var table: UInt64 = .max
    private var start = 0
    private var count = 0

    init(_ store: BlockStore) { self.store = store }

    deinit {
        if let piece { store.buffers.give(piece) }
    }

    func block(
        of table: IndexTable, place: Int, blocks: Int
    ) async throws(VOSError) -> CachedBlock {
        let info = table.info
        guard place >= 0, blocks > 0, place + blocks <= info.fencePlace else {
            throw info.damage(
                "its fences name \(blocks) blocks from \(place) on", at: info.fencePlace, in: store)
        }
        let unit = BlockDevice.blockSize
        guard blocks * unit <= PieceReader.pieceBytes else {
            return try await CachedBlock.read(
                .entries, of: info, place: place, blocks: blocks, from: store)
        }
        if table.info.id != self.table || place < start || place + blocks > start + count {
            try await fill(info, from: place)
        }
        guard let piece else { preconditionFailure("a piece was read") }
        let first = (place - start) * unit
        return try unsafe CachedBlock.copied(
            from: UnsafeRawBufferPointer(
                rebasing: piece.bytes[first..<first + blocks * unit]), of: info, place: place,
            store: store)
    }

    private func fill(_ info: TableInfo, from place: Int) async throws(VOSError) {
        let piece = self.piece ?? store.buffers.take(PieceReader.pieceBytes)
        self.piece = piece
        let unit = BlockDevice.blockSize
        count = 0
        let wanted = min(info.fencePlace - place, PieceReader.pieceBytes / unit)
        do throws(BIOError) {
            try unsafe await store.read(
                into: UnsafeMutableRawBufferPointer(rebasing: piece.bytes[0..<wanted * unit]),
                from: info.extents, firstBlock: place)
        } catch {
            throw VOS.error(error)
        }
        table = info.id
        start = place
        count = wanted
    }
}
