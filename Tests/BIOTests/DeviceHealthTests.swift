import DrayRuntime
import Testing

@testable import BIO

/// What the stores of one device have in common.
@Suite struct DeviceHealthTests {
    private static let half: UInt64 = 64 * 4096

    private static func partition(_ number: UInt64) -> Range<UInt64> {
        number * half..<(number + 1) * half
    }

    private static func identity(_ target: UInt64) -> StoreIdentity {
        var identity = SimulatedNode.identity
        identity.target = UInt32(target)
        return identity
    }

    /// Two stores on the node's device.
    private static func format(
        _ node: SimulatedNode, metadata: BlockStore.MetadataPartition? = nil
    ) async throws {
        let device = try node.openDevice()
        for number in 0..<2 as Range<UInt64> {
            try await BlockStore.format(
                device, partition: partition(number), identity: identity(number),
                logSize: 16 * 4096, salt: number,
                metadata: metadata.map {
                    BlockStore.MetadataPartition(
                        device: $0.device, partition: partition(number))
                })
        }
        await device.close()
    }

    private static func open(
        _ node: SimulatedNode, _ number: UInt64, _ health: DeviceHealth?,
        metadata: DeviceHealth? = nil
    ) async throws -> BlockStore {
        let device = try node.openDevice()
        device.health = health
        var part: BlockStore.MetadataPartition?
        if let metadata {
            let device = try node.store.open(path: "metadata", on: node.xstream)
            device.health = metadata
            part = BlockStore.MetadataPartition(device: device, partition: partition(number))
        }
        let store = try await BlockStore.open(
            device, partition: partition(number), identity: identity(number), metadata: part,
            on: node.xstream)
        _ = try await store.replayed()
        return store
    }

    private static func failure(_ body: () async throws(BIOError) -> Void) async -> BIOError? {
        do throws(BIOError) {
            try await body()
            return nil
        } catch {
            return error
        }
    }

    /// The errors that a health was told of.
    private final class Reports {
        @safe nonisolated(unsafe) var errors: [BIOError] = []

        func makeHealth() -> DeviceHealth {
            nonisolated(unsafe) let reports = self
            return DeviceHealth { reports.errors.append($0) }
        }
    }

    @Test func storesGoOutOfServiceTogether() {
        let node = SimulatedNode(seed: 1, blocks: 128)
        let path = SimulatedNode.path
        node.run {
            try await Self.format(node)
            let reports = Reports()
            let health = reports.makeHealth()
            let first = try await Self.open(node, 0, health)
            let second = try await Self.open(node, 1, health)
            var faults = DeviceFaults()
            faults.writeErrorChance = 1_000_000
            node.store.setFaults(faults)
            // One is under way in the other store: what it waits for is its own business.
            var late: BIOError?
            var isDone = false
            node.xstream.spawn {
                late = await Self.failure { () async throws(BIOError) in
                    _ = try await second.append([9])
                }
                isDone = true
            }
            let error = await Self.failure { () async throws(BIOError) in
                _ = try await first.append([1])
            }
            guard case .failed(path, _, _, _) = error else {
                Issue.record("\(String(describing: error))")
                return
            }
            while !isDone { await node.xstream.sleep(for: .milliseconds(1)) }
            #expect(late != nil)
            node.store.setFaults(DeviceFaults())
            #expect(health.isOutOfService && first.isOutOfService && second.isOutOfService)
            let out = BIOError.outOfService(path: path)
            for store in [first, second] {
                #expect(
                    await Self.failure { () async throws(BIOError) in
                        _ = try await store.append([2])
                    } == out)
                #expect(
                    await Self.failure { () async throws(BIOError) in
                        try await store.publishCheckpoint(
                            CheckpointRoot(
                                extents: [], byteCount: 0, checksum: 0, logSequence: 0))
                    } == out)
            }
            #expect(reports.errors.count == 1)
            let writes = node.store.boundaryCount
            await first.close()
            await second.close()
            #expect(node.store.boundaryCount == writes)
            // A store that shares nothing goes on.
            let other = try await Self.open(node, 0, reports.makeHealth())
            _ = try await other.append([3])
            await other.close()
        }
    }

    @Test(arguments: [false, true]) func theDeviceThatFailedIsNamed(isMetadata: Bool) throws {
        let node = SimulatedNode(seed: 2, blocks: 128)
        try node.store.create(path: "metadata", size: 2 * Self.half)
        node.run {
            let place = try node.store.open(path: "metadata", on: node.xstream)
            try await Self.format(
                node, metadata: BlockStore.MetadataPartition(device: place, partition: 0..<1))
            await place.close()
            let (data, metadata) = (DeviceHealth(), DeviceHealth())
            let first = try await Self.open(node, 0, data, metadata: metadata)
            let second = try await Self.open(node, 1, data, metadata: metadata)
            let path = isMetadata ? "metadata" : SimulatedNode.path
            var faults = DeviceFaults()
            faults.writeErrorChance = 1_000_000
            node.store.setFaults(faults, path: path)
            let bytes = Ledger.pattern(1, blocks: 1)
            let extents = try first.allocator.reserve(blocks: 1)
            let error = await Self.failure { () async throws(BIOError) in
                if isMetadata {
                    _ = try await first.append([1])
                } else {
                    try await first.write(UnsafeRawBufferPointer(bytes.bytes), to: extents)
                }
            }
            guard case .failed(path, _, _, _) = error else {
                Issue.record("\(String(describing: error))")
                return
            }
            #expect(data.isOutOfService == !isMetadata)
            #expect(metadata.isOutOfService == isMetadata)
            #expect(
                await Self.failure { () async throws(BIOError) in
                    _ = try await second.append([1])
                } == .outOfService(path: path))
            await first.close()
            await second.close()
        }
    }

    // MARK: - Labels

    @Test func labelsAreReadWithoutChangingAnything() {
        let node = SimulatedNode(seed: 3, blocks: 128)
        let path = SimulatedNode.path
        func labels() async throws -> [StoreLabel] {
            let device = try node.openDevice()
            let result: Result<[StoreLabel], BIOError>
            do throws(BIOError) {
                result = .success(try await BlockStore.labels(on: device))
            } catch {
                result = .failure(error)
            }
            await device.close()
            return try result.get()
        }
        node.run {
            await #expect(throws: BIOError.self) { try await labels() }
            try await Self.format(node)
            let found = try await labels()
            #expect(found.map(\.identity) == [Self.identity(0), Self.identity(1)])
            #expect(found.map(\.partition) == [Self.partition(0), Self.partition(1)])
            #expect(found.allSatisfy { $0.isIntact && $0.role == .whole })
            // One copy of the first is damaged: it is said, and stays so.
            node.store.damage(path: path, at: 100)
            let before = node.store.image(path: path).fingerprint
            #expect(try await labels().map(\.isIntact) == [false, true])
            #expect(node.store.image(path: path).fingerprint == before)
            // Both of the second: it ends there.
            node.store.damage(path: path, at: Self.half + 100)
            node.store.damage(path: path, at: Self.half + 4096 + 100)
            #expect(try await labels().map(\.identity) == [Self.identity(0)])
            // Both of the first.
            node.store.damage(path: path, at: 4096 + 100)
            do {
                _ = try await labels()
                Issue.record("labels that are damaged were read")
            } catch BIOError.corrupt(path, 0, _) {}
        }
    }

    /// A store of another engine is refused as it is: not even a damaged superblock is repaired.
    @Test func whatIsRefusedIsNotRepaired() {
        let node = SimulatedNode(seed: 4, blocks: 128)
        let path = SimulatedNode.path
        node.run {
            try await Self.format(node)
            node.store.damage(path: path, at: 100)
            let before = node.store.image(path: path).fingerprint
            let device = try node.openDevice()
            let error = await Self.failure { () async throws(BIOError) in
                _ = try await BlockStore.open(
                    device, partition: Self.partition(0), identity: Self.identity(1),
                    on: node.xstream)
            }
            guard case .mismatch = error else {
                Issue.record("\(String(describing: error))")
                return
            }
            #expect(node.store.image(path: path).fingerprint == before)
            let store = try await Self.open(node, 0, nil)
            #expect(node.store.image(path: path).fingerprint != before)
            await store.close()
            await device.close()
        }
    }
}
