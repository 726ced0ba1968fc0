internal import ArgumentParser
internal import BIO
internal import DrayEngine
internal import DrayRuntime

struct StorageCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "storage", abstract: "Find, prepare and look at devices.",
        subcommands: [Scan.self, Format.self, Query.self, Scrub.self, Reinstate.self])

    struct Scan: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the devices of this machine and what is on them.",
            discussion: """
                Block devices, generic devices of NVMe (past the kernel's block layer) and \
                persistent memory; or only the paths that are given, files included. Nothing is \
                changed or locked. The content is 'dray' with the store's cluster and engine, \
                'empty', what else was found, or why it cannot be read: often that takes root, \
                or the group 'disk'. The exit status is 4 when there is no device.
                """)

        @Argument(help: "Only these.", completion: .file()) var path: [ByteArgument] = []
        @Flag(name: .long, help: "Only what Dray could be put on: empty, and in nobody's use.")
        var free = false
        @OptionGroup var output: OutputOptions

        func run() throws {
            let found =
                path.isEmpty
                ? StorageScan.devices()
                : try path.map { path in
                    StorageScan.device(at: try StorageCommand.text(path))
                }
            let rows = found.map(DeviceRow.init).filter { !free || $0.isFree }
            try output.print(rows, text: DeviceRow.table(rows))
            guard !rows.isEmpty else {
                throw CommandFailure(
                    .notFound, "storage", "there is no \(free ? "free " : "")device",
                    advice: "a file does too: dray engine format --size 10GiB --device FILE")
            }
        }
    }

    struct Format: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Prepare devices, and a metadata device beside them, for an engine.",
            discussion: """
                The engine's settings come from flags, DRAY_… variables and the file, as for \
                'dray engine start'; the paths take the place of 'device'. Several devices share \
                the targets, one after the other in turn. Where one holds anything all are \
                refused, and stay as they are. To overwrite them, say what you are about to do: \
                --force 'destroy PATH', with more devices, or a metadata device, \
                'destroy PATH and PATH'.
                """)

        @Argument(help: "The devices (default: those in the settings).", completion: .file())
        var path: [String] = []
        @OptionGroup var settings: EngineCommand.Settings
        @Option(name: .long, help: "Make each device file with this size first.") var size: Size?
        @Option(
            name: .long,
            help: ArgumentHelp(
                "Overwrite what is there: 'destroy PATH'.", valueName: "words"))
        var force: String?

        func run() async throws {
            var settings = settings
            if !path.isEmpty {
                if !settings.device.isEmpty, settings.device != path {
                    throw CommandFailure(
                        .usage, path.joined(separator: " "),
                        "--device names another device: "
                            + settings.device.joined(separator: " "),
                        advice: "name it once")
                }
                settings.device = path
            }
            let resolved = try settings.resolve()
            let configuration = try resolved.configuration()
            if let force { try StorageCommand.check(force, configuration) }
            let world = RealWorld.make(log: try resolved.log())
            try await EngineRunner.format(
                configuration, size: size, world: world, overwrite: force != nil)
        }
    }

    /// A path as the layers below take it.
    static func text(_ path: ByteArgument) throws(CommandFailure) -> String {
        guard let text = String(validating: path.bytes, as: UTF8.self) else {
            throw CommandFailure(.usage, path.text, "the path of a device must be UTF-8")
        }
        return text
    }

    /// A device with at least one store.
    static func row(of path: String) throws(CommandFailure) -> DeviceRow {
        let row = DeviceRow(StorageScan.device(at: path))
        guard !row.stores.isEmpty else {
            let why = row.detail.isEmpty ? "it is \(row.content)" : row.detail
            throw CommandFailure(
                row.content == "unreadable" ? .failure : .notFound, path,
                "no store of Dray: \(why)")
        }
        return row
    }

    /// The words that `--force` takes.
    static func forceWords(_ configuration: EngineConfiguration) -> String {
        let paths =
            configuration.devicePaths + [configuration.metadataDevicePath].compactMap(\.self)
        return "destroy " + paths.joined(separator: " and ")
    }

    private static func check(
        _ words: String, _ configuration: EngineConfiguration
    ) throws(CommandFailure) {
        let wanted = forceWords(configuration)
        guard words != wanted else { return }
        throw CommandFailure(
            .usage, "--force", "'\(words)' are not the words; nothing was changed",
            advice: "if everything there may be lost, say --force '\(wanted)'")
    }
}

/// One line of `dray storage scan`.
struct DeviceRow: Codable, Hashable, Sendable {
    /// A store on the device.
    struct Store: Codable, Hashable, Sendable {
        var cluster: String
        /// The number of the engine.
        var engine: UInt64
        /// The number of the target; nil for the engine's own metadata.
        var target: UInt32?
        /// "whole"; "data" or "metadata" of a store on two devices.
        var role: String
        /// In bytes, from the beginning of the device.
        var start: UInt64
        var size: UInt64
        var logSize: UInt64
        var dataSize: UInt64
        /// What both parts of a store on two devices have.
        var pair: String?
        /// The last log record that a checkpoint includes.
        var checkpoint: UInt64?
        /// Whether both superblocks are there and agree.
        var isIntact: Bool
        /// Whether the device was declared faulty, and nobody has returned it to service.
        var isFaulty: Bool
        /// What its blocks hold; nil when that was not looked at.
        var space: StoreRow.SpaceRow?
    }

    /// What an NVMe device says of itself.
    struct Health: Codable, Hashable, Sendable {
        /// In words; empty when all is well.
        var warnings: [String]
        /// In degrees Celsius; nil where nobody measures it.
        var temperature: Int?
        /// In percent.
        var percentageUsed: UInt8
        var spare: UInt8
        var spareThreshold: UInt8
        var mediaErrors: UInt64

        var text: String {
            "health: " + (temperature.map { "\($0) °C" } ?? "temperature unknown")
                + ", \(percentageUsed)% of its life used, \(spare)% spare, "
                + "\(mediaErrors) media \(mediaErrors == 1 ? "error" : "errors"), "
                + (warnings.isEmpty
                    ? "no warning" : "WARNING: " + warnings.joined(separator: ", "))
        }
    }

    var path: String
    /// "block", "nvme" (a generic device), "memory" (persistent) or "file".
    var kind: String
    var size: UInt64
    var model: String
    /// Who has it; nil when it is free.
    var usedBy: String?
    /// "dray", "empty", "foreign" or "unreadable".
    var content: String
    /// What is there, or why it cannot be read.
    var detail: String
    var stores: [Store]
    /// Nil where nobody tells, or nobody has asked.
    var health: Health?

    var isFree: Bool { content == "empty" && usedBy == nil }

    init(_ device: FoundDevice) {
        path = device.path
        kind = device.kind.rawValue
        size = device.size
        model = device.model
        usedBy = device.usedBy
        stores = []
        switch device.content {
        case .empty: (content, detail) = ("empty", "")
        case .foreign(let name): (content, detail) = ("foreign", name)
        case .unreadable(let why): (content, detail) = ("unreadable", why)
        case .stores(let labels):
            stores = labels.map(Store.init)
            content = "dray"
            detail = DeviceRow.summary(stores)
        }
    }

    private static func summary(_ stores: [Store]) -> String {
        guard let first = stores.first else { return "" }
        let targets = stores.count { $0.target != nil }
        let part = first.role == "whole" ? "" : "\(first.role) of "
        let damaged = stores.count { !$0.isIntact }
        return "\(part)engine \(first.engine) of cluster \(first.cluster), \(targets) "
            + (targets == 1 ? "target" : "targets")
            + (damaged > 0 ? ", \(damaged) with a damaged superblock" : "")
            + (stores.contains(where: \.isFaulty) ? ", declared FAULTY" : "")
    }

    static func table(_ rows: [DeviceRow]) -> String {
        guard !rows.isEmpty else { return "" }
        var table = Table([
            ("DEVICE", .left), ("KIND", .left), ("SIZE", .right), ("MODEL", .left),
            ("USED BY", .left), ("CONTENT", .left),
        ])
        for row in rows {
            let content = row.content == "dray" || row.detail.isEmpty ? row.content : ""
            table.add([
                row.path, row.kind, Size(bytes: row.size).description,
                row.model.isEmpty ? "-" : row.model, row.usedBy ?? "-",
                [content, row.detail].filter { !$0.isEmpty }.joined(separator: ": "),
            ])
        }
        return table.text
    }
}

extension DeviceRow.Health {
    init(_ health: NVMeHealth) {
        warnings = health.warnings
        temperature = health.temperature
        percentageUsed = health.percentageUsed
        spare = health.spare
        spareThreshold = health.spareThreshold
        mediaErrors = health.mediaErrors
    }
}

extension DeviceRow.Store {
    init(_ label: StoreLabel) {
        cluster = label.identity.clusterID.description
        engine = label.identity.engineID.low
        target = label.identity.target == .max ? nil : label.identity.target
        role = label.role.rawValue
        start = label.partition.lowerBound
        size = label.partition.upperBound - label.partition.lowerBound
        logSize = label.logSize
        dataSize = label.dataSize
        pair = label.pairID?.description
        checkpoint = label.checkpoint
        isIntact = label.isIntact
        isFaulty = label.isFaulty
    }
}
