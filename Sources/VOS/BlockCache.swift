internal import BIO
internal import DequeModule
internal import DrayRuntime

/// Memory with a verified block of a table.
@safe final class CachedBlock {
    // SAFETY: allocated in `init`, freed in `deinit`; not written after it was verified.
    fileprivate let memory: UnsafeMutableRawBufferPointer
    let table: UInt64
    let place: Int
    /// The entries; nil for a filter.
    fileprivate(set) var entries: EntryBlock?
    // SAFETY: likewise, with one number for each entry; made once.
    private var heads: UnsafeMutablePointer<UInt64>?
    private var headBytes = 0
    /// Of a filter: how many bits it has.
    fileprivate(set) var filterBits = 0
    fileprivate var wasUsed = false
    fileprivate var isKept = false

    /// `isTarget`: a device reads into it. Other memory is not aligned to pages: blocks of two
    /// pages would be so far apart that they took up three or four.
    fileprivate init(table: UInt64, place: Int, byteCount: Int, isTarget: Bool) {
        unsafe memory = .allocate(
            byteCount: byteCount, alignment: isTarget ? BlockDevice.blockSize : 16)
        self.table = table
        self.place = place
    }

    deinit {
        unsafe memory.deallocate()
        unsafe heads?.deallocate()
    }

    var byteCount: Int { unsafe memory.count + headBytes }

    /// Makes it faster to search.
    private func addHeads() {
        guard let count = entries?.count else { return }
        let heads = UnsafeMutablePointer<UInt64>.allocate(capacity: count)
        unsafe self.heads = unsafe heads
        headBytes = count * MemoryLayout<UInt64>.size
        unsafe entries?.search(with: heads)
    }

    func mayContain(_ hash: UInt64) -> Bool {
        unsafe TableFilter.mayContain(hash, UnsafeRawBufferPointer(memory), bits: filterBits)
    }

    /// Which part of a table a block is.
    enum Kind { case entries, filter }

    /// The most bytes that are read through memory of the store, which is registered: up to here
    /// copying costs less than what that spares.
    private static let copiedBytesMax = 32 << 10

    /// Reads and verifies `blocks` device blocks at `place` of a table.
    static func read(
        _ kind: Kind, of info: TableInfo, place: Int, blocks: Int, from store: BlockStore
    ) async throws(VOSError) -> CachedBlock {
        let size = blocks * BlockDevice.blockSize
        let block: CachedBlock
        do throws(BIOError) {
            if size > copiedBytesMax {
                block = CachedBlock(
                    table: info.id, place: place, byteCount: size, isTarget: true)
                try unsafe await store.read(
                    into: block.memory, from: info.extents, firstBlock: place)
            } else {
                let buffer = store.buffers.take(size)
                defer { store.buffers.give(buffer) }
                let bytes = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[0..<size])
                try unsafe await store.read(into: bytes, from: info.extents, firstBlock: place)
                block = CachedBlock(
                    table: info.id, place: place, byteCount: size, isTarget: false)
                unsafe block.memory.copyMemory(from: UnsafeRawBufferPointer(bytes))
            }
        } catch {
            throw VOS.error(error)
        }
        try block.verify(kind, info, store)
        block.addHeads()
        return block
    }

    /// A block of entries out of a larger piece of a table that was read.
    static func copied(
        from bytes: UnsafeRawBufferPointer, of info: TableInfo, place: Int, store: BlockStore
    ) throws(VOSError) -> CachedBlock {
        let block = CachedBlock(
            table: info.id, place: place, byteCount: bytes.count, isTarget: false)
        unsafe block.memory.copyMemory(from: bytes)
        try block.verify(.entries, info, store)
        return block
    }

    private func verify(
        _ kind: Kind, _ info: TableInfo, _ store: BlockStore
    ) throws(VOSError) {
        let bytes = unsafe UnsafeRawBufferPointer(memory)
        switch kind {
        case .entries: unsafe entries = EntryBlock(bytes, table: table, place: place)
        case .filter:
            unsafe filterBits = TableFilter.bits(bytes, table: table, place: place) ?? 0
        }
        guard entries != nil || filterBits > 0 else {
            if let start = info.extents.block(place) { store.noteDamage(at: start) }
            throw info.damage(
                "block \(place) does not match its checksum", at: place, in: store)
        }
    }
}

/// Blocks of tables in memory, up to a number of bytes. What goes is the oldest that was not used
/// since it was looked at last (CLOCK).
final class BlockCache {
    private struct Key: Hashable {
        let table: UInt64
        let place: Int

        func _rawHashValue(seed: Int) -> Int {
            FastHash.hash(table, UInt64(place), seed: seed)
        }
    }

    let bytesMax: Int
    private(set) var bytes = 0
    @safe @exclusivity(unchecked) private var blocks: [Key: CachedBlock] = [:]
    private var queue = Deque<CachedBlock>()

    init(bytesMax: Int) { self.bytesMax = bytesMax }

    @inline(__always)
    func block(table: UInt64, place: Int) -> CachedBlock? {
        guard let block = blocks[Key(table: table, place: place)] else { return nil }
        if !block.wasUsed { block.wasUsed = true }
        return block
    }

    func insert(_ block: CachedBlock) {
        let key = Key(table: block.table, place: block.place)
        guard blocks[key] == nil else { return }
        blocks[key] = block
        block.isKept = true
        bytes += block.byteCount
        queue.append(block)
        while bytes > bytesMax, let oldest = queue.popFirst() {
            if oldest.isKept, oldest.wasUsed, queue.count > 0 {
                oldest.wasUsed = false
                queue.append(oldest)
            } else {
                remove(oldest)
            }
        }
    }

    private func remove(_ block: CachedBlock) {
        guard block.isKept else { return }
        block.isKept = false
        blocks[Key(table: block.table, place: block.place)] = nil
        bytes -= block.byteCount
    }
}
