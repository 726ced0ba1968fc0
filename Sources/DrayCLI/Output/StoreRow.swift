internal import BIO
internal import DrayRuntime
internal import VOS

/// What `dray vos` says of one store.
struct StoreRow: Codable, Hashable, Sendable {
    /// One table of the index.
    struct TableRow: Codable, Hashable, Sendable {
        var id: UInt64
        var level: Int
        /// In bytes.
        var size: Int
        var entries: UInt64
        var punches: UInt64
        var weight: UInt64
        var hiddenWeight: UInt64
        var epochMin: UInt64
        var first: String
        var last: String
        /// On its device, in bytes.
        var offset: UInt64
    }

    struct ContainerRow: Codable, Hashable, Sendable {
        var pool: String
        var container: String
        /// In bytes.
        var size: UInt64
        var blocks: UInt64
        var entries: UInt64
    }

    /// In bytes.
    struct SpaceRow: Codable, Hashable, Sendable {
        var total: UInt64
        var values: UInt64
        /// Values that only the log names.
        var logValues: UInt64
        var tables: UInt64
        var metadata: UInt64
        var free: UInt64
        var log: UInt64
        var logUsed: UInt64
    }

    struct ManifestRow: Codable, Hashable, Sendable {
        var sequence: UInt64
        var aggregatedEpoch: UInt64
        var size: UInt64
        var chunks: Int
        var transactions: UInt64
        var snapshots: Int
        var destroyed: Int
    }

    /// The number of the target; nil for the engine's own store.
    var target: UInt32?
    var cluster: String
    var engine: UInt64
    /// On its device, in bytes.
    var start: UInt64
    var size: UInt64
    var superblockSequence: UInt64?
    var logGroups = 0
    var logRecords: UInt64 = 0
    var manifest: ManifestRow?
    var tables: [TableRow] = []
    var containers: [ContainerRow] = []
    var space: SpaceRow?
    var undecided = 0
    /// How much was looked at.
    var entriesRead: UInt64 = 0
    var bytesVerified: UInt64 = 0
    var objects: [StoreListing.ObjectRow]?
    var keys: [StoreListing.KeyRow]?
    var entries: [StoreListing.EntryRow]?
    var notes: [String] = []
    var findings: [FindingRow] = []

    var name: String { target.map { "target \($0)" } ?? "system" }

    init(_ label: StoreLabel) {
        target = label.identity.target == .max ? nil : label.identity.target
        cluster = label.identity.clusterID.description
        engine = label.identity.engineID.low
        start = label.partition.lowerBound
        size = label.partition.upperBound - label.partition.lowerBound
    }

    mutating func fill(_ report: InspectionReport, _ listing: StoreListing) {
        let unit = UInt64(BlockDevice.blockSize)
        superblockSequence = report.sequence
        logGroups = report.log.groups
        logRecords = report.log.records
        manifest = report.manifest.map { manifest in
            ManifestRow(
                sequence: manifest.sequence, aggregatedEpoch: manifest.aggregatedEpoch,
                size: manifest.byteCount, chunks: manifest.chunks,
                transactions: manifest.transactions, snapshots: manifest.snapshots,
                destroyed: manifest.destroyed)
        }
        tables = report.tables.map { table in
            TableRow(
                id: table.id, level: table.level, size: table.byteCount, entries: table.entries,
                punches: table.punches, weight: table.weight, hiddenWeight: table.hiddenWeight,
                epochMin: table.epochMin, first: table.first?.text ?? "?",
                last: table.last?.text ?? "?", offset: table.offset)
        }
        containers = report.containers.map { container in
            ContainerRow(
                pool: container.pool.description, container: container.container.description,
                size: container.usage.bytes, blocks: container.usage.blockBytes,
                entries: container.usage.entries)
        }
        let space = report.space
        self.space = SpaceRow(
            total: space.total * unit, values: space.values * unit,
            logValues: space.logValues * unit, tables: space.tables * unit,
            metadata: space.metadata * unit, free: space.free * unit, log: report.log.size,
            logUsed: report.log.used)
        undecided = report.undecided
        entriesRead = report.entries
        bytesVerified = report.verifiedBytes
        objects = listing.objectRows
        keys = listing.keyRows
        entries = listing.entryRows
        notes = report.notes
        findings = report.findings.map { FindingRow($0, store: name) }
    }

    // MARK: - Text

    private static func size(_ bytes: UInt64) -> String { Size(bytes: bytes).description }

    /// For `dray vos inspect`.
    var text: String {
        var text =
            "\(name): engine \(engine) of cluster \(cluster), bytes \(start) to \(start + size)\n"
        guard let space, let superblockSequence else { return text }
        text += "superblock: written \(superblockSequence) times\n"
        text +=
            "log: \(StoreRow.size(space.logUsed)) of \(StoreRow.size(space.log)), "
            + "\(logGroups) groups, \(logRecords) records after the manifest, "
            + "\(undecided) undecided transactions\n"
        if let manifest {
            text +=
                "manifest: record \(manifest.sequence), aggregated to "
                + "\(manifest.aggregatedEpoch), \(StoreRow.size(manifest.size)), "
                + "\(manifest.chunks) chunks, \(manifest.transactions) transactions, "
                + "\(manifest.snapshots) snapshots, \(manifest.destroyed) destroyed ranges\n"
        } else {
            text += "manifest: none\n"
        }
        text +=
            "space: \(StoreRow.size(space.total)): values \(StoreRow.size(space.values)), "
            + "in the log only \(StoreRow.size(space.logValues)), tables "
            + "\(StoreRow.size(space.tables)), metadata \(StoreRow.size(space.metadata)), free "
            + "\(StoreRow.size(space.free))\n"
        for note in notes { text += "note: \(note)\n" }
        if !tables.isEmpty { text += "\n" + tableText }
        if !containers.isEmpty { text += "\n" + containerText }
        if let objects { text += "\n" + StoreListing.text(objects) }
        if let keys { text += "\n" + StoreListing.text(keys) }
        if let entries { text += "\n" + StoreListing.text(entries) }
        return text
    }

    private var tableText: String {
        var table = Table([
            ("TABLE", .right), ("LEVEL", .right), ("SIZE", .right), ("ENTRIES", .right),
            ("PUNCHES", .right), ("HIDDEN", .right), ("FIRST", .left), ("LAST", .left),
        ])
        for row in tables {
            let hidden = row.weight == 0 ? 0 : 100 * Double(row.hiddenWeight) / Double(row.weight)
            table.add([
                "\(row.id)", "\(row.level)", StoreRow.size(UInt64(row.size)), "\(row.entries)",
                "\(row.punches)", "\(Int(hidden))%", row.first, row.last,
            ])
        }
        return table.text
    }

    private var containerText: String {
        var table = Table([
            ("POOL", .left), ("CONTAINER", .left), ("SIZE", .right), ("BLOCKS", .right),
            ("ENTRIES", .right),
        ])
        for row in containers {
            table.add([
                row.pool, row.container, StoreRow.size(row.size), StoreRow.size(row.blocks),
                "\(row.entries)",
            ])
        }
        return table.text
    }

    /// For `dray vos check`.
    var verdict: String {
        let looked =
            "\(tables.count) tables, \(entriesRead) entries, \(StoreRow.size(bytesVerified)) of "
            + "values verified"
        var lines = findings.map(\.text)
        lines.append(
            findings.isEmpty
                ? "\(name): sound; \(looked)" : "\(name): \(findings.count) findings; \(looked)")
        lines += notes.map { "\(name): note: \($0)" }
        return lines.joined(separator: "\n")
    }
}

/// One thing that is wrong.
struct FindingRow: Codable, Hashable, Sendable {
    /// "target 3" or "system".
    var store: String
    /// "superblock", "log", "manifest", "table", "fences", "filter", "value", "block map", "usage",
    /// "space"; "store" when there was nothing to look at.
    var part = "store"
    var what: String
    var table: UInt64?
    var block: UInt32?
    var device: String?
    /// On the device, in bytes.
    var offset: UInt64?
    var entry: StoreListing.EntryName?

    init(store: String, what: String) {
        self.store = store
        self.what = what
    }

    init(_ finding: StoreFinding, store: String) {
        self.init(store: store, what: finding.what)
        part = finding.part.rawValue
        table = finding.table
        block = finding.block
        device = finding.device
        offset = finding.offset
        entry = finding.entry.map(StoreListing.EntryName.init)
    }

    var text: String {
        var text = "\(store): \(part): \(what)"
        if let entry { text += "; \(entry.text)" }
        if let table { text += "; table \(table)" }
        if let block { text += "; block \(block)" }
        if let device, let offset { text += "; \(device) at byte \(offset)" }
        return text
    }
}
