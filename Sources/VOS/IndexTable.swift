internal import BIO
internal import DrayRuntime

/// A table of the index that can be read.
final class IndexTable {
    let info: TableInfo
    let store: BlockStore
    let cache: BlockCache
    /// A merge is reading it, and will replace it.
    var isMerging = false

    init(_ info: TableInfo, store: BlockStore, cache: BlockCache) {
        self.info = info
        self.store = store
        self.cache = cache
    }

    /// A block of entries, or the fences, that is in memory.
    @inline(__always)
    func cached(_ place: Int) -> CachedBlock? { cache.block(table: info.id, place: place) }

    /// `blocks` device blocks at `place`, from memory or from the device.
    func block(
        _ kind: CachedBlock.Kind, place: Int, blocks: Int
    ) async throws(VOSError) -> CachedBlock {
        if let block = cached(place) { return block }
        guard place >= 0, blocks > 0, place + blocks <= info.blocks else {
            throw info.damage(
                "its fences name \(blocks) blocks from \(place) on", at: info.fencePlace, in: store)
        }
        let block = try await CachedBlock.read(
            kind, of: info, place: place, blocks: blocks, from: store)
        cache.insert(block)
        return block
    }

    func fences() async throws(VOSError) -> CachedBlock {
        try await block(
            .entries, place: info.fencePlace, blocks: info.filterPlace - info.fencePlace)
    }

    /// The filter, if it is in memory.
    var cachedFilter: CachedBlock? { cached(info.filterPlace) }

    /// Whether the table may have a name, or the punch of one, with this hash.
    func mayContain(_ hash: UInt64) async throws(VOSError) -> Bool {
        let filter = try await block(
            .filter, place: info.filterPlace, blocks: info.blocks - info.filterPlace)
        return filter.mayContain(hash)
    }

    /// The first entry that is not below `target`, if it begins with the first `prefix` bytes of
    /// that.
    func first(
        from target: IndexKey.Bytes, prefix: Int
    ) async throws(VOSError) -> (key: IndexKey.Bytes, record: IndexRecord)? {
        let fences = try await fences()
        guard let fenceEntries = fences.entries else { return nil }
        var index = unsafe target.withUnsafeBytes { target in
            unsafe TableFences.index(of: target, in: fenceEntries)
        }
        while index < fenceEntries.count {
            let (place, blocks) = TableFences.place(index, in: fenceEntries)
            let block = try await block(.entries, place: place, blocks: blocks)
            guard let entries = block.entries else { return nil }
            let position = unsafe target.withUnsafeBytes { unsafe entries.lowerBound($0) }
            guard position == entries.count else {
                return try entry(position, in: block, ifPrefixed: target, prefix)
            }
            index += 1
        }
        return nil
    }

    private func entry(
        _ index: Int, in block: CachedBlock, ifPrefixed target: IndexKey.Bytes, _ prefix: Int
    ) throws(VOSError) -> (key: IndexKey.Bytes, record: IndexRecord)? {
        guard let entries = block.entries else { return nil }
        let (rest, value) = unsafe entries.entry(index)
        var key = IndexKey.Bytes()
        key.reserveCapacity(entries.prefixLength + rest.count)
        unsafe key.append(contentsOf: entries.prefix)
        unsafe key.append(contentsOf: rest)
        guard IndexKey.agree(key, target, length: prefix) else { return nil }
        let record = unsafe key.withUnsafeBytes { key in
            unsafe EntryCoding.record(key: key, value: value)
        }
        guard let record else { throw malformed(block.place) }
        return (key, record)
    }

    /// The error for a block, or for fences, with something that is no entry.
    func malformed(_ place: Int) -> VOSError {
        info.damage("block \(place) has what is no entry", at: place, in: store)
    }
}

/// Reads the fences of a table.
enum TableFences {
    /// Which block has `key`, if there is one that has.
    static func index(of key: UnsafeRawBufferPointer, in fences: EntryBlock) -> Int {
        let position = unsafe fences.lowerBound(key)
        if position < fences.count {
            let (rest, _) = unsafe fences.entry(position)
            if key.count == fences.prefixLength + rest.count,
                unsafe IndexKey.common(
                    UnsafeRawBufferPointer(rebasing: key[fences.prefixLength...]), rest)
                    == rest.count
            {
                return position
            }
        }
        return max(0, position - 1)
    }

    /// Where a block is, and how many device blocks it has.
    static func place(_ index: Int, in fences: EntryBlock) -> (place: Int, blocks: Int) {
        let (_, value) = unsafe fences.entry(index)
        guard value.count == 8 else { return (0, 0) }
        return unsafe (
            Int(value.loadUnaligned(as: UInt32.self)),
            Int(value.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
        )
    }

    static func value(place: Int, blocks: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.put(UInt32(place))
        bytes.put(UInt32(blocks))
        return bytes
    }
}
