package import BIO
internal import DrayRuntime

/// Looks at a closed store, and changes nothing. Nothing that is on the device traps; after damage
/// it goes on with what it can reach.
///
/// It decides by itself what is in use, from the manifest, the tables and the log, and compares
/// that with what the store says.
package final class StoreInspector {
    /// How far it looks.
    package enum Depth: Int, Comparable, Sendable {
        /// Superblocks, log and manifest.
        case summary
        /// Every entry of every table, too.
        case tables
        /// The bytes of every value, too.
        case values

        package static func < (left: Depth, right: Depth) -> Bool {
            left.rawValue < right.rawValue
        }
    }

    /// How far it is.
    package struct Progress: Hashable, Sendable {
        package var tables = 0
        package var tablesTotal = 0
        package var entries: UInt64 = 0
        package var verifiedBytes: UInt64 = 0
        /// What the values of the tables take; the log's are not counted.
        package var bytesTotal: UInt64 = 0
    }

    /// Of one kind of damage that could be long, this many places are named.
    static let placesMax = 16

    let reader: StoreReader
    let depth: Depth
    let visit: (StoreEntry) -> Void
    let progress: (Progress) -> Void
    var report: InspectionReport
    var state = Progress()
    /// All blocks that something refers to.
    var used: BlockSet
    /// The blocks of values in tables, as the tables say.
    var tableValues: BlockSet
    /// The same as the block map says, and whether all of that could be read.
    var marked: BlockSet
    var isMapRead = true
    /// What tables really have.
    var usages = UsageTable()
    /// Every entry of every table was read.
    var isTablesRead = true
    /// What the log has changed, and the stamps of that.
    var changes: [(operation: PreparedOperation, stamp: UInt64)] = []
    /// Containers with arrays in tables whose records are not single bytes.
    var recordContainers: Set<ContainerName> = []
    var recordSizes = RecordSizeHistory()
    /// What was destroyed, and may still have entries.
    var destroyed: [DestroyedRange] = []
    var snapshots = SnapshotTable()

    private init(
        _ reader: StoreReader, _ depth: Depth, visit: @escaping (StoreEntry) -> Void,
        progress: @escaping (Progress) -> Void
    ) {
        self.reader = reader
        self.depth = depth
        self.visit = visit
        self.progress = progress
        used = BlockSet(totalBlocks: reader.totalBlocks)
        tableValues = used
        marked = used
        report = InspectionReport(
            identity: reader.identity, partition: reader.partition, sequence: reader.sequence,
            log: reader.log)
    }

    /// Looks at the store of `reader`. `visit` gets the entries of the log and, from the depth
    /// `.tables` on, those of the tables, table after table, each in order.
    package static func inspect(
        _ reader: StoreReader, depth: Depth, visit: @escaping (StoreEntry) -> Void = { _ in },
        progress: @escaping (Progress) -> Void = { _ in }
    ) async -> InspectionReport {
        let inspector = StoreInspector(reader, depth, visit: visit, progress: progress)
        await inspector.run()
        return inspector.report
    }

    private func run() async {
        var prepared: [DTX] = []
        var manifest: Manifest?
        if let root = reader.checkpoint {
            let piece = ManifestPiece(root)
            refer(piece)
            manifest = await readManifest(root, piece)
        }
        if let manifest {
            await look(at: manifest, &prepared)
        }
        await readLog(prepared)
        await checkRecordSizes(manifest)
        for damage in reader.damage {
            report.findings.append(
                StoreFinding(
                    part: damage.part == .log ? .log : .superblock, what: damage.what,
                    device: damage.device, offset: damage.offset))
        }
        report.log = reader.log
        report.notes += reader.notes
        if reader.log.isUnsealed {
            report.notes.append("the log has no seal: the store was not closed")
        }
        if reader.log.isTorn {
            report.notes.append("the log ends with a group that was never durable")
        }
        count()
    }

    // MARK: - Manifest

    private func readManifest(_ root: CheckpointRoot, _ piece: ManifestPiece) async -> Manifest? {
        guard let bytes = await read(piece) else { return nil }
        let manifest: Manifest
        do throws(MalformedBytes) {
            manifest = try Manifest.decode(bytes)
        } catch {
            add(.manifest, "the manifest cannot be read: \(error.what)", root.extents.first?.start)
            return nil
        }
        let start = root.extents.first?.start
        if manifest.sequence != root.logSequence {
            add(
                .manifest,
                "the manifest is of record \(manifest.sequence), the superblock says "
                    + "\(root.logSequence)", start)
        }
        let pages = BlockMap(totalBlocks: reader.totalBlocks).pageCount
        if manifest.pages.count != pages {
            add(
                .manifest,
                "the manifest has \(manifest.pages.count) pages of the block map, "
                    + "and \(pages) are needed", start)
        }
        report.manifest = InspectionReport.Manifest(
            sequence: manifest.sequence, aggregatedEpoch: manifest.aggregatedEpoch,
            byteCount: root.byteCount, chunks: manifest.chunks.count,
            transactions: manifest.transactionCount, snapshots: manifest.snapshots.count,
            destroyed: manifest.destroyed.count, copies: root.copies,
            pageCopies: manifest.pages.map(\.copies).filter { !$0.isEmpty })
        report.containers = manifest.usages.map {
            InspectionReport.Container(
                pool: $0.name.pool, container: $0.name.container, usage: $0.usage)
        }
        return manifest
    }

    private func look(at manifest: Manifest, _ prepared: inout [DTX]) async {
        for piece in manifest.pieces { refer(piece) }
        await readChunks(manifest, &prepared)
        for table in manifest.tables {
            refer(table.extents, part: .table, "table \(table.id)", table: table.id)
            report.space.tables += UInt64(table.blocks)
            report.tables.append(describe(table))
        }
        await readMap(manifest)
        checkLevels(manifest)
        checkManifestCounts(manifest)
        state.tablesTotal = manifest.tables.count
        state.bytesTotal = manifest.usages.reduce(0) { $0 &+ $1.usage.bytes }
        guard depth >= .tables else {
            // Nobody has asked the tables: the block map says what is in use.
            report.space.values = marked.count
            return
        }
        destroyed = manifest.destroyed
        for snapshot in manifest.snapshots { snapshots.insert(snapshot.epoch, snapshot.name) }
        recordContainers = Set(
            manifest.usages.filter { $0.usage.recordExtents > 0 }.map(\.name))
        for table in manifest.tables {
            await check(table)
            state.tables += 1
            progress(state)
        }
        report.space.values = tableValues.count
        compareMap()
        compareUsages(manifest)
    }

    private func describe(_ info: TableInfo) -> InspectionReport.Table {
        InspectionReport.Table(
            id: info.id, level: info.level, byteCount: info.byteCount, entries: info.entries,
            punches: info.punches, weight: info.weight, hiddenWeight: info.hiddenWeight,
            epochMin: info.epochMin, first: StoreEntry.Name(approximately: info.firstKey),
            last: StoreEntry.Name(approximately: info.lastKey), blocks: info.extents,
            fencePlace: info.fencePlace, filterPlace: info.filterPlace,
            offset: info.extents.first.map { place(of: $0.start)?.offset ?? 0 } ?? 0)
    }

    private func readChunks(_ manifest: Manifest, _ prepared: inout [DTX]) async {
        var transactions: UInt64 = 0
        var isWhole = true
        for (index, chunk) in manifest.chunks.enumerated() {
            let piece = ManifestPiece(chunk: chunk, index: index)
            guard let bytes = await read(piece) else {
                isWhole = false
                continue
            }
            do throws(MalformedBytes) {
                var reader = ByteReader(bytes)
                while reader.remaining > 0 {
                    switch chunk.type {
                    case .transactions:
                        _ = try reader.string(25)
                        transactions += 1
                    case .completions:
                        _ = try reader.string(24)
                        _ = try reader.countedString(maximum: VOSLimits.membersLengthMax)
                    case .prepared:
                        let sequence = try reader.quad()
                        let record = try LogRecord.decode(
                            try reader.countedString(maximum: Manifest.Chunk.byteCountMax))
                        guard case .prepared(let dtx) = record else {
                            throw MalformedBytes(what: "a transaction is another record")
                        }
                        dtx.sequence = sequence
                        prepared.append(dtx)
                    }
                }
            } catch {
                isWhole = false
                add(.manifest, "\(piece.name): \(error.what)", chunk.extents.first?.start)
            }
        }
        if isWhole, transactions != manifest.transactionCount {
            add(
                .manifest,
                "the manifest has \(transactions) transactions, and says "
                    + "\(manifest.transactionCount)", nil)
        }
    }

    private func readMap(_ manifest: Manifest) async {
        var map = BlockMap(totalBlocks: reader.totalBlocks)
        for (index, page) in manifest.pages.enumerated() {
            guard let piece = ManifestPiece(page: page, index: index) else { continue }
            guard index < map.pageCount, let bytes = await read(piece) else {
                isMapRead = false
                continue
            }
            do throws(MalformedBytes) {
                for extent in try map.load(page: index, bytes) { _ = marked.insert(extent) }
            } catch {
                isMapRead = false
                add(.blockMap, "\(piece.name): \(error.what)", page.copies.first)
            }
        }
    }

    /// Tables of one level above 0 must not overlap; no table has a number twice.
    private func checkLevels(_ manifest: Manifest) {
        var ids: Set<UInt64> = []
        for table in manifest.tables where !ids.insert(table.id).inserted {
            add(.manifest, "there are two tables with the number \(table.id)", nil)
        }
        for level in 1...IndexVersion.levelMax {
            let tables = manifest.tables.filter { $0.level == level }.sorted {
                IndexKey.compare($0.firstKey, $1.firstKey) < 0
            }
            for (left, right) in zip(tables, tables.dropFirst())
            where IndexKey.compare(left.lastKey, right.firstKey) >= 0 {
                add(
                    .table, "tables \(left.id) and \(right.id) of level \(level) overlap",
                    right.extents.first?.start, table: right.id)
            }
        }
    }

    /// What the manifest says of tables, containers and the block map must agree.
    private func checkManifestCounts(_ manifest: Manifest) {
        func sum(_ numbers: some Sequence<UInt64>) -> UInt64 { numbers.reduce(0, &+) }
        let entries = sum(manifest.tables.map(\.entries))
        let entriesOfContainers = sum(manifest.usages.map(\.usage.entries))
        if entries != entriesOfContainers {
            add(
                .usage, "tables have \(entries) entries, containers \(entriesOfContainers)", nil)
        }
        let blocks = sum(manifest.tables.map(\.valueBlocks))
        let bytes = sum(manifest.usages.map(\.usage.blockBytes))
        if blocks &* UInt64(BlockDevice.blockSize) != bytes {
            add(
                .usage, "tables have \(blocks) blocks of values, containers \(bytes) bytes of them",
                nil)
        }
        if isMapRead, marked.count != blocks {
            add(
                .blockMap,
                "the block map marks \(marked.count) blocks, and the manifest says that "
                    + "tables have \(blocks)", nil)
        }
    }

    // MARK: - After the tables

    /// Has `recordSizes` see a version that nobody has destroyed since.
    func addVersion(_ key: IndexKey.Bytes, _ head: EntryHead, _ name: StoreEntry.Name) {
        // In the log it is not in the key.
        var head = head
        head.stamp = name.stamp
        let isDestroyed = unsafe key.withUnsafeBytes { key in
            destroyed.contains { unsafe $0.hides(key, head) }
        }
        if !isDestroyed { recordSizes.add(key, head, name) }
    }

    /// All extents of an array that can be seen together must have the same record size.
    private func checkRecordSizes(_ manifest: Manifest?) async {
        guard recordSizes.needsVersions, depth >= .tables, isTablesRead else { return }
        for table in manifest?.tables ?? [] { await addVersions(of: table) }
        for (operation, stamp) in changes {
            guard let name = StoreEntry.Name(operation, stamp: stamp) else { continue }
            addVersion(operation.key, EntryHead(operation.record), name)
        }
        // What nobody can read may have lost the punch that was between.
        let bound = manifest?.aggregatedEpoch ?? 0
        let disagreements = recordSizes.disagreements { [snapshots] container, epoch in
            snapshots.epochs(of: container).first { $0 >= epoch && $0 < bound }
                ?? max(epoch, bound)
        }
        for disagreement in disagreements {
            let (older, newer) = disagreement.sizes
            add(
                .value,
                "an array has extents with records of \(older) and of \(newer) bytes, and no punch "
                    + "between them", nil, entry: disagreement.newer)
        }
    }

    private func compareMap() {
        // Blocks that are not marked were named with their values.
        guard isTablesRead else { return }
        for run in marked.runs(without: tableValues, limit: StoreInspector.placesMax) {
            add(
                .blockMap,
                "\(run.count) blocks from \(run.start) on are marked, and no table has "
                    + "a value there", run.start)
        }
    }

    private func compareUsages(_ manifest: Manifest) {
        guard isTablesRead else { return }
        var said = UsageTable()
        for entry in manifest.usages { said.add(entry.usage, to: entry.name) }
        let names = Set(said.names).union(usages.names).sorted()
        for name in names {
            let (has, says) = (usages.usage(of: name), said.usage(of: name))
            guard has != says else { continue }
            add(
                .usage,
                "container \(name.container) of pool \(name.pool) has \(has.entries) "
                    + "entries of \(has.bytes) bytes, \(has.blockBytes) in blocks, and "
                    + "\(has.recordExtents) extents of records; the manifest says "
                    + "\(says.entries), \(says.bytes), \(says.blockBytes) and "
                    + "\(says.recordExtents)", nil)
        }
    }

    private func count() {
        report.entries = state.entries
        report.verifiedBytes = state.verifiedBytes
        let total = UInt64(reader.totalBlocks)
        report.space.total = total
        let space = report.space
        let live = space.values + space.logValues + space.tables + space.metadata
        report.space.free = total - min(total, live)
        // Blocks that are referred to twice are counted twice, and were named.
        let isWhole = depth >= .tables && isTablesRead
        if isWhole, live != used.count {
            add(
                .space,
                "\(live) blocks are in use, but only \(used.count) different ones of "
                    + "\(total)", nil)
        }
    }

    // MARK: - Findings

    func place(of block: UInt32) -> (device: String, offset: UInt64)? {
        guard reader.holds(BlockExtent(start: block, count: 1)) else { return nil }
        return reader.place(of: block)
    }

    func add(
        _ part: StoreFinding.Part, _ what: String, _ block: UInt32?, table: UInt64? = nil,
        entry: StoreEntry.Name? = nil
    ) {
        let place = block.flatMap { self.place(of: $0) }
        report.findings.append(
            StoreFinding(
                part: part, what: what, entry: entry, table: table, block: block,
                device: place?.device, offset: place?.offset))
    }

    /// Something has these blocks, and nothing else may. False when they are not there.
    @discardableResult
    func refer(
        _ extents: [BlockExtent], part: StoreFinding.Part, _ what: String, table: UInt64? = nil,
        entry: StoreEntry.Name? = nil
    ) -> Bool {
        var isRight = true
        for extent in extents {
            guard reader.holds(extent) else {
                add(
                    part,
                    "\(what) is in blocks \(extent.start)..<\(extent.end) of "
                        + "\(reader.totalBlocks)", extent.start, table: table, entry: entry)
                isRight = false
                continue
            }
            if let block = used.insert(extent) {
                add(
                    .space, "block \(block) of \(what) is also something else's", block,
                    table: table, entry: entry)
            }
        }
        return isRight
    }

    /// A piece has the blocks of all its copies.
    private func refer(_ piece: ManifestPiece) {
        for extents in piece.copies {
            refer(extents, part: piece.part, piece.name)
            report.space.metadata += extents.reduce(0) { $0 + UInt64($1.count) }
        }
    }

    /// The bytes of a piece; nil when no copy is what it was. With a finding for each that is not.
    private func read(_ piece: ManifestPiece) async -> [UInt8]? {
        var intact: [UInt8]?
        for copy in piece.copies.indices {
            let bytes = await read(piece, copy: copy)
            intact = intact ?? bytes
        }
        return intact
    }

    private func read(_ piece: ManifestPiece, copy: Int) async -> [UInt8]? {
        let extents = piece.copies[copy]
        let byteCount = piece.byteCount
        let what = "copy \(copy) of \(piece.name)"
        let start = extents.first?.start
        let room = extents.reduce(0) { $0 + Int($1.count) } * BlockDevice.blockSize
        guard byteCount > 0, byteCount <= room, byteCount <= StoreInspector.readMax else {
            add(piece.part, "\(what) has \(byteCount) bytes in blocks of \(room)", start)
            return nil
        }
        let buffer = IOBuffer(count: VOS.blockCount(byteCount) * BlockDevice.blockSize)
        do throws(BIOError) {
            try unsafe await reader.read(into: buffer.bytes, from: extents)
        } catch {
            add(piece.part, "\(what) cannot be read: \(StoreInspector.words(error))", start)
            return nil
        }
        let bytes = buffer.array(0..<byteCount)
        guard bytes.checksum(first: byteCount) == piece.checksum else {
            add(piece.part, "\(what) does not match its checksum", start)
            return nil
        }
        return bytes
    }

    /// The most bytes that are read in one piece.
    static let readMax = 256 << 20

    static func words(_ error: BIOError) -> String {
        switch error {
        case .failed(_, let offset, _, let message): "\(message) at byte \(offset)"
        case .outOfRange(let what): what
        default: "\(error)"
        }
    }
}
