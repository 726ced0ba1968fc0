internal import BIO
internal import DrayRuntime

/// Which device of an engine has which stores: its targets are dealt out in turn, and its own
/// store, that of the metadata, is the first one of the first device.
///
/// So the first store on a device says which device it is.
package struct DeviceLayout: Hashable, Sendable {
    let deviceCount: Int
    let targetCount: Int

    /// The number of the device that has a target, or the engine's own store.
    func device(of target: UInt32) -> Int {
        target == DevicePartitions.systemTarget ? 0 : Int(target) % deviceCount
    }

    /// The stores of a device, in the order of their places.
    func stores(on device: Int) -> [UInt32] {
        (device == 0 ? [DevicePartitions.systemTarget] : []) + targets(on: device)
    }

    /// The targets of a device.
    func targets(on device: Int) -> [UInt32] {
        stride(from: device, to: targetCount, by: deviceCount).map { UInt32($0) }
    }

    /// The partitions of these stores on a device of `size` bytes; nil when it is too small.
    func partitions(on device: Int, size: UInt64) -> [Range<UInt64>]? {
        let parts = DevicePartitions(
            deviceSize: size, targetCount: targets(on: device).count, hasSystem: device == 0)
        guard let parts else { return nil }
        return (device == 0 ? [parts.systemPartition] : []) + parts.targets
    }

    /// The smallest size of a device, in bytes.
    func sizeMin(of device: Int) -> UInt64 {
        DevicePartitions.sizeMin(
            targetCount: targets(on: device).count, hasSystem: device == 0)
    }

    // MARK: - What is on devices

    /// A device, and what its superblocks say.
    struct Found {
        var path: String
        var size: UInt64
        /// At least one.
        var labels: [StoreLabel]

        /// Whether it was declared faulty.
        var isFaulty: Bool { labels.contains(where: \.isFaulty) }
    }

    /// The paths in the order of what is on the devices, whatever order they were given in; nil for
    /// a device that is not among them.
    ///
    /// Throws `.mismatch` for a device that is none of those of the engine that `identity` tells
    /// of, and when one is there twice. (Stores behind one that has no intact superblock are not
    /// looked at.)
    func order(_ found: [Found], identity: StoreIdentity) throws(BIOError) -> [String?] {
        var paths = [String?](repeating: nil, count: deviceCount)
        for device in found {
            let index = try self.index(of: device, identity: identity)
            if let other = paths[index] {
                let missing = (0..<deviceCount).filter { missing in
                    !found.contains { $0.labels.first?.identity.target == first(on: missing) }
                }
                throw .mismatch(
                    path: device.path,
                    expected: missing.map { names(stores(on: $0)) }.joined(separator: ", or "),
                    found: "\(names(stores(on: index))), which \(other) has, too")
            }
            paths[index] = device.path
        }
        return paths
    }

    private func first(on device: Int) -> UInt32? { stores(on: device).first }

    /// Which of the devices it is.
    private func index(of found: Found, identity: StoreIdentity) throws(BIOError) -> Int {
        for label in found.labels {
            var wanted = identity
            wanted.target = label.identity.target
            guard label.identity == wanted else {
                throw .mismatch(
                    path: found.path,
                    expected: "cluster \(wanted.clusterID), engine \(wanted.engineID.low)",
                    found: "cluster \(label.identity.clusterID), engine "
                        + "\(label.identity.engineID.low)")
            }
            guard label.role != .metadata else {
                throw .mismatch(
                    path: found.path, expected: "a data device",
                    found: "the metadata device of one")
            }
        }
        let targets = found.labels.map(\.identity.target)
        let index = (0..<deviceCount).first { first(on: $0) == targets.first }
        let whole =
            "(of \(targetCount) \(targetCount == 1 ? "target" : "targets") on \(deviceCount) "
            + "\(deviceCount == 1 ? "device" : "devices"))"
        guard let index, stores(on: index).starts(with: targets) else {
            let expected = index.map { names(stores(on: $0)) } ?? "one of its devices"
            throw .mismatch(
                path: found.path, expected: "\(expected) \(whole)", found: names(targets))
        }
        for (label, partition) in zip(
            found.labels, partitions(on: index, size: found.size) ?? [])
        where label.partition != partition {
            let name = names([label.identity.target])
            throw .mismatch(
                path: found.path, expected: "\(name) in bytes \(partition) \(whole)",
                found: "it in bytes \(label.partition)")
        }
        return index
    }

    /// Stores in words.
    func names(_ stores: [UInt32]) -> String {
        let targets = stores.filter { $0 != DevicePartitions.systemTarget }.map { "\($0)" }
        let parts =
            (targets.count < stores.count ? ["the engine's own store"] : [])
            + (targets.isEmpty
                ? []
                : ["target\(targets.count == 1 ? "" : "s") " + targets.joined(separator: ", ")])
        return parts.joined(separator: " and ")
    }
}
