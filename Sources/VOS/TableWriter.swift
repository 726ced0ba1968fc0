internal import BIO
internal import DrayRuntime

/// Writes entries, which come in ascending order, to new tables.
///
/// Blocks are gathered and written 64 KiB at a time, into blocks of the device that are reserved as
/// they are needed: what updates write to the log waits behind each of these writes.
struct TableWriter {
    /// What is gathered before it is written.
    private static let pieceBytes = 64 << 10
    /// A block is closed before it has more than this many bytes.
    private static let blockBytes = 8 << 10

    private let store: BlockStore
    private let level: Int
    private let bytesMax: Int
    private let nextID: () -> UInt64
    private let giveWay: () async -> Void

    /// The tables that are complete.
    private(set) var tables: [TableInfo] = []
    private var info = TableInfo()
    private var block = EntryBlockBuilder()
    private var fences = EntryBlockBuilder()
    private var hashes: [UInt64] = []
    private var piece: [UInt8] = []
    /// How many device blocks were given to the device.
    private var written = 0
    /// The last key that was added; of all tables.
    private(set) var last: IndexKey.Bytes = []
    private var lastHead = EntryHead()
    /// The last key of the block before.
    private var lastOfBlock: IndexKey.Bytes = []

    init(
        store: BlockStore, level: Int, bytesMax: Int, nextID: @escaping () -> UInt64,
        giveWay: @escaping () async -> Void
    ) {
        self.store = store
        self.level = level
        self.bytesMax = bytesMax
        self.nextID = nextID
        self.giveWay = giveWay
    }

    /// The blocks of all tables so far, the unfinished one's included.
    var extents: [BlockExtent] { tables.flatMap(\.extents) + info.extents }

    /// Adds an entry. When this returns true, call `flush` before the next one.
    mutating func add(
        _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, _ head: EntryHead,
        hiddenFrom: UInt64?
    ) -> Bool {
        let common =
            info.entries == 0 ? 0 : unsafe last.withUnsafeBytes { unsafe IndexKey.common($0, key) }
        if !block.isEmpty,
            unsafe block.byteCount(adding: key, valueCount: value.count) > TableWriter.blockBytes
        {
            closeBlock()
        }
        if info.entries == 0 {
            info.id = nextID()
            info.level = level
            info.firstKey = unsafe IndexKey.Bytes(key)
            info.firstNameEnd = head.nameEnd
        }
        if block.isEmpty { unsafe openBlock(key) }
        unsafe block.add(key, value)
        unsafe addHashes(key, head, common)
        unsafe count(key, head, hiddenFrom: hiddenFrom)
        last.removeAll(keepingCapacity: true)
        unsafe last.append(contentsOf: key)
        lastHead = head
        return piece.count >= TableWriter.pieceBytes
    }

    /// Whether the table should end before `key`: it is large enough, and another akey begins; or
    /// it is twice as large as that.
    func mustEnd(before key: UnsafeRawBufferPointer) -> Bool {
        guard info.entries > 0, byteCount >= bytesMax else { return false }
        let common = unsafe last.withUnsafeBytes { unsafe IndexKey.common($0, key) }
        return isComplete(common)
    }

    private func isComplete(_ common: Int) -> Bool {
        let size = byteCount
        return size >= 2 * bytesMax || size >= bytesMax && common < lastHead.nameEnd
    }

    /// Of what was added to the table, without the block that is open.
    private var byteCount: Int { written * BlockDevice.blockSize + piece.count }

    private mutating func openBlock(_ key: UnsafeRawBufferPointer) {
        // Long enough to be above the block before.
        let common = unsafe lastOfBlock.withUnsafeBytes { unsafe IndexKey.common($0, key) }
        let length = fences.isEmpty ? key.count : min(key.count, common + 1)
        let place = byteCount / BlockDevice.blockSize
        let separator = unsafe UnsafeRawBufferPointer(rebasing: key[0..<length])
        // How many blocks it has is known when it is closed.
        unsafe TableFences.value(place: place, blocks: 0).withUnsafeBytes {
            unsafe fences.add(separator, $0)
        }
    }

    private mutating func closeBlock() {
        let place = byteCount / BlockDevice.blockSize
        let bytes = block.finish(table: info.id, place: place)
        fences.setLastValue(
            TableFences.value(place: place, blocks: bytes.count / BlockDevice.blockSize))
        piece.append(contentsOf: bytes)
        lastOfBlock.removeAll(keepingCapacity: true)
        lastOfBlock.append(contentsOf: last)
    }

    private mutating func addHashes(
        _ key: UnsafeRawBufferPointer, _ head: EntryHead, _ common: Int
    ) {
        if head.kind.isPunch {
            let name = unsafe UnsafeRawBufferPointer(rebasing: key[0..<head.nameEnd])
            unsafe hashes.append(TableFilter.punch(name))
        } else {
            for end in [head.dkeyEnd, head.akeyEnd] where common < end || lastHead.kind.isPunch {
                let name = unsafe UnsafeRawBufferPointer(rebasing: key[0..<end])
                unsafe hashes.append(TableFilter.path(name))
            }
        }
    }

    private mutating func count(
        _ key: UnsafeRawBufferPointer, _ head: EntryHead, hiddenFrom: UInt64?
    ) {
        info.entries += 1
        info.epochMin = min(info.epochMin, head.epoch)
        info.weight += head.weight
        info.valueBlocks += head.blockCount
        if head.kind.isPunch {
            unsafe info.addPunch(of: key)
            let end = IndexKey.successor(
                ofPrefix: unsafe IndexKey.Bytes(key[0..<head.nameEnd]))
            if IndexKey.compare(end, info.reach) > 0 { info.reach = end }
        }
        if hiddenFrom == .max {
            info.held += 1
        } else if let hiddenFrom {
            info.hiddenWeight += head.weight
            info.hiddenEpoch = min(info.hiddenEpoch, hiddenFrom)
        }
    }

    // MARK: - Writing

    /// Writes what has gathered.
    mutating func flush() async throws(VOSError) {
        guard !piece.isEmpty else { return }
        let blocks = piece.count / BlockDevice.blockSize
        let extents: [BlockExtent]
        do throws(BIOError) {
            extents = try store.allocator.reserve(
                blocks: UInt32(blocks), privileged: true, stream: .metadata)
        } catch {
            throw VOS.error(error)
        }
        for extent in extents { info.append(extent) }
        written += blocks
        let buffer = store.buffers.take(piece.count)
        defer { store.buffers.give(buffer) }
        let bytes = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[0..<piece.count])
        unsafe bytes.copyBytes(from: piece)
        piece.removeAll(keepingCapacity: true)
        do throws(BIOError) {
            try unsafe await store.write(UnsafeRawBufferPointer(bytes), to: extents)
        } catch {
            throw VOS.error(error)
        }
    }

    /// Ends the table, if there is one: fences and filter.
    mutating func endTable() async throws(VOSError) {
        guard info.entries > 0 else { return }
        if !block.isEmpty { closeBlock() }
        info.lastKey = last
        info.lastNameEnd = lastHead.nameEnd
        info.fencePlace = byteCount / BlockDevice.blockSize
        piece.append(contentsOf: fences.finish(table: info.id, place: info.fencePlace))
        info.filterPlace = byteCount / BlockDevice.blockSize
        piece.append(
            contentsOf: await TableFilter.build(
                hashes, table: info.id, place: info.filterPlace, giveWay: giveWay))
        info.blocks = byteCount / BlockDevice.blockSize
        try await flush()
        if IndexKey.compare(info.reach, info.lastKey) <= 0 { info.reach = [] }
        tables.append(info)
        info = TableInfo()
        hashes = []
        written = 0
        lastOfBlock = []
    }
}

extension TableInfo {
    /// Adds blocks behind the last ones.
    fileprivate mutating func append(_ extent: BlockExtent) {
        if let last = extents.last, last.end == UInt64(extent.start) {
            extents[extents.count - 1].count += extent.count
        } else {
            extents.append(extent)
        }
    }
}
