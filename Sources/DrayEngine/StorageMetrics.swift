internal import BIO
public import DrayRuntime
internal import VOS

/// What an engine's metrics say about one device of one target.
public struct DeviceMetrics: Sendable {
    let statistics: DeviceStatistics
    let totalBlocks: UInt32
    let freeBlocks: UInt32
    let isOutOfService: Bool

    private static func bytes(_ blocks: UInt32) -> Int { Int(blocks) * BlockDevice.blockSize }

    static let set = MetricSet<DeviceMetrics>([
        .gauge("dray_device_size", unit: .bytes, "Space for data on the device.") {
            bytes($0.totalBlocks)
        },
        .gauge("dray_device_used", unit: .bytes, "Space in use on the device.") {
            bytes($0.totalBlocks - $0.freeBlocks)
        },
        .gauge(
            "dray_device_out_of_service",
            "1 when a write or flush that failed, or too much that is bad, has taken the device "
                + "out of service, or it is missing."
        ) { $0.isOutOfService ? 1 : 0 },
        .counter("dray_device_read", unit: .bytes, "Bytes read from the device.") {
            Int(clamping: $0.statistics.bytesRead)
        },
        .counter("dray_device_written", unit: .bytes, "Bytes written to the device.") {
            Int(clamping: $0.statistics.bytesWritten)
        },
        .counter("dray_device_reads", "Reads.") { Int(clamping: $0.statistics.reads.count) },
        .counter("dray_device_writes", "Writes, durable ones included.") {
            Int(clamping: $0.statistics.writes.count + $0.statistics.durableWrites.count)
        },
        .counter("dray_device_flushes", "Flushes, and writes that were durable themselves.") {
            Int(clamping: $0.statistics.flushCount)
        },
        .counter("dray_device_discards", "Ranges of freed blocks given back to the device.") {
            Int(clamping: $0.statistics.discards.count)
        },
        .counter("dray_device_errors", "Operations that failed.") {
            Int(clamping: $0.statistics.errors)
        },
        .gauge("dray_device_unreadable_places", "Places that could not be read, each once.") {
            Int(clamping: $0.statistics.unreadablePlaces)
        },
        .gauge(
            "dray_device_damaged_places", "Places that did not match their checksums, each once."
        ) { Int(clamping: $0.statistics.damagedPlaces) },
        .times("dray_device_read_time", "How long reads took.") { $0.statistics.reads.latency },
        .times("dray_device_write_time", "How long writes took that were not durable.") {
            $0.statistics.writes.latency
        },
        .times("dray_device_durable_write_time", "How long durable writes took.") {
            $0.statistics.durableWrites.latency
        },
        .times("dray_device_flush_time", "How long flushes took.") {
            $0.statistics.flushes.latency
        },
    ])

    /// Every metric of a device. Their labels are `rank`, `target`, `device`, which is "data" or
    /// "metadata", and `path`.
    public static let definitions = set.definitions
}

extension DeviceMetrics {
    /// The data device of a store, or its metadata device.
    init(_ device: BlockDevice, of store: BlockStore) {
        let allocator = store.allocator
        let isData = device === store.device
        statistics = device.statistics
        totalBlocks = isData ? allocator.dataBlocks : allocator.metadataBlocks
        freeBlocks =
            isData
            ? allocator.freeDataBlocks : allocator.freeMetadataBlocks
        isOutOfService = device.health?.isOutOfService == true
    }

    /// A device that is missing.
    static var lost: DeviceMetrics {
        DeviceMetrics(
            statistics: DeviceStatistics(), totalBlocks: 0, freeBlocks: 0, isOutOfService: true)
    }
}

/// What an engine's metrics say about the store of one target.
public struct StoreMetrics: Sendable {
    let totalBlocks: UInt32
    let usedBlocks: UInt32
    let fragmentation: BlockFragmentation
    let logBytes: UInt64
    let logUsedBytes: UInt64
    let isOutOfService: Bool
    let scrub: ScrubStatus

    private static func bytes(_ blocks: UInt32) -> Int { Int(blocks) * BlockDevice.blockSize }

    static let set = MetricSet<StoreMetrics>([
        .gauge("dray_storage_size", unit: .bytes, "Space for data.") { bytes($0.totalBlocks) },
        .gauge("dray_storage_used", unit: .bytes, "Space in use.") { bytes($0.usedBlocks) },
        .gauge("dray_storage_free_runs", "Runs in which the free blocks lie.") {
            Int($0.fragmentation.freeRuns)
        },
        .gauge("dray_storage_largest_free_run", unit: .bytes, "The longest of them.") {
            bytes($0.fragmentation.largestFreeRun)
        },
        .gauge("dray_storage_log_size", unit: .bytes, "Size of the log.") {
            Int(clamping: $0.logBytes)
        },
        .gauge("dray_storage_log_used", unit: .bytes, "What the log holds since the checkpoint.") {
            Int(clamping: $0.logUsedBytes)
        },
        .gauge(
            "dray_storage_out_of_service",
            "1 when an error of the device has taken the target's store out of service, or it is "
                + "missing."
        ) { $0.isOutOfService ? 1 : 0 },
        .counter("dray_storage_scrub_passes", "Times that everything was read and verified.") {
            Int(clamping: $0.scrub.passes)
        },
        .counter("dray_storage_scrub_verified", unit: .bytes, "Bytes that scrubbing has read.") {
            Int(clamping: $0.scrub.bytes)
        },
        .counter(
            "dray_storage_scrub_errors",
            "Values, and parts of the index, that scrubbing found damaged; the same once a pass."
        ) { Int(clamping: $0.scrub.errors) },
        .gauge("dray_storage_scrub_running", "1 while a pass is under way.") {
            $0.scrub.current == nil ? 0 : 1
        },
        .gauge(
            "dray_storage_damaged",
            "What the pass under way and the one before have found damaged, as far as it is listed."
        ) { $0.scrub.findings.count },
    ])

    /// Every metric of a store. Their labels are `rank` and `target`.
    public static let definitions = set.definitions
}

extension StoreMetrics {
    init(_ store: BlockStore, _ vos: VOS) {
        scrub = vos.scrubStatus
        totalBlocks = store.allocator.totalBlocks
        usedBlocks = store.allocator.usedBlocks
        fragmentation = store.allocator.fragmentation
        logBytes = store.logSize
        logUsedBytes = store.logUsed
        isOutOfService = store.isOutOfService
    }

    /// A store whose device is missing.
    static var lost: StoreMetrics {
        StoreMetrics(
            totalBlocks: 0, usedBlocks: 0, fragmentation: BlockFragmentation(), logBytes: 0,
            logUsedBytes: 0, isOutOfService: true, scrub: ScrubStatus())
    }
}

/// Brings the metrics of a store and its devices to a factory.
struct StoragePublisher {
    private var store: MetricPublisher<StoreMetrics>
    private var data: MetricPublisher<DeviceMetrics>
    private var metadata: MetricPublisher<DeviceMetrics>?

    /// `target` is what the label says: a number, or "system".
    init(_ blocks: BlockStore, world: World, rank: UInt32, target: String) {
        self.init(
            data: blocks.device.name, metadata: blocks.metadataDevice?.name, world: world,
            rank: rank, target: target)
    }

    /// The same by the paths of the devices.
    init(data: String, metadata: String? = nil, world: World, rank: UInt32, target: String) {
        let factory = world.metrics
        let labels = [("rank", "\(rank)"), ("target", target)]
        func publisher(_ path: String, _ role: String) -> MetricPublisher<DeviceMetrics> {
            MetricPublisher(
                DeviceMetrics.set, factory: factory,
                dimensions: labels + [("device", role), ("path", path)])
        }
        store = MetricPublisher(StoreMetrics.set, factory: factory, dimensions: labels)
        self.data = publisher(data, "data")
        self.metadata = metadata.map { publisher($0, "metadata") }
    }

    mutating func publish(_ blocks: BlockStore, _ vos: VOS) {
        store.publish(StoreMetrics(blocks, vos))
        data.publish(DeviceMetrics(blocks.device, of: blocks))
        if let device = blocks.metadataDevice {
            metadata?.publish(DeviceMetrics(device, of: blocks))
        }
    }
    /// For a target whose data device is missing.
    mutating func publishLoss() {
        store.publish(.lost)
        data.publish(.lost)
    }
}
