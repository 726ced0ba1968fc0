import BIO
import DrayRuntime
import Testing
import VOS

/// How much there is to replay after a crash.
@Suite struct ReplayTests {
    /// Neither the memtable nor the log is ever so full that it calls for a checkpoint.
    private func makeTarget(seed: UInt64, replayTimeMax: UInt64) -> SimulatedTarget {
        var options = VOSOptions()
        options.replayTimeMax = replayTimeMax
        return SimulatedTarget(
            seed: seed, blocks: 4096, logBlocks: 2048, options: options, crash: .lose)
    }

    /// Updates of so many values each, until the process is killed. Returns the most that there was
    /// to replay, in nanoseconds, and how many checkpoints were made.
    private func load(
        _ target: SimulatedTarget, updates: UInt64, values: UInt8
    ) -> (most: UInt64, checkpoints: Int) {
        var most: UInt64 = 0
        var checkpoints = 0
        let isEnded = target.run {
            let vos = try await target.open()
            var last: UInt64 = 0
            for epoch in 1...updates {
                let buffer = IOBuffer(copying: [UInt8](repeating: UInt8(epoch % 200), count: 16))
                let bytes = UnsafeRawBufferPointer(buffer.bytes)
                try await vos.update(
                    Update(
                        pool: Names.pool, container: Names.container, object: Names.object,
                        epoch: epoch, transaction: .zero,
                        operations: (0..<values).map {
                            Operation(.single(dkey: [$0], akey: [], ValueBytes(bytes)))
                        }))
                withExtendedLifetime(buffer) {}
                if vos.replayCost.records < last { checkpoints += 1 }
                last = vos.replayCost.records
                most = max(most, vos.replayCost.nanoseconds)
            }
        }
        #expect(isEnded)
        target.restart()
        return (most, checkpoints)
    }

    /// Records that are alone in their groups, and records with many entries.
    @Test(arguments: [UInt8(1), 100])
    func checkpointsBoundIt(values: UInt8) {
        let bound: UInt64 = 8_000_000
        let target = makeTarget(seed: 1, replayTimeMax: bound)
        let (most, checkpoints) = load(target, updates: 700, values: values)
        #expect(checkpoints >= 2)
        // No sooner than that, and no more than one update later.
        #expect(most > bound / 2 && most <= bound + 300_000)
        let isEnded = target.run {
            let vos = try await target.open()
            #expect(vos.replayCost.nanoseconds <= bound + 300_000)
            for value in 0..<values {
                #expect(try await vos.getSingle([value], []) == [UInt8](repeating: 100, count: 16))
            }
            await target.close(vos)
        }
        #expect(isEnded)
    }

    @Test func withoutABoundItGrows() {
        let target = makeTarget(seed: 1, replayTimeMax: .max)
        let (most, checkpoints) = load(target, updates: 700, values: 1)
        #expect(checkpoints == 0 && most > 8_000_000)
    }
}
