import BIO
import DrayRuntime
import Testing

@testable import VOS

/// Kills the process at every moment a device sees, and looks at what is left.
@Suite struct CrashTests {
    /// What a scenario did, from the outside.
    final class Journal {
        /// The step that was begun and not acknowledged.
        var begun = -1
        /// Steps that were acknowledged.
        var acknowledged = -1
        /// The log's checkpoints, to see that the scenario has some.
        var checkpoints = 0
    }

    /// The values of step `step` at each of the scenario's keys, so that a mixture shows.
    static func value(_ step: Int, _ key: Int) -> [UInt8] {
        [UInt8].pattern(key == 0 ? 100 : 4096 * key + 17, seed: UInt64(step * 10 + key))
    }

    static let steps = 7
    static let keys = 3

    /// Overwrites the same three keys in one update each time, with a checkpoint and an aggregation
    /// on the way, so that blocks are freed and used again.
    private func play(_ vos: VOS, _ journal: Journal) async throws {
        for step in 0..<Self.steps {
            journal.begun = step
            var buffers: [IOBuffer] = []
            var operations: [Operation] = []
            for key in 0..<Self.keys {
                let bytes = Self.value(step, key)
                let buffer = IOBuffer(copying: bytes)
                buffers.append(buffer)
                operations.append(
                    Operation(
                        .single(
                            dkey: [UInt8(key)], akey: [],
                            ValueBytes(
                                UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<bytes.count])))))
            }
            try await vos.update(
                Update(
                    pool: Names.pool, container: Names.container, object: Names.object,
                    epoch: UInt64(100 + step), transaction: UniqueID(high: 1, low: UInt64(step)),
                    operations: operations))
            withExtendedLifetime(buffers) {}
            journal.acknowledged = step
            if step == 2 || step == 5 {
                try await vos.checkpoint()
                journal.checkpoints += 1
            }
            if step == 3 || step == 4 { try await vos.aggregate(upTo: UInt64(100 + step)) }
        }
        await vos.close()
    }

    /// Everything acknowledged is there; what was begun is there whole or not at all.
    private func verify(_ target: SimulatedTarget, _ journal: Journal) async throws {
        let vos = try await target.open()
        try await vos.checkInvariants()
        var seen: Set<Int> = []
        for key in 0..<Self.keys {
            let bytes = try await vos.getSingle([UInt8(key)], [])
            let step = (-1...journal.begun).first {
                $0 < 0 ? bytes == nil : bytes == Self.value($0, key)
            }
            seen.insert(try #require(step, "a value that was never written"))
        }
        #expect(seen.count == 1, "half of an update: \(seen)")
        let step = try #require(seen.first)
        #expect(step >= journal.acknowledged && step <= journal.begun)
        for past in 0...Self.steps {
            let outcome = vos.transactionOutcome(UniqueID(high: 1, low: UInt64(past)))
            #expect(outcome == (past <= step ? UInt64(100 + past) : nil))
        }
        // The store goes on: new values, and the old ones are still right.
        try await vos.putSingle([9], [], [UInt8].pattern(9000, seed: 5), epoch: 900)
        try await vos.aggregate(upTo: 901)
        try await vos.checkpoint()
        try await vos.checkInvariants()
        #expect(try await vos.getSingle([9], []) == [UInt8].pattern(9000, seed: 5))
        if step >= 0 {
            for key in 0..<Self.keys {
                #expect(try await vos.getSingle([UInt8(key)], []) == Self.value(step, key))
            }
        }
        await target.close(vos)
    }

    @Test(arguments: CrashOutcome.allCases)
    func acknowledgedIsThereAndTheRestIsWholeOrNothing(outcome: CrashOutcome) {
        var boundary = 0
        var ended = false
        while !ended {
            // Few blocks, so that freed ones are used again at once.
            let target = SimulatedTarget(
                seed: UInt64(boundary), blocks: 126, logBlocks: 16, crash: outcome)
            let journal = Journal()
            let finished = target.run {
                let vos = try await target.open()
                target.devices.crash(atBoundary: boundary)
                try await self.play(vos, journal)
            }
            ended = finished
            if finished { #expect(journal.checkpoints == 2 && boundary > 40) }
            target.devices.crash(atBoundary: nil)
            target.restart()
            #expect(target.run { try await self.verify(target, journal) })
            boundary += 1
            guard boundary < 2000 else {
                Issue.record("the scenario never ends")
                return
            }
        }
    }
}
