import DrayRuntime
import Testing

@testable import VOS

/// What fetches found is used as long as it is what they would find again.
@Suite struct RecordCacheTests {
    private func read(
        _ vos: VOS, _ dkey: [UInt8], _ range: Range<UInt64>, epoch: UInt64 = .max
    ) async throws -> [UInt8] {
        let fetch = Fetch(
            pool: Names.pool, container: Names.container, object: Names.object, dkey: dkey,
            akey: [9], epoch: epoch)
        let buffer = IOBuffer(count: range.count)
        let result = try await vos.fetchArray(
            fetch, offset: range.lowerBound, length: range.count, into: buffer.bytes,
            findingEnd: false)
        return buffer.array(0..<result.byteCount)
    }

    /// A change that hides a value, or part of it.
    enum Change: CaseIterable {
        case value, part, akeyPunch, dkeyPunch, objectPunch
    }

    @Test(arguments: Change.allCases)
    func changesAreSeen(change: Change) {
        let target = SimulatedTarget(seed: 1)
        let finished = target.run {
            let vos = try await target.open()
            let old = [UInt8].pattern(100, seed: 1)
            let new = [UInt8].pattern(change == .part ? 10 : 100, seed: 2)
            for dkey in [[1], [2]] as [[UInt8]] {
                try await vos.putArray(dkey, [9], at: 50, old, epoch: 5)
                try await vos.putSingle(dkey, [9], old, epoch: 5)
                for _ in 0..<2 {
                    #expect(try await self.read(vos, dkey, 50..<150) == old)
                    #expect(try await vos.getSingle(dkey, [9]) == old)
                }
            }
            #expect(vos.records.known.count == 4)
            var array: [UInt8]
            var single: [UInt8]?
            switch change {
            case .value, .part:
                try await vos.putArray([1], [9], at: 50, new, epoch: 7)
                try await vos.putSingle([1], [9], new, epoch: 7)
                (array, single) = (new + old.dropFirst(new.count), new)
            case .akeyPunch, .dkeyPunch, .objectPunch:
                let body: Operation.Body =
                    change == .akeyPunch
                    ? .punchAkey(dkey: [1], akey: [9])
                    : change == .dkeyPunch ? .punchDkey([1]) : .punchObject
                try await vos.put({ _ in body }, [], epoch: 7)
                (array, single) = ([UInt8](repeating: 0, count: 100), nil)
            }
            for _ in 0..<2 {
                #expect(try await self.read(vos, [1], 50..<150) == array)
                #expect(try await vos.getSingle([1], [9]) == single)
                #expect(try await self.read(vos, [1], 50..<150, epoch: 6) == old)
                #expect(try await vos.getSingle([1], [9], epoch: 6) == old)
                #expect(try await vos.getSingle([1], [9], epoch: 4) == nil)
            }
            let isThere = change != .objectPunch
            #expect(try await vos.getSingle([2], [9]) == (isThere ? old : nil))
            #expect(vos.records.known.count >= (isThere ? 2 : 0))
            try await vos.checkInvariants()
        }
        #expect(finished)
    }

    /// What was found at an epoch before a version that was there already says nothing of later
    /// ones.
    @Test func whatIsLaterIsNotHidden() {
        let target = SimulatedTarget(seed: 2)
        let finished = target.run {
            let vos = try await target.open()
            let (old, new) = ([UInt8].pattern(80, seed: 1), [UInt8].pattern(80, seed: 2))
            try await vos.putArray([1], [9], at: 0, old, epoch: 5)
            try await vos.putArray([1], [9], at: 0, new, epoch: 9)
            for epoch in [6, 9, 8, 10, 6, 9] as [UInt64] {
                let bytes = try await self.read(vos, [1], 0..<80, epoch: epoch)
                #expect(bytes == (epoch < 9 ? old : new))
            }
            try await vos.put({ _ in .punchDkey([1]) }, [], epoch: 12)
            for epoch in [11, 12, 11, 13] as [UInt64] {
                let bytes = try await self.read(vos, [1], 0..<80, epoch: epoch)
                #expect(bytes == (epoch < 12 ? new : [UInt8](repeating: 0, count: 80)))
            }
            try await vos.checkInvariants()
        }
        #expect(finished)
    }

    /// What is to stay as it was read is not written below the epoch, wherever it came from.
    @Test(arguments: [0, 2], [ReadIsolation.repeatable, .serializable])
    func whatIsKnownCountsAsRead(readsBefore: Int, isolation: ReadIsolation) {
        let target = SimulatedTarget(seed: 5)
        let finished = target.run {
            let vos = try await target.open()
            try await vos.putSingle([1], [2], [1, 2, 3], epoch: 5)
            for _ in 0..<readsBefore { _ = try await vos.getSingle([1], [2]) }
            #expect(vos.records.known.count == min(1, readsBefore))
            var fetch = Fetch(
                pool: Names.pool, container: Names.container, object: Names.object, dkey: [1],
                akey: [2], epoch: 30)
            fetch.isolation = isolation
            let buffer = IOBuffer(count: 4096)
            #expect(try await vos.fetchSingle(fetch, into: buffer.bytes).epoch == 5)
            await #expect(throws: VOSError.conflict) {
                _ = try await vos.prepare(.dtx(1), [.single([1], [2])], epoch: 25)
            }
            try await vos.prepare(.dtx(2), [.single([1], [2])], epoch: 35)
            fetch.patience = target.xstream.now + .milliseconds(3)
            await #expect(throws: VOSError.undecided) {
                _ = try await vos.fetchSingle(fetch, into: buffer.bytes)
            }
        }
        #expect(finished)
    }

    @Test func destroyedContainersAreGone() {
        let target = SimulatedTarget(seed: 3)
        let finished = target.run {
            let vos = try await target.open()
            try await vos.putSingle([1], [9], [1, 2, 3], epoch: 5)
            for _ in 0..<2 { #expect(try await vos.getSingle([1], [9]) == [1, 2, 3]) }
            #expect(vos.records.known.count == 1)
            try await vos.destroyContainer(pool: Names.pool, container: Names.container)
            #expect(vos.records.known.isEmpty)
            #expect(try await vos.getSingle([1], [9]) == nil)
        }
        #expect(finished)
    }

    @Test func takesNoMoreThanItMay() {
        var options = VOSOptions()
        options.indexBytes = 1 << 20
        let target = SimulatedTarget(seed: 4, options: options)
        let finished = target.run {
            let vos = try await target.open()
            for key in 0..<400 {
                let dkey = [UInt8(key & 255), UInt8(key >> 8)]
                try await vos.putSingle(dkey, [9], .pattern(30 + key, seed: 1), epoch: 5)
                _ = try await vos.getSingle(dkey, [9])
                _ = try await vos.getSingle(dkey, [9])
            }
            #expect(vos.records.bytes <= 64 << 10)
            #expect(vos.records.known.count > 40)
            // What would take too much of it is not kept.
            let count = vos.records.known.count
            try await vos.putSingle([7], [8], .pattern(4000, seed: 1), epoch: 5)
            for _ in 0..<3 { _ = try await vos.getSingle([7], [8]) }
            #expect(vos.records.known.count >= count - 12)
            try await vos.checkInvariants()
        }
        #expect(finished)
    }
}
