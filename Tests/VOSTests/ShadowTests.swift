import DrayRuntime
import Testing

@testable import VOS

/// What is hidden is dropped, all of it and nothing else, however many versions there are. Of what
/// is hidden in part see `CutTests`.
@Suite struct ShadowTests {
    private struct Written {
        var dkey: UInt8
        var range: Range<Int>
        var epoch: UInt64
    }

    /// The write that is visible at each place; of equal epochs the later one wins.
    private func winners(_ writes: [Written]) -> [Int?] {
        var winners = [Int?](repeating: nil, count: 3 * 40_000)
        for (index, write) in writes.enumerated() {
            for place in write.range {
                let place = Int(write.dkey) * 40_000 + place
                if let current = winners[place], writes[current].epoch > write.epoch { continue }
                winners[place] = index
            }
        }
        return winners
    }

    @Test(arguments: 0..<24 as Range<UInt64>)
    func aggregationDropsAllThatIsHidden(seed: UInt64) {
        var options = VOSOptions()
        if seed % 5 < 3 { options.makeSmall() }
        let target = SimulatedTarget(seed: seed, blocks: 8192, logBlocks: 512, options: options)
        var entropy = Entropy(seed: seed).fork("writes")
        var writes: [Written] = []
        // Some runs overwrite the same few places again and again, others overlap at random.
        let places = 1 + entropy.below(6)
        let lengths = [4096, 1000, 4096, 9000, 20_000]
        for index in 0..<160 as Range<UInt64> {
            let start = Int(entropy.below(places) * (seed % 2 == 0 ? 4096 : 1500))
            let length = seed % 3 == 0 ? 4096 : lengths[Int(entropy.below(5))]
            // Now and then one comes late, and belongs below what is there.
            let late = entropy.below(10) == 0 ? entropy.below(40) : 0
            writes.append(
                Written(
                    dkey: UInt8(entropy.below(3)), range: start..<start + length,
                    epoch: 1000 + index - min(late, index)))
        }
        let epoch = 2000 as UInt64
        let finished = target.run {
            let vos = try await target.open()
            for (index, write) in writes.enumerated() {
                try await vos.putArray(
                    [write.dkey], [0], at: UInt64(write.range.lowerBound),
                    .pattern(write.range.count, seed: UInt64(index)), epoch: write.epoch)
                if index == 100, seed % 4 == 1 { try await vos.checkpoint() }
            }
            guard seed % 4 != 0 else { return }
            try await vos.aggregate(upTo: epoch)
            try await self.check(vos, writes)
        }
        #expect(finished)
        target.restart()
        let again = target.run {
            let vos = try await target.open()
            try await vos.aggregate(upTo: epoch + 1)
            try await self.check(vos, writes)
            try await vos.checkInvariants()
        }
        #expect(again)
    }

    private func check(_ vos: VOS, _ writes: [Written]) async throws {
        let winners = winners(writes)
        let visible = Set(winners.compactMap { $0 })
        let most = visible.reduce(0) { $0 + writes[$1].range.count }
        let least = winners.count { $0 != nil }
        let bytes = Int(vos.usage(pool: Names.pool).bytes)
        #expect(bytes <= most && bytes >= least)
        for (key, head, _) in try await vos.storedExtents() {
            let first = Int(key[IndexKey.objectLength + 1]) * 40_000 + Int(head.offset)
            let isSeen = winners[first..<first + head.byteCount].contains { winner in
                winner.map { writes[$0].epoch == head.epoch } ?? false
            }
            #expect(isSeen)
        }
        for dkey in 0..<3 as Range<UInt8> {
            var expected = [UInt8](repeating: 0, count: 40_000)
            for index in visible.sorted(by: { (writes[$0].epoch, $0) < (writes[$1].epoch, $1) })
            where writes[index].dkey == dkey {
                expected.replaceSubrange(
                    writes[index].range,
                    with: [UInt8].pattern(writes[index].range.count, seed: UInt64(index)))
            }
            #expect(try await vos.getArray([dkey], [0], 0..<40_000).bytes == expected)
        }
    }
}
