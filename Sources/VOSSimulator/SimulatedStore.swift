package import BIO
package import DrayRuntime
package import VOS

/// A simulated process with one store on one simulated device, or on two, killed and started again
/// by whoever drives it.
package final class SimulatedStore {
    /// The names of the device, and of the metadata device if there is one.
    package static let path = "disk"
    package static let metadataPath = "metadata"

    /// What a store stands on.
    package enum Devices: String, CaseIterable, Sendable {
        /// One device has everything.
        case single
        /// The same, and blocks that are freed are discarded.
        case discarding
        /// One has the values, and discards; the other the log, and what it has room for of the
        /// index.
        case pair
    }

    /// What a store is made with.
    package struct Shape: Sendable {
        package var devices = Devices.single
        /// Blocks of the device, and how many of them are the log. Of a pair, the log is on the
        /// other device, and this one smaller by so much.
        package var blocks: UInt64 = 126
        package var logBlocks: UInt64 = 16
        /// Blocks of a metadata device for the index. So few that some of it is beside the values.
        package var indexBlocks: UInt64 = 12
        package var options = VOSOptions()

        package init() {}

        /// Blocks of the device with the values.
        var dataDeviceBlocks: UInt64 { devices == .pair ? blocks - logBlocks : blocks }
        /// Blocks of the metadata device, its two superblocks included.
        var metadataDeviceBlocks: UInt64 { 2 + logBlocks + indexBlocks }
    }

    package let simulation: Simulation
    package let devices: SimulatedDeviceStore
    package let shape: Shape
    package private(set) var incarnation = 0
    package private(set) var xstream: XStream
    package private(set) var world: World
    /// Those that the store has open.
    private var opened: [BlockDevice] = []
    private var discardsBefore: UInt64 = 0
    /// What tasks of the process have thrown, in words.
    package private(set) var failures: [String] = []

    /// With an image there are such devices; without one empty ones.
    package init(
        seed: UInt64, shape: Shape, image: StoreImage? = nil, faults: DeviceFaults = DeviceFaults()
    ) {
        simulation = Simulation(seed: seed)
        devices = SimulatedDeviceStore(simulation: simulation)
        devices.setFaults(faults)
        self.shape = shape
        world = simulation.world(node: 1)
        xstream = world.makeXStream(name: "x")
        if let image {
            devices.restore(image.data, path: Self.path)
            if let metadata = image.metadata {
                devices.restore(metadata, path: Self.metadataPath)
            }
        } else {
            do throws(BIOError) {
                try devices.create(path: Self.path, size: shape.dataDeviceBlocks * 4096)
                if shape.devices == .pair {
                    try devices.create(
                        path: Self.metadataPath, size: shape.metadataDeviceBlocks * 4096)
                }
            } catch {
                failures.append("create: \(error)")
            }
        }
    }

    /// Kills the process, unless it is dead already, and starts the next one.
    package func restart() {
        if !simulation.isDead(xstream.node) {
            simulation.kill(node: 1, incarnation: incarnation)
        }
        incarnation += 1
        world = simulation.world(node: 1, incarnation: incarnation)
        xstream = world.makeXStream(name: "x")
        opened = []
        discardsBefore = 0
    }

    /// Runs `body` as a task of the process. Returns false when it did not end, because the
    /// process was killed.
    @discardableResult
    package func run(_ body: @escaping () async throws -> Void) -> Bool {
        var done = false
        xstream.simulate { [self] in
            do {
                try await body()
            } catch {
                failures.append("\(error)")
            }
            done = true
        }
        let (xstream, simulation) = (xstream, simulation)
        return simulation.run(
            for: .seconds(3600), until: { done || simulation.isDead(xstream.node) }) && done
    }

    /// Opens the devices and runs `body` with them; closes them again if that throws.
    private func withDevices<Value>(
        _ body: (BlockDevice, BlockStore.MetadataPartition?) async throws(BIOError) -> Value
    ) async throws(BIOError) -> Value {
        do throws(BIOError) {
            let device = try devices.open(path: Self.path, on: xstream)
            opened.append(device)
            var metadata: BlockStore.MetadataPartition?
            if shape.devices == .pair {
                let other = try devices.open(path: Self.metadataPath, on: xstream)
                opened.append(other)
                metadata = BlockStore.MetadataPartition(device: other, partition: 0..<other.size)
            }
            return try await body(device, metadata)
        } catch {
            await closeDevices()
            throw error
        }
    }

    private func closeDevices() async {
        let devices = opened
        discardsBefore = discardCount
        opened = []
        for device in devices { await device.close() }
    }

    /// Makes an empty store on the devices.
    package func format(overwrite: Bool = false) async throws(BIOError) {
        try await withDevices { (device, metadata) async throws(BIOError) in
            try await BlockStore.format(
                device, partition: 0..<device.size, identity: StoreNames.identity,
                logSize: shape.logBlocks * 4096, overwrite: overwrite, metadata: metadata)
        }
        await closeDevices()
    }

    /// Opens what is on the devices.
    package func open() async throws(VOSError) -> VOS {
        let store: BlockStore
        do throws(BIOError) {
            store = try await withDevices { (device, metadata) async throws(BIOError) in
                try await BlockStore.open(
                    device, partition: 0..<device.size, identity: StoreNames.identity,
                    metadata: metadata, discard: shape.devices == .single ? .off : .on,
                    on: xstream)
            }
        } catch {
            throw .device(error)
        }
        // Soon enough for devices that are so small.
        store.discardLimits = .shrunken
        do throws(VOSError) {
            return try await VOS.open(
                store: store, world: world, on: xstream, options: shape.options)
        } catch {
            await store.close()
            await closeDevices()
            throw error
        }
    }

    /// Closes the store and its devices.
    package func close(_ vos: VOS) async {
        await vos.close()
        await closeDevices()
    }

    /// Looks at the closed store, and changes nothing.
    func inspect(
        _ visit: @escaping (StoreEntry) -> Void
    ) async throws(BIOError) -> InspectionReport {
        let report = try await withDevices { (device, metadata) async throws(BIOError) in
            let reader = try await StoreReader.open(
                ReadOnlyDevice(device), partition: 0..<device.size,
                metadata: metadata.map {
                    BlockStore.MetadataPartition(
                        device: ReadOnlyDevice($0.device), partition: $0.partition)
                }, on: xstream)
            return await StoreInspector.inspect(reader, depth: .values, visit: visit)
        }
        await closeDevices()
        return report
    }

    /// Discards that the devices were asked for since the process began.
    var discardCount: UInt64 {
        opened.reduce(discardsBefore) { $0 + $1.statistics.discards.count }
    }

    /// The devices as they are now, what is not durable included.
    package var image: StoreImage {
        StoreImage(
            data: devices.image(path: Self.path),
            metadata: shape.devices == .pair ? devices.image(path: Self.metadataPath) : nil)
    }
}

extension VOSOptions {
    /// Everything that has a limit reaches it soon: rare paths are common.
    package static func shrunken() -> VOSOptions {
        var options = VOSOptions()
        options.inlineThreshold = 64
        options.cacheBytes = 4096
        options.transactionsMax = 5
        // A few kilobytes are an index of several levels.
        options.indexBytes = 16 << 10
        options.memtableBytes = 2 << 10
        options.tableBytes = 4 << 10
        return options
    }
}
