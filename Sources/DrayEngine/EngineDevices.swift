internal import BIO
internal import DrayRuntime
internal import Logging

/// The devices of an engine, in the order of what is on them. Each xstream opens those that it
/// needs.
struct EngineDevices: Sendable {
    let configuration: EngineConfiguration
    let layout: DeviceLayout
    /// The data devices, those that are missing at their places.
    let paths: [String]
    /// Why a data device is not used, by its number: its targets are out of service.
    private let missing: [Int: BIOError]
    /// Of each of these.
    private let health: [DeviceHealth]
    /// Of the metadata device, where there is one.
    private let metadataHealth: DeviceHealth

    /// A store, and where it lies on devices that were opened.
    struct Place {
        var device: BlockDevice
        var partition: Range<UInt64>
        /// Its part of the metadata device, if there is one.
        var metadata: BlockStore.MetadataPartition?
        /// The size of its log.
        var logSize: UInt64
    }

    private init(
        _ configuration: EngineConfiguration, paths: [String], missing: [Int: BIOError],
        log: Logger
    ) {
        self.configuration = configuration
        self.paths = paths
        self.missing = missing
        layout = configuration.layout
        func makeHealth() -> DeviceHealth {
            DeviceHealth(criteria: configuration.faultyCriteria) {
                log.error("out of service: \(DeviceProblem.describe($0))")
            }
        }
        health = paths.map { _ in makeHealth() }
        metadataHealth = makeHealth()
    }

    /// Finds out which path has which device: names may change from one start of a machine to the
    /// next. Throws what is wrong with one that is not the engine's, and when the one with the
    /// engine's own store, or the metadata device, is missing or was declared faulty. Without
    /// another one, its targets are out of service.
    static func find(
        _ configuration: EngineConfiguration, world: World, on xstream: XStream
    ) async throws(EngineError) -> EngineDevices {
        let layout = configuration.layout
        var found: [DeviceLayout.Found] = []
        var missing: [(path: String, error: BIOError)] = []
        let order: [String?]
        do throws(BIOError) {
            try checkPaths(configuration, world)
            for path in configuration.devicePaths {
                switch await look(at: path, world: world, on: xstream) {
                case .success(let device): found.append(device)
                case .failure(let error) where error.isLoss: missing.append((path, error))
                case .failure(let error): throw error
                }
            }
            order = try layout.order(
                found, identity: configuration.identity(target: DevicePartitions.systemTarget))
            if let path = configuration.metadataDevicePath,
                case .success(let device) = await look(at: path, world: world, on: xstream),
                device.isFaulty
            {
                throw .declaredFaulty(path: path)
            }
        } catch {
            throw .device(error)
        }
        if order[0] == nil, let first = missing.first { throw .ownDevice(first.error) }
        let faulty = Set(found.filter(\.isFaulty).map(\.path))
        if let own = order[0], faulty.contains(own) {
            throw .ownDevice(.declaredFaulty(path: own))
        }
        let log = world.log.logger(.engine)
        var paths: [String] = []
        var errors: [Int: BIOError] = [:]
        for (index, path) in order.enumerated() {
            // Which of several is which nobody knows, nor matters.
            guard let path = path ?? missing.first?.path else {
                preconditionFailure("a device is neither there nor missing")
            }
            paths.append(path)
            let error: BIOError
            if order[index] == nil {
                error = missing.removeFirst().error
            } else if faulty.contains(path) {
                error = .declaredFaulty(path: path)
            } else {
                continue
            }
            errors[index] = error
            let targets = layout.names(layout.stores(on: index))
            log.error("\(targets) out of service: \(DeviceProblem.describe(error))")
        }
        if paths != configuration.devicePaths {
            log.notice("the devices are \(paths.joined(separator: ", ")), in this order")
        }
        return EngineDevices(configuration, paths: paths, missing: errors, log: log)
    }

    /// What is on a device.
    private static func look(
        at path: String, world: World, on xstream: XStream
    ) async -> Result<DeviceLayout.Found, BIOError> {
        do throws(BIOError) {
            let device = try world.devices.open(path: path, on: xstream)
            let labels: Result<[StoreLabel], BIOError>
            do throws(BIOError) {
                labels = .success(try await BlockStore.labels(on: device))
            } catch {
                labels = .failure(error)
            }
            let size = device.size
            await device.close()
            return labels.map { DeviceLayout.Found(path: path, size: size, labels: $0) }
        } catch {
            return .failure(error)
        }
    }

    /// Why a target is out of service from the start, and the device that it would be on; nil for
    /// one whose device is there.
    func loss(of target: UInt32) -> (path: String, error: BIOError)? {
        let index = layout.device(of: target)
        return missing[index].map { (paths[index], $0) }
    }

    /// Every device, data and metadata, in service or not.
    var allPaths: [String] { paths + [configuration.metadataDevicePath].compactMap(\.self) }

    // MARK: - Opening

    /// Opens what the store of a target needs, on the calling xstream.
    func open(
        _ target: UInt32, world: World, on xstream: XStream
    ) throws(BIOError) -> Place {
        let index = layout.device(of: target)
        let device = try world.devices.open(path: paths[index], on: xstream)
        device.health = health[index]
        let metadata = try configuration.metadataDevicePath.map { path throws(BIOError) in
            try world.devices.open(path: path, on: xstream)
        }
        metadata?.health = metadataHealth
        return try EngineDevices.place(of: target, on: device, metadata, configuration)
    }

    /// Prepares the devices in the order in which they were given.
    static func format(
        _ configuration: EngineConfiguration, world: World, on xstream: XStream, overwrite: Bool
    ) async throws(BIOError) {
        try checkPaths(configuration, world)
        var opened: [BlockDevice] = []
        do throws(BIOError) {
            for path in configuration.devicePaths {
                opened.append(try world.devices.open(path: path, on: xstream))
            }
            var metadata: BlockDevice?
            if let path = configuration.metadataDevicePath {
                let device = try world.devices.open(path: path, on: xstream)
                opened.append(device)
                metadata = device
            }
            try await format(
                configuration, opened, metadata, entropy: world.entropy.fork("format"),
                overwrite: overwrite)
        } catch {
            for device in opened { await device.close() }
            throw error
        }
        for device in opened { await device.close() }
    }

    /// Each path must lead to a device of its own.
    private static func checkPaths(
        _ configuration: EngineConfiguration, _ world: World
    ) throws(BIOError) {
        let paths =
            configuration.devicePaths + [configuration.metadataDevicePath].compactMap(\.self)
        for (index, path) in paths.enumerated() {
            if let other = paths[..<index].first(where: { world.devices.isSame(path, $0) }) {
                throw .mismatch(path: path, expected: "another device", found: "that of \(other)")
            }
        }
    }

    private static func format(
        _ configuration: EngineConfiguration, _ devices: [BlockDevice], _ metadata: BlockDevice?,
        entropy: Entropy, overwrite: Bool
    ) async throws(BIOError) {
        var entropy = entropy
        let layout = configuration.layout
        let targets = (0..<UInt32(configuration.targetCount)) + [DevicePartitions.systemTarget]
        let places = try targets.map { target throws(BIOError) in
            try place(
                of: target, on: devices[layout.device(of: target)], metadata, configuration)
        }
        if !overwrite {
            for place in places {
                try await BlockStore.requireEmpty(
                    place.device, place.partition, metadata: place.metadata)
            }
        }
        for (target, place) in zip(targets, places) {
            try await BlockStore.format(
                place.device, partition: place.partition,
                identity: configuration.identity(target: target), logSize: place.logSize,
                // Tells this pair of devices from all others.
                salt: metadata == nil ? 0 : entropy.next(), overwrite: overwrite,
                metadata: place.metadata)
        }
    }

    private static func place(
        of target: UInt32, on device: BlockDevice, _ metadata: BlockDevice?,
        _ configuration: EngineConfiguration
    ) throws(BIOError) -> Place {
        let layout = configuration.layout
        let index = layout.device(of: target)
        guard let partitions = layout.partitions(on: index, size: device.size),
            let number = layout.stores(on: index).firstIndex(of: target)
        else {
            throw tooSmall(device, layout.targets(on: index).count, layout.sizeMin(of: index))
        }
        let partition = partitions[number]
        guard let metadata else {
            return Place(
                device: device, partition: partition,
                logSize: configuration.logSize(of: partition))
        }
        let count = configuration.targetCount
        guard let parts = MetadataPartitions(deviceSize: metadata.size, targetCount: count) else {
            throw tooSmall(metadata, count, MetadataPartitions.sizeMin(targetCount: count))
        }
        let part =
            target == DevicePartitions.systemTarget
            ? parts.systemPartition : parts.targets[Int(target)]
        return Place(
            device: device, partition: partition,
            metadata: BlockStore.MetadataPartition(device: metadata, partition: part),
            logSize: configuration.logSize ?? MetadataPartitions.logSize(of: part))
    }

    private static func tooSmall(
        _ device: BlockDevice, _ targetCount: Int, _ needed: UInt64
    ) -> BIOError {
        .outOfRange(
            "\(device.name) has \(device.size) bytes; \(targetCount) targets need \(needed)")
    }
}

extension BIOError {
    /// Whether the device is not there, or nothing can be read from it. Not so for one that holds
    /// something else, or is in use: somebody has to look at that.
    fileprivate var isLoss: Bool {
        switch self {
        case .missing, .unusable, .corrupt, .failed: true
        case .foreign, .mismatch, .busy, .full, .outOfRange, .faulty, .declaredFaulty,
            .outOfService:
            false
        }
    }
}

extension EngineConfiguration {
    /// Which device has which target.
    package var layout: DeviceLayout {
        DeviceLayout(deviceCount: devicePaths.count, targetCount: targetCount)
    }

    func logSize(of partition: Range<UInt64>) -> UInt64 {
        logSize ?? DevicePartitions.logSize(of: partition)
    }

    /// Where the data blocks of every target lie, by the device's number, on devices of
    /// `deviceSize` bytes; empty for one that is too small.
    package func dataAreas(device: Int, deviceSize: UInt64) -> [Range<UInt64>] {
        let partitions = layout.partitions(on: device, size: deviceSize) ?? []
        return zip(layout.stores(on: device), partitions)
            .filter { $0.0 != DevicePartitions.systemTarget }
            .map { BlockStore.dataArea(of: $0.1, logSize: logSize(of: $0.1)) }
    }
}
