import BIO
import DrayRuntime
import Testing

@testable import VOS

/// Epochs that are discarded.
@Suite struct DiscardTests {
    private static let other = ObjectID(high: 9, low: 9)

    private static func discard(
        _ vos: VOS, _ epochs: ClosedRange<UInt64>, object: ObjectID? = nil
    ) async throws {
        try await vos.discard(
            pool: Names.pool, container: Names.container, object: object, epochs: epochs)
    }

    /// Versions of a value at epochs 10 to 40, a punch at 50, and an array; in two objects, the
    /// first half in a table when `isFlushed`.
    private static func fill(_ vos: VOS, isFlushed: Bool) async throws {
        for object in [Names.object, other] {
            for epoch in [10, 20, 30, 40] as [UInt64] {
                try await vos.putSingle(
                    [1], [1], .pattern(5000, seed: epoch), epoch: epoch, object: object)
                try await vos.putArray(
                    [2], [2], at: epoch, [UInt8](repeating: UInt8(epoch), count: 15),
                    epoch: epoch, object: object)
                if isFlushed, epoch == 20 { try await vos.checkpoint() }
            }
            try await vos.punch(
                pool: Names.pool, container: Names.container, object: object, dkey: [1], epoch: 50)
        }
    }

    private static func single(
        _ vos: VOS, at epoch: UInt64 = .max, object: ObjectID = Names.object
    ) async throws -> UInt64? {
        let bytes = try await vos.getSingle([1], [1], epoch: epoch, object: object)
        return [10, 20, 30, 40].first { bytes == .pattern(5000, seed: $0) }
    }

    /// At every epoch it is as if it had never been; and in the next life, in which tables are
    /// written without it.
    @Test(arguments: [false, true])
    func whatIsDiscardedHasNeverBeen(isFlushed: Bool) {
        let target = SimulatedTarget(seed: 1)
        func check(_ vos: VOS) async throws {
            #expect(try await Self.single(vos) == 20)
            #expect(try await Self.single(vos, at: 45) == 20)
            #expect(try await Self.single(vos, at: 19) == 10)
            let array = try await vos.getArray([2], [2], 0..<60)
            #expect(array.size == 35 && array.bytes[24] == 20 && array.bytes[35] == 0)
            // The other object is as it was.
            #expect(try await Self.single(vos, object: Self.other) == nil)
            #expect(try await Self.single(vos, at: 45, object: Self.other) == 40)
        }
        let first = target.run {
            let vos = try await target.open()
            try await Self.fill(vos, isFlushed: isFlushed)
            #expect(try await Self.single(vos) == nil)
            try await Self.discard(vos, 21...UInt64.max, object: Names.object)
            try await check(vos)
            try await vos.checkInvariants()
        }
        target.restart()
        let second = target.run {
            let vos = try await target.open()
            try await check(vos)
            let entries = vos.entryCount
            #expect(entries == 18 && vos.destroyed.count == 1)
            try await vos.aggregate(upTo: 5)
            #expect(vos.entryCount == entries - 5 && vos.destroyed.isEmpty)
            try await check(vos)
            try await vos.checkInvariants()
            await target.close(vos)
        }
        #expect(first && second)
    }

    /// The first epochs go, and what is between; what is logged later stays.
    @Test func whatComesLaterStays() {
        let target = SimulatedTarget(seed: 2)
        let finished = target.run {
            let vos = try await target.open()
            try await Self.fill(vos, isFlushed: true)
            try await Self.discard(vos, 0...10)
            #expect(try await Self.single(vos, at: 19) == nil)
            try await Self.discard(vos, 30...30, object: Self.other)
            #expect(try await Self.single(vos, at: 35, object: Self.other) == 20)
            #expect(try await Self.single(vos, at: 35) == 30)
            try await vos.putSingle(
                [1], [1], .pattern(5000, seed: 10), epoch: 30, object: Self.other)
            #expect(try await Self.single(vos, at: 35, object: Self.other) == 10)
            try await vos.aggregate(upTo: 1)
            #expect(try await Self.single(vos, at: 35, object: Self.other) == 10)
            #expect(try await Self.single(vos, at: 19) == nil)
            let objects = try await vos.listObjects(
                pool: Names.pool, container: Names.container, limit: 9)
            #expect(objects.objects.count == 2)
            try await Self.discard(vos, 1...UInt64.max)
            let none = try await vos.listObjects(
                pool: Names.pool, container: Names.container, limit: 9)
            #expect(none.objects == [] && vos.entryCount > 0)
            try await vos.aggregate(upTo: 1)
            #expect(vos.entryCount == 0)
            try await vos.checkInvariants()
        }
        #expect(finished)
    }

    /// Of what is prepared the changes go, and whoever decides may do so.
    @Test(arguments: [false, true]) func undecidedChangesGo(isCommitted: Bool) {
        let target = SimulatedTarget(seed: 3)
        let first = target.run {
            let vos = try await target.open()
            try await vos.prepare(
                .dtx(1),
                [
                    .single([1], .pattern(5000, seed: 1)),
                    .single([1], .pattern(5000, seed: 2), object: Self.other),
                ], epoch: 100)
            try await Self.discard(vos, 100...UInt64.max, object: Names.object)
            try await vos.checkpoint()
        }
        target.restart()
        let second = target.run {
            let vos = try await target.open()
            let dtx = try vos.prepared(.dtx(1))
            if isCommitted { vos.commit(dtx) } else { try await vos.abort(dtx) }
            #expect(try await vos.getSingle([1], []) == nil)
            let other = try await vos.getSingle([1], [], object: Self.other)
            #expect(other == (isCommitted ? .pattern(5000, seed: 2) : nil))
            try await vos.aggregate(upTo: 99)
            try await vos.checkInvariants()
            await target.close(vos)
        }
        #expect(first && second)
    }

    @Test func whatCannotBeDiscarded() {
        let target = SimulatedTarget(seed: 4)
        let finished = target.run {
            let vos = try await target.open()
            try await Self.fill(vos, isFlushed: false)
            try await vos.aggregate(upTo: 25)
            // What version 20 hid is gone.
            await #expect(throws: VOSError.epochTooOld(epoch: 20, oldest: 26)) {
                try await Self.discard(vos, 20...UInt64.max)
            }
            try await Self.discard(vos, 26...UInt64.max)
            #expect(try await Self.single(vos) == 20)
            try await vos.putArray([3], [3], at: 0, [1, 2, 3, 4], epoch: 60, recordSize: 4)
            await #expect(throws: VOSError.self) { try await Self.discard(vos, 55...65) }
            try await Self.discard(vos, 55...UInt64.max)
            #expect(try await vos.getArray([3], [3], 0..<4).size == 0)
            try await Self.discard(vos, 0...25)
            #expect(try await Self.single(vos, at: 25) == nil)
        }
        #expect(finished)
    }

    /// Each range costs readers a little, so there are never many.
    @Test func rangesDoNotPileUp() {
        let target = SimulatedTarget(seed: 5)
        let finished = target.run {
            let vos = try await target.open()
            for low in 0..<200 as Range<UInt64> {
                let object = ObjectID(high: 1, low: low)
                try await vos.putSingle([1], [1], [1], epoch: 10 + low, object: object)
                try await Self.discard(vos, 10 + low...10 + low, object: object)
                #expect(vos.destroyed.count <= VOS.destroyedMax)
            }
            // One that covers them all takes their place.
            try await Self.discard(vos, 0...UInt64.max)
            #expect(vos.destroyed.count == 1)
            try await vos.reclaimIfQuiet()
            #expect(vos.destroyed.count == 1)
            try await vos.reclaimIfQuiet()
            #expect(vos.destroyed.isEmpty && vos.entryCount == 0)
            try await vos.checkInvariants()
        }
        #expect(finished)
    }
}
