internal import BIO
internal import DrayRuntime

/// How an engine divides its device: a partition for metadata, then one per target, all of whole
/// mebibytes. What does not divide evenly is left unused at the end.
package struct DevicePartitions {
    static let system: UInt64 = 64 << 20
    static let alignment: UInt64 = 1 << 20
    static let targetMin: UInt64 = 64 << 20
    static let logMin: UInt64 = 8 << 20
    static let logMax: UInt64 = 256 << 20

    /// The number that marks the metadata partition in its identity.
    static let systemTarget: UInt32 = .max

    let targets: [Range<UInt64>]

    var systemPartition: Range<UInt64> { 0..<DevicePartitions.system }

    /// The smallest device for so many targets, in bytes.
    static func sizeMin(targetCount: Int) -> UInt64 {
        system + UInt64(targetCount) * targetMin
    }

    /// Nil when the device is too small.
    init?(deviceSize: UInt64, targetCount: Int) {
        guard targetCount > 0,
            deviceSize >= DevicePartitions.sizeMin(targetCount: targetCount)
        else { return nil }
        let share = (deviceSize - DevicePartitions.system) / UInt64(targetCount)
        let size = share / DevicePartitions.alignment * DevicePartitions.alignment
        targets = (0..<UInt64(targetCount)).map { index in
            let start = DevicePartitions.system + index * size
            return start..<(start + size)
        }
    }

    /// A log of a sixteenth of the partition, within limits.
    package static func logSize(of partition: Range<UInt64>) -> UInt64 {
        let share = UInt64(partition.count) / 16 / alignment * alignment
        return min(logMax, max(logMin, share))
    }
}

/// How an engine divides its metadata device: a partition for its own metadata, then one per
/// target.
struct MetadataPartitions {
    static let system: UInt64 = 16 << 20
    static let targetMin: UInt64 = 16 << 20

    let targets: [Range<UInt64>]

    var systemPartition: Range<UInt64> { 0..<MetadataPartitions.system }

    /// The smallest device for so many targets, in bytes.
    static func sizeMin(targetCount: Int) -> UInt64 { system + UInt64(targetCount) * targetMin }

    /// Nil when the device is too small.
    init?(deviceSize: UInt64, targetCount: Int) {
        guard targetCount > 0,
            deviceSize >= MetadataPartitions.sizeMin(targetCount: targetCount)
        else { return nil }
        let alignment = DevicePartitions.alignment
        let share = (deviceSize - MetadataPartitions.system) / UInt64(targetCount)
        let size = share / alignment * alignment
        targets = (0..<UInt64(targetCount)).map { index in
            let start = MetadataPartitions.system + index * size
            return start..<(start + size)
        }
    }

    /// A log of a quarter of the partition, within the limits that other logs have.
    static func logSize(of partition: Range<UInt64>) -> UInt64 {
        let share = UInt64(partition.count) / 4 / DevicePartitions.alignment
        return min(
            DevicePartitions.logMax,
            max(DevicePartitions.logMin / 2, share * DevicePartitions.alignment))
    }
}

/// The devices of an engine, opened by one xstream, and how they are divided.
struct EngineDevices {
    let device: BlockDevice
    let partitions: DevicePartitions
    /// The metadata device, where there is one.
    let metadata: (device: BlockDevice, partitions: MetadataPartitions)?

    /// Opens them on the calling xstream.
    init(
        _ configuration: EngineConfiguration, world: World, on xstream: XStream
    ) throws(BIOError) {
        let count = configuration.targetCount
        device = try world.devices.open(path: configuration.devicePath, on: xstream)
        guard let partitions = DevicePartitions(deviceSize: device.size, targetCount: count) else {
            throw EngineDevices.tooSmall(
                device, count, DevicePartitions.sizeMin(targetCount: count))
        }
        self.partitions = partitions
        guard let path = configuration.metadataDevicePath else {
            metadata = nil
            return
        }
        let second = try world.devices.open(path: path, on: xstream)
        guard let parts = MetadataPartitions(deviceSize: second.size, targetCount: count) else {
            throw EngineDevices.tooSmall(
                second, count, MetadataPartitions.sizeMin(targetCount: count))
        }
        metadata = (second, parts)
    }

    private static func tooSmall(
        _ device: BlockDevice, _ targetCount: Int, _ needed: UInt64
    ) -> BIOError {
        .outOfRange(
            "\(device.name) has \(device.size) bytes; \(targetCount) targets need \(needed)")
    }

    /// The partition of a target, or of the engine's own metadata.
    func partition(of target: UInt32) -> Range<UInt64> {
        target == DevicePartitions.systemTarget
            ? partitions.systemPartition : partitions.targets[Int(target)]
    }

    /// Its part of the metadata device, if there is one.
    func metadataPartition(of target: UInt32) -> BlockStore.MetadataPartition? {
        guard let (device, partitions) = metadata else { return nil }
        return BlockStore.MetadataPartition(
            device: device,
            partition: target == DevicePartitions.systemTarget
                ? partitions.systemPartition : partitions.targets[Int(target)])
    }

    /// The size of the log of a target.
    func logSize(of target: UInt32, _ configuration: EngineConfiguration) -> UInt64 {
        if let size = configuration.logSize { return size }
        guard let metadata = metadataPartition(of: target) else {
            return DevicePartitions.logSize(of: partition(of: target))
        }
        return MetadataPartitions.logSize(of: metadata.partition)
    }

    /// Ends the use of both.
    func close() async {
        await device.close()
        await metadata?.device.close()
    }
}

extension EngineConfiguration {
    func logSize(of partition: Range<UInt64>) -> UInt64 {
        logSize ?? DevicePartitions.logSize(of: partition)
    }

    /// Where the data blocks of every target lie on a device of `deviceSize` bytes; empty when the
    /// device is too small.
    package func dataAreas(deviceSize: UInt64) -> [Range<UInt64>] {
        DevicePartitions(deviceSize: deviceSize, targetCount: targetCount)?.targets.map {
            BlockStore.dataArea(of: $0, logSize: logSize(of: $0))
        } ?? []
    }
}
