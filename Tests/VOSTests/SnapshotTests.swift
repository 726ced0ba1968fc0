import BIO
import DrayRuntime
import Testing

@testable import VOS

/// What a snapshot shows stays as it was, and nothing else of what is hidden stays.
@Suite struct SnapshotTests {
    private static let dkeys: [[UInt8]] = [[1], [2], [3]]

    /// What a container shows at an epoch.
    private struct State: Equatable {
        var singles: [[UInt8]?] = []
        var arrays: [[UInt8]] = []
        var dkeys: [[UInt8]] = []
    }

    private func state(_ vos: VOS, _ epoch: UInt64) async throws -> State {
        var state = State()
        for dkey in Self.dkeys {
            state.singles.append(try await vos.getSingle(dkey, [1], epoch: epoch))
            state.arrays.append(try await vos.getArray(dkey, [2], 0..<6000, epoch: epoch).bytes)
        }
        state.dkeys = try await vos.listDkeys(
            pool: Names.pool, container: Names.container, object: Names.object, limit: 10,
            epoch: epoch
        ).keys
        return state
    }

    private func step(_ vos: VOS, _ entropy: inout Entropy, _ epoch: UInt64) async throws {
        let dkey = Self.dkeys[Int(entropy.below(3))]
        switch entropy.below(8) {
        case 0:
            try await vos.punch(
                pool: Names.pool, container: Names.container, object: Names.object, dkey: dkey,
                epoch: epoch)
        case 1...4:
            let count = 1 + Int(entropy.below(2) == 0 ? entropy.below(100) : entropy.below(9000))
            try await vos.putSingle(dkey, [1], .pattern(count, seed: epoch), epoch: epoch)
        default:
            try await vos.putArray(
                dkey, [2], at: entropy.below(3000),
                .pattern(1 + Int(entropy.below(3000)), seed: epoch), epoch: epoch)
        }
    }

    /// Random changes, aggregation right behind them, restarts; snapshots come and go.
    @Test(arguments: 0..<16 as Range<UInt64>)
    func snapshotsShowWhatWas(seed: UInt64) {
        var options = VOSOptions()
        if seed % 2 == 0 { options.makeSmall() }
        let target = SimulatedTarget(seed: seed, blocks: 4096, options: options)
        var entropy = Entropy(seed: seed).fork("snapshots")
        var expected: [UInt64: State] = [:]
        var epoch: UInt64 = 100
        for life in 0..<3 {
            let finished = target.run {
                let vos = try await target.open()
                for number in 0..<80 {
                    epoch += 1
                    try await self.step(vos, &entropy, epoch)
                    if number % 20 == 13 {
                        try await vos.takeSnapshot(
                            pool: Names.pool, container: Names.container, epoch: epoch)
                        expected[epoch] = try await self.state(vos, epoch)
                    }
                    if number % 30 == 29, let gone = expected.keys.min() {
                        try await vos.dropSnapshot(
                            pool: Names.pool, container: Names.container, epoch: gone)
                        expected[gone] = nil
                    }
                    if entropy.below(6) == 0 { try await vos.aggregate(upTo: epoch) }
                }
                try await vos.aggregate(upTo: epoch)
                #expect(
                    vos.snapshots(pool: Names.pool, container: Names.container)
                        == expected.keys.sorted())
                for (epoch, state) in expected {
                    #expect(try await self.state(vos, epoch) == state)
                }
                try await vos.checkInvariants()
                if life == 1 { await target.close(vos) }
            }
            #expect(finished)
            target.restart()
        }
        let finished = target.run {
            let vos = try await target.open()
            for (epoch, state) in expected { #expect(try await self.state(vos, epoch) == state) }
            let now = try await self.state(vos, .max)
            let held = vos.usage(pool: Names.pool)
            for epoch in expected.keys.sorted() {
                try await vos.dropSnapshot(
                    pool: Names.pool, container: Names.container, epoch: epoch)
            }
            try await vos.aggregate(upTo: epoch)
            #expect(try await self.state(vos, .max) == now)
            // What only they held is gone.
            #expect(vos.usage(pool: Names.pool).entries < held.entries)
            let shown = now.singles.count { $0 != nil }
            let extents = vos.usage(pool: Names.pool).entries - UInt64(shown)
            #expect(extents <= 60, "\(extents) extents are left")
            try await vos.checkInvariants()
        }
        #expect(finished)
    }

    /// A container that has snapshots and nothing else is destroyed with them, for good.
    @Test func snapshotsGoWithTheirContainers() {
        let target = SimulatedTarget(seed: 1)
        let finished = target.run {
            var vos = try await target.open()
            for epoch in [30, 10] as [UInt64] {
                for container in [Names.container, Names.pool] {
                    try await vos.takeSnapshot(
                        pool: Names.pool, container: container, epoch: epoch)
                }
            }
            let all = [Names.pool, Names.container].flatMap { container in
                [10, 30].map {
                    VOS.Snapshot(pool: Names.pool, container: container, epoch: $0)
                }
            }
            #expect(vos.allSnapshots == all)
            #expect(vos.newestEpoch == 30)
            try await vos.destroyContainer(pool: Names.pool, container: Names.container)
            #expect(vos.allSnapshots == Array(all[..<2]))
            await target.close(vos)
            vos = try await target.open()
            #expect(vos.allSnapshots == Array(all[..<2]))
            #expect(vos.newestEpoch == 30)
            try await vos.destroyPool(Names.pool)
            #expect(vos.allSnapshots == [])
        }
        #expect(finished)
    }

    /// What has an epoch and is not decided yet is waited for, and nothing else.
    @Test func decisionsAreWaitedFor() {
        let target = SimulatedTarget(seed: 1)
        let finished = target.run {
            let vos = try await target.open()
            let dtx = try await vos.begin(
                DTXRequest(id: UniqueID(high: 1, low: 1), members: [1], isLeader: false)
            ) { 20 }
            try await vos.prepare(dtx, [])
            var asked: [UInt64] = []
            vos.onBlocked = { asked.append($0.epoch) }
            let now = target.xstream.now
            try await vos.waitForDecisions(upTo: 19, until: now + .seconds(1))
            #expect(target.xstream.now == now && asked == [])
            await #expect(throws: VOSError.undecided) {
                try await vos.waitForDecisions(upTo: 20, until: now + .milliseconds(50))
            }
            #expect(asked == [20])
            target.xstream.schedule(at: target.xstream.now + .milliseconds(20)) {
                vos.commit(dtx)
            }
            try await vos.waitForDecisions(upTo: 30, until: now + .seconds(1))
            #expect(target.xstream.now >= now + .milliseconds(70))
            try await vos.flushOutcomes()
        }
        #expect(finished)
    }

    @Test func whatIsGoneCannotBeKept() {
        let target = SimulatedTarget(seed: 1)
        let finished = target.run {
            let vos = try await target.open()
            for epoch in [10, 20, 30] as [UInt64] {
                try await vos.putSingle([1], [1], [UInt8(epoch)], epoch: epoch)
            }
            try await vos.aggregate(upTo: 25)
            await #expect(throws: VOSError.epochTooOld(epoch: 15, oldest: 25)) {
                try await vos.takeSnapshot(pool: Names.pool, container: Names.container, epoch: 15)
            }
            await #expect(throws: VOSError.notFound) {
                try await vos.dropSnapshot(pool: Names.pool, container: Names.container, epoch: 15)
            }
            try await vos.takeSnapshot(pool: Names.pool, container: Names.container, epoch: 26)
            try await vos.aggregate(upTo: 40)
            #expect(try await vos.getSingle([1], [1], epoch: 26) == [20])
            await #expect(throws: VOSError.epochTooOld(epoch: 27, oldest: 40)) {
                _ = try await vos.getSingle([1], [1], epoch: 27)
            }
            // Another container has no snapshot.
            await #expect(throws: VOSError.epochTooOld(epoch: 26, oldest: 40)) {
                _ = try await vos.getSingle([1], [1], epoch: 26, container: Names.pool)
            }
            try await vos.destroyContainer(pool: Names.pool, container: Names.container)
            #expect(vos.snapshots(pool: Names.pool, container: Names.container) == [])
            #expect(vos.entryCount == 0)
        }
        #expect(finished)
    }
}
