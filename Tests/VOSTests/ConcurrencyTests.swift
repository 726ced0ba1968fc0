import BIO
import DrayRuntime
import Testing

@testable import VOS

@Suite struct ConcurrencyTests {
    /// Runs tasks on the target's xstream and waits for all of them.
    private func together(
        _ count: Int, _ target: SimulatedTarget, _ body: @escaping (Int) async throws -> Void
    ) async {
        var left = count
        for index in 0..<count {
            target.xstream.spawn {
                do {
                    try await body(index)
                } catch {
                    Issue.record("\(error)")
                }
                left -= 1
            }
        }
        while left > 0 { await target.xstream.sleep(for: .microseconds(50)) }
    }

    @Test(arguments: 0..<8 as Range<UInt64>)
    func ofManyInsertsOneWins(seed: UInt64) {
        let target = SimulatedTarget(seed: seed)
        let finished = target.run {
            let vos = try await target.open()
            for round in 0..<5 as Range<UInt8> {
                var winners: [Int] = []
                await self.together(8, target) { index in
                    do {
                        try await vos.putSingle(
                            [round], [], [UInt8](repeating: UInt8(index), count: index * 900),
                            epoch: 100 + UInt64(index), condition: .insert)
                        winners.append(index)
                    } catch VOSError.exists {}
                }
                #expect(winners.count == 1)
                let value = try await vos.getSingle([round], [])
                let winner = try #require(winners.first)
                #expect(value == [UInt8](repeating: UInt8(winner), count: winner * 900))
            }
            try await vos.checkInvariants()
        }
        #expect(finished)
    }

    /// An update has its epoch before it is durable. Whoever looks at a later epoch meanwhile must
    /// not miss it: it would appear in his past.
    @Test(arguments: 0..<8 as Range<UInt64>)
    func whatIsUnderWayIsWaitedFor(seed: UInt64) {
        let target = SimulatedTarget(seed: seed)
        let finished = target.run {
            let vos = try await target.open()
            for round in 0..<8 as Range<UInt64> {
                let size = seed % 2 == 0 ? 100 : 9_000
                let value = [UInt8].pattern(size, seed: round)
                let epoch = 100 + 10 * round
                let key = [UInt8(round)]
                await self.together(4, target) { index in
                    while index == 1 || index == 2, !vos.epochsInFlight.contains(epoch) {
                        await target.xstream.yield()
                    }
                    switch index {
                    case 0:
                        // The others look for it on its way, so they must be there first.
                        await target.xstream.sleep(for: .microseconds(10))
                        try await vos.putSingle(key, [], value, epoch: epoch)
                    case 1:
                        #expect(try await vos.getSingle(key, [], epoch: epoch + 1) == value)
                    case 2:
                        let listed = try await vos.listDkeys(
                            pool: Names.pool, container: Names.container, object: Names.object,
                            limit: 100, epoch: epoch + 1)
                        #expect(listed.keys.contains(key))
                    default:
                        // Those who come later wait for nobody but those before them.
                        try await vos.putSingle(key, [1], value, epoch: epoch + 2)
                    }
                }
            }
            #expect(vos.locks.heldCount == 0)
            try await vos.checkInvariants()
        }
        #expect(finished)
    }

    @Test func aDuplicateUnderWayIsRefused() {
        let target = SimulatedTarget(seed: 1)
        target.run {
            let vos = try await target.open()
            let transaction = UniqueID(high: 5, low: 5)
            var refused = 0
            await self.together(4, target) { index in
                do {
                    try await vos.putSingle(
                        [1], [], [UInt8(index)], epoch: 10 + UInt64(index),
                        transaction: transaction)
                } catch VOSError.duplicateInProgress(let id) {
                    #expect(id == transaction)
                    refused += 1
                }
            }
            #expect(refused == 3)
            try await vos.checkInvariants()
        }
    }

    /// Updates go on while a checkpoint is written; it must not claim to have them.
    @Test(arguments: 0..<6 as Range<UInt64>)
    func updatesDuringACheckpointAreNotLost(seed: UInt64) {
        let target = SimulatedTarget(seed: seed, logBlocks: 128)
        var acknowledged: [[UInt8]: UInt8] = [:]
        func key(_ writer: Int, _ number: Int) -> [UInt8] {
            [UInt8(writer), UInt8(number % 256), UInt8(number / 256)]
        }
        let finished = target.run {
            let vos = try await target.open()
            for number in 0..<400 {
                try await vos.putSingle(key(9, number), [], [1], epoch: 10)
                acknowledged[key(9, number)] = 1
            }
            var checkpoints = 0
            await self.together(4, target) { writer in
                if writer == 3 {
                    for _ in 0..<4 {
                        try await vos.checkpoint()
                        checkpoints += 1
                    }
                    return
                }
                for number in 0..<300 where checkpoints < 4 {
                    // New keys, and old ones again.
                    for name in [key(writer, number), key(9, number)] {
                        let value = UInt8(writer + 2)
                        try await vos.putSingle(
                            name, [], [value], epoch: 20 + UInt64(number * 3 + writer))
                        acknowledged[name] = max(acknowledged[name] ?? 0, value)
                    }
                }
            }
            #expect(acknowledged.count > 410)
        }
        #expect(finished)
        target.restart()
        let again = target.run {
            let vos = try await target.open()
            try await vos.checkInvariants()
            for writer in [0, 1, 2, 9] {
                for number in 0..<400 {
                    let value = try await vos.getSingle(key(writer, number), [])
                    #expect(value?.first == acknowledged[key(writer, number)])
                }
            }
        }
        #expect(again)
    }

    /// Writers overwrite, readers read what stays the same for them, aggregation and checkpoints
    /// free blocks beneath; a reader must never see bytes of another value.
    @Test(arguments: 0..<4 as Range<UInt64>)
    func readersAreSafeFromAggregation(seed: UInt64) {
        let target = SimulatedTarget(seed: seed, blocks: 1000, logBlocks: 32)
        let finished = target.run {
            let vos = try await target.open()
            func value(_ writer: Int, _ round: Int) -> [UInt8] {
                [UInt8](repeating: UInt8(writer * 16 + round % 16), count: 40_000)
            }
            var epoch: UInt64 = 100
            var newest: [Int: Int] = [:]
            var writing = true
            await self.together(6, target) { index in
                switch index {
                case 0...2:
                    for round in 0..<12 {
                        epoch += 1
                        try await vos.putSingle(
                            [UInt8(index)], [], value(index, round), epoch: epoch)
                        newest[index] = round
                    }
                    if index == 2 { writing = false }
                case 3, 4:
                    while writing {
                        await target.xstream.sleep(for: .microseconds(5))
                        for writer in 0...2 {
                            let before = newest[writer]
                            let read = try await vos.getSingle([UInt8(writer)], [])
                            guard let before else { continue }
                            let rounds = before...(newest[writer] ?? before) + 1
                            #expect(rounds.contains { read == value(writer, $0) })
                        }
                    }
                default:
                    while writing {
                        try await vos.aggregate(upTo: epoch)
                        try await vos.checkpoint()
                        await target.xstream.sleep(for: .microseconds(300))
                    }
                }
            }
            try await vos.checkInvariants()
        }
        #expect(finished)
    }

    @Test func theBackgroundKeepsAnOverwrittenKeySmall() {
        var options = VOSOptions()
        options.retention = 1_000_000
        options.backgroundPeriod = 2
        let target = SimulatedTarget(seed: 9, blocks: 600, logBlocks: 32, options: options)
        let finished = target.run {
            let vos = try await target.open()
            let clock = HybridLogicalClock(clock: target.world.clock)
            target.xstream.spawn { await vos.runBackground() }
            // Eight times the device.
            for round in 0..<400 {
                try await vos.putSingle(
                    [1], [], [UInt8](repeating: UInt8(round % 256), count: 50_000),
                    epoch: clock.now())
                await target.xstream.sleep(for: .microseconds(300))
            }
            await target.xstream.sleep(for: .milliseconds(20))
            #expect(vos.entryCount == 1)
            try await vos.checkInvariants()
            await target.close(vos)
        }
        #expect(finished)
    }
}
