import DrayRuntime
import Testing

@testable import BIO

/// Freed blocks are given back to the device, and nothing else is.
@Suite struct DiscardTests {
    private static func open(
        _ node: SimulatedNode, _ discard: DiscardPolicy
    ) async throws -> BlockStore {
        let device = try node.openDevice()
        return try await BlockStore.open(
            device, partition: 0..<device.size, identity: SimulatedNode.identity,
            discard: discard, on: node.xstream)
    }

    /// Values of 64 KiB in `slots` places are replaced, at random, `steps` times; the truth is
    /// compared at the end, and after another start.
    private static func replace(
        _ node: SimulatedNode, _ discard: DiscardPolicy, steps: Int
    ) -> DeviceStatistics {
        var statistics = DeviceStatistics()
        var truth: [Int: (extents: [BlockExtent], value: UInt8)] = [:]
        var entropy = Entropy(seed: 9)
        func verify(_ store: BlockStore) async throws {
            for slot in truth.keys.sorted() {
                let (extents, value) = truth[slot]!
                let buffer = IOBuffer(count: 32 * 4096)
                try await store.read(into: buffer.bytes, from: extents)
                #expect(buffer.bytes.allSatisfy { $0 == value })
            }
        }
        node.run {
            try await node.format(logBlocks: 400)
            let store = try await open(node, discard)
            _ = try await store.replayed()
            for step in 0..<steps {
                let extents = try store.allocator.reserve(blocks: 32)
                let value = UInt8(step % 200 + 1)
                let data = Ledger.pattern(value, blocks: 32)
                let bytes = UnsafeRawBufferPointer(data.bytes)
                try await store.write(bytes, to: extents)
                let slot = Int(entropy.below(40))
                try await store.append(
                    [UInt8(slot)],
                    checks: extents.map {
                        BlockCheck(
                            extent: $0, byteCount: Int($0.byteCount),
                            checksum: CRC32C.checksum(
                                of: UnsafeRawBufferPointer(
                                    rebasing: bytes[0..<Int($0.byteCount)])))
                    }
                ) { _ in
                    if let old = truth.updateValue((extents, value), forKey: slot) {
                        store.allocator.free(old.extents)
                    }
                }
            }
            await node.xstream.sleep(for: .seconds(1))
            try await verify(store)
            store.allocator.checkInvariants()
            let used = UInt32(truth.count * 32)
            #expect(store.allocator.usedBlocks == used + store.allocator.quarantinedBlocks)
            await store.close()
            statistics = store.device.statistics
        }
        node.restart()
        let again = node.run {
            let store = try await open(node, discard)
            _ = try await store.replayed()
            try await verify(store)
        }
        #expect(again)
        return statistics
    }

    @Test func freedBlocksAreDiscardedAndLiveOnesNever() {
        let node = SimulatedNode(seed: 1, blocks: 8000)
        let statistics = Self.replace(node, .on, steps: 300)
        #expect(statistics.discards.count > 3)
        // More than a few at a time.
        #expect(statistics.discards.bytes / statistics.discards.count >= 65536)
    }

    @Test(arguments: [DiscardPolicy.off, .automatic])
    func filesAreLeftAlone(policy: DiscardPolicy) {
        let node = SimulatedNode(seed: 2, blocks: 8000)
        #expect(Self.replace(node, policy, steps: 150).discards.count == 0)
    }

    /// A crash in the middle of discards, at any boundary, loses nothing that was acknowledged.
    @Test(arguments: [CrashOutcome.lose, .keep, .reorder, .tear])
    func crashesAmongDiscards(outcome: CrashOutcome) {
        var discards: UInt64 = 0
        for boundary in stride(from: 20, to: 400, by: 37) {
            var faults = DeviceFaults()
            faults.crashOutcome = outcome
            let node = SimulatedNode(seed: UInt64(boundary), blocks: 4000, faults: faults)
            let ledger = Ledger()
            node.run { try await node.format(logBlocks: 200) }
            node.store.crash(atBoundary: boundary)
            node.run {
                let store = try await Self.open(node, .on)
                try await ledger.recover(store)
                for step in 0..<120 {
                    try await ledger.update(
                        cell: UInt8(step % Ledger.cellCount), blocks: 250, padding: 10)
                    discards += store.device.statistics.discards.count
                    if step % 30 == 29 { try await ledger.checkpoint() }
                }
            }
            node.restart()
            node.store.crash(atBoundary: nil)
            let recovered = node.run {
                try await ledger.recover(try await Self.open(node, .on))
                await ledger.close()
            }
            #expect(recovered, "boundary \(boundary)")
        }
        #expect(discards > 0)
    }
}
