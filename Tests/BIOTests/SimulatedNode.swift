import BIO
import DrayRuntime
import Testing

/// Simulated processes with one xstream and one device, started and killed by a test.
final class SimulatedNode {
    static let path = "disk"
    static let identity = StoreIdentity(
        clusterID: UniqueID(high: 1, low: 2), engineID: UniqueID(high: 3, low: 4), target: 5)

    let simulation: Simulation
    let store: SimulatedDeviceStore
    private(set) var incarnation = 0
    private(set) var xstream: XStream

    /// The device has `blocks` blocks; nil creates none.
    init(seed: UInt64, blocks: UInt64? = 256, faults: DeviceFaults = DeviceFaults()) {
        simulation = Simulation(seed: seed)
        store = SimulatedDeviceStore(simulation: simulation)
        store.setFaults(faults)
        xstream = simulation.world(node: 1).makeXStream(name: "x")
        if let blocks {
            do {
                try store.create(path: Self.path, size: blocks * 4096)
            } catch {
                Issue.record("create: \(error)")
            }
        }
    }

    /// Kills the process, unless it is dead already, and starts the next one.
    func restart() {
        if !simulation.isDead(xstream.node) {
            simulation.kill(node: 1, incarnation: incarnation)
        }
        incarnation += 1
        xstream = simulation.world(node: 1, incarnation: incarnation).makeXStream(name: "x")
    }

    /// Runs `body` as a task of the process. Returns false when it did not end, because the
    /// process was killed.
    @discardableResult
    func run(_ body: @escaping () async throws -> Void) -> Bool {
        var done = false
        xstream.simulate {
            do {
                try await body()
            } catch {
                Issue.record("\(error)")
            }
            done = true
        }
        let xstream = xstream
        let simulation = simulation
        return simulation.run(
            for: .seconds(600),
            until: {
                done || simulation.isDead(xstream.node)
            }) && done
    }

    func openDevice() throws -> BlockDevice {
        try store.open(path: Self.path, on: xstream)
    }

    func openStore() async throws -> BlockStore {
        let device = try openDevice()
        return try await BlockStore.open(
            device, partition: 0..<device.size, identity: Self.identity, on: xstream)
    }

    func format(logBlocks: UInt64 = 16, overwrite: Bool = false) async throws {
        let device = try openDevice()
        try await BlockStore.format(
            device, partition: 0..<device.size, identity: Self.identity,
            logSize: logBlocks * 4096, overwrite: overwrite)
        await device.close()
    }
}

extension BlockStore {
    /// Replays into a list of sequence numbers and records.
    func replayed() async throws -> [(UInt64, [UInt8])] {
        var records: [(UInt64, [UInt8])] = []
        try await replay { sequence, record in
            records.append((sequence, record.withUnsafeBytes { Array($0) }))
        }
        return records
    }

    func append(_ record: [UInt8]) async throws(BIOError) -> UInt64 {
        var applied: UInt64 = 0
        try await append(record, checks: []) { applied = $0 }
        return applied
    }
}
