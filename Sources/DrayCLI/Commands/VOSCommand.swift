internal import ArgumentParser
internal import BIO
internal import DrayRuntime
internal import VOS

struct VOSCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "vos",
        abstract: "Look into the stores of a device that no engine runs on.",
        discussion: """
            Nothing on the device is changed: no superblock is repaired, no log sealed. The device \
            is locked meanwhile, and one that an engine has is refused.
            """,
        subcommands: [Inspect.self, Check.self])

    /// Which device, and which of its stores.
    struct Target: ParsableArguments {
        @Argument(help: "A device or file of an engine.", completion: .file())
        var path: ByteArgument
        @Option(name: .long, help: "The metadata device beside it.", completion: .file())
        var metadataDevice: ByteArgument?
        @Option(name: .long, help: "Only this target (repeat for more; default: all stores).")
        var target: [UInt32] = []
        @Flag(name: .long, help: "Only the engine's own store, or that as well.")
        var system = false

        func chooses(_ label: StoreLabel) -> Bool {
            guard label.identity.target != .max else { return system || target.isEmpty }
            return target.contains(label.identity.target) || (target.isEmpty && !system)
        }
    }

    struct Inspect: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show what the stores of a closed device have.",
            discussion: """
                Superblock, log, manifest, tables, containers and space. --objects lists objects, \
                --keys OBJECT the keys of one, --entries every version and punch with its blocks \
                and checksums; they read all tables. Damage that is met is told on standard error, \
                and the exit status is 1 then; 'dray vos check' looks for all of it.
                """)

        @OptionGroup var place: Target
        @Flag(name: .long, help: "List the objects.") var objects = false
        @Option(name: .long, help: "List the keys of this object, as --objects writes it.")
        var keys: String?
        @Flag(name: .long, help: "List every version and punch (with --keys: of that object).")
        var entries = false
        @OptionGroup var output: OutputOptions

        func run() throws {
            let (objects, keys, entries) = (objects, keys, entries)
            let depth: StoreInspector.Depth =
                objects || keys != nil || entries ? .tables : .summary
            let rows = try VOSCommand.inspect(place, depth, "reading") {
                StoreListing(objects: objects, keys: keys, entries: entries)
            }
            try output.print(rows, text: rows.map(\.text).joined(separator: "\n"))
            let findings = rows.flatMap(\.findings)
            for finding in findings { Terminal.note("dray: " + finding.text) }
            if !findings.isEmpty { try finish(.failure) }
        }
    }

    struct Check: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Verify every block of the stores of a closed device.",
            discussion: """
                Superblocks, log, manifest, tables with their fences and filters, the block map, \
                what refers to which block, the usage of containers, and the checksums of all \
                values. It goes on after damage, and lists all that it finds with the names and \
                places of it. The exit status is 1 when there is any, 0 when there is none.
                """)

        @OptionGroup var place: Target
        @Flag(inversion: .prefixedNo, help: "Read the values and verify their checksums.")
        var values = true
        @OptionGroup var output: OutputOptions

        func run() throws {
            let rows = try VOSCommand.inspect(place, values ? .values : .tables, "checking") {
                StoreListing()
            }
            try output.print(rows, text: rows.map(\.verdict).joined(separator: "\n"))
            if rows.contains(where: { !$0.findings.isEmpty }) { try finish(.failure) }
        }
    }

    /// Looks at the stores that `place` chooses, one after the other.
    private static func inspect(
        _ place: Target, _ depth: StoreInspector.Depth, _ title: String,
        listing: @escaping @Sendable () -> StoreListing
    ) throws(CommandFailure) -> [StoreRow] {
        let path = try StorageCommand.text(place.path)
        var second: String?
        if let path = place.metadataDevice { second = try StorageCommand.text(path) }
        let metadata = second
        let world = makeWorld()
        return try Interruptible(temporary: []).run(world) {
            xstream async throws(CommandFailure) in
            let found = try stores(path, place)
            let others = try metadata.map { path throws(CommandFailure) in try stores(path, place) }
            return try await read(
                path, found, metadata, others, depth, title, world, xstream,
                isAll: place.target.isEmpty && !place.system, listing: listing)
        }
    }

    /// Looks at all stores of a device, but no further than at their manifests.
    static func summary(
        _ path: String, metadata: String?
    ) async throws(CommandFailure) -> [StoreRow] {
        let world = makeWorld()
        let xstream = world.makeXStream(name: "work")
        defer { xstream.stop() }
        return try await xstream.run { () async throws(CommandFailure) in
            let found = try stores(path)
            let others = try metadata.map { path throws(CommandFailure) in try stores(path) }
            return try await read(
                path, found, metadata, others, .summary, "reading", world, xstream, isAll: true,
                listing: { StoreListing() })
        }
    }

    private static func makeWorld() -> World {
        var world = World.real(log: LogFacilities())
        world.devices = RealDeviceStore(log: LogFacilities())
        return world
    }

    /// Looks at the stores `found` of a device. `others` are those of its metadata device.
    private static func read(
        _ path: String, _ found: [StoreLabel], _ second: String?, _ others: [StoreLabel]?,
        _ depth: StoreInspector.Depth, _ title: String, _ world: World, _ xstream: XStream,
        isAll: Bool, listing: () -> StoreListing
    ) async throws(CommandFailure) -> [StoreRow] {
        let devices = world.devices
        return try await onDevice(LocalPath(path)) { () async throws(BIOError) in
            let device = ReadOnlyDevice(try devices.open(path: path, on: xstream))
            var metadata: ReadOnlyDevice?
            if let second {
                do throws(BIOError) {
                    metadata = ReadOnlyDevice(try devices.open(path: second, on: xstream))
                } catch {
                    await device.close()
                    throw error
                }
            }
            var rows: [StoreRow] = []
            for label in found {
                let pair = others?.first { $0.pairID == label.pairID }
                let row = await look(
                    device, label, metadata, pair, depth, title, listing(), xstream)
                rows.append(row)
            }
            if isAll, !rows.isEmpty, let finding = await lost(device, behind: found) {
                rows[rows.count - 1].findings.append(finding)
            }
            await device.close()
            await metadata?.close()
            return rows
        }
    }

    /// The stores of a device that `place` chooses.
    private static func stores(
        _ path: String, _ place: Target
    ) throws(CommandFailure) -> [StoreLabel] {
        let chosen = try stores(path).filter(place.chooses)
        for target in place.target
        where !chosen.contains(where: { $0.identity.target == target }) {
            throw CommandFailure(
                .notFound, path, "there is no intact superblock of target \(target)")
        }
        return chosen
    }

    /// The stores of a device.
    private static func stores(_ path: String) throws(CommandFailure) -> [StoreLabel] {
        let why: String
        switch StorageScan.device(at: path).content {
        case .stores(let labels): return labels
        case .foreign(let name): why = "it is \(name)"
        case .empty: why = "it is empty"
        case .unreadable(let what): throw CommandFailure(path, "no store of Dray: \(what)")
        }
        throw CommandFailure(.notFound, path, "no store of Dray: \(why)")
    }

    /// Stores follow each other: where another has room and something is written, there is one
    /// without an intact superblock, and what follows it cannot be found.
    private static func lost(_ device: BlockDevice, behind labels: [StoreLabel]) async
        -> FindingRow?
    {
        guard let last = labels.last else { return nil }
        let start = last.partition.upperBound
        guard start + UInt64(last.partition.count) <= device.size else { return nil }
        let buffer = IOBuffer(count: 2 * BlockDevice.blockSize)
        do throws(BIOError) {
            try unsafe await device.read(into: buffer.bytes, at: start)
            if buffer.array(0..<buffer.count).allSatisfy({ $0 == 0 }) { return nil }
        } catch {
            // As good as damaged.
        }
        var finding = FindingRow(
            store: "behind target \(last.identity.target)",
            what: "no intact superblock; what follows was not looked at")
        finding.part = "superblock"
        finding.device = device.name
        finding.offset = start
        return finding
    }

    private static func look(
        _ device: BlockDevice, _ label: StoreLabel, _ metadata: BlockDevice?, _ pair: StoreLabel?,
        _ depth: StoreInspector.Depth, _ title: String, _ listing: StoreListing, _ xstream: XStream
    ) async -> StoreRow {
        var row = StoreRow(label)
        do throws(BIOError) {
            var part: BlockStore.MetadataPartition?
            if let metadata, let pair {
                part = BlockStore.MetadataPartition(device: metadata, partition: pair.partition)
            }
            let reader = try await StoreReader.open(
                device, partition: label.partition, metadata: part, on: xstream)
            let bar = ProgressBar(
                "\(title) \(row.name)", unit: "entries", now: xstream.now)
            let report = await StoreInspector.inspect(
                reader, depth: depth, visit: listing.add
            ) { progress in
                bar.update(
                    ProgressBar.Figures(files: progress.entries, bytes: progress.verifiedBytes),
                    now: xstream.now)
            }
            bar.clear()
            row.fill(report, listing)
        } catch {
            row.findings.append(FindingRow(store: row.name, what: CommandFailure(error, "").why))
        }
        return row
    }
}
