import BIO
import DrayRuntime
import Testing
import VOS

@Suite struct VOSTests {
    @Test(arguments: [0, 1, 100, 4095, 4096, 4097, 32_768, 40_000, 131_072, 1 << 20])
    func singleValuesComeBackAlsoAfterAKill(count: Int) {
        let target = SimulatedTarget(seed: UInt64(count))
        let first = [UInt8].pattern(count, seed: 1)
        let second = [UInt8].pattern(count / 2, seed: 2)
        let finished = target.run {
            let vos = try await target.open()
            #expect(try await vos.getSingle([1], [2]) == nil)
            try await vos.putSingle([1], [2], first, epoch: 10)
            try await vos.putSingle([1], [2], second, epoch: 20)
            #expect(try await vos.getSingle([1], [2]) == second)
            #expect(try await vos.getSingle([1], [2], epoch: 19) == first)
            #expect(try await vos.getSingle([1], [2], epoch: 9) == nil)
        }
        #expect(finished)
        target.restart()
        let again = target.run {
            let vos = try await target.open()
            #expect(try await vos.getSingle([1], [2]) == second)
            #expect(try await vos.getSingle([1], [2], epoch: 10) == first)
            try await vos.checkpoint()
            try await vos.putSingle([1], [2], [9], epoch: 30)
        }
        #expect(again)
        target.restart()
        let third = target.run {
            let vos = try await target.open()
            #expect(try await vos.getSingle([1], [2], epoch: 10) == first)
            #expect(try await vos.getSingle([1], [2], epoch: 20) == second)
            #expect(try await vos.getSingle([1], [2]) == [9])
            await target.close(vos)
        }
        #expect(third)
    }

    @Test func extentsOverlapByEpoch() {
        let target = SimulatedTarget(seed: 3)
        let finished = target.run {
            let vos = try await target.open()
            try await vos.putArray([], [], at: 10, [UInt8](repeating: 1, count: 100), epoch: 5)
            try await vos.putArray([], [], at: 50, [UInt8](repeating: 2, count: 10), epoch: 7)
            try await vos.putArray([], [], at: 0, [UInt8](repeating: 3, count: 55), epoch: 6)
            let (bytes, size) = try await vos.getArray([], [], 0..<120)
            var expected = [UInt8](repeating: 0, count: 120)
            for index in 10..<110 { expected[index] = 1 }
            for index in 0..<55 { expected[index] = 3 }
            for index in 50..<60 { expected[index] = 2 }
            #expect(bytes == expected)
            #expect(size == 110)
            let old = try await vos.getArray([], [], 0..<12, epoch: 5)
            #expect(old.bytes == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1])
            #expect(try await vos.getArray([], [], 0..<4, epoch: 4).size == 0)
        }
        #expect(finished)
    }

    /// The longest extent of each class is found by a read of its last byte, and no further.
    @Test(arguments: [1, 4096, 4097, 65_536, 65_537, 1 << 20])
    func aReadOfTheLastByteFindsTheExtent(count: Int) {
        let target = SimulatedTarget(seed: 8)
        let finished = target.run {
            let vos = try await target.open()
            let first: UInt64 = 5 << 20
            try await vos.putArray(
                [1], [1], at: first, [UInt8](repeating: 7, count: count), epoch: 5)
            let end = first + UInt64(count)
            let last = try await vos.getArray([1], [1], end - 1..<end + 1)
            #expect(last.bytes == [7, 0])
            #expect(last.size == end)
            #expect(try await vos.getArray([1], [1], first - 1..<first + 1).bytes == [0, 7])
            let fetch = Fetch(
                pool: Names.pool, container: Names.container, object: Names.object, dkey: [1],
                akey: [1])
            let extents = try await vos.listExtents(fetch, from: end - 1, limit: 5)
            #expect(extents.extents.map(\.offset) == [end - 1])
            #expect(extents.extents.map(\.byteCount) == [1])
            #expect(try await vos.listExtents(fetch, from: end, limit: 5).extents.isEmpty)
            // A longer and a shorter one elsewhere, filed in other classes.
            try await vos.putArray([1], [1], at: 0, [UInt8](repeating: 8, count: 70_000), epoch: 6)
            try await vos.putArray([1], [1], at: 4 << 20, [9], epoch: 6)
            #expect(try await vos.getArray([1], [1], 69_999..<70_001).bytes == [8, 0])
            #expect(try await vos.getArray([1], [1], end - 1..<end).size == end)
            #expect(try await vos.listExtents(fetch, limit: 5).extents.count == 3)
        }
        #expect(finished)
    }

    @Test func punchesHideWhatIsOlder() {
        let target = SimulatedTarget(seed: 4)
        let finished = target.run {
            let vos = try await target.open()
            try await vos.putSingle([1], [1], [11], epoch: 10)
            try await vos.putSingle([1], [2], [12], epoch: 10)
            try await vos.putSingle([2], [1], [21], epoch: 10)
            try await vos.punch(
                pool: Names.pool, container: Names.container, object: Names.object, dkey: [1],
                akey: [1], epoch: 11)
            #expect(try await vos.getSingle([1], [1]) == nil)
            #expect(try await vos.getSingle([1], [1], epoch: 10) == [11])
            #expect(try await vos.getSingle([1], [2]) == [12])
            try await vos.punch(
                pool: Names.pool, container: Names.container, object: Names.object, dkey: [1],
                epoch: 12)
            #expect(try await vos.getSingle([1], [2]) == nil)
            #expect(try await vos.getSingle([2], [1]) == [21])
            try await vos.punch(
                pool: Names.pool, container: Names.container, object: Names.object, epoch: 13)
            #expect(try await vos.getSingle([2], [1]) == nil)
            try await vos.putSingle([2], [1], [22], epoch: 14)
            #expect(try await vos.getSingle([2], [1]) == [22])
            let keys = try await vos.listDkeys(
                pool: Names.pool, container: Names.container, object: Names.object, limit: 10)
            #expect(keys.keys == [[2]])
            #expect(keys.next == nil)
        }
        #expect(finished)
    }

    @Test func conditionsAndResends() {
        let target = SimulatedTarget(seed: 5)
        let finished = target.run {
            let vos = try await target.open()
            await #expect(throws: VOSError.notFound) {
                try await vos.putSingle([1], [1], [1], epoch: 10, condition: .update)
            }
            try await vos.putSingle([1], [1], [1], epoch: 10, condition: .insert)
            await #expect(throws: VOSError.exists) {
                try await vos.putSingle([1], [1], [2], epoch: 11, condition: .insert)
            }
            await #expect(throws: VOSError.exists) {
                try await vos.putSingle([1], [2], [2], epoch: 11, condition: .insertDkey)
            }
            let transaction = UniqueID(high: 9, low: 9)
            try await vos.putSingle([1], [1], [2], epoch: 12, transaction: transaction)
            try await vos.putSingle([1], [1], [3], epoch: 13, transaction: transaction)
            #expect(try await vos.getSingle([1], [1]) == [2])
            #expect(vos.transactionOutcome(transaction) == 12)
        }
        #expect(finished)
        target.restart()
        target.run {
            let vos = try await target.open()
            #expect(vos.transactionOutcome(UniqueID(high: 9, low: 9)) == 12)
        }
    }
}
