import BIO
import DrayRuntime
import Testing

@testable import VOS

/// Work in the background that fails.
@Suite struct RetryTests {
    private static let second: UInt64 = 1_000_000_000

    private static let failed = VOSError.damaged(what: "a table")

    @Test func pausesGrowUntilTheWorkIsDone() {
        var pause = RetryPause()
        var now = Instant(nanoseconds: 0)
        #expect(pause.isOver(at: now))
        for seconds in [5, 10, 20, 40, 80, 160, 320, 320] as [Int64] {
            // For want of space nothing grows.
            pause.begin(at: now, after: .noSpace(requested: 1, free: 0))
            pause.begin(at: now, after: Self.failed)
            #expect(!pause.isOver(at: now + (.seconds(seconds) - .nanoseconds(1))))
            now = now + .seconds(seconds)
            #expect(pause.isOver(at: now))
        }
        pause.begin(at: now, after: Self.failed)
        pause.reset()
        #expect(pause.isOver(at: now) && pause.next == RetryPause.shortest)
    }

    private func makeTarget(seed: UInt64) -> SimulatedTarget {
        var options = VOSOptions()
        options.retention = Self.second
        options.cacheBytes = 0
        return SimulatedTarget(seed: seed, blocks: 8192, options: options)
    }

    private func offset(_ block: UInt32, _ target: SimulatedTarget) -> UInt64 {
        // Two superblocks, then the log.
        (2 + target.logBlocks + UInt64(block)) * 4096
    }

    /// A table that cannot be read is not read again and again: less and less often. What is not in
    /// it is written and read meanwhile; when it can be read, what is hidden goes.
    @Test func aggregationOfATableThatCannotBeRead() {
        let target = makeTarget(seed: 1)
        let finished = target.run {
            let vos = try await target.open()
            vos.mergesTables = false
            let now = target.world.clock.wallNanoseconds
            for number in 0..<4 as Range<UInt64> {
                try await vos.putSingle([1], [2], .pattern(3000, seed: number), epoch: now + number)
            }
            try await vos.checkpoint()
            let table = try #require(vos.version.tables.first)
            let place = self.offset(try #require(table.info.extents.block(0)), target)
            target.devices.makeUnreadable(path: SimulatedTarget.path, at: place)
            let store = try #require(target.store)
            func errors() -> UInt64 { store.device.statistics.reads.errors }
            target.xstream.spawn { await vos.runBackground() }
            await target.xstream.sleep(for: .seconds(60))
            // After 1, 6, 16 and 36 s.
            #expect((2...6).contains(errors()), "\(errors())")
            await target.xstream.sleep(for: .seconds(1740))
            #expect((6...16).contains(errors()), "\(errors())")
            #expect(!store.isOutOfService)
            try await vos.putSingle([3], [4], [5], epoch: now + 1800 * Self.second)
            #expect(try await vos.getSingle([3], [4]) == [5])
            #expect(vos.entryCount == 5)
            let next = vos.aggregationRetry.next
            #expect(next == RetryPause.longest)
            // A write makes the place readable; here as it was.
            let bytes = target.devices.image(path: SimulatedTarget.path)
                .bytes(at: place, count: 4096)
            let buffer = IOBuffer(copying: bytes)
            try await store.device.write(
                UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<4096]), at: place, durable: true)
            await target.xstream.sleep(for: .seconds(330))
            #expect(vos.entryCount == 2)
            #expect(vos.aggregationRetry.next == RetryPause.shortest)
            try await vos.checkInvariants()
            await target.close(vos)
        }
        #expect(finished)
    }

    /// Tables that cannot be merged are left alone in the same way.
    @Test func mergesOfTablesThatCannotBeRead() {
        let target = makeTarget(seed: 2)
        let finished = target.run {
            let vos = try await target.open()
            var epoch: UInt64 = 1
            func flush() async throws {
                try await vos.putSingle([UInt8(epoch % 256)], [2], [1], epoch: epoch)
                epoch += 1
                try await vos.checkpoint()
                // Merging begins after a flush.
                await target.xstream.sleep(for: .seconds(5))
            }
            vos.mergesTables = false
            while vos.picker.pick() == nil { try await flush() }
            var faults = DeviceFaults()
            faults.readErrorChance = 1_000_000
            target.devices.setFaults(faults)
            vos.mergesTables = true
            let store = try #require(target.store)
            for _ in 0..<120 { try await flush() }
            // Each checkpoint has looked at both superblocks in vain.
            let errors = store.device.statistics.reads.errors - 2 * 120
            #expect((4...10).contains(errors), "\(errors)")
            target.devices.setFaults(DeviceFaults())
            for _ in 0..<70 { try await flush() }
            #expect(vos.mergeRetry.next == RetryPause.shortest && vos.picker.pick() == nil)
            try await vos.checkInvariants()
            await target.close(vos)
        }
        #expect(finished)
    }

    /// Values that do not match their checksums are counted, each once, whoever reads them, until
    /// there are too many; what can be read is given out all the same.
    @Test func damageTakesADeviceOutOfService() {
        let target = makeTarget(seed: 3)
        let finished = target.run {
            let vos = try await target.open()
            let store = try #require(target.store)
            var criteria = FaultyCriteria()
            criteria.damagedMax = 2
            store.device.health = DeviceHealth(criteria: criteria)
            for number in 1...5 as ClosedRange<UInt8> {
                try await vos.putSingle(
                    [number], [2], .pattern(9000, seed: UInt64(number)), epoch: UInt64(number))
            }
            var places: [UInt64] = []
            vos.active.tree.forEach { entry in
                places.append(self.offset(entry.record.firstBlocks.start, target))
                return true
            }
            try #require(places.count == 5)
            for (index, place) in places.prefix(3).enumerated() {
                target.devices.damage(path: SimulatedTarget.path, at: place + 100)
                for _ in 0..<5 {
                    var damaged = 0
                    for number in 1...5 as ClosedRange<UInt8> {
                        do {
                            let bytes = try await vos.getSingle([number], [2])
                            #expect(bytes == .pattern(9000, seed: UInt64(number)))
                        } catch VOSError.corrupt {
                            damaged += 1
                        }
                    }
                    #expect(damaged == index + 1)
                }
                vos.startScrub(rate: 1 << 30)
                await target.xstream.sleep(for: .seconds(1))
                #expect(vos.scrubStatus.last?.errors == UInt64(index + 1))
                #expect(store.device.statistics.damagedPlaces == UInt64(index + 1))
                #expect(store.isOutOfService == (index == 2))
            }
            await #expect(throws: VOSError.device(.outOfService(path: SimulatedTarget.path))) {
                try await vos.putSingle([9], [2], [1], epoch: 9)
            }
            await target.close(vos)
        }
        #expect(finished)
    }
}
