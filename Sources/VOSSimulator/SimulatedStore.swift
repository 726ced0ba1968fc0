package import BIO
package import DrayRuntime
package import VOS

/// A simulated process with one store on one simulated device, killed and started again by
/// whoever drives it.
package final class SimulatedStore {
    /// The name of the device.
    package static let path = "disk"

    /// What a store is made with.
    package struct Shape: Sendable {
        /// Blocks of the device, and how many of them are the log.
        package var blocks: UInt64 = 110
        package var logBlocks: UInt64 = 16
        package var options = VOSOptions()

        package init() {}
    }

    package let simulation: Simulation
    package let devices: SimulatedDeviceStore
    package let shape: Shape
    package private(set) var incarnation = 0
    package private(set) var xstream: XStream
    package private(set) var world: World
    private var device: BlockDevice?
    /// What tasks of the process have thrown, in words.
    package private(set) var failures: [String] = []

    /// With an image there is such a device; without one an empty one.
    package init(
        seed: UInt64, shape: Shape, image: DeviceImage? = nil, faults: DeviceFaults = DeviceFaults()
    ) {
        simulation = Simulation(seed: seed)
        devices = SimulatedDeviceStore(simulation: simulation)
        devices.setFaults(faults)
        self.shape = shape
        world = simulation.world(node: 1)
        xstream = world.makeXStream(name: "x")
        if let image {
            devices.restore(image, path: Self.path)
        } else {
            do throws(BIOError) {
                try devices.create(path: Self.path, size: shape.blocks * 4096)
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
        device = nil
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

    /// Makes an empty store on the device.
    package func format(overwrite: Bool = false) async throws(BIOError) {
        let device = try devices.open(path: Self.path, on: xstream)
        do throws(BIOError) {
            try await BlockStore.format(
                device, partition: 0..<device.size, identity: StoreNames.identity,
                logSize: shape.logBlocks * 4096, overwrite: overwrite)
        } catch {
            await device.close()
            throw error
        }
        await device.close()
    }

    /// Opens what is on the device.
    package func open() async throws(VOSError) -> VOS {
        let store: BlockStore
        do throws(BIOError) {
            let device = try devices.open(path: Self.path, on: xstream)
            self.device = device
            store = try await BlockStore.open(
                device, partition: 0..<device.size, identity: StoreNames.identity, on: xstream)
        } catch {
            await closeDevice()
            throw .device(error)
        }
        do throws(VOSError) {
            return try await VOS.open(
                store: store, world: world, on: xstream, options: shape.options)
        } catch {
            await store.close()
            await closeDevice()
            throw error
        }
    }

    /// Closes the store and its device.
    package func close(_ vos: VOS) async {
        await vos.close()
        await closeDevice()
    }

    private func closeDevice() async {
        await device?.close()
        device = nil
    }

    /// The device as it is now, what is not durable included.
    package var image: DeviceImage { devices.image(path: Self.path) }
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
