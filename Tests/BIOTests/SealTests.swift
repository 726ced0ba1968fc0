import BIO
import DrayRuntime
import Testing

/// A log to which nothing is appended any more says where it ends, although the store is open.
@Suite struct SealTests {
    private static let pause = Duration.milliseconds(30)

    private func open(_ node: SimulatedNode) async throws -> BlockStore {
        try await node.format(logBlocks: 64)
        let store = try await node.openStore()
        _ = try await store.replayed()
        return store
    }

    @Test func anIdleLogIsSealedOnce() {
        let node = SimulatedNode(seed: 1)
        let finished = node.run {
            let store = try await self.open(node)
            await node.xstream.sleep(for: Self.pause)
            #expect(store.groupCount == 0)
            // Under load, even if it is little, nothing more is written.
            for number in 1...20 as ClosedRange<UInt64> {
                #expect(try await store.append([UInt8(number)]) == number)
                await node.xstream.sleep(for: .milliseconds(5))
            }
            #expect(store.groupCount == 20)
            await node.xstream.sleep(for: Self.pause)
            #expect(store.groupCount == 21)
            let boundaries = node.store.boundaryCount
            await node.xstream.sleep(for: .seconds(5))
            #expect(node.store.boundaryCount == boundaries)
            #expect(try await store.append([21]) == 21)
            await node.xstream.sleep(for: Self.pause)
            await store.close()
            #expect(store.groupCount == 23)
        }
        #expect(finished)
    }

    /// Of a record and the seal behind it, one sector rots: the record is there, or is missed.
    @Test(arguments: [false, true])
    func theEndOfAnIdleLogRots(isSeal: Bool) {
        let node = SimulatedNode(seed: 2)
        node.run {
            let store = try await self.open(node)
            _ = try await store.append([1])
            await node.xstream.sleep(for: Self.pause)
        }
        node.restart()
        node.store.damage(path: SimulatedNode.path, at: (isSeal ? 3 : 2) * 4096 + 20)
        let finished = node.run {
            do {
                let records = try await node.openStore().replayed()
                #expect(isSeal && records.map(\.1) == [[1]])
            } catch let error as BIOError {
                guard !isSeal, case .corrupt = error else { throw error }
            }
        }
        #expect(finished)
    }

    /// Appends, and the end, come before, during and after the write of the seal.
    @Test(arguments: [false, true])
    func othersMeetTheSeal(isClosed: Bool) {
        var faults = DeviceFaults()
        faults.crashOutcome = .lose
        var met = 0
        for delay in stride(from: 9_900, through: 10_500, by: 10) {
            let node = SimulatedNode(seed: UInt64(delay), faults: faults)
            let finished = node.run {
                let store = try await self.open(node)
                _ = try await store.append([1])
                await node.xstream.sleep(for: .microseconds(delay))
                if !store.isLogQuiet { met += 1 }
                if isClosed { return await store.close() }
                _ = try await store.append([2])
                _ = try await store.append([3])
            }
            #expect(finished)
            node.restart()
            let again = node.run {
                let records = try await node.openStore().replayed()
                #expect(records.map(\.1) == (isClosed ? [[1]] : [[1], [2], [3]]))
            }
            #expect(again)
        }
        #expect(met > 0)
    }

    /// The process dies before, in and after the write of the seal.
    @Test(arguments: [CrashOutcome.lose, .keep, .tear], 0..<3)
    func aCrashAtTheSeal(outcome: CrashOutcome, boundary: Int) {
        var faults = DeviceFaults()
        faults.crashOutcome = outcome
        let node = SimulatedNode(seed: UInt64(boundary), faults: faults)
        let finished = node.run {
            let store = try await self.open(node)
            _ = try await store.append([1])
            node.store.crash(atBoundary: boundary)
            await node.xstream.sleep(for: Self.pause)
        }
        #expect(finished == (boundary == 2))
        node.store.crash(atBoundary: nil)
        for _ in 0..<2 {
            node.restart()
            let again = node.run {
                let records = try await node.openStore().replayed()
                #expect(records.map(\.1) == [[1]])
            }
            #expect(again)
        }
    }
}
