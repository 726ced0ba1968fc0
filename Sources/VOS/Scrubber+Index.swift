internal import BIO
internal import DrayRuntime

/// The tables of the index, and what their entries name.
extension Scrubber {
    /// The block of a table that has the entries from some key on, and the next of them.
    private struct Part {
        let table: UInt64
        let block: CachedBlock
        let entries: EntryBlock
        var index: Int
        var key: IndexKey.Bytes = []

        /// Whether there is a next one.
        mutating func load() -> Bool {
            guard index < entries.count else { return false }
            key = unsafe IndexKey.Bytes(entries.prefix)
            unsafe key.append(contentsOf: entries.entry(index).rest)
            return true
        }
    }

    /// One step. Of each level there is at most one table to look at (of level 0, each), and of
    /// that one block; the step ends where the first of these ends, or the next table begins.
    func advance(
        in version: IndexVersion, from key: IndexKey.Bytes, _ work: inout Work
    ) async -> IndexKey.Bytes? {
        var end: IndexKey.Bytes?
        func limit(_ key: IndexKey.Bytes) {
            if end.map({ IndexKey.compare(key, $0) < 0 }) ?? true { end = key }
        }
        var here: [IndexTable] = []
        for table in version.candidates(from: IndexKey.Prefix(key), prefix: .none).map(\.table) {
            if IndexKey.compare(table.info.firstKey, key) <= 0 {
                here.append(table)
            } else {
                limit(table.info.firstKey)
            }
        }
        let ids = Set(here.map(\.info.id))
        open = open.filter { ids.contains($0.key) }
        if let new = here.first(where: { open[$0.info.id] == nil }) {
            await open(new, &work)
            return key
        }
        var parts: [Part] = []
        var used: [BlockName: CachedBlock] = [:]
        for table in here {
            limit(table.info.lastKey + [0])
            let part = await self.part(of: table, from: key, &used, &work, limit)
            if let part { parts.append(part) }
        }
        blocks = used
        guard let end else { return nil }
        return await look(at: parts, before: end, &work)
    }

    // MARK: - Tables

    /// Verifies the fences and the filter of a table that the pass has come to.
    private func open(_ table: IndexTable, _ work: inout Work) async {
        let info = table.info
        work.tables += 1
        work.bytes += (info.blocks - info.fencePlace) * BlockDevice.blockSize
        let filter = "the filter of table \(info.id)"
        _ = await read(
            .filter, info, info.filterPlace, info.blocks - info.filterPlace, .filter, filter)
        let fences = await read(
            .entries, info, info.fencePlace, info.filterPlace - info.fencePlace, .fences,
            "the fences of table \(info.id), without which nothing else of it can be looked at")
        open[info.id] = OpenTable(table: table, fences: fences)
    }

    /// A part of a table, from the device; nil, with a finding, when it is not what it was.
    private func read(
        _ kind: CachedBlock.Kind, _ info: TableInfo, _ place: Int, _ count: Int,
        _ part: StoreFinding.Part, _ what: String
    ) async -> CachedBlock? {
        do throws(VOSError) {
            return try await CachedBlock.read(
                kind, of: info, place: place, blocks: count, from: vos.store)
        } catch {
            var problem = "wrong checksum"
            if case .device(let error) = error {
                problem = "cannot be read: \(StoreInspector.words(error))"
            }
            add(part, "\(what): \(problem)", info.extents.block(place), table: info.id)
            return nil
        }
    }

    /// The block of a table with what comes from `key` on. Nil when there is none, or it is
    /// damaged.
    private func part(
        of table: IndexTable, from key: IndexKey.Bytes, _ used: inout [BlockName: CachedBlock],
        _ work: inout Work, _ limit: (IndexKey.Bytes) -> Void
    ) async -> Part? {
        let info = table.info
        guard let fences = open[info.id]?.fences, let fenceEntries = fences.entries else {
            return nil
        }
        let index = unsafe key.withUnsafeBytes {
            unsafe TableFences.index(of: $0, in: fenceEntries)
        }
        if index + 1 < fenceEntries.count { limit(fence(index + 1, in: fenceEntries)) }
        let (place, count) = TableFences.place(index, in: fenceEntries)
        let name = BlockName(table: info.id, place: place)
        guard !damagedBlocks.contains(name) else { return nil }
        guard place >= 0, count > 0, place + count <= info.fencePlace else {
            damagedBlocks.insert(name)
            add(
                .fences, "a fence of table \(info.id) is about \(count) blocks from \(place) on",
                info.extents.block(info.fencePlace), table: info.id)
            return nil
        }
        var block = blocks[name]
        if block == nil {
            let object = ContainerName.objectText(fence(index, in: fenceEntries))
            work.bytes += count * BlockDevice.blockSize
            block = await read(
                .entries, info, place, count, .table,
                "block \(place) of table \(info.id)\(object)")
        }
        guard let block, let entries = block.entries else {
            damagedBlocks.insert(name)
            return nil
        }
        used[name] = block
        var part = Part(
            table: info.id, block: block, entries: entries,
            index: unsafe key.withUnsafeBytes { unsafe entries.lowerBound($0) })
        return part.load() ? part : nil
    }

    private func fence(_ index: Int, in fences: EntryBlock) -> IndexKey.Bytes {
        var key = unsafe IndexKey.Bytes(fences.prefix)
        unsafe key.append(contentsOf: fences.entry(index).rest)
        return key
    }

    // MARK: - Entries

    /// Verifies the entries of `parts` in the order of their keys, up to `end` or until it is
    /// enough.
    private func look(
        at parts: [Part], before end: IndexKey.Bytes, _ work: inout Work
    ) async -> IndexKey.Bytes {
        var parts = parts
        while true {
            var first: Int?
            for index in parts.indices {
                if let best = first, IndexKey.compare(parts[best].key, parts[index].key) <= 0 {
                    continue
                }
                first = index
            }
            guard let first, IndexKey.compare(parts[first].key, end) < 0 else { return end }
            let part = parts[first]
            let (_, value) = unsafe part.entries.entry(part.index)
            let place = open[part.table].flatMap {
                $0.table.info.extents.block(part.block.place)
            }
            let record = unsafe part.key.withUnsafeBytes { key in
                unsafe EntryCoding.record(key: key, value: value)
            }
            work.entries += 1
            if let record, let name = StoreEntry.Name(key: part.key, record, stamp: record.stamp) {
                await verify(record, name, table: part.table, at: place, &work)
            } else {
                add(
                    .table,
                    "an entry of block \(part.block.place) of table \(part.table) cannot be read",
                    place, table: part.table)
            }
            guard !work.isEnough else { return part.key + [0] }
            parts[first].index += 1
            if !parts[first].load() { parts.remove(at: first) }
        }
    }

    /// Compares a value with its checksums. `place` is the block of the table that names it.
    private func verify(
        _ record: IndexRecord, _ name: StoreEntry.Name, table: UInt64, at place: UInt32?,
        _ work: inout Work
    ) async {
        guard record.chunkCount > 0 else { return }
        work.values += 1
        guard record.hasBlocks else {
            let isIntact = unsafe record.inline.withUnsafeBytes { bytes in
                unsafe record.firstDamagedChunk(bytes) == nil
            }
            if !isIntact {
                add(
                    .value, "a value in the index does not match its checksum", place,
                    table: table, entry: name)
            }
            return
        }
        var damage = Damage()
        let step = Scrubber.pieceBytes / VOSLimits.checksumChunk
        var chunk = 0
        while chunk < record.chunkCount {
            await verify(record, chunk, min(chunk + step, record.chunkCount), &damage)
            chunk += step
            if chunk < record.chunkCount { await vos.giveWay() }
        }
        work.bytes += Int(record.blockCount) * BlockDevice.blockSize
        guard let first = damage.chunks.first else { return }
        let problem = damage.unreadable.map { "cannot be read: \($0)" }
        add(
            .value,
            "\(damage.chunks.count) of the \(record.chunkCount) chunks of a value, from chunk "
                + "\(first) on, " + (problem ?? "do not match their checksums"),
            record.blocks.block(first * Scrubber.chunkBlocks), table: table, entry: name)
    }

    /// What is read of a value at once.
    private static let pieceBytes = 256 << 10
    private static let chunkBlocks = VOSLimits.checksumChunk / BlockDevice.blockSize

    /// The chunks of a value that are not what they were.
    private struct Damage {
        var chunks: [Int] = []
        /// Why the first could not be read that could not.
        var unreadable: String?
    }

    /// Reads and compares chunks `first ..< end`; one by one, when they cannot be read together.
    private func verify(
        _ record: IndexRecord, _ first: Int, _ end: Int, _ damage: inout Damage
    ) async {
        let start = first * VOSLimits.checksumChunk
        let stop = min(Int(record.byteCount), end * VOSLimits.checksumChunk)
        let size = VOS.blockCount(stop - start) * BlockDevice.blockSize
        let buffer = vos.store.buffers.take(size)
        defer { vos.store.buffers.give(buffer) }
        do throws(BIOError) {
            try unsafe await vos.store.read(
                into: UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[0..<size]),
                from: record.blocks, firstBlock: first * Scrubber.chunkBlocks)
        } catch {
            guard end == first + 1 else {
                for chunk in first..<end { await verify(record, chunk, chunk + 1, &damage) }
                return
            }
            damage.chunks.append(first)
            damage.unreadable = damage.unreadable ?? StoreInspector.words(error)
            return
        }
        let bytes = unsafe UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<stop - start])
        var chunk = first
        while chunk < end {
            let rest = unsafe UnsafeRawBufferPointer(
                rebasing: bytes[((chunk - first) * VOSLimits.checksumChunk)...])
            guard let bad = unsafe record.firstDamagedChunk(rest, from: chunk) else { break }
            damage.chunks.append(bad)
            vos.noteDamage(record, chunk: bad)
            chunk = bad + 1
        }
    }
}

extension ContainerName {
    /// Says where in the index a key is, as far as it can be told from the beginning of that.
    fileprivate static func objectText(_ key: IndexKey.Bytes) -> String {
        guard key.count >= IndexKey.objectLength else { return "" }
        let pool = UniqueID(high: key.word(at: 0), low: key.word(at: 8))
        let container = UniqueID(high: key.word(at: 16), low: key.word(at: 24))
        let object = ObjectID(high: key.word(at: 32), low: key.word(at: 40))
        return ", from object \(object) of container \(container) of pool \(pool) on"
    }
}
