import DrayRuntime
import Testing

@testable import BIO

/// Stores whose log and metadata are on a device of their own.
@Suite struct MetadataDeviceTests {
    static let metadataPath = "metadata"

    /// The metadata partition does not begin where its device does.
    private static func metadata(
        _ node: SimulatedNode, path: String = metadataPath
    ) throws -> BlockStore.MetadataPartition {
        let device = try node.store.open(path: path, on: node.xstream)
        return BlockStore.MetadataPartition(device: device, partition: 4096..<device.size)
    }

    private static func open(
        _ node: SimulatedNode, discard: DiscardPolicy = .off
    ) async throws -> BlockStore {
        let device = try node.openDevice()
        return try await BlockStore.open(
            device, partition: 0..<device.size, identity: SimulatedNode.identity,
            metadata: try metadata(node), discard: discard, on: node.xstream)
    }

    private static func format(
        _ node: SimulatedNode, metadata path: String = metadataPath, salt: UInt64 = 1,
        overwrite: Bool = false
    ) async throws {
        let device = try node.openDevice()
        let metadata = try metadata(node, path: path)
        try await BlockStore.format(
            device, partition: 0..<device.size, identity: SimulatedNode.identity,
            logSize: 16 * 4096, salt: salt, overwrite: overwrite, metadata: metadata)
        await device.close()
        await metadata.device.close()
    }

    private static func node(
        seed: UInt64, dataBlocks: UInt64 = 38, metadataBlocks: UInt64 = 27
    ) throws -> SimulatedNode {
        let node = SimulatedNode(seed: seed, blocks: dataBlocks)
        try node.store.create(path: metadataPath, size: metadataBlocks * 4096)
        return node
    }

    // MARK: - Crashes

    private static let formatted: (data: DeviceImage, metadata: DeviceImage) = {
        guard let node = try? node(seed: 0) else { preconditionFailure("no devices") }
        node.run { try await format(node) }
        return (
            node.store.image(path: SimulatedNode.path), node.store.image(path: metadataPath)
        )
    }()

    private static func restored(seed: UInt64, faults: DeviceFaults) -> SimulatedNode {
        let node = SimulatedNode(seed: seed, blocks: nil, faults: faults)
        node.store.restore(formatted.data, path: SimulatedNode.path)
        node.store.restore(formatted.metadata, path: metadataPath)
        node.store.setFaults(faults)
        return node
    }

    /// Updates of both streams by three tasks, with checkpoints among them; the log wraps.
    private static func work(_ node: SimulatedNode, _ ledger: Ledger) async throws {
        var running = 3
        for writer in 0..<3 {
            node.xstream.spawn {
                do {
                    for step in 0..<6 {
                        let number = writer * 6 + step
                        try await ledger.update(
                            cell: UInt8((number * 5) % Ledger.cellCount),
                            blocks: UInt32(1 + number % 3), padding: number * 331 % 5000,
                            stream: number % 3 == 1 ? .metadata : .foreground)
                    }
                } catch { Issue.record("\(error)") }
                running -= 1
            }
        }
        while running > 0 {
            try await ledger.checkpoint(stream: .metadata)
            await node.xstream.sleep(for: .microseconds(700))
        }
    }

    private static func run(
        seed: UInt64, outcome: CrashOutcome, first: Int?, second: Int?, discard: DiscardPolicy
    ) -> (finished: Bool, ledger: Ledger) {
        var faults = DeviceFaults()
        faults.crashOutcome = outcome
        let node = restored(seed: seed, faults: faults)
        let ledger = Ledger()
        node.store.crash(atBoundary: first)
        let finished = node.run {
            try await ledger.recover(try await open(node, discard: discard))
            try await work(node, ledger)
        }
        node.restart()
        node.store.crash(atBoundary: second)
        if second != nil {
            node.run {
                try await ledger.recover(try await open(node, discard: discard))
                try await ledger.update(cell: 0, blocks: 2, padding: 10)
                try await ledger.checkpoint()
                try await ledger.update(cell: 1, blocks: 1, padding: 4000, stream: .metadata)
            }
            node.restart()
        }
        node.store.crash(atBoundary: nil)
        let recovered = node.run {
            try await ledger.recover(try await open(node, discard: discard))
            for cell in 0..<3 { try await ledger.update(cell: UInt8(cell), blocks: 2, padding: 99) }
            await ledger.close()
        }
        #expect(recovered, "boundary \(first ?? -1), \(outcome)")
        node.restart()
        #expect(node.run { try await ledger.recover(try await open(node)) })
        return (finished, ledger)
    }

    @Test(arguments: [CrashOutcome.lose, .keep, .reorder, .tear])
    func everyBoundary(outcome: CrashOutcome) {
        var boundary = 0
        var partial = 0
        while true {
            let result = Self.run(
                seed: UInt64(boundary), outcome: outcome, first: boundary,
                second: boundary % 3 == 0 ? nil : boundary * 7 % 23, discard: .off)
            partial += result.ledger.recoveredUnacknowledged
            if result.finished { break }
            boundary += 1
        }
        print("\(outcome): \(boundary) boundaries, \(partial) records more than acknowledged")
        #expect(boundary > 60)
        #expect(partial > 0)
    }

    // MARK: - Pairs

    private func mismatch(
        _ body: () async throws -> Void
    ) async -> (path: String, expected: String, found: String)? {
        do {
            try await body()
            return nil
        } catch BIOError.mismatch(let path, let expected, let found) {
            return (path, expected, found)
        } catch {
            Issue.record("\(error)")
            return nil
        }
    }

    @Test func aWrongPairIsSaidToBeOne() throws {
        let node = try Self.node(seed: 3)
        try node.store.create(path: "other", size: 27 * 4096)
        try node.store.create(path: "single", size: 64 * 4096)
        node.run {
            let path = SimulatedNode.path
            // Formatted twice: the first metadata device is that of a store that is gone.
            try await Self.format(node, metadata: "other", salt: 1)
            try await Self.format(node, salt: 2, overwrite: true)
            let device = try node.openDevice()
            func open(_ metadata: BlockStore.MetadataPartition?) async throws {
                _ = try await BlockStore.open(
                    device, partition: 0..<device.size, identity: nil, metadata: metadata,
                    on: node.xstream)
            }
            let without = await mismatch { try await open(nil) }
            #expect(without?.path == path && without?.found == "no metadata device")
            let wrong = await mismatch { try await open(try Self.metadata(node, path: "other")) }
            #expect(wrong?.path == "other")
            #expect(wrong?.found.hasPrefix("that of another data device") == true)
            // The two the other way round.
            let meta = try Self.metadata(node)
            let swapped = await mismatch {
                _ = try await BlockStore.open(
                    meta.device, partition: meta.partition, identity: nil,
                    metadata: BlockStore.MetadataPartition(
                        device: device, partition: 0..<device.size), on: node.xstream)
            }
            #expect(swapped?.found == "the metadata device of one")
            let itself = await mismatch {
                try await open(
                    BlockStore.MetadataPartition(device: device, partition: 0..<device.size))
            }
            #expect(itself?.expected == "a metadata device")
            // A store that has everything itself.
            let single = try node.store.open(path: "single", on: node.xstream)
            try await BlockStore.format(
                single, partition: 0..<single.size, identity: SimulatedNode.identity,
                logSize: 16 * 4096)
            let needless = await mismatch {
                _ = try await BlockStore.open(
                    single, partition: 0..<single.size, identity: nil, metadata: meta,
                    on: node.xstream)
            }
            #expect(needless?.path == "single")
            let alien = await mismatch {
                try await open(
                    BlockStore.MetadataPartition(device: single, partition: 0..<single.size))
            }
            #expect(alien?.found == "a store of its own")
            // None of these has changed anything.
            let store = try await Self.open(node)
            #expect(try await store.replayed().isEmpty)
        }
    }

    @Test func foreignDataOnEitherIsNotOverwritten() throws {
        for path in [SimulatedNode.path, Self.metadataPath] {
            let node = try Self.node(seed: 4)
            node.store.damage(path: path, at: 20 * 4096, mask: 0x80)
            node.run {
                do {
                    try await Self.format(node)
                    Issue.record("formatted")
                } catch BIOError.foreign(let found, _) { #expect(found == path) }
            }
        }
    }

    /// Where things go, and what is flushed for them.
    @Test func eachDeviceHasItsPart() throws {
        let node = try Self.node(seed: 5, dataBlocks: 200, metadataBlocks: 60)
        node.run {
            try await Self.format(node)
            let store = try await Self.open(node)
            _ = try await store.replayed()
            let metadata = try #require(store.metadataDevice)
            // Two superblocks each, and the log and the block left out on the metadata device.
            #expect(store.allocator.dataBlocks == 198)
            #expect(store.allocator.metadataBlocks == 60 - 1 - 2 - 16)
            func changes(_ body: () async throws -> Void) async throws -> [UInt64] {
                let before = [store.device.statistics, metadata.statistics]
                try await body()
                let after = [store.device.statistics, metadata.statistics]
                return zip(after, before).flatMap {
                    let change = $0.since($1)
                    return [change.bytesWritten, change.flushes.count]
                }
            }
            // A record alone: the data device is not touched.
            #expect(try await changes { _ = try await store.append([1]) } == [0, 0, 4096, 0])
            // With blocks: those are flushed.
            func update(_ stream: BlockStream) async throws {
                let data = Ledger.pattern(7, blocks: 2)
                let extents = try store.allocator.reserve(blocks: 2, stream: stream)
                let bytes = UnsafeRawBufferPointer(data.bytes)
                try await store.write(bytes, to: extents)
                let check = BlockCheck(
                    extent: extents[0], byteCount: 8192, checksum: CRC32C.checksum(of: bytes))
                try await store.append([2], checks: [check]) { _ in }
                let back = IOBuffer(count: 8192)
                try await store.read(into: back.bytes, from: extents)
                #expect(back.array(0..<8192) == data.array(0..<8192))
            }
            #expect(try await changes { try await update(.foreground) } == [8192, 1, 4096, 0])
            #expect(try await changes { try await update(.metadata) } == [0, 0, 12288, 1])
            // A checkpoint: both.
            let root = CheckpointRoot(
                extents: try store.allocator.reserve(blocks: 1, stream: .metadata), byteCount: 0,
                checksum: 0, logSequence: store.appliedSequence)
            #expect(
                try await changes { try await store.publishCheckpoint(root) } == [0, 1, 8192, 1])
        }
    }

    // MARK: - Damage

    /// Superblocks with anything in them, behind checksums that are right.
    @Test func superblocksOfPairs() {
        var refused = 0
        for seed in 0..<600 as Range<UInt64> {
            var random = Entropy(seed: seed)
            let node = Self.restored(seed: seed, faults: DeviceFaults())
            let (path, start) = seed % 2 == 0 ? (SimulatedNode.path, 0) : (Self.metadataPath, 4096)
            let finished = node.run {
                let device = try node.store.open(path: path, on: node.xstream)
                let buffer = IOBuffer(count: 4096)
                try await device.read(into: buffer.bytes, at: UInt64(start))
                for _ in 0...random.below(2) where seed > 1 {
                    let numbers: [UInt64] = [0, 1, 0xffff_ffff, .max, 1 << 63, random.next(), 4096]
                    let number = numbers[Int(random.below(UInt64(numbers.count)))]
                    let place = 8 + Int(random.below(23)) * 8
                    if random.chance(1, in: 2) {
                        buffer.store(number, at: place)
                    } else {
                        buffer.store(UInt32(truncatingIfNeeded: number), at: place + 4)
                    }
                }
                buffer.store(
                    buffer.checksum(0..<Superblock.checksumOffset), at: Superblock.checksumOffset)
                for copy in [0, 4096] as [UInt64] {
                    try await device.write(
                        UnsafeRawBufferPointer(buffer.bytes), at: UInt64(start) + copy,
                        durable: true)
                }
                do throws(BIOError) {
                    let store: BlockStore
                    do {
                        store = try await Self.open(node)
                    } catch let error as BIOError {
                        throw error
                    } catch {
                        Issue.record("seed \(seed): \(error)")
                        return
                    }
                    try await store.replay { (_, _) throws(BIOError) in }
                    if seed > 1 { return }
                } catch {
                    refused += 1
                    switch error {
                    case .corrupt, .mismatch, .foreign, .outOfRange: #expect(seed > 1)
                    default: Issue.record("seed \(seed): \(error)")
                    }
                }
            }
            #expect(finished, "seed \(seed)")
        }
        #expect(refused > 200 && refused < 599)
    }

    /// One damaged sector anywhere on the metadata device: harmless, or reported.
    @Test func everySectorOfTheMetadataDevice() throws {
        let origin = try Self.node(seed: 7)
        let ledger = Ledger()
        origin.run {
            try await Self.format(origin)
            try await ledger.recover(try await Self.open(origin))
            for number in 0..<12 {
                try await ledger.update(
                    cell: UInt8(number % 5), blocks: UInt32(1 + number % 2), padding: number * 97,
                    stream: number % 2 == 0 ? .metadata : .foreground)
                if number == 4 || number == 6 { try await ledger.checkpoint() }
            }
            await ledger.close()
        }
        let images = [SimulatedNode.path, Self.metadataPath].map {
            ($0, origin.store.image(path: $0))
        }
        var reported = 0
        var harmless = 0
        for sector in 0..<UInt64(27 * 8) {
            let node = SimulatedNode(seed: sector, blocks: nil)
            for (path, image) in images { node.store.restore(image, path: path) }
            var entropy = Entropy(seed: sector)
            node.store.damage(
                path: Self.metadataPath, at: sector * 512 + entropy.below(512),
                mask: 1 << UInt8(entropy.below(8)))
            let finished = node.run {
                do {
                    try await ledger.recover(try await Self.open(node))
                    harmless += 1
                } catch BIOError.corrupt {
                    reported += 1
                } catch is Ledger.Damaged {
                    reported += 1
                }
            }
            #expect(finished, "sector \(sector)")
        }
        #expect(harmless > 0 && reported > 0)
    }
}
