/// How an engine divides a device: on the first one a partition for metadata, then one per target,
/// all of whole mebibytes. What does not divide evenly is left unused at the end.
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

    private static func head(hasSystem: Bool) -> UInt64 { hasSystem ? system : 0 }

    /// The smallest device for so many targets, in bytes.
    static func sizeMin(targetCount: Int, hasSystem: Bool = true) -> UInt64 {
        head(hasSystem: hasSystem) + UInt64(targetCount) * targetMin
    }

    /// Nil when the device is too small.
    init?(deviceSize: UInt64, targetCount: Int, hasSystem: Bool = true) {
        let sizeMin = DevicePartitions.sizeMin(targetCount: targetCount, hasSystem: hasSystem)
        guard targetCount > 0, deviceSize >= sizeMin else { return nil }
        let head = DevicePartitions.head(hasSystem: hasSystem)
        let share = (deviceSize - head) / UInt64(targetCount)
        let size = share / DevicePartitions.alignment * DevicePartitions.alignment
        targets = (0..<UInt64(targetCount)).map { index in
            let start = head + index * size
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
