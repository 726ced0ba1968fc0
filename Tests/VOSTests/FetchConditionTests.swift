import DrayRuntime
import Testing

@testable import VOS

/// Reads on the condition that there is something.
@Suite struct FetchConditionTests {
    /// Ways to read.
    enum Way: CaseIterable {
        case single, shape, bytes, bytesAndEnd
    }

    /// Whether a read is refused.
    private func isRefused(
        _ vos: VOS, _ way: Way, _ dkey: [UInt8], _ akey: [UInt8], _ condition: Fetch.Condition,
        epoch: UInt64 = .max
    ) async throws(VOSError) -> Bool {
        var fetch = Fetch(
            pool: Names.pool, container: Names.container, object: Names.object, dkey: dkey,
            akey: akey, epoch: epoch)
        fetch.condition = condition
        let buffer = IOBuffer(count: 4096)
        do throws(VOSError) {
            switch way {
            case .single: _ = try await vos.findSingle(fetch, into: buffer.bytes)
            case .shape: _ = try await vos.arrayShape(fetch)
            case .bytes, .bytesAndEnd:
                _ = try await vos.fetchArray(
                    fetch, offset: 7, length: 20, into: buffer.bytes,
                    findingEnd: way == .bytesAndEnd)
            }
            return false
        } catch .notFound {
            return true
        } catch {
            throw error
        }
    }

    /// What is in tables is found as well as what is in memory.
    @Test(arguments: Way.allCases, [false, true])
    func conditionsAreThoseOfTheEpoch(way: Way, isFlushed: Bool) {
        let target = SimulatedTarget(seed: 1)
        let finished = target.run {
            let vos = try await target.open()
            try await vos.putSingle([1], [1], [7], epoch: 10)
            try await vos.putArray([1], [2], at: 5, [1, 2, 3], epoch: 20)
            try await vos.put({ _ in .punchAkey(dkey: [1], akey: [1]) }, [], epoch: 30)
            try await vos.put({ _ in .punchDkey([1]) }, [], epoch: 40)
            try await vos.putSingle([2], [1], [7], epoch: 50)
            if isFlushed { try await vos.checkpoint() }
            // For each akey, and the dkey: the epochs from which on they are there or not.
            for (akey, changes, dkeyChanges) in [
                ([1], [10, 30], [10, 40]), ([2], [20, 40], [10, 40]), ([3], [], [10, 40]),
            ] as [([UInt8], [UInt64], [UInt64])] {
                for epoch in [9, 10, 19, 20, 29, 30, 39, 40, .max] as [UInt64] {
                    let isThere = changes.count(where: { $0 <= epoch }) % 2 == 1
                    let isDkeyThere = dkeyChanges.count(where: { $0 <= epoch }) % 2 == 1
                    let what = "akey \(akey) at \(epoch)"
                    #expect(
                        try await self.isRefused(
                            vos, way, [1], akey, .akeyExists, epoch: epoch) == !isThere, "\(what)")
                    #expect(
                        try await self.isRefused(
                            vos, way, [1], akey, .dkeyExists, epoch: epoch) == !isDkeyThere,
                        "\(what)")
                    #expect(
                        try await !self.isRefused(vos, way, [1], akey, .none, epoch: epoch),
                        "\(what)")
                }
            }
        }
        #expect(finished)
    }

    /// What is found without a search exists; what has gone is not found so.
    @Test func whatIsReadAgainAndAgain() {
        let target = SimulatedTarget(seed: 2)
        let finished = target.run {
            let vos = try await target.open()
            try await vos.putSingle([1], [1], [7], epoch: 10)
            try await vos.putArray([1], [1], at: 7, [UInt8](repeating: 3, count: 20), epoch: 10)
            for condition in [.dkeyExists, .akeyExists] as [Fetch.Condition] {
                for way in [Way.single, .bytes] {
                    for _ in 0..<3 {
                        #expect(try await !self.isRefused(vos, way, [1], [1], condition))
                    }
                }
            }
            #expect(vos.records.known.count == 2)
            try await vos.put({ _ in .punchAkey(dkey: [1], akey: [1]) }, [], epoch: 20)
            for way in [Way.single, .bytes] {
                #expect(try await self.isRefused(vos, way, [1], [1], .akeyExists))
                #expect(try await self.isRefused(vos, way, [1], [1], .dkeyExists))
            }
        }
        #expect(finished)
    }

    /// A transaction that has found nothing has read that: nobody makes it before its snapshot, and
    /// what is newer is a conflict.
    @Test(arguments: Way.allCases, [.dkeyExists, .akeyExists] as [Fetch.Condition])
    func aRefusedReadIsARead(way: Way, condition: Fetch.Condition) {
        let target = SimulatedTarget(seed: 3)
        let finished = target.run {
            let vos = try await target.open()
            var fetch = Fetch(
                pool: Names.pool, container: Names.container, object: Names.object, dkey: [1],
                akey: [1], epoch: 50)
            fetch.condition = condition
            fetch.isolation = .serializable
            let buffer = IOBuffer(count: 4096)
            let read = fetch
            await #expect(throws: VOSError.notFound) {
                switch way {
                case .single: _ = try await vos.findSingle(read, into: buffer.bytes)
                case .shape: _ = try await vos.arrayShape(read)
                case .bytes, .bytesAndEnd:
                    _ = try await vos.fetchArray(
                        read, offset: 0, length: 20, into: buffer.bytes,
                        findingEnd: way == .bytesAndEnd)
                }
            }
            await #expect(throws: VOSError.conflict) {
                _ = try await vos.prepare(.dtx(1), [.single([1], [2])], epoch: 49)
            }
            vos.commit(try await vos.prepare(.dtx(2), [.single([1], [2])], epoch: 51))
            await #expect(throws: VOSError.conflict) {
                _ = try await vos.findSingle(read, into: buffer.bytes)
            }
        }
        #expect(finished)
    }

    /// `fetchSingle` tells neither from the other.
    @Test func aValueThatIsNotThere() {
        let target = SimulatedTarget(seed: 4)
        let finished = target.run {
            let vos = try await target.open()
            try await vos.putArray([1], [1], at: 0, [1], epoch: 10)
            var fetch = Fetch(
                pool: Names.pool, container: Names.container, object: Names.object, dkey: [1],
                akey: [1])
            fetch.condition = .akeyExists
            let buffer = IOBuffer(count: 4096)
            let read = fetch
            #expect(try await vos.findSingle(read, into: buffer.bytes) == nil)
            await #expect(throws: VOSError.notFound) {
                _ = try await vos.fetchSingle(read, into: buffer.bytes)
            }
        }
        #expect(finished)
    }
}
