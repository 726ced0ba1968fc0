internal import ArgumentParser
internal import BIO
internal import DrayRuntime
internal import Glibc
internal import Logging
internal import VOS
internal import VOSSimulator

/// A process with a store in a file: it verifies everything that is known to be in it, then
/// changes and reads it until it is killed.
struct StorageNode: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "storage-node",
        abstract: "A process of 'dray-kill storage'.",
        shouldDisplay: false)

    @Option(help: "The device.")
    var path: String
    @Option(help: "What is known from earlier lives.")
    var events: String
    @Option var lanes: Int
    @Option var seed: UInt64
    @Flag(help: "It has a metadata device.")
    var metadata = false
    @Flag(help: "Make the device.")
    var format = false
    @Flag(help: "End when everything was verified.")
    var verifyOnly = false
    @Flag(help: "Only look at the closed device, as 'dray vos check' does.")
    var inspectOnly = false

    /// Where events go.
    static let reportDescriptor: Int32 = 3
    /// How long the file may still belong to a process that was killed.
    private static let openMax: Duration = .seconds(10)

    mutating func run() async throws {
        let known = try Files.readBytes(events)
        let world = World.real(log: LogFacilities(level: .error))
        let xstream = world.makeXStream(name: "storage")
        let node = self
        let violations = try await xstream.run { () async throws -> [String] in
            try await node.work(known, world, xstream)
        }
        for violation in violations { print("VIOLATION \(violation)") }
        if !violations.isEmpty { throw ExitCode(1) }
    }

    private func work(
        _ known: [UInt8], _ world: World, _ xstream: XStream
    ) async throws -> [String] {
        let devices = RealDeviceStore(mode: .automatic)
        if inspectOnly { return try await inspect(devices, xstream) }
        if format { try await makeStore(devices, xstream) }
        let device = try await open(path, devices, xstream)
        let second = try await openMetadata(devices, xstream)
        let store = try await BlockStore.open(
            device, partition: 0..<device.size, identity: StoreNames.identity, metadata: second,
            on: xstream)
        var options = VOSOptions()
        options.inlineThreshold = 1024
        options.cacheBytes = 1 << 20
        options.backgroundPeriod = 20
        options.retention = 0
        let vos = try await VOS.open(store: store, world: world, on: xstream, options: options)
        let load = StorageLoad(vos, xstream: xstream, lanes: lanes, seed: seed)
        try await load.verify(known)
        if load.violations.isEmpty {
            guard StorageEvent(.verified).send(to: StorageNode.reportDescriptor) else {
                throw ExitCode(2)
            }
            if !verifyOnly { await load.run() }
        }
        await vos.close()
        await device.close()
        await second?.device.close()
        return load.violations
    }

    /// What the inspector finds fault with. A copy of the superblock that was being written may be
    /// torn.
    private func inspect(
        _ devices: RealDeviceStore, _ xstream: XStream
    ) async throws -> [String] {
        let device = ReadOnlyDevice(try await open(path, devices, xstream))
        var second: BlockStore.MetadataPartition?
        if metadata {
            let other = ReadOnlyDevice(
                try await open(StorageSetting.metadata(of: path), devices, xstream))
            second = BlockStore.MetadataPartition(device: other, partition: 0..<other.size)
        }
        let reader = try await StoreReader.open(
            device, partition: 0..<device.size, metadata: second, on: xstream)
        let report = await StoreInspector.inspect(reader, depth: .values)
        await device.close()
        await second?.device.close()
        let findings = report.findings.filter { $0.part != .superblock }
        if findings.isEmpty { _ = StorageEvent(.verified).send(to: StorageNode.reportDescriptor) }
        return findings.map { "the closed store: \($0.part.rawValue): \($0.what)" }
    }

    private func makeStore(_ devices: RealDeviceStore, _ xstream: XStream) async throws {
        try devices.create(path: path, size: StorageSetting.deviceSize)
        if metadata {
            try devices.create(
                path: StorageSetting.metadata(of: path), size: StorageSetting.metadataSize)
        }
        let device = try await open(path, devices, xstream)
        let second = try await openMetadata(devices, xstream)
        try await BlockStore.format(
            device, partition: 0..<device.size, identity: StoreNames.identity,
            logSize: StorageSetting.logSize, salt: seed, metadata: second)
        await device.close()
        await second?.device.close()
    }

    private func openMetadata(
        _ devices: RealDeviceStore, _ xstream: XStream
    ) async throws -> BlockStore.MetadataPartition? {
        guard metadata else { return nil }
        let device = try await open(StorageSetting.metadata(of: path), devices, xstream)
        return BlockStore.MetadataPartition(device: device, partition: 0..<device.size)
    }

    /// The kernel may take a moment to end the transfers of a process that was killed.
    private func open(
        _ path: String, _ devices: RealDeviceStore, _ xstream: XStream
    ) async throws -> BlockDevice {
        let limit = xstream.now + StorageNode.openMax
        while true {
            do throws(BIOError) {
                return try devices.open(path: path, on: xstream)
            } catch {
                guard case .busy = error, xstream.now < limit else { throw error }
            }
            await xstream.sleep(for: .milliseconds(2))
        }
    }
}
