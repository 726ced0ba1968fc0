internal import BIO
internal import DrayChecksums
internal import DrayRuntime

/// Every block and every entry of a table, without the code that an engine reads them with.
extension StoreInspector {
    /// What one table turned out to have.
    private struct Walk {
        let info: TableInfo
        /// Everything was checked before: this walk only gathers versions of arrays.
        var isSecond = false
        var filter: (buffer: IOBuffer, bits: Int)?
        var previous: IndexKey.Bytes = []
        var first: IndexKey.Bytes = []
        var last: EntryHead?
        var firstHead: EntryHead?
        var entries: UInt64 = 0
        var punches: UInt64 = 0
        var weight: UInt64 = 0
        var valueBlocks: UInt64 = 0
        var epochMin: UInt64 = .max
        var reach: IndexKey.Bytes = []
        var firstPunched: IndexKey.Bytes = []
        var lastPunched: IndexKey.Bytes = []
        var hidden = HiddenVersions()
        var isWhole = true
        /// How many names were not in the filter.
        var unknown = 0
    }

    func check(_ info: TableInfo) async {
        guard info.extents.allSatisfy(reader.holds) else {
            // It was named.
            isTablesRead = false
            return
        }
        var walk = Walk(info: info)
        await readFilter(&walk)
        await forEachBlock(&walk)
        if walk.isWhole {
            checkCounts(walk)
        } else {
            isTablesRead = false
        }
    }

    /// Has `recordSizes` see every entry of a table that was checked.
    func addVersions(of info: TableInfo) async {
        var walk = Walk(info: info, isSecond: true)
        await forEachBlock(&walk)
    }

    private func checkCounts(_ walk: Walk) {
        let info = walk.info
        var reach = walk.reach
        if IndexKey.compare(reach, walk.previous) <= 0 { reach = [] }
        let same: [(String, Bool)] = [
            ("number of entries", walk.entries == info.entries),
            ("number of punches", walk.punches == info.punches),
            ("first object with punches", walk.firstPunched == info.firstPunched),
            ("last object with punches", walk.lastPunched == info.lastPunched),
            ("weight", walk.weight == info.weight),
            ("number of blocks of values", walk.valueBlocks == info.valueBlocks),
            ("oldest epoch", walk.epochMin == info.epochMin),
            ("first key", walk.first == info.firstKey),
            ("last key", walk.previous == info.lastKey),
            ("first name", walk.firstHead?.nameEnd == info.firstNameEnd),
            ("last name", walk.last?.nameEnd == info.lastNameEnd),
            ("reach", reach == info.reach),
            ("weight of hidden versions", walk.hidden.agreesAboutWeight(with: info)),
            ("epoch when hidden versions can go", walk.hidden.agreesAboutEpoch(with: info)),
            ("number of versions for snapshots", walk.hidden.agreesAboutHeld(with: info)),
        ]
        for (what, isSame) in same where !isSame {
            add(
                .table, "the \(what) of table \(info.id) is not what the manifest says",
                info.extents.first?.start, table: info.id)
        }
    }

    // MARK: - Blocks

    /// The device block at a place of a table.
    private func block(_ info: TableInfo, _ place: Int) -> UInt32? { info.extents.block(place) }

    /// Reads a part of a table; nil, with a finding, when that fails.
    private func read(
        _ info: TableInfo, _ place: Int, _ blocks: Int, _ part: StoreFinding.Part, _ what: String
    ) async -> IOBuffer? {
        guard place >= 0, blocks > 0, blocks <= info.blocks - place,
            blocks * BlockDevice.blockSize <= StoreInspector.readMax
        else {
            add(
                part, "\(what) would be \(blocks) blocks from \(place) on", nil, table: info.id)
            return nil
        }
        let buffer = IOBuffer(count: blocks * BlockDevice.blockSize)
        do throws(BIOError) {
            try unsafe await reader.read(
                into: buffer.bytes, from: info.extents, firstBlock: place)
        } catch {
            add(
                part, "\(what) cannot be read: \(StoreInspector.words(error))",
                block(info, place), table: info.id)
            return nil
        }
        return buffer
    }

    private func readFilter(_ walk: inout Walk) async {
        let info = walk.info
        let what = "the filter of table \(info.id)"
        guard
            let buffer = await read(
                info, info.filterPlace, info.blocks - info.filterPlace, .filter, what)
        else { return }
        let bits = unsafe TableFilter.bits(
            UnsafeRawBufferPointer(buffer.bytes), table: info.id, place: info.filterPlace)
        guard let bits else {
            add(
                .filter, "\(what) does not match its checksum", block(info, info.filterPlace),
                table: info.id)
            return
        }
        walk.filter = (buffer, bits)
    }

    /// Follows the fences; where there are none, goes from one block to the next.
    private func forEachBlock(_ walk: inout Walk) async {
        let info = walk.info
        let what = "the fences of table \(info.id)"
        let buffer = await read(
            info, info.fencePlace, info.filterPlace - info.fencePlace, .fences, what)
        guard let buffer else {
            await forEachBlockWithoutFences(&walk)
            return
        }
        let fences = unsafe EntryBlock(
            UnsafeRawBufferPointer(buffer.bytes), table: info.id, place: info.fencePlace)
        guard let fences else {
            add(
                .fences, "\(what) do not match their checksum", block(info, info.fencePlace),
                table: info.id)
            await forEachBlockWithoutFences(&walk)
            return
        }
        var end = 0
        for index in 0..<fences.count {
            let (place, blocks) = TableFences.place(index, in: fences)
            guard place == end, blocks > 0, place + blocks <= info.fencePlace else {
                add(
                    .fences,
                    "fence \(index) of table \(info.id) is about \(blocks) blocks from "
                        + "\(place) on, where block \(end) should be the next",
                    block(info, info.fencePlace), table: info.id)
                walk.isWhole = false
                await forEachBlockWithoutFences(from: end, &walk)
                return
            }
            end = place + blocks
            let (rest, _) = unsafe fences.entry(index)
            var fence = unsafe IndexKey.Bytes(fences.prefix)
            unsafe fence.append(contentsOf: rest)
            await checkBlock(place, blocks, fence: fence, &walk)
        }
        if end != info.fencePlace {
            add(
                .fences,
                "the fences of table \(info.id) end at block \(end) of "
                    + "\(info.fencePlace)", block(info, info.fencePlace), table: info.id)
            walk.isWhole = false
            await forEachBlockWithoutFences(from: end, &walk)
        }
        withExtendedLifetime(buffer) {}
    }

    private func forEachBlockWithoutFences(from start: Int = 0, _ walk: inout Walk) async {
        let info = walk.info
        var place = start
        while place < info.fencePlace {
            let what = "block \(place) of table \(info.id)"
            guard let head = await read(info, place, 1, .table, what) else {
                walk.isWhole = false
                place += 1
                continue
            }
            let bytes = unsafe UnsafeRawBufferPointer(head.bytes)
            let used = unsafe Int(bytes.loadUnaligned(fromByteOffset: 16, as: UInt32.self))
            let blocks = VOS.blockCount(used)
            let table = unsafe bytes.loadUnaligned(fromByteOffset: 4, as: UInt64.self)
            let number = unsafe bytes.loadUnaligned(fromByteOffset: 12, as: UInt32.self)
            let isHead =
                table == info.id && Int(number) == place && used >= EntryBlock.headerLength
                && blocks <= info.fencePlace - place
            if isHead {
                await checkBlock(place, blocks, fence: nil, &walk)
                place += blocks
            } else {
                add(
                    .table, "\(what) does not begin as a block of it does", block(info, place),
                    table: info.id)
                walk.isWhole = false
                place += 1
            }
        }
    }

    private func checkBlock(
        _ place: Int, _ blocks: Int, fence: IndexKey.Bytes?, _ walk: inout Walk
    ) async {
        let info = walk.info
        let what = "block \(place) of table \(info.id)"
        guard let buffer = await read(info, place, blocks, .table, what) else {
            walk.isWhole = false
            return
        }
        let entries = unsafe EntryBlock(
            UnsafeRawBufferPointer(buffer.bytes), table: info.id, place: place)
        guard let entries else {
            add(
                .table, "\(what) does not match its checksum", block(info, place), table: info.id)
            walk.isWhole = false
            return
        }
        for index in 0..<entries.count {
            let (rest, value) = unsafe entries.entry(index)
            var key = unsafe IndexKey.Bytes(entries.prefix)
            unsafe key.append(contentsOf: rest)
            let record = unsafe key.withUnsafeBytes { key in
                unsafe EntryCoding.record(key: key, value: value)
            }
            let head = unsafe key.withUnsafeBytes { key in
                unsafe EntryCoding.head(key: key, value: value)
            }
            if index == 0, let fence,
                IndexKey.compare(fence, key) > 0
                    || (!walk.previous.isEmpty && IndexKey.compare(fence, walk.previous) <= 0)
            {
                add(
                    .fences, "the fence of \(what) is not between it and the one before",
                    block(info, info.fencePlace), table: info.id)
            }
            guard let record, let head,
                let name = StoreEntry.Name(key: key, record, stamp: record.stamp)
            else {
                add(
                    .table, "entry \(index) of \(what) cannot be read", block(info, place),
                    table: info.id)
                walk.isWhole = false
                continue
            }
            if walk.isSecond {
                addVersion(key, head, name)
                walk.previous = key
                continue
            }
            if IndexKey.compare(walk.previous, key) >= 0 {
                add(
                    .table, "entry \(index) of \(what) is out of order", block(info, place),
                    table: info.id, entry: name)
            }
            count(key, head, &walk)
            checkFilter(key, head, name, &walk)
            await look(at: record, key, head, name, info)
            walk.previous = key
        }
        withExtendedLifetime(buffer) {}
        progress(state)
    }

    // MARK: - Entries

    private func count(_ key: IndexKey.Bytes, _ head: EntryHead, _ walk: inout Walk) {
        if walk.entries == 0 {
            walk.first = key
            walk.firstHead = head
        }
        walk.last = head
        walk.entries += 1
        walk.weight &+= head.weight
        walk.valueBlocks &+= head.blockCount
        walk.epochMin = min(walk.epochMin, head.epoch)
        if head.kind.isPunch {
            walk.punches += 1
            walk.lastPunched = Array(key[0..<IndexKey.objectLength])
            if walk.firstPunched.isEmpty { walk.firstPunched = walk.lastPunched }
            let end = IndexKey.successor(ofPrefix: Array(key[0..<head.nameEnd]))
            if IndexKey.compare(end, walk.reach) > 0 { walk.reach = end }
        }
        let hiddenEpoch = walk.info.hiddenEpoch
        unsafe key.withUnsafeBytes { unsafe walk.hidden.add($0, head, below: hiddenEpoch) }
    }

    private func checkFilter(
        _ key: IndexKey.Bytes, _ head: EntryHead, _ name: StoreEntry.Name, _ walk: inout Walk
    ) {
        guard let filter = walk.filter else { return }
        let ends = head.kind.isPunch ? [head.nameEnd] : [head.dkeyEnd, head.akeyEnd]
        for end in ends {
            let hash = unsafe key.withUnsafeBytes { key in
                let prefix = unsafe UnsafeRawBufferPointer(rebasing: key[0..<end])
                return unsafe head.kind.isPunch
                    ? TableFilter.punch(prefix) : TableFilter.path(prefix)
            }
            let isKnown = unsafe TableFilter.mayContain(
                hash, UnsafeRawBufferPointer(filter.buffer.bytes), bits: filter.bits)
            guard !isKnown else { continue }
            walk.unknown += 1
            guard walk.unknown <= StoreInspector.placesMax else { continue }
            add(
                .filter, "a name is not in the filter of table \(walk.info.id)",
                block(walk.info, walk.info.filterPlace), table: walk.info.id, entry: name)
        }
    }

    private func look(
        at record: IndexRecord, _ key: IndexKey.Bytes, _ head: EntryHead, _ name: StoreEntry.Name,
        _ info: TableInfo
    ) async {
        unsafe key.withUnsafeBytes { bytes in
            unsafe usages.add(bytes, head)
            if unsafe recordContainers.contains(ContainerName(bytes)) {
                recordSizes.note(key, head, notesAll: true)
            }
        }
        state.entries += 1
        checkRecords(record, name, part: .table, table: info.id)
        let blocks = record.blocks
        refer(
            blocks, part: .value, "a value", table: info.id, entry: name)
        for extent in blocks where reader.holds(extent) {
            _ = tableValues.insert(extent)
            guard isMapRead else { continue }
            let missing = (extent.start..<extent.start + extent.count).first {
                !marked.contains($0)
            }
            if let missing {
                add(
                    .blockMap, "block \(missing) has a value, and the block map does not mark it",
                    missing, table: info.id, entry: name)
            }
        }
        visit(
            StoreEntry(
                name: name, table: info.id, blocks: blocks,
                checksumType: record.checksumType, checksums: record.checksums()))
        await verify(record, name, table: info.id)
    }

    /// An extent has whole records.
    func checkRecords(
        _ record: IndexRecord, _ name: StoreEntry.Name, part: StoreFinding.Part, table: UInt64?
    ) {
        do throws(VOSError) {
            try VOS.checkRecords(
                record.recordSize, offset: record.offset, byteCount: Int(record.byteCount))
        } catch {
            add(
                part, "an extent does not have whole records of \(record.recordSize) bytes",
                record.blocks.first?.start, table: table, entry: name)
        }
    }

    /// Compares a value with its checksums.
    func verify(_ record: IndexRecord, _ name: StoreEntry.Name, table: UInt64?) async {
        guard depth >= .values, record.chunkCount > 0 else { return }
        let byteCount = Int(record.byteCount)
        guard record.hasBlocks else {
            unsafe record.inline.withUnsafeBytes { bytes in
                for chunk in 0..<record.chunkCount {
                    unsafe compare(
                        chunk, bytes, byteCount, record, name, nil, table: table)
                }
            }
            state.verifiedBytes += UInt64(byteCount)
            return
        }
        let blocks = record.blocks
        guard blocks.allSatisfy(reader.holds) else { return }
        let chunkBlocks = VOSLimits.checksumChunk / BlockDevice.blockSize
        let buffer = IOBuffer(count: VOS.blockCount(byteCount) * BlockDevice.blockSize)
        var isRead = false
        do throws(BIOError) {
            try unsafe await reader.read(into: buffer.bytes, from: blocks)
            isRead = true
        } catch {
            // Chunk by chunk, to say which cannot be read.
        }
        for chunk in 0..<record.chunkCount {
            let start = chunk * VOSLimits.checksumChunk
            let block = blocks.block(chunk * chunkBlocks)
            if !isRead {
                let end = min(buffer.count, start + VOSLimits.checksumChunk)
                do throws(BIOError) {
                    try unsafe await reader.read(
                        into: UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[start..<end]),
                        from: blocks, firstBlock: chunk * chunkBlocks)
                } catch {
                    add(
                        .value,
                        "chunk \(chunk) of a value cannot be read: "
                            + StoreInspector.words(error), block, table: table, entry: name)
                    continue
                }
            }
            unsafe compare(
                chunk, UnsafeRawBufferPointer(buffer.bytes), byteCount, record, name, block,
                table: table)
        }
        state.verifiedBytes += UInt64(byteCount)
        progress(state)
    }

    private func compare(
        _ chunk: Int, _ bytes: UnsafeRawBufferPointer, _ byteCount: Int,
        _ record: IndexRecord, _ name: StoreEntry.Name, _ block: UInt32?, table: UInt64?
    ) {
        let start = chunk * VOSLimits.checksumChunk
        let end = min(byteCount, start + VOSLimits.checksumChunk)
        let part = unsafe UnsafeRawBufferPointer(rebasing: bytes[start..<end])
        guard unsafe !record.matches(part, chunk: chunk) else { return }
        add(
            .value, "chunk \(chunk) of a value does not match its checksum", block, table: table,
            entry: name)
    }
}
