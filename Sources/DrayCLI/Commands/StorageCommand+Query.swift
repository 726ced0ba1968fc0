internal import ArgumentParser
internal import BIO
internal import Dray
internal import DrayEngine
internal import DrayProtocol
internal import DrayRuntime

extension StorageCommand {
    struct Query: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show the stores of a device, or how running engines' devices are doing.",
            discussion: """
                With PATH: what the superblocks on it say, whether an engine runs or not, and, if \
                none does, how full its stores are (which takes --metadata-device, if they have \
                one). Nothing is changed. Without: asks the engines of the cluster, and shows for \
                each target and device how full it is, how scattered the free space is, latencies \
                since the engine started, errors, and whether an error has taken it out of \
                service; with --devices, for each device all of its targets together. The exit \
                status is 5 when an engine does not answer, 1 when a store is out of service or \
                damaged, or PATH was declared faulty.
                """)

        @Argument(help: "A device or file.", completion: .file()) var path: ByteArgument?
        @Option(name: .long, help: "The metadata device beside PATH.", completion: .file())
        var metadataDevice: ByteArgument?
        @OptionGroup var ranks: RankOptions
        @Flag(name: .long, help: "One line for each device of the engines.") var devices = false
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func validate() throws {
            if path == nil, metadataDevice != nil {
                throw ValidationError("--metadata-device is the one beside PATH.")
            }
            if path != nil, devices || !ranks.rank.isEmpty {
                throw ValidationError("--rank and --devices ask engines; PATH is a device.")
            }
        }

        func run() async throws {
            if let path {
                try await showDevice(try StorageCommand.text(path))
            } else {
                try await showEngines()
            }
        }

        private func showDevice(_ path: String) async throws {
            var row = try StorageCommand.row(of: path)
            row.health = StorageScan.health(of: path).map(DeviceRow.Health.init)
            var isSound = true
            if row.usedBy == nil { isSound = await fill(&row) }
            try output.print(row, text: DeviceRow.stores(row))
            let isBad = row.stores.contains { !$0.isIntact || $0.isFaulty }
            if !isSound || isBad { try finish(.failure) }
        }

        /// Adds how full the stores are, if it can be told. Whether nothing is damaged.
        private func fill(_ row: inout DeviceRow) async -> Bool {
            let wanted = metadataDevice == nil ? "whole" : "data"
            guard row.stores.allSatisfy({ $0.role == wanted }) else { return true }
            do throws(CommandFailure) {
                var second: String?
                if let metadataDevice { second = try StorageCommand.text(metadataDevice) }
                let stores = try await VOSCommand.summary(row.path, metadata: second)
                for (index, store) in row.stores.enumerated() {
                    row.stores[index].space = stores.first { $0.target == store.target }?.space
                }
                let findings = stores.flatMap(\.findings)
                for finding in findings { Terminal.note("dray: " + finding.text) }
                return findings.isEmpty
            } catch {
                // It may be a pair, of which nobody has asked.
                Terminal.note(error.line)
                return metadataDevice == nil
            }
        }

        private func showEngines() async throws {
            let (replies, answered) = try await ranks.ask(cluster) { cluster, ranks in
                await cluster.metrics(ranks: ranks)
            }
            let families = replies.map(\.reply.families)
            let rows = families.flatMap(StorageRow.rows).sorted {
                ($0.rank, $0.order, $0.device) < ($1.rank, $1.order, $1.device)
            }
            if devices {
                let devices = families.flatMap(StorageDeviceRow.rows)
                    .sorted { ($0.rank, $0.device, $0.path) < ($1.rank, $1.device, $1.path) }
                try output.print(devices, text: StorageDeviceRow.table(devices))
            } else {
                try output.print(rows, text: StorageRow.table(rows))
            }
            let isSound = !rows.contains { $0.isOutOfService }
            try finish(answered == .success && !isSound ? .failure : answered)
        }
    }
}

extension DeviceRow {
    /// The stores of one device, as `dray storage query PATH` shows them.
    static func stores(_ row: DeviceRow) -> String {
        var table = Table([
            ("TARGET", .left), ("PART", .left), ("SIZE", .right), ("DATA", .right),
            ("USED", .right), ("LOG", .right), ("LOG USED", .right), ("CHECKPOINT", .right),
            ("SUPERBLOCK", .left),
        ])
        func size(_ bytes: UInt64?) -> String { bytes.map { Size(bytes: $0).description } ?? "-" }
        for store in row.stores {
            table.add([
                store.target.map { "\($0)" } ?? "system", store.role,
                size(store.size), size(store.dataSize),
                size(store.space.map { $0.total - min($0.free, $0.total) }),
                size(store.logSize == 0 ? nil : store.logSize), size(store.space?.logUsed),
                store.checkpoint.map { "\($0)" } ?? "-", store.isIntact ? "intact" : "DAMAGED",
            ])
        }
        let used = row.usedBy.map { ", used by \($0)" } ?? ""
        let health = row.health.map { $0.text + "\n" } ?? ""
        return "\(row.path): \(Size(bytes: row.size)), \(row.detail)\(used)\n" + health + table.text
    }
}
