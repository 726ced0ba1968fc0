import BIO
import DrayRuntime
import Testing

@testable import VOS

/// Tables that are merged by hand, and what merging is made of.
@Suite struct MergeTests {
    /// Merges the tables of level 0 alone into a level above the last.
    private func mergeLevel0(_ vos: VOS, to level: Int) async throws {
        try await vos.run(MergeJob(inputs: vos.version.levels[0], level: level))
    }

    /// A punch hides what was logged before it at the same epoch, wherever that is: it must stay
    /// as long as there may be such a thing in another table.
    @Test(arguments: [9, 10] as [UInt64])
    func aPunchStaysForWhatIsElsewhere(epoch: UInt64) {
        let target = SimulatedTarget(seed: epoch)
        let finished = target.run {
            let vos = try await target.open()
            vos.mergesTables = false
            try await vos.putSingle([1], [1], [7], epoch: epoch)
            try await vos.checkpoint()
            try await self.mergeLevel0(vos, to: IndexVersion.levelMax)
            try await vos.punch(
                pool: Names.pool, container: Names.container, object: Names.object, dkey: [1],
                epoch: 10)
            vos.raiseAggregatedEpoch(to: 20)
            try await vos.checkpoint()
            try await self.mergeLevel0(vos, to: 3)
            #expect(vos.entryCount == 2)
            #expect(try await vos.getSingle([1], [1]) == nil)
            // Together they go.
            try await vos.aggregate(upTo: 21)
            #expect(vos.entryCount == 0)
            #expect(try await vos.getSingle([1], [1]) == nil)
            try await vos.checkInvariants()
        }
        #expect(finished)
    }

    /// A flushed memtable is freed when nobody reads it any more, and a store that is closed keeps
    /// none.
    @Test func aFlushedMemtableIsFreed() {
        let target = SimulatedTarget(seed: 1)
        let finished = target.run {
            let vos = try await target.open()
            for number in 0..<5 as Range<UInt8> {
                try await vos.putSingle([number], [1], [7], epoch: 5 + UInt64(number))
            }
            var view: ReadView? = vos.makeView()
            try await vos.checkpoint()
            await target.xstream.sleep(for: .milliseconds(20))
            #expect(vos.retired.map(\.tree.count) == [5])
            #expect(view?.limit != nil)
            view = nil
            await target.xstream.sleep(for: .milliseconds(20))
            #expect(vos.retired.isEmpty)
            try await vos.putSingle([1], [1], [8], epoch: 500)
            try await vos.checkpoint()
            await vos.close()
            #expect(vos.retired.isEmpty)
        }
        #expect(finished)
    }

    /// The manifest of a merge has transactions as the last flush knew them: the blocks of one that
    /// was aborted since then must not become a table's.
    @Test func blocksOfWhatIsAbortedWaitForAFlush() {
        let target = SimulatedTarget(seed: 1)
        var blocks: [BlockExtent] = []
        let finished = target.run {
            let vos = try await target.open()
            vos.mergesTables = false
            try await vos.putSingle([1], [1], [7], epoch: 5)
            let dtx = try await vos.prepare(
                .dtx(1), [.single([2], .pattern(40_000, seed: 1))], epoch: 10)
            blocks = dtx.blocks
            try await vos.checkpoint()
            try await vos.abort(dtx)
            #expect(blocks.allSatisfy { vos.store.allocator.isUsed($0) })
            try await self.mergeLevel0(vos, to: 3)
            #expect(blocks.allSatisfy { vos.store.allocator.isUsed($0) })
            try await vos.checkInvariants()
        }
        #expect(finished)
        target.restart()
        let again = target.run {
            let vos = try await target.open()
            #expect(vos.outcome(of: .dtx(1)) == "aborted")
            try await vos.checkInvariants()
            try await vos.checkpoint()
            #expect(blocks.allSatisfy { !vos.store.allocator.isUsed($0) })
            try await vos.checkInvariants()
        }
        #expect(again)
    }

    /// Walks memory and tables of several levels, in both directions and from any place.
    @Test(arguments: 0..<8 as Range<UInt64>)
    func cursorsSeeEverythingOnceAndInOrder(seed: UInt64) {
        var options = VOSOptions()
        options.makeSmall()
        let target = SimulatedTarget(seed: seed, blocks: 8192, logBlocks: 256, options: options)
        let finished = target.run {
            let vos = try await target.open()
            var entropy = Entropy(seed: seed)
            var names: Set<[UInt8]> = []
            for epoch in 1..<300 as Range<UInt64> {
                let dkey = [UInt8(entropy.below(8)), UInt8(entropy.below(40))]
                try await vos.putSingle(dkey, [1], .pattern(60, seed: epoch), epoch: epoch)
                names.insert(dkey)
            }
            #expect(vos.version.tables.count > 3)
            let object = IndexKey.object(Names.pool, Names.container, Names.object)
            let all = try await self.keys(vos, object, from: object, isReversed: false)
            #expect(all.count == 299)
            #expect(zip(all, all.dropFirst()).allSatisfy { IndexKey.compare($0, $1) < 0 })
            let end = IndexKey.successor(ofPrefix: object)
            let back = try await self.keys(vos, object, from: end, isReversed: true)
            #expect(back == all.reversed())
            for _ in 0..<20 {
                let place = Int(entropy.below(UInt64(all.count)))
                let from = try await self.keys(vos, object, from: all[place], isReversed: false)
                #expect(from == Array(all[place...]))
                let below = try await self.keys(vos, object, from: all[place], isReversed: true)
                #expect(below == all[..<place].reversed())
            }
            let listed = try await vos.listDkeys(
                pool: Names.pool, container: Names.container, object: Names.object, limit: 1000)
            #expect(Set(listed.keys) == names && listed.keys.count == names.count)
        }
        #expect(finished)
    }

    private func keys(
        _ vos: VOS, _ prefix: IndexKey.Bytes, from target: IndexKey.Bytes, isReversed: Bool
    ) async throws -> [IndexKey.Bytes] {
        let cursor = try await IndexCursor(
            vos.makeView(), prefix: IndexKey.Prefix(prefix), name: nil, isReversed: isReversed)
        try await cursor.seek(target)
        var keys: [IndexKey.Bytes] = []
        while cursor.isValid {
            keys.append(IndexKey.Bytes(cursor.entry.key))
            try await cursor.next()
        }
        return keys
    }

    /// What newer extents leave to be seen, against painting byte by byte.
    @Test(arguments: 0..<50 as Range<UInt64>) func partsOfExtents(seed: UInt64) {
        var entropy = Entropy(seed: seed)
        var heads: [EntryHead] = []
        for stamp in 0..<30 as Range<UInt64> {
            var head = EntryHead()
            head.kind = .extent
            head.epoch = entropy.below(10)
            head.stamp = stamp
            head.offset = entropy.below(60)
            head.byteCount = 1 + Int(entropy.below(20))
            heads.append(head)
        }
        var winners = [Int?](repeating: nil, count: 100)
        for index in heads.indices.sorted(by: { heads[$1].isNewer(than: heads[$0]) }) {
            for place in heads[index].offset..<heads[index].end { winners[Int(place)] = index }
        }
        var seen = heads.map { [$0.offset..<$0.end] }
        for (index, parts) in ExtentWindow.visible(heads, Array(heads.indices)) {
            #expect(parts != seen[index])
            #expect(parts.allSatisfy { !$0.isEmpty })
            #expect(zip(parts, parts.dropFirst()).allSatisfy { $0.upperBound < $1.lowerBound })
            seen[index] = parts
        }
        for index in heads.indices {
            let places = seen[index].flatMap { $0.map { Int($0) } }
            #expect(places == winners.indices.filter { winners[$0] == index })
        }
    }

    /// A filter knows every name that it was built of, and few others.
    @Test func filters() async {
        let names = (0..<2000 as Range<UInt64>).map { number in
            [UInt8].pattern(20, seed: number).withUnsafeBytes { TableFilter.path($0) }
        }
        let bytes = await TableFilter.build(
            Array(names[0..<1000]), table: 5, place: 2, giveWay: {})
        bytes.withUnsafeBytes { memory in
            #expect(TableFilter.bits(memory, table: 5, place: 3) == nil)
            guard let bits = TableFilter.bits(memory, table: 5, place: 2) else {
                Issue.record("no filter")
                return
            }
            let known = names[0..<1000].count { TableFilter.mayContain($0, memory, bits: bits) }
            let others = names[1000...].count { TableFilter.mayContain($0, memory, bits: bits) }
            #expect(known == 1000)
            #expect(others < 30, "\(others) of 1,000 names seem to be there")
        }
    }

    /// Pages of the block map come back, and what contradicts it changes nothing.
    @Test func blockMaps() throws {
        var map = BlockMap(totalBlocks: 70_001)
        var entropy = Entropy(seed: 3)
        var expected: Set<UInt32> = []
        for _ in 0..<400 {
            let start = UInt32(entropy.below(69_900))
            let extent = BlockExtent(start: start, count: 1 + UInt32(entropy.below(100)))
            let blocks = Set(extent.start..<UInt32(extent.end))
            let isMarked = map.mark(extent)
            #expect(isMarked == expected.isDisjoint(with: blocks))
            if expected.isDisjoint(with: blocks) { expected.formUnion(blocks) }
            let other = BlockExtent(start: UInt32(entropy.below(69_900)), count: 3)
            let gone = Set(other.start..<UInt32(other.end))
            let isCleared = map.clear(other)
            #expect(isCleared == gone.isSubset(of: expected))
            if gone.isSubset(of: expected) { expected.subtract(gone) }
        }
        let isBeyond = map.mark(BlockExtent(start: 70_000, count: 2))
        #expect(!isBeyond)
        #expect(map.blocks.count == UInt64(expected.count))
        #expect(map.dirty == [0, 1, 2])
        var copy = BlockMap(totalBlocks: 70_001)
        var extents: [BlockExtent] = []
        for index in 0..<map.pageCount {
            if let page = map.page(index) { extents += try copy.load(page: index, page) }
        }
        #expect(copy.blocks == map.blocks)
        #expect(Set(extents.flatMap { $0.start..<UInt32($0.end) }) == expected)
        #expect(throws: MalformedBytes.self) {
            _ = try copy.load(page: 2, [UInt8](repeating: 255, count: 4096))
        }
    }
}
