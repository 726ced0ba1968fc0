import BIO
import DrayRuntime
import Testing
import VOS

/// The loop that aggregates by the wall clock.
@Suite struct BackgroundTests {
    private static let second: UInt64 = 1_000_000_000

    private func makeTarget(seed: UInt64) -> SimulatedTarget {
        var options = VOSOptions()
        options.retention = 5 * Self.second
        return SimulatedTarget(seed: seed, options: options)
    }

    /// A superseded version can be read for the retention time, and then its space is free.
    @Test func versionsAreKeptForTheRetentionTime() {
        let target = makeTarget(seed: 1)
        let finished = target.run {
            let vos = try await target.open()
            target.xstream.spawn { await vos.runBackground() }
            let first = target.world.clock.wallNanoseconds
            let large = [UInt8](repeating: 7, count: 100_000)
            try await vos.putSingle([1], [2], large, epoch: first)
            let free = vos.space.free
            try await vos.putSingle([1], [2], [8], epoch: first + Self.second)
            await target.xstream.sleep(for: .seconds(5))
            #expect(try await vos.getSingle([1], [2], epoch: first) == large)
            #expect(vos.space.free == free)
            await target.xstream.sleep(for: .seconds(2))
            #expect(vos.aggregatedEpoch == first + Self.second)
            #expect(vos.space.free > free)
            do throws(VOSError) {
                _ = try await vos.getSingle([1], [2], epoch: first)
                Issue.record("what is gone was read")
            } catch {
                guard case .epochTooOld = error else {
                    Issue.record("\(error)")
                    return
                }
            }
            #expect(try await vos.getSingle([1], [2]) == [8])
            await target.close(vos)
        }
        #expect(finished)
    }

    /// While large values are overwritten all the time, what is hidden takes space for little
    /// longer than the retention time.
    @Test func aSteadyLoadOfLargeValues() {
        let target = makeTarget(seed: 3)
        let finished = target.run {
            let vos = try await target.open()
            target.xstream.spawn { await vos.runBackground() }
            let clock = HybridLogicalClock(clock: target.world.clock)
            let large = [UInt8](repeating: 7, count: 4096)
            let before = vos.space.free
            // 20 in a second, so 100 in the retention time.
            for round in 0..<400 {
                try await vos.putSingle([UInt8(round % 4)], [2], large, epoch: clock.now())
                await target.xstream.sleep(for: .milliseconds(50))
                #expect(before - vos.space.free < 140 * 4096, "round \(round)")
            }
            // Nothing is forgotten.
            await target.xstream.sleep(for: .seconds(6))
            #expect(before - vos.space.free < 20 * 4096)
            await target.close(vos)
        }
        #expect(finished)
    }

    /// A wall clock that ran ahead takes no epoch from the updates that come when it is right
    /// again: aggregation goes no further than what was committed.
    @Test func aWallClockThatRanAhead() {
        let target = makeTarget(seed: 2)
        let finished = target.run {
            let vos = try await target.open()
            target.xstream.spawn { await vos.runBackground() }
            let first = target.world.clock.wallNanoseconds
            for number in 0..<3 as Range<UInt64> {
                try await vos.putSingle([1], [2], [UInt8(number)], epoch: first + number)
            }
            let hour = Int64(3600 * Self.second)
            target.simulation.stepWallClock(node: 1, by: hour)
            await target.xstream.sleep(for: .seconds(1))
            #expect(vos.aggregatedEpoch == first + 2)
            target.simulation.stepWallClock(node: 1, by: -hour)
            let now = target.world.clock.wallNanoseconds
            #expect(now < first + 2 * Self.second)
            try await vos.putSingle([1], [2], [3], epoch: now)
            #expect(try await vos.getSingle([1], [2]) == [3])
            #expect(try await vos.getSingle([1], [2], epoch: now - 1) == [2])
        }
        #expect(finished)
        // And so it is after a kill.
        target.restart()
        let again = target.run {
            let vos = try await target.open()
            #expect(vos.aggregatedEpoch < target.world.clock.wallNanoseconds)
            try await vos.putSingle(
                [1], [2], [4], epoch: target.world.clock.wallNanoseconds)
            #expect(try await vos.getSingle([1], [2]) == [4])
            await target.close(vos)
        }
        #expect(again)
    }
}
