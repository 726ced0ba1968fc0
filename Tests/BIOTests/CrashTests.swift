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
                            blocks: UInt32(1 + number % 3), padding: number * 331 % 5000)
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
        let node = SimulatedNode(seed: 0, blocks: 80)
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
        #expect(boundary > 60)
        // Some crashes came after the flush and before anybody was told.
        #expect(partial > 0)
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
