internal import BIO
internal import DrayRuntime
internal import VOS

/// Updates of every kind, as clients send them.
extension CrashScenario {
    static var updates: [CrashScenario] {
        [
            smallUpdates, updatesWithoutTransactions, largeValues, longValues, punchesOfEachLevel,
            snapshots, overwrites, overlappingExtents, epochsOutOfOrder, conditionalUpdates,
            compoundUpdates,
            updatesAtOnce, resentTransactions,
        ]
    }

    private static var smallUpdates: CrashScenario {
        var scenario = CrashScenario("small updates", boundaries: 20) { player in
            for step in 0..<10 as Range<UInt8> {
                try await player.put(step % 3, 40 + Int(step), epoch: 100 + UInt64(step))
            }
        }
        scenario.recoveryPeriod = 4
        return scenario
    }

    private static var updatesWithoutTransactions: CrashScenario {
        CrashScenario("updates without transactions", boundaries: 20) { player in
            for step in 0..<8 as Range<UInt8> {
                try await player.put(
                    step % 3, step % 2 == 0 ? 5000 : 30, epoch: 100 + UInt64(step),
                    isTransaction: false)
            }
        }
    }

    /// In one piece, in several, and with an end within a block; over the size up to which writes
    /// are gathered, and below.
    private static var largeValues: CrashScenario {
        var scenario = CrashScenario("large values", boundaries: 40) { player in
            for (step, count) in [4096, 70_000, 33_000, 8193, 70_000, 100_001].enumerated() {
                try await player.put(UInt8(step % 2), count, epoch: 100 + UInt64(step))
                try await player.update(
                    [.extent(9, at: UInt64(step) * 3_000, count / 2, seed: UInt64(step))],
                    epoch: 200 + UInt64(step))
            }
        }
        scenario.shape.blocks = 240
        return scenario
    }

    /// So long that the record of one that is alone is logged while its blocks are written.
    private static var longValues: CrashScenario {
        var scenario = CrashScenario("long values", boundaries: 20) { player in
            try await player.put(1, 270_000, epoch: 100)
            try await player.put(1, 262_144, epoch: 101)
            await player.together([
                { try await player.put(2, 300_001, epoch: 102) },
                { try await player.put(3, 60, epoch: 103) },
                { try await player.put(4, 9000, epoch: 104) },
            ])
            try await player.update([.extent(9, at: 5, 280_000, seed: 1)], epoch: 110)
        }
        scenario.shape.blocks = 700
        return scenario
    }

    private static var punchesOfEachLevel: CrashScenario {
        CrashScenario("punches", boundaries: 30) { player in
            let names: [([UInt8]?, [UInt8]?)] = [([1], [0]), ([1], nil), (nil, nil)]
            var epoch: UInt64 = 100
            for (dkey, akey) in names {
                for key in 1...2 as ClosedRange<UInt8> {
                    try await player.update(
                        [
                            StoreChange(object, [key], [0], .single([key])),
                            StoreChange(
                                object, [key], [1], .single(.pattern(5000, seed: epoch))),
                            .extent(key, at: 10, 300, seed: epoch),
                        ], epoch: epoch + UInt64(key))
                }
                try await player.update(
                    [StoreChange(object, dkey, akey)], epoch: epoch + 5)
                epoch += 10
            }
            try await player.vos.aggregate(upTo: 112)
            try await player.put(1, 10, epoch: 140)
        }
    }

    private static var snapshots: CrashScenario {
        CrashScenario("snapshots", boundaries: 40) { player in
            for step in 0..<6 as Range<UInt64> {
                try await player.put(1, 5000, epoch: 100 + 10 * step)
                try await player.update(
                    [.extent(2, at: 100 * step, 300, seed: step)], epoch: 101 + 10 * step)
                if step % 2 == 0 { try await player.takeSnapshot(105 + 10 * step) }
                if step == 3 {
                    try await player.update(
                        [StoreChange(object, [2])], epoch: 139)
                }
                try await player.vos.aggregate(upTo: 100 + 10 * step)
                if step == 4 { try await player.dropSnapshot(105) }
            }
            try await player.vos.aggregate(upTo: 200)
            try await player.dropSnapshot(125)
            try await player.checkpoint()
            try await player.destroy()
            try await player.takeSnapshot(250)
        }
    }

    /// Few blocks, so that those of dropped versions are used again at once.
    private static var overwrites: CrashScenario {
        var scenario = CrashScenario("overwrites", boundaries: 60) { player in
            for step in 0..<12 as Range<UInt64> {
                try await player.put(1, 9000, epoch: 100 + step)
                try await player.put(2, 50, epoch: 200 + step)
                if step % 3 == 2 { try await player.vos.aggregate(upTo: 99 + step) }
                if step % 4 == 3 { try await player.checkpoint() }
            }
        }
        scenario.shape.blocks = 88
        scenario.isTight = true
        return scenario
    }

    private static var overlappingExtents: CrashScenario {
        CrashScenario("overlapping extents", boundaries: 30) { player in
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
        }
    }

    /// Epochs that come late, and in any order.
    private static var epochsOutOfOrder: CrashScenario {
        CrashScenario("epochs out of order", boundaries: 40) { player in
            for epoch in [150, 120, 170, 110, 160, 130, 180, 140] as [UInt64] {
                try await player.put(UInt8(epoch / 10 % 2), Int(epoch) * 40, epoch: epoch)
                try await player.update(
                    [.extent(3, at: epoch, 200, seed: epoch)], epoch: epoch + 1)
                if epoch == 130 {
                    try await player.update([StoreChange(object, [3])], epoch: 155)
                }
            }
        }
    }

    private static var conditionalUpdates: CrashScenario {
        CrashScenario("conditional updates", boundaries: 20) { player in
            var epoch: UInt64 = 100
            func expect(
                _ refusal: VOSError?, _ condition: Operation.Condition, _ dkey: UInt8
            ) async throws {
                epoch += 1
                do {
                    var change = StoreChange.value(dkey, 5000, seed: epoch)
                    change.condition = condition
                    try await player.update([change], epoch: epoch)
                    if refusal != nil { player.violate("done in spite of its condition") }
                } catch {
                    if error != refusal { player.violate("refused: \(error)") }
                }
            }
            try await expect(.notFound, .update, 1)
            try await expect(nil, .insert, 1)
            try await expect(.exists, .insert, 1)
            try await expect(nil, .update, 1)
            try await expect(.notFound, .updateDkey, 2)
            try await expect(nil, .insertDkey, 2)
            try await expect(.exists, .insertDkey, 2)
            try await player.update([StoreChange(object, [1])], epoch: 120)
            epoch = 130
            try await expect(nil, .insertDkey, 1)
            try await expect(nil, .updateDkey, 1)
        }
    }

    /// One update is small values, blocks and punches at once.
    private static var compoundUpdates: CrashScenario {
        var scenario = CrashScenario("compound updates", boundaries: 20) { player in
            for step in 0..<6 as Range<UInt64> {
                try await player.update(
                    [
                        StoreChange(object, [4]),
                        .value(1, 30, seed: step), .value(2, 6000, seed: step),
                        .value(3, 40_000, seed: step), .extent(1, at: step * 50, 90, seed: step),
                        .extent(2, at: step * 5000, 9000, seed: step),
                        .value(4, Int(step) * 3000, seed: step),
                    ], epoch: 100 + step)
                if step == 3 { try await player.vos.aggregate(upTo: 102) }
            }
        }
        scenario.shape.blocks = 160
        return scenario
    }

    /// Many at once share groups of the log and transfers.
    private static var updatesAtOnce: CrashScenario {
        CrashScenario("updates at once", boundaries: 20) { player in
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
        }
    }

    /// The same transaction is sent again, at once and later.
    private static var resentTransactions: CrashScenario {
        CrashScenario("resent transactions", boundaries: 10) { player in
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
                            if id != update.transaction { player.violate("the wrong duplicate") }
                        }
                    },
                ])
                try await player.resend()
                if step == 2 { try await player.checkpoint() }
            }
        }
    }
}
