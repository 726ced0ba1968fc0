import BIO
import DrayRuntime
import Testing

/// A process dies at every boundary of a scripted run; nothing acknowledged may be missing.
@Suite struct CrashTests {
    /// 18 updates by three tasks, with two checkpoints among them; the log wraps.
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
                            beside: step % 2 == 0 ? nil : node.xstream)
                    }
                } catch { Issue.record("\(error)") }
                running -= 1
            }
        }
        while running > 0 {
            try await ledger.checkpoint()
            await node.xstream.sleep(for: .microseconds(700))
        }
    }

    private static let formatted: DeviceImage = {
        let node = SimulatedNode(seed: 0, blocks: 58)
        node.run { try await node.format() }
        return node.store.image(path: SimulatedNode.path)
    }()

    /// Runs the script with a kill at boundary `first`, a recovery with a kill at `second`, then a
    /// recovery, a little work, a clean end, and one more recovery. Returns the boundaries passed
    /// in the first run, or nil when it ended.
    private static func run(
        seed: UInt64, outcome: CrashOutcome, first: Int?, second: Int?
    ) -> (boundaries: Int, finished: Bool, ledger: Ledger) {
        var faults = DeviceFaults()
        faults.crashOutcome = outcome
        let node = SimulatedNode(seed: seed, blocks: nil, faults: faults)
        node.store.restore(formatted, path: SimulatedNode.path)
        node.store.setFaults(faults)
        let ledger = Ledger()
        node.store.crash(atBoundary: first)
        let finished = node.run {
            try await ledger.recover(try await node.openStore())
            try await work(node, ledger)
        }
        let boundaries = node.store.boundaryCount
        node.restart()
        node.store.crash(atBoundary: second)
        if second != nil {
            node.run {
                try await ledger.recover(try await node.openStore())
                try await ledger.update(cell: 0, blocks: 2, padding: 10)
                try await ledger.checkpoint()
                try await ledger.update(cell: 1, blocks: 1, padding: 4000)
            }
            node.restart()
        }
        node.store.crash(atBoundary: nil)
        let recovered = node.run {
            try await ledger.recover(try await node.openStore())
            for cell in 0..<3 { try await ledger.update(cell: UInt8(cell), blocks: 2, padding: 99) }
            await ledger.close()
        }
        #expect(recovered, "boundary \(first ?? -1), \(outcome)")
        node.restart()
        let again = node.run { try await ledger.recover(try await node.openStore()) }
        #expect(again)
        return (boundaries, finished, ledger)
    }

    @Test(arguments: [CrashOutcome.lose, .keep, .reorder, .tear])
    func everyBoundary(outcome: CrashOutcome) {
        var boundary = 0
        var partial = 0
        while true {
            let result = Self.run(
                seed: UInt64(boundary), outcome: outcome, first: boundary,
                second: boundary % 3 == 0 ? nil : boundary * 7 % 23)
            partial += result.ledger.recoveredUnacknowledged
            if result.finished { break }
            boundary += 1
        }
        print("\(outcome): \(boundary) boundaries, \(partial) records more than acknowledged")
        #expect(boundary > 45)
        // Some crashes came after the flush and before anybody was told.
        #expect(partial > 0)
    }

    /// A record frees the very block that it has a check on; the block is wanted at once.
    @Test func anAcknowledgedGroupSurvivesTheReuseOfItsBlocks() {
        var faults = DeviceFaults()
        faults.crashOutcome = .keep
        let node = SimulatedNode(seed: 1, faults: faults)
        let finished = node.run {
            try await node.format()
            let store = try await node.openStore()
            _ = try await store.replayed()
            let data = Ledger.pattern(5, blocks: 1)
            let extents = try store.allocator.reserve(blocks: 1)
            let bytes = UnsafeRawBufferPointer(data.bytes)
            try await store.write(bytes, to: extents)
            let check = BlockCheck(
                extent: extents[0], byteCount: 4096, checksum: CRC32C.checksum(of: bytes))
            try await store.append([1], checks: [check]) { _ in store.allocator.free(extents) }
            let rest = try store.allocator.reserve(
                blocks: store.allocator.freeBlocks, privileged: true)
            let count = rest.reduce(0) { $0 + $1.count }
            let garbage = Ledger.pattern(9, blocks: count)
            try await store.write(UnsafeRawBufferPointer(garbage.bytes), to: rest)
        }
        #expect(finished)
        node.restart()
        node.run {
            let records = try await node.openStore().replayed()
            #expect(records.map(\.1) == [[1]])
        }
    }

    @Test func theOldCheckpointStandsUntilTheNewOneIsDurable() {
        let node = SimulatedNode(seed: 2)
        let finished = node.run {
            try await node.format()
            let store = try await node.openStore()
            _ = try await store.replayed()
            var roots: [[BlockExtent]] = []
            for _ in 0..<2 { roots.append(try store.allocator.reserve(blocks: 2)) }
            func root(_ index: Int) -> CheckpointRoot {
                CheckpointRoot(extents: roots[index], byteCount: 0, checksum: 0, logSequence: 0)
            }
            try await store.publishCheckpoint(root(0))
            var published = false
            node.xstream.spawn {
                do {
                    try await store.publishCheckpoint(root(1))
                } catch { Issue.record("\(error)") }
                published = true
            }
            var looks = 0
            while !published {
                await node.xstream.sleep(for: .microseconds(5))
                if published { break }
                #expect(store.allocator.isUsed(roots[0][0]))
                looks += 1
            }
            #expect(looks > 3)
            #expect(!store.allocator.isUsed(roots[0][0]))
            #expect(store.allocator.usedBlocks == 2)
        }
        #expect(finished)
    }

    /// Bugs of the device that no store can repair must at least not give wrong data.
    @Test(arguments: 1...20)
    func aLyingFlushLosesOnlyTheEnd(seed: UInt64) {
        var faults = DeviceFaults()
        faults.lyingFlushChance = 200_000
        faults.crashOutcome = .lose
        let node = SimulatedNode(seed: seed, blocks: nil, faults: faults)
        node.store.restore(Self.formatted, path: SimulatedNode.path)
        node.store.setFaults(faults)
        node.store.crash(atBoundary: 40 + Int(seed) * 4)
        let ledger = Ledger()
        node.run {
            try await ledger.recover(try await node.openStore())
            try await Self.work(node, ledger)
        }
        node.restart()
        node.run {
            do {
                let store = try await node.openStore()
                var last = store.checkpoint?.logSequence ?? 0
                try await store.replay { sequence, record in
                    #expect(sequence == last + 1)
                    last = sequence
                    let entry = Ledger.Entry(record.withUnsafeBytes { Array($0) })
                    if let known = ledger.journal[sequence] { #expect(entry == known) }
                }
            } catch BIOError.corrupt {
                // Reported: that is all that can be done.
            }
        }
    }
}
