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
                With PATH: what the superblocks on it say, whether an engine runs or not. Without: \
                asks the engines of the cluster, and shows for each target and device how full it \
                is, how scattered the free space is, latencies since the engine started, errors, \
                and whether an error has taken it out of service. The exit status is 5 when an \
                engine does not answer, 1 when a store is out of service or damaged.
                """)

        @Argument(help: "A device or file.", completion: .file()) var path: ByteArgument?
        @Option(name: .long, help: "Only this engine (repeat for more).") var rank: [UInt32] = []
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            if let path {
                try showDevice(try StorageCommand.text(path))
            } else {
                try await showEngines()
            }
        }

        private func showDevice(_ path: String) throws {
            let row = DeviceRow(StorageScan.device(at: path))
            guard !row.stores.isEmpty else {
                let why = row.detail.isEmpty ? "it is \(row.content)" : row.detail
                throw CommandFailure(
                    row.content == "unreadable" ? .failure : .notFound, path,
                    "no store of Dray: \(why)")
            }
            try output.print(row, text: DeviceRow.stores(row))
            if row.stores.contains(where: { !$0.isIntact }) { try finish(.failure) }
        }

        private func showEngines() async throws {
            let all = try await cluster.withCluster {
                (cluster, _) async throws(CommandFailure) in await cluster.metrics()
            }
            for rank in rank where !all.contains(where: { $0.engine.rank == rank }) {
                throw CommandFailure(.notFound, "rank \(rank)", "is not in the cluster")
            }
            var rows: [StorageRow] = []
            var status = ExitStatus.success
            for (engine, result) in all where rank.isEmpty || rank.contains(engine.rank) {
                switch result {
                case .success(let reply): rows += StorageRow.rows(reply.families)
                case .failure(let error):
                    Terminal.note(CommandFailure(error, "engine \(engine.rank)").line)
                    status = .unavailable
                }
            }
            rows.sort { ($0.rank, $0.order, $0.device) < ($1.rank, $1.order, $1.device) }
            try output.print(rows, text: StorageRow.table(rows))
            if status == .success, rows.contains(where: { $0.isOutOfService }) {
                status = .failure
            }
            try finish(status)
        }
    }
}

extension DeviceRow {
    /// The stores of one device, as `dray storage query PATH` shows them.
    static func stores(_ row: DeviceRow) -> String {
        var table = Table([
            ("TARGET", .left), ("PART", .left), ("SIZE", .right), ("DATA", .right),
            ("LOG", .right), ("CHECKPOINT", .right), ("SUPERBLOCK", .left),
        ])
        for store in row.stores {
            table.add([
                store.target.map { "\($0)" } ?? "system", store.role,
                Size(bytes: store.size).description, Size(bytes: store.dataSize).description,
                store.logSize == 0 ? "-" : Size(bytes: store.logSize).description,
                store.checkpoint.map { "\($0)" } ?? "-", store.isIntact ? "intact" : "DAMAGED",
            ])
        }
        let used = row.usedBy.map { ", used by \($0)" } ?? ""
        return "\(row.path): \(Size(bytes: row.size)), \(row.detail)\(used)\n" + table.text
    }
}

/// What `dray storage query` shows of one device of one target of a running engine.
struct StorageRow: Codable, Hashable, Sendable {
    /// Operations of one kind since the engine started. Times in seconds.
    struct Times: Codable, Hashable, Sendable {
        var count: UInt64
        var median: Double
        var percentile99: Double
        var maximum: Double
    }

    var rank: UInt32
    /// A number, or "system" for the engine's own metadata.
    var target: String
    /// "data" or "metadata".
    var device: String
    var isOutOfService: Bool
    /// Of the target, on both of its devices, in bytes.
    var size: UInt64
    var used: UInt64
    var freeRuns: UInt64
    var largestFreeRun: UInt64
    var logSize: UInt64
    var logUsed: UInt64
    /// Of this device.
    var bytesRead: UInt64
    var bytesWritten: UInt64
    var errors: UInt64
    var reads: Times?
    var writes: Times?
    var durableWrites: Times?
    var flushes: Times?

    /// Targets by their numbers, the engine's own first.
    var order: Int { Int(target) ?? -1 }

    /// Puts together what the metrics of an engine say.
    static func rows(_ families: [MetricFamily]) -> [StorageRow] {
        let names = Dictionary(
            families.map { ($0.name, $0.samples) }, uniquingKeysWith: { first, _ in first })
        func sample(_ name: String, _ labels: [String: String]) -> MetricSample? {
            names[name]?.first { sample in
                labels.allSatisfy { label in
                    sample.labels.contains { $0.name == label.key && $0.value == label.value }
                }
            }
        }
        let written = names["dray_device_written_bytes_total"] ?? []
        let read = names["dray_device_read_bytes_total"] ?? []
        var rows: [StorageRow] = []
        for one in written + read {
            func label(_ name: String) -> String? {
                one.labels.first { $0.name == name }?.value
            }
            guard let rank = label("rank").flatMap({ UInt32($0) }), let target = label("target"),
                let device = label("device"),
                !rows.contains(where: {
                    $0.rank == rank && $0.target == target && $0.device == device
                })
            else { continue }
            let labels = ["rank": "\(rank)", "target": target]
            let its = labels.merging(["device": device]) { first, _ in first }
            func number(_ name: String, _ labels: [String: String]) -> UInt64 {
                UInt64(max(0, sample(name, labels)?.value ?? 0))
            }
            func times(_ name: String) -> Times? {
                guard let histogram = sample(name, its)?.histogram, histogram.count > 0 else {
                    return nil
                }
                func at(_ share: Double) -> Double { Double(histogram.percentile(share)) / 1e9 }
                return Times(
                    count: histogram.count, median: at(0.5), percentile99: at(0.99),
                    maximum: at(1))
            }
            rows.append(
                StorageRow(
                    rank: rank, target: target, device: device,
                    isOutOfService: number("dray_storage_out_of_service", labels) > 0,
                    size: number("dray_storage_size_bytes", labels),
                    used: number("dray_storage_used_bytes", labels),
                    freeRuns: number("dray_storage_free_runs", labels),
                    largestFreeRun: number("dray_storage_largest_free_run_bytes", labels),
                    logSize: number("dray_storage_log_size_bytes", labels),
                    logUsed: number("dray_storage_log_used_bytes", labels),
                    bytesRead: number("dray_device_read_bytes_total", its),
                    bytesWritten: number("dray_device_written_bytes_total", its),
                    errors: number("dray_device_errors_total", its),
                    reads: times("dray_device_read_time_seconds"),
                    writes: times("dray_device_write_time_seconds"),
                    durableWrites: times("dray_device_durable_write_time_seconds"),
                    flushes: times("dray_device_flush_time_seconds")))
        }
        return rows
    }

    static func table(_ rows: [StorageRow]) -> String {
        guard !rows.isEmpty else { return "" }
        var table = Table([
            ("RANK", .right), ("TARGET", .left), ("DEVICE", .left), ("STATE", .left),
            ("SIZE", .right), ("USED", .right), ("FREE RUNS", .right), ("LOG", .right),
            ("READ", .right), ("WRITTEN", .right), ("READ P50/P99", .right),
            ("DURABLE P50/P99", .right), ("ERRORS", .right),
        ])
        func size(_ bytes: UInt64) -> String { Size(bytes: bytes).description }
        func times(_ times: Times?) -> String {
            guard let times else { return "-" }
            return [times.median, times.percentile99].map { seconds in
                HumanDuration(.nanoseconds(Int64(seconds * 1e9))).description
            }.joined(separator: "/")
        }
        for row in rows {
            let logShare = row.logSize == 0 ? 0 : row.logUsed * 100 / row.logSize
            table.add([
                "\(row.rank)", row.target, row.device,
                row.isOutOfService ? "OUT OF SERVICE" : "in service", size(row.size),
                size(row.used), "\(row.freeRuns)", "\(logShare)%", size(row.bytesRead),
                size(row.bytesWritten), times(row.reads), times(row.durableWrites),
                "\(row.errors)",
            ])
        }
        return table.text
    }
}
