import BIO
import DrayRuntime
import Testing

@testable import VOS

/// A store with a metadata device: how much room there is, is a question of each device.
@Suite struct PairTests {
    private static let metadataPath = "metadata"
    private static let dataPath = "data"

    /// A new store on two devices, and what it stands on.
    private static func open(
        _ target: SimulatedTarget, dataBlocks: UInt64, metadataBlocks: UInt64
    ) async throws -> (vos: VOS, store: BlockStore) {
        try target.devices.create(path: dataPath, size: dataBlocks * 4096)
        try target.devices.create(path: metadataPath, size: metadataBlocks * 4096)
        let device = try target.devices.open(path: dataPath, on: target.xstream)
        let other = try target.devices.open(path: metadataPath, on: target.xstream)
        let metadata = BlockStore.MetadataPartition(device: other, partition: 0..<other.size)
        try await BlockStore.format(
            device, partition: 0..<device.size, identity: SimulatedTarget.identity,
            logSize: 64 * 4096, salt: 1, metadata: metadata)
        let store = try await BlockStore.open(
            device, partition: 0..<device.size, identity: SimulatedTarget.identity,
            metadata: metadata, on: target.xstream)
        let vos = try await VOS.open(
            store: store, world: target.world, on: target.xstream, options: target.options)
        return (vos, store)
    }

    private static func close(_ vos: VOS, _ store: BlockStore) async {
        await vos.close()
        await store.device.close()
        await store.metadataDevice?.close()
    }

    /// Whichever is nearly full, and however much is free on the other one.
    @Test(arguments: [(512, 8192), (8192, 512)])
    func eachDeviceIsTightByItself(dataBlocks: UInt64, metadataBlocks: UInt64) {
        let target = SimulatedTarget(seed: 1)
        let finished = target.run {
            let (vos, store) = try await Self.open(
                target, dataBlocks: dataBlocks, metadataBlocks: metadataBlocks)
            let allocator = store.allocator
            #expect(!vos.isTight)
            let data = try allocator.reserve(
                blocks: allocator.freeDataBlocks - allocator.dataBlocks / 8 + 1, privileged: true)
            #expect(vos.isTight)
            allocator.cancel(data)
            #expect(!vos.isTight)
            let metadata = try allocator.reserve(
                blocks: allocator.freeMetadataBlocks - allocator.metadataBlocks / 8 + 1,
                stream: .metadata)
            #expect(metadata.allSatisfy { $0.start >= allocator.dataBlocks })
            #expect(vos.isTight)
            allocator.cancel(metadata)
            #expect(!vos.isTight)
            await Self.close(vos, store)
        }
        #expect(finished)
    }

    /// The index goes to the metadata device as long as that has room; then it needs room beside
    /// the values.
    @Test func updatesLeaveWhatTheMetadataDeviceLacks() {
        let target = SimulatedTarget(seed: 2)
        let finished = target.run {
            let (vos, store) = try await Self.open(target, dataBlocks: 4096, metadataBlocks: 1024)
            let allocator = store.allocator
            let copies = Int(allocator.dataBlocks) / 128
            #expect(vos.blocksKept == copies)
            #expect(vos.copiedWeightMax == UInt64(allocator.freeDataBlocks / 2) * 4096)
            let metadata = try allocator.reserve(
                blocks: allocator.freeMetadataBlocks, stream: .metadata)
            #expect(vos.blocksKept > copies)
            let kept = UInt32(vos.blocksKept - copies)
            #expect(
                vos.copiedWeightMax == UInt64((allocator.freeDataBlocks - kept) / 2) * 4096)
            allocator.cancel(metadata)
            await Self.close(vos, store)
        }
        #expect(finished)
    }
}
