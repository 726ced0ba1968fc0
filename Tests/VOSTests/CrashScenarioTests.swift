import BIO
import DrayRuntime
import Glibc
import Testing
import VOS
import VOSSimulator

/// Scripts that are crashed at every boundary of a write or flush, with every thing that a crash
/// can do to what was not flushed; and some of their recoveries in the same way.
///
/// `DRAY_CRASH_DRAWS=N` draws N times where a crash leaves a choice, instead of once.
@Suite struct CrashScenarioTests {
    private static let draws: Int = {
        guard let value = getenv("DRAY_CRASH_DRAWS") else { return 1 }
        return max(1, Int(String(cString: value)) ?? 1)
    }()

    private static let object = StoreNames.object
    private static let other = ObjectID(high: .max, low: 9)
    private static let container2 = UniqueID(high: 0xbb, low: 3)

    /// `boundaries`: a script with fewer has lost its point.
    private func explore(_ scenario: CrashScenario, boundaries: Int, seed: UInt64 = 1) {
        let report = CrashExplorer(scenario, seed: seed, draws: Self.draws).run()
        for violation in report.violations { Issue.record("\(violation)") }
        #expect(report.boundaries >= boundaries)
        #expect(report.recoveries > report.boundaries / 2)
        print("\(scenario.name): \(report.summary)")
    }

    // MARK: - Updates

    @Test func smallUpdates() {
        var scenario = CrashScenario("small updates") { player in
            for step in 0..<10 as Range<UInt8> {
                try await player.put(step % 3, 40 + Int(step), epoch: 100 + UInt64(step))
            }
        }
        scenario.recoveryPeriod = 4
        explore(scenario, boundaries: 20)
    }

    @Test func updatesWithoutTransactions() {
        explore(
            CrashScenario("updates without transactions") { player in
                for step in 0..<8 as Range<UInt8> {
                    try await player.put(
                        step % 3, step % 2 == 0 ? 5000 : 30, epoch: 100 + UInt64(step),
                        isTransaction: false)
                }
            }, boundaries: 20)
    }

    /// In one piece, in several, and with an end within a block; over the size up to which writes
    /// are gathered, and below.
    @Test func largeValues() {
        var scenario = CrashScenario("large values") { player in
            for (step, count) in [4096, 70_000, 33_000, 8193, 70_000, 100_001].enumerated() {
                try await player.put(UInt8(step % 2), count, epoch: 100 + UInt64(step))
                try await player.update(
                    [.extent(9, at: UInt64(step) * 3_000, count / 2, seed: UInt64(step))],
                    epoch: 200 + UInt64(step))
            }
        }
        scenario.shape.blocks = 240
        explore(scenario, boundaries: 40)
    }

    @Test func punchesOfEachLevel() {
        explore(
            CrashScenario("punches") { player in
                let names: [([UInt8]?, [UInt8]?)] = [([1], [0]), ([1], nil), (nil, nil)]
                var epoch: UInt64 = 100
                for (dkey, akey) in names {
                    for key in 1...2 as ClosedRange<UInt8> {
                        try await player.update(
                            [
                                StoreChange(Self.object, [key], [0], .single([key])),
                                StoreChange(
                                    Self.object, [key], [1], .single(.pattern(5000, seed: epoch))),
                                .extent(key, at: 10, 300, seed: epoch),
                            ], epoch: epoch + UInt64(key))
                    }
                    try await player.update(
                        [StoreChange(Self.object, dkey, akey)], epoch: epoch + 5)
                    epoch += 10
                }
                try await player.vos.aggregate(upTo: 112)
                try await player.put(1, 10, epoch: 140)
            }, boundaries: 30)
    }

    @Test func snapshots() {
        explore(
            CrashScenario("snapshots") { player in
                for step in 0..<6 as Range<UInt64> {
                    try await player.put(1, 5000, epoch: 100 + 10 * step)
                    try await player.update(
                        [.extent(2, at: 100 * step, 300, seed: step)], epoch: 101 + 10 * step)
                    if step % 2 == 0 { try await player.takeSnapshot(105 + 10 * step) }
                    if step == 3 {
                        try await player.update(
                            [StoreChange(Self.object, [2])], epoch: 139)
                    }
                    try await player.vos.aggregate(upTo: 100 + 10 * step)
                    if step == 4 { try await player.dropSnapshot(105) }
                }
                try await player.vos.aggregate(upTo: 200)
                try await player.dropSnapshot(125)
                try await player.checkpoint()
                try await player.destroy()
                try await player.takeSnapshot(250)
            }, boundaries: 40)
    }

    /// Few blocks, so that those of dropped versions are used again at once.
    @Test func overwrites() {
        var scenario = CrashScenario("overwrites") { player in
            for step in 0..<12 as Range<UInt64> {
                try await player.put(1, 9000, epoch: 100 + step)
                try await player.put(2, 50, epoch: 200 + step)
                if step % 3 == 2 { try await player.vos.aggregate(upTo: 99 + step) }
                if step % 4 == 3 { try await player.checkpoint() }
            }
        }
        scenario.shape.blocks = 72
        scenario.isTight = true
        explore(scenario, boundaries: 60)
    }

    @Test func overlappingExtents() {
        explore(
            CrashScenario("overlapping extents") { player in
                let extents: [(UInt64, Int)] = [
                    (0, 10_000), (5000, 10_000), (4096, 4096), (0, 100), (20_000, 70_000),
                    (30_000, 1), (14_999, 6000), (1 << 40, 300), (0, 40_000),
                ]
                for (step, (offset, count)) in extents.enumerated() {
                    try await player.update(
                        [.extent(1, at: offset, count, seed: UInt64(step))],
                        epoch: 100 + UInt64(step))
                    if step == 6 { try await player.vos.aggregate(upTo: 104) }
                }
                try await player.vos.aggregate(upTo: 108)
            }, boundaries: 30)
    }

    /// Epochs that come late, and in any order.
    @Test func epochsOutOfOrder() {
        explore(
            CrashScenario("epochs out of order") { player in
                for epoch in [150, 120, 170, 110, 160, 130, 180, 140] as [UInt64] {
                    try await player.put(UInt8(epoch / 10 % 2), Int(epoch) * 40, epoch: epoch)
                    try await player.update(
                        [.extent(3, at: epoch, 200, seed: epoch)], epoch: epoch + 1)
                    if epoch == 130 {
                        try await player.update([StoreChange(Self.object, [3])], epoch: 155)
                    }
                }
            }, boundaries: 40)
    }

    @Test func conditionalUpdates() {
        explore(
            CrashScenario("conditional updates") { player in
                var epoch: UInt64 = 100
                func expect(
                    _ refusal: VOSError?, _ condition: Operation.Condition, _ dkey: UInt8
                ) async throws {
                    epoch += 1
                    do {
                        var change = StoreChange.value(dkey, 5000, seed: epoch)
                        change.condition = condition
                        try await player.update([change], epoch: epoch)
                        #expect(refusal == nil)
                    } catch {
                        #expect(error == refusal)
                    }
                }
                try await expect(.notFound, .update, 1)
                try await expect(nil, .insert, 1)
                try await expect(.exists, .insert, 1)
                try await expect(nil, .update, 1)
                try await expect(.notFound, .updateDkey, 2)
                try await expect(nil, .insertDkey, 2)
                try await expect(.exists, .insertDkey, 2)
                try await player.update([StoreChange(Self.object, [1])], epoch: 120)
                epoch = 130
                try await expect(nil, .insertDkey, 1)
                try await expect(nil, .updateDkey, 1)
            }, boundaries: 20)
    }

    /// One update is small values, blocks and punches at once.
    @Test func compoundUpdates() {
        var scenario = CrashScenario("compound updates") { player in
            for step in 0..<6 as Range<UInt64> {
                try await player.update(
                    [
                        StoreChange(Self.object, [4]),
                        .value(1, 30, seed: step), .value(2, 6000, seed: step),
                        .value(3, 40_000, seed: step), .extent(1, at: step * 50, 90, seed: step),
                        .extent(2, at: step * 5000, 9000, seed: step),
                        .value(4, Int(step) * 3000, seed: step),
                    ], epoch: 100 + step)
                if step == 3 { try await player.vos.aggregate(upTo: 102) }
            }
        }
        scenario.shape.blocks = 160
        explore(scenario, boundaries: 20)
    }

    /// Many at once share groups of the log and transfers.
    @Test func updatesAtOnce() {
        explore(
            CrashScenario("updates at once") { player in
                for round in 0..<3 as Range<UInt64> {
                    await player.together(
                        (0..<6 as Range<UInt64>).map { lane in
                            {
                                let epoch = 100 + round * 20 + lane * 2
                                try await player.put(
                                    UInt8(lane), lane % 2 == 0 ? 6000 : 60, epoch: epoch)
                                try await player.update(
                                    [.extent(UInt8(lane), at: round * 9, 700, seed: epoch)],
                                    epoch: epoch + 1)
                            }
                        })
                }
            }, boundaries: 20)
    }

    /// The same transaction is sent again, at once and later.
    @Test func resentTransactions() {
        explore(
            CrashScenario("resent transactions") { player in
                for step in 0..<5 as Range<UInt64> {
                    let update = StoreUpdate(
                        [.value(1, 200 + 3000 * Int(step % 2), seed: step)], epoch: 100 + step,
                        transaction: UniqueID(high: 5, low: step))
                    await player.together([
                        { try await player.send(update) },
                        {
                            do {
                                try await player.vos.apply(update)
                            } catch VOSError.duplicateInProgress(let id) {
                                #expect(id == update.transaction)
                            }
                        },
                    ])
                    try await player.resend()
                    if step == 2 { try await player.checkpoint() }
                }
            }, boundaries: 10)
    }

    // MARK: - Work of the store itself

    @Test func aggregation() {
        explore(
            CrashScenario("aggregation") { player in
                for step in 0..<5 as Range<UInt64> {
                    try await player.put(1, 5000, epoch: 100 + step)
                    try await player.put(2, 90, epoch: 110 + step)
                    try await player.update(
                        [.extent(3, at: step * 100, 5000, seed: step)], epoch: 120 + step)
                }
                try await player.update([StoreChange(Self.object, [2])], epoch: 130)
                try await player.vos.aggregate(upTo: 103)
                try await player.put(2, 70, epoch: 131)
                try await player.vos.aggregate(upTo: 122)
                try await player.update([StoreChange(Self.object)], epoch: 140)
                try await player.put(1, 20, epoch: 141)
                try await player.vos.aggregate(upTo: 141)
            }, boundaries: 40)
    }

    /// The index goes to the device while it changes.
    @Test func checkpointsUnderLoad() {
        explore(
            CrashScenario("checkpoints under load") { player in
                for round in 0..<3 as Range<UInt64> {
                    await player.together([
                        { try await player.checkpoint() },
                        {
                            for step in 0..<4 as Range<UInt64> {
                                try await player.put(
                                    1, step % 2 == 0 ? 20 : 7000, epoch: 100 + round * 10 + step)
                            }
                        },
                        {
                            try await player.update(
                                [StoreChange(Self.other, [7], [7], .single([UInt8(round)]))],
                                epoch: 200 + round)
                            try await player.vos.aggregate(upTo: 98 + round * 10)
                        },
                    ])
                }
            }, boundaries: 40)
    }

    /// One checkpoint after the other, with a little between them: old ones are replaced.
    @Test func repeatedCheckpoints() {
        explore(
            CrashScenario("repeated checkpoints") { player in
                for step in 0..<8 as Range<UInt64> {
                    for key in 0..<4 as Range<UInt64> {
                        try await player.put(
                            UInt8((step * 3 + key) % 9), 300, epoch: 100 + step * 4 + key)
                    }
                    try await player.checkpoint()
                    if step % 3 == 2 { try await player.vos.aggregate(upTo: 98 + step * 4) }
                }
                try await player.checkpoint()
            }, boundaries: 100)
    }

    /// The log is 16 blocks, so it is full every few updates.
    @Test func theLogWraps() {
        let scenario = CrashScenario("log wrap") { player in
            for step in 0..<24 as Range<UInt64> {
                try await player.put(UInt8(step % 5), 3500, epoch: 100 + step)
            }
        }
        explore(scenario, boundaries: 60)
    }

    @Test func aFullDevice() {
        var scenario = CrashScenario("full device") { player in
            var epoch: UInt64 = 100
            var refusals = 0
            for round in 0..<2 {
                filling: while true {
                    epoch += 1
                    do {
                        try await player.put(UInt8(epoch % 200), 30_000, epoch: epoch)
                    } catch VOSError.noSpace {
                        refusals += 1
                        break filling
                    }
                }
                epoch += 1
                if round == 0 {
                    try await player.update([StoreChange(Self.object)], epoch: epoch)
                    try await player.vos.aggregate(upTo: epoch)
                }
            }
            #expect(refusals == 2)
        }
        scenario.shape.blocks = 70
        scenario.fillsDevice = true
        explore(scenario, boundaries: 30)
    }

    @Test func destruction() {
        explore(
            CrashScenario("destruction") { player in
                for step in 0..<6 as Range<UInt64> {
                    try await player.put(UInt8(step), 200 + 2000 * Int(step), epoch: 100 + step)
                    try await player.update(
                        [.value(UInt8(step), 5000, seed: step)], epoch: 200 + step,
                        container: Self.container2)
                }
                try await player.checkpoint()
                try await player.destroy()
                try await player.put(3, 6000, epoch: 300)
                try await player.destroy(Self.container2)
                try await player.destroy()
            }, boundaries: 30)
    }

    /// What the background loop does by itself.
    @Test func backgroundWork() {
        var scenario = CrashScenario("background work") { player in
            let vos = player.vos
            player.process.xstream.spawn { await vos.runBackground() }
            for step in 0..<12 as Range<UInt64> {
                let epoch = player.process.world.clock.wallNanoseconds
                try await player.put(UInt8(step % 2), step % 3 == 0 ? 6000 : 3000, epoch: epoch)
                await player.process.xstream.sleep(for: .milliseconds(2))
            }
            #expect(vos.aggregatedEpoch > 0)
            await player.closeStore()
            await player.process.xstream.sleep(for: .milliseconds(5))
        }
        scenario.shape.options.backgroundPeriod = 1
        scenario.shape.options.retention = 3_000_000
        explore(scenario, boundaries: 40)
    }

    // MARK: - Beginning and end

    @Test func format() {
        var scenario = CrashScenario("format") { player in
            try await player.process.format()
            try await player.openStore()
            try await player.put(1, 6000, epoch: 100)
            await player.closeStore()
        }
        scenario.isFormatted = false
        scenario.recoveryPeriod = 2
        explore(scenario, boundaries: 10)
    }

    @Test func closingAndOpening() {
        explore(
            CrashScenario("closing and opening") { player in
                for step in 0..<5 as Range<UInt64> {
                    try await player.put(1, 100 + 4000 * Int(step % 2), epoch: 100 + step)
                    try await player.reopen()
                    if step == 2 { try await player.checkpoint() }
                    try await player.compare()
                }
                await player.closeStore()
            }, boundaries: 20)
    }

    /// Every recovery is crashed at every moment too, and every one of those.
    @Test func recovery() {
        var scenario = CrashScenario("recovery") { player in
            try await player.put(1, 6000, epoch: 100)
            await player.together([
                { try await player.put(1, 5000, epoch: 101) },
                { try await player.put(2, 50, epoch: 102) },
                { try await player.checkpoint() },
            ])
            try await player.update([StoreChange(Self.object, [2])], epoch: 103)
        }
        scenario.recoveryPeriod = 14
        scenario.recoveryDepth = 3
        explore(scenario, boundaries: 10)
    }

    // MARK: - Distributed transactions

    @Test func transactions() {
        explore(
            CrashScenario("transactions") { player in
                try await player.put(1, 5000, epoch: 100)
                let first = try await player.prepare(
                    1, [.value(1, 4500, seed: 1), .value(2, 20, seed: 1)], epoch: 110)
                player.commit(first)
                let second = try await player.prepare(
                    2,
                    [
                        .value(2, 9000, seed: 2), .extent(2, at: 5, 5000, seed: 2),
                        StoreChange(Self.other, [1], [1], .single([5])),
                    ], epoch: 120, isLeader: false)
                let third = try await player.prepare(
                    3, [StoreChange(Self.object, [1])], epoch: 130, isLeader: false)
                try await player.abort(second)
                try await player.checkpoint()
                player.commit(third)
                try await player.put(3, 10, epoch: 135)
                let fourth = try await player.prepare(
                    4, [.value(1, 8000, seed: 4), StoreChange(Self.object, [3])], epoch: 140)
                try await player.reopen()
                player.commit(fourth)
                try await player.vos.aggregate(upTo: 141)
                try await player.checkpoint()
            }, boundaries: 30)
    }

    @Test func outcomes() {
        explore(
            CrashScenario("outcomes") { player in
                for number in 1...6 as ClosedRange<UInt64> {
                    let id = try await player.prepare(
                        number, [.value(UInt8(number), number % 2 == 0 ? 5000 : 50, seed: number)],
                        epoch: 100 + 10 * number, isLeader: number % 3 != 0)
                    switch number {
                    case 1, 3: player.commit(id)
                    case 2:
                        player.commit(id)
                        try await player.flushOutcomes()
                    case 4: try await player.abort(id)
                    case 5:
                        player.commit(id)
                        try await player.checkpoint()
                        player.complete(StorePlayer.dtx(1))
                        player.complete(StorePlayer.dtx(2))
                    default:
                        try await player.refuse(9, epoch: 165)
                        player.commit(id)
                        player.complete(StorePlayer.dtx(5))
                        try await player.flushOutcomes()
                    }
                }
                await player.closeStore()
            }, boundaries: 25)
    }

    // MARK: - Limits

    /// Almost no memory: everything that has a limit reaches it.
    @Test func tinyLimits() {
        var scenario = CrashScenario("tiny limits") { player in
            for step in 0..<30 as Range<UInt64> {
                try await player.put(
                    UInt8(step % 7), [10, 100, 2000][Int(step % 3)], epoch: 100 + step)
                if step % 9 == 8 { try await player.compare() }
                if step % 10 == 9 { try await player.vos.aggregate(upTo: 95 + step) }
            }
            try await player.reopen()
            try await player.compare()
        }
        scenario.shape.options = .shrunken()
        explore(scenario, boundaries: 60)
    }

    @Test func longKeysAndManyKeys() {
        var scenario = CrashScenario("long keys and many keys") { player in
            for step in 0..<4 as Range<UInt64> {
                let long = [UInt8](repeating: UInt8(step), count: 3000)
                try await player.update(
                    [
                        StoreChange(Self.object, long, long, .single([1])),
                        StoreChange(Self.object, long + [0], [], .single([2])),
                    ], epoch: 100 + step * 2)
                try await player.update(
                    (0..<20 as Range<UInt8>).map {
                        StoreChange(
                            Self.other, [$0 / 5, UInt8(step)], [$0], .single([$0, UInt8(step)]))
                    }, epoch: 101 + step * 2)
                if step == 2 { try await player.checkpoint() }
            }
        }
        scenario.shape.logBlocks = 32
        explore(scenario, boundaries: 20)
    }
}
