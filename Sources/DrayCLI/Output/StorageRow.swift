internal import DrayProtocol
internal import DrayRuntime

/// What `dray storage query` shows of one device of one target of a running engine.
struct StorageRow: Codable, Hashable, Sendable {
    /// Operations of one kind since the engine started. Times in seconds.
    struct Times: Codable, Hashable, Sendable {
        var count: UInt64
        var median: Double
        var percentile99: Double
        var maximum: Double

        /// Nil when there are none.
        init?(_ histogram: LatencyHistogram?) {
            guard let histogram, histogram.count > 0 else { return nil }
            func at(_ share: Double) -> Double { Double(histogram.percentile(share)) / 1e9 }
            (count, median, percentile99, maximum) = (histogram.count, at(0.5), at(0.99), at(1))
        }

        static func text(_ times: Times?) -> String {
            guard let times else { return "-" }
            return [times.median, times.percentile99].map { seconds in
                HumanDuration(.nanoseconds(Int64(seconds * 1e9))).description
            }.joined(separator: "/")
        }
    }

    var rank: UInt32
    /// A number, or "system" for the engine's own metadata.
    var target: String
    /// "data" or "metadata".
    var device: String
    var path: String
    /// Whether an error of one of its devices has taken the target's store out of service.
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
    /// Places that could not be read, and that did not match their checksums.
    var unreadablePlaces: UInt64
    var damagedPlaces: UInt64
    var reads: Times?
    var writes: Times?
    var durableWrites: Times?
    var flushes: Times?

    /// Targets by their numbers, the engine's own first.
    var order: Int { Int(target) ?? -1 }

    /// Puts together what the metrics of an engine say.
    static func rows(_ families: [MetricFamily]) -> [StorageRow] {
        let metrics = StorageFamilies(families)
        return metrics.devices.map { device in
            let (labels, its) = (device.store, device.labels)
            return StorageRow(
                rank: device.rank, target: device.target, device: device.role, path: device.path,
                isOutOfService: metrics.number("dray_storage_out_of_service", labels) > 0,
                size: metrics.number("dray_storage_size_bytes", labels),
                used: metrics.number("dray_storage_used_bytes", labels),
                freeRuns: metrics.number("dray_storage_free_runs", labels),
                largestFreeRun: metrics.number("dray_storage_largest_free_run_bytes", labels),
                logSize: metrics.number("dray_storage_log_size_bytes", labels),
                logUsed: metrics.number("dray_storage_log_used_bytes", labels),
                bytesRead: metrics.number("dray_device_read_bytes_total", its),
                bytesWritten: metrics.number("dray_device_written_bytes_total", its),
                errors: metrics.number("dray_device_errors_total", its),
                unreadablePlaces: metrics.number("dray_device_unreadable_places", its),
                damagedPlaces: metrics.number("dray_device_damaged_places", its),
                reads: Times(metrics.times("dray_device_read_time_seconds", its)),
                writes: Times(metrics.times("dray_device_write_time_seconds", its)),
                durableWrites: Times(
                    metrics.times("dray_device_durable_write_time_seconds", its)),
                flushes: Times(metrics.times("dray_device_flush_time_seconds", its)))
        }
    }

    static func table(_ rows: [StorageRow]) -> String {
        guard !rows.isEmpty else { return "" }
        var table = Table([
            ("RANK", .right), ("TARGET", .left), ("DEVICE", .left), ("STATE", .left),
            ("SIZE", .right), ("USED", .right), ("FREE RUNS", .right), ("LOG", .right),
            ("READ", .right), ("WRITTEN", .right), ("READ P50/P99", .right),
            ("DURABLE P50/P99", .right), ("ERRORS", .right), ("UNREADABLE", .right),
            ("DAMAGED", .right), ("PATH", .left),
        ])
        func size(_ bytes: UInt64) -> String { Size(bytes: bytes).description }
        for row in rows {
            let logShare = row.logSize == 0 ? 0 : row.logUsed * 100 / row.logSize
            table.add([
                "\(row.rank)", row.target, row.device,
                row.isOutOfService ? "OUT OF SERVICE" : "in service", size(row.size),
                size(row.used), "\(row.freeRuns)", "\(logShare)%", size(row.bytesRead),
                size(row.bytesWritten), Times.text(row.reads), Times.text(row.durableWrites),
                "\(row.errors)", "\(row.unreadablePlaces)", "\(row.damagedPlaces)", row.path,
            ])
        }
        return table.text
    }
}

/// What `dray storage query --devices` shows of one device of a running engine: all of its targets
/// together.
struct StorageDeviceRow: Codable, Hashable, Sendable {
    var rank: UInt32
    var path: String
    /// "data" or "metadata".
    var device: String
    var isOutOfService: Bool
    /// In order; "system" for the engine's own metadata.
    var targets: [String]
    /// Space for data, without logs, in bytes.
    var size: UInt64
    var used: UInt64
    var bytesRead: UInt64
    var bytesWritten: UInt64
    var errors: UInt64
    /// Places that could not be read, and that did not match their checksums.
    var unreadablePlaces: UInt64
    var damagedPlaces: UInt64
    var reads: StorageRow.Times?
    var writes: StorageRow.Times?
    var durableWrites: StorageRow.Times?
    var flushes: StorageRow.Times?

    /// Puts together what the metrics of an engine say.
    static func rows(_ families: [MetricFamily]) -> [StorageDeviceRow] {
        let metrics = StorageFamilies(families)
        let all = metrics.devices
        var rows: [StorageDeviceRow] = []
        for first in all {
            guard
                !rows.contains(where: {
                    $0.rank == first.rank && $0.path == first.path && $0.device == first.role
                })
            else { continue }
            let its = all.filter {
                $0.rank == first.rank && $0.path == first.path && $0.role == first.role
            }
            func sum(_ name: String) -> UInt64 {
                its.reduce(0) { $0 + metrics.number(name, $1.labels) }
            }
            func times(_ name: String) -> StorageRow.Times? {
                var sum: LatencyHistogram?
                for device in its {
                    guard let histogram = metrics.times(name, device.labels) else { continue }
                    if sum == nil { sum = histogram } else { sum?.merge(histogram) }
                }
                return StorageRow.Times(sum)
            }
            rows.append(
                StorageDeviceRow(
                    rank: first.rank, path: first.path, device: first.role,
                    isOutOfService: sum("dray_device_out_of_service") > 0,
                    targets: its.map(\.target).sorted { (Int($0) ?? -1) < (Int($1) ?? -1) },
                    size: sum("dray_device_size_bytes"), used: sum("dray_device_used_bytes"),
                    bytesRead: sum("dray_device_read_bytes_total"),
                    bytesWritten: sum("dray_device_written_bytes_total"),
                    errors: sum("dray_device_errors_total"),
                    unreadablePlaces: sum("dray_device_unreadable_places"),
                    damagedPlaces: sum("dray_device_damaged_places"),
                    reads: times("dray_device_read_time_seconds"),
                    writes: times("dray_device_write_time_seconds"),
                    durableWrites: times("dray_device_durable_write_time_seconds"),
                    flushes: times("dray_device_flush_time_seconds")))
        }
        return rows
    }

    static func table(_ rows: [StorageDeviceRow]) -> String {
        guard !rows.isEmpty else { return "" }
        var table = Table([
            ("RANK", .right), ("DEVICE", .left), ("STATE", .left), ("TARGETS", .left),
            ("SIZE", .right), ("USED", .right), ("READ", .right), ("WRITTEN", .right),
            ("READ P50/P99", .right), ("DURABLE P50/P99", .right), ("ERRORS", .right),
            ("UNREADABLE", .right), ("DAMAGED", .right), ("PATH", .left),
        ])
        func size(_ bytes: UInt64) -> String { Size(bytes: bytes).description }
        for row in rows {
            table.add([
                "\(row.rank)", row.device,
                row.isOutOfService ? "OUT OF SERVICE" : "in service",
                row.targets.joined(separator: ","), size(row.size), size(row.used),
                size(row.bytesRead), size(row.bytesWritten), StorageRow.Times.text(row.reads),
                StorageRow.Times.text(row.durableWrites), "\(row.errors)",
                "\(row.unreadablePlaces)", "\(row.damagedPlaces)", row.path,
            ])
        }
        return table.text
    }
}

/// The metrics of an engine that concern its devices.
private struct StorageFamilies {
    /// One device of one target.
    struct Device: Hashable {
        var rank: UInt32
        var target: String
        /// "data" or "metadata".
        var role: String
        var path: String

        /// What its metrics have for labels.
        var labels: [String: String] { store.merging(["device": role]) { first, _ in first } }
        /// What those of its target have.
        var store: [String: String] { ["rank": "\(rank)", "target": target] }
    }

    private let samples: [String: [MetricSample]]

    init(_ families: [MetricFamily]) {
        samples = Dictionary(
            families.map { ($0.name, $0.samples) }, uniquingKeysWith: { first, _ in first })
    }

    /// In the order in which they are met.
    var devices: [Device] {
        var devices: [Device] = []
        let written = samples["dray_device_written_bytes_total"] ?? []
        let read = samples["dray_device_read_bytes_total"] ?? []
        for sample in written + read {
            func label(_ name: String) -> String? {
                sample.labels.first { $0.name == name }?.value
            }
            guard let rank = label("rank").flatMap({ UInt32($0) }), let target = label("target"),
                let role = label("device")
            else { continue }
            let device = Device(rank: rank, target: target, role: role, path: label("path") ?? "")
            if !devices.contains(device) { devices.append(device) }
        }
        return devices
    }

    private func sample(_ name: String, _ labels: [String: String]) -> MetricSample? {
        samples[name]?.first { sample in
            labels.allSatisfy { label in
                sample.labels.contains { $0.name == label.key && $0.value == label.value }
            }
        }
    }

    func number(_ name: String, _ labels: [String: String]) -> UInt64 {
        UInt64(max(0, sample(name, labels)?.value ?? 0))
    }

    func times(_ name: String, _ labels: [String: String]) -> LatencyHistogram? {
        sample(name, labels)?.histogram
    }
}
