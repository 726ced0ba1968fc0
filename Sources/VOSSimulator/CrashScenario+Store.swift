internal import BIO
internal import DrayRuntime
internal import VOS

/// What the store does by itself, its beginning and end, distributed transactions, and limits.
extension CrashScenario {
    static var store: [CrashScenario] {
        [
            aggregation, cutExtents, checkpointsUnderLoad, repeatedCheckpoints, theLogWraps,
            aFullDevice, destruction, discard, backgroundWork, format, closingAndOpening, recovery,
            transactions, outcomes, tinyLimits, longKeysAndManyKeys,
        ]
    }

    private static let other = ObjectID(high: .max, low: 9)
    private static let container2 = UniqueID(high: 0xbb, low: 3)

    // MARK: - Work of the store itself

    private static var aggregation: CrashScenario {
        CrashScenario("aggregation", boundaries: 40) { player in
            for step in 0..<5 as Range<UInt64> {
                try await player.put(1, 5000, epoch: 100 + step)
                try await player.put(2, 90, epoch: 110 + step)
                try await player.update(
                    [.extent(3, at: step * 100, 5000, seed: step)], epoch: 120 + step)
            }
            try await player.update([StoreChange(object, [2])], epoch: 130)
            try await player.vos.aggregate(upTo: 103)
            try await player.put(2, 70, epoch: 131)
            try await player.vos.aggregate(upTo: 122)
            try await player.update([StoreChange(object)], epoch: 140)
            try await player.put(1, 20, epoch: 141)
            try await player.vos.aggregate(upTo: 141)
        }
    }

    /// Of extents less and less is left, in blocks and in the index; a snapshot holds some.
    private static var cutExtents: CrashScenario {
        var scenario = CrashScenario("cut extents", boundaries: 40) { player in
            for step in 0..<5 as Range<UInt64> {
                try await player.update(
                    [.extent(1, at: step * 9000, 40_000, seed: step)], epoch: 100 + step)
            }
            try await player.vos.aggregate(upTo: 103)
            try await player.takeSnapshot(105)
            for step in 5..<8 as Range<UInt64> {
                try await player.update(
                    [.extent(1, at: step * 2000, 40_000, seed: step)], epoch: 101 + step)
            }
            try await player.vos.aggregate(upTo: 107)
            try await player.dropSnapshot(105)
            try await player.vos.aggregate(upTo: 108)
            if player.vos.extentsCut < 5 {
                player.violate("\(player.vos.extentsCut) extents were cut")
            }
            try await player.checkpoint()
        }
        scenario.shape.blocks = 300
        return scenario
    }

    /// The index goes to the device while it changes.
    private static var checkpointsUnderLoad: CrashScenario {
        CrashScenario("checkpoints under load", boundaries: 40) { player in
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
                            [StoreChange(other, [7], [7], .single([UInt8(round)]))],
                            epoch: 200 + round)
                        try await player.vos.aggregate(upTo: 98 + round * 10)
                    },
                ])
            }
        }
    }

    /// One checkpoint after the other, with a little between them: old ones are replaced.
    private static var repeatedCheckpoints: CrashScenario {
        CrashScenario("repeated checkpoints", boundaries: 100) { player in
            for step in 0..<8 as Range<UInt64> {
                for key in 0..<4 as Range<UInt64> {
                    try await player.put(
                        UInt8((step * 3 + key) % 9), 300, epoch: 100 + step * 4 + key)
                }
                try await player.checkpoint()
                if step % 3 == 2 { try await player.vos.aggregate(upTo: 98 + step * 4) }
            }
            try await player.checkpoint()
        }
    }

    /// The log is 16 blocks, so it is full every few updates.
    private static var theLogWraps: CrashScenario {
        let scenario = CrashScenario("log wrap", boundaries: 60) { player in
            for step in 0..<24 as Range<UInt64> {
                try await player.put(UInt8(step % 5), 3500, epoch: 100 + step)
            }
        }
        return scenario
    }

    private static var aFullDevice: CrashScenario {
        var scenario = CrashScenario("full device", boundaries: 30) { player in
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
                    try await player.update([StoreChange(object)], epoch: epoch)
                    try await player.vos.aggregate(upTo: epoch)
                }
            }
            if refusals != 2 { player.violate("filled \(refusals) times") }
        }
        scenario.shape.blocks = 86
        scenario.fillsDevice = true
        return scenario
    }

    private static var destruction: CrashScenario {
        CrashScenario("destruction", boundaries: 30) { player in
            for step in 0..<6 as Range<UInt64> {
                try await player.put(UInt8(step), 200 + 2000 * Int(step), epoch: 100 + step)
                try await player.update(
                    [.value(UInt8(step), 5000, seed: step)], epoch: 200 + step,
                    container: container2)
            }
            try await player.checkpoint()
            try await player.destroy()
            try await player.put(3, 6000, epoch: 300)
            try await player.destroy(container2)
            try await player.destroy()
        }
    }

    private static var discard: CrashScenario {
        CrashScenario("discard", boundaries: 30) { player in
            for step in 0..<6 as Range<UInt64> {
                try await player.put(UInt8(step % 4), 200 + 2000 * Int(step), epoch: 100 + step)
                try await player.update(
                    [.value(UInt8(step), 5000, seed: step)], epoch: 200 + step,
                    container: container2)
                try await player.update(
                    [StoreChange(other, [1], [1], .single([1]))], epoch: 200 + step,
                    container: container2)
            }
            try await player.update([StoreChange(object, [1])], epoch: 110)
            try await player.checkpoint()
            let first = try await player.prepare(1, [.value(9, 5000, seed: 9)], epoch: 120)
            try await player.discard(
                StoreJournal.Discard(StoreNames.container, nil, 104...UInt64.max))
            player.commit(first)
            try await player.put(3, 6000, epoch: 105)
            try await player.discard(StoreJournal.Discard(container2, object, 0...203))
            try await player.discard(StoreJournal.Discard(container2, object, 202...204))
            try await player.vos.aggregate(upTo: 104)
            try await player.checkpoint()
            try await player.put(3, 6000, epoch: 106)
        }
    }

    /// What the background loop does by itself.
    private static var backgroundWork: CrashScenario {
        var scenario = CrashScenario("background work", boundaries: 40) { player in
            let vos = player.vos
            player.process.xstream.spawn { await vos.runBackground() }
            for step in 0..<12 as Range<UInt64> {
                let epoch = player.process.world.clock.wallNanoseconds
                try await player.put(UInt8(step % 2), step % 3 == 0 ? 6000 : 3000, epoch: epoch)
                await player.process.xstream.sleep(for: .milliseconds(2))
            }
            if vos.aggregatedEpoch == 0 { player.violate("nothing was aggregated") }
            await player.closeStore()
            await player.process.xstream.sleep(for: .milliseconds(5))
        }
        scenario.shape.options.backgroundPeriod = 1
        scenario.shape.options.retention = 3_000_000
        return scenario
    }

    // MARK: - Beginning and end

    private static var format: CrashScenario {
        var scenario = CrashScenario("format", boundaries: 10) { player in
            try await player.process.format()
            try await player.openStore()
            try await player.put(1, 6000, epoch: 100)
            await player.closeStore()
        }
        scenario.isFormatted = false
        scenario.recoveryPeriod = 2
        return scenario
    }

    private static var closingAndOpening: CrashScenario {
        CrashScenario("closing and opening", boundaries: 20) { player in
            for step in 0..<5 as Range<UInt64> {
                try await player.put(1, 100 + 4000 * Int(step % 2), epoch: 100 + step)
                try await player.reopen()
                if step == 2 { try await player.checkpoint() }
                try await player.compare()
            }
            await player.closeStore()
        }
    }

    /// Every recovery is crashed at every moment too, and every one of those.
    private static var recovery: CrashScenario {
        var scenario = CrashScenario("recovery", boundaries: 10) { player in
            try await player.put(1, 6000, epoch: 100)
            await player.together([
                { try await player.put(1, 5000, epoch: 101) },
                { try await player.put(2, 50, epoch: 102) },
                { try await player.checkpoint() },
            ])
            try await player.update([StoreChange(object, [2])], epoch: 103)
        }
        scenario.recoveryPeriod = 14
        scenario.recoveryDepth = 3
        return scenario
    }

    // MARK: - Distributed transactions

    private static var transactions: CrashScenario {
        CrashScenario("transactions", boundaries: 30) { player in
            try await player.put(1, 5000, epoch: 100)
            let first = try await player.prepare(
                1, [.value(1, 4500, seed: 1), .value(2, 20, seed: 1)], epoch: 110)
            player.commit(first)
            let second = try await player.prepare(
                2,
                [
                    .value(2, 9000, seed: 2), .extent(2, at: 5, 5000, seed: 2),
                    StoreChange(other, [1], [1], .single([5])),
                ], epoch: 120, isLeader: false)
            let third = try await player.prepare(
                3, [StoreChange(object, [1])], epoch: 130, isLeader: false)
            try await player.abort(second)
            try await player.checkpoint()
            player.commit(third)
            try await player.put(3, 10, epoch: 135)
            let fourth = try await player.prepare(
                4, [.value(1, 8000, seed: 4), StoreChange(object, [3])], epoch: 140)
            try await player.reopen()
            player.commit(fourth)
            try await player.vos.aggregate(upTo: 141)
            try await player.checkpoint()
        }
    }

    private static var outcomes: CrashScenario {
        CrashScenario("outcomes", boundaries: 25) { player in
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
        }
    }

    // MARK: - Limits

    /// Almost no memory: everything that has a limit reaches it.
    private static var tinyLimits: CrashScenario {
        var scenario = CrashScenario("tiny limits", boundaries: 60) { player in
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
        return scenario
    }

    private static var longKeysAndManyKeys: CrashScenario {
        var scenario = CrashScenario("long keys and many keys", boundaries: 20) { player in
            for step in 0..<4 as Range<UInt64> {
                let long = [UInt8](repeating: UInt8(step), count: 3000)
                try await player.update(
                    [
                        StoreChange(object, long, long, .single([1])),
                        StoreChange(object, long + [0], [], .single([2])),
                    ], epoch: 100 + step * 2)
                try await player.update(
                    (0..<20 as Range<UInt8>).map {
                        StoreChange(
                            other, [$0 / 5, UInt8(step)], [$0], .single([$0, UInt8(step)]))
                    }, epoch: 101 + step * 2)
                if step == 2 { try await player.checkpoint() }
            }
        }
        scenario.shape.logBlocks = 32
        return scenario
    }
}
