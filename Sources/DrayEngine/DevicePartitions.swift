internal import BIO

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
