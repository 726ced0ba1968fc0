import BIO
import DrayRuntime
import Testing

@testable import VOS

/// Of an extent that is hidden in part no more is kept than is worth it, and all that can be seen.
@Suite struct CutTests {
    private static let logBlocks: UInt64 = 512

    private struct Written {
        var range: Range<Int>
        var epoch: UInt64
        var seed: UInt64
    }

    /// What an array reads as after some writes, and the parts that can be seen of them.
    private struct Painted {
        private(set) var bytes: [UInt8]
        private(set) var parts: [Range<Int>] = []

        /// All offsets are multiples of `unit`.
        init(_ writes: [Written], count: Int, unit: Int = 1) {
            bytes = [UInt8](repeating: 0, count: count)
            var winners = [Int](repeating: -1, count: count / unit)
            for index in writes.indices.sorted(by: { left, right in
                (writes[left].epoch, left) < (writes[right].epoch, right)
            }) {
                let range = writes[index].range
                bytes.replaceSubrange(
                    range, with: [UInt8].pattern(range.count, seed: writes[index].seed))
                for place in range.lowerBound / unit..<range.upperBound / unit {
                    winners[place] = index
                }
            }
            var start = 0
            for place in 1...winners.count
            where place == winners.count || winners[place] != winners[start] {
                if winners[start] >= 0 { parts.append(start * unit..<place * unit) }
                start = place
            }
        }

        func weight(inlineThreshold: Int) -> UInt64 {
            parts.reduce(0) {
                $0 + EntryHead.weight($1.count, hasBlocks: $1.count >= inlineThreshold)
            }
        }
    }

    /// What the tools say of the closed store.
    private func findings(_ target: SimulatedTarget) -> [StoreFinding] {
        var findings: [StoreFinding] = []
        let finished = target.run {
            let device = ReadOnlyDevice(
                try target.devices.open(path: SimulatedTarget.path, on: target.xstream))
            let reader = try await StoreReader.open(
                device, partition: 0..<device.size, on: target.xstream)
            findings = await StoreInspector.inspect(reader, depth: .values).findings
            await device.close()
        }
        #expect(finished)
        return findings
    }

    /// Extents at random, some of them late, some over the ends of windows.
    @Test(arguments: 0..<16 as Range<UInt64>) func randomExtents(seed: UInt64) {
        var options = VOSOptions()
        options.inlineThreshold = [4096, 64, 1000][Int(seed % 3)]
        if seed % 2 == 0 { options.makeSmall() }
        let target = SimulatedTarget(
            seed: seed, blocks: 16_384, logBlocks: Self.logBlocks, options: options)
        var entropy = Entropy(seed: seed).fork("writes")
        let isLong = seed % 4 == 3
        let (count, unit) = isLong ? (3 << 20, 512) : (120_000, 1)
        var writes: [Written] = []
        var cut = 0
        for life in 0..<3 as Range<UInt64> {
            let finished = target.run {
                let vos = try await target.open()
                for number in 0..<(isLong ? 12 : 30) as Range<UInt64> {
                    let index = UInt64(writes.count)
                    let lengths: [UInt64] =
                        isLong ? [300_000, 1_000_000] : [300, 5000, 20_000, 70_000]
                    let most = lengths[Int(entropy.below(UInt64(lengths.count)))]
                    let length = 1 + Int(entropy.below(most))
                    let start = Int(entropy.below(UInt64(count - length)))
                    let late = entropy.below(6) == 0 ? entropy.below(number + 1) : 0
                    let range =
                        start / unit * unit..<(start + length + unit - 1) / unit * unit
                    let write = Written(range: range, epoch: 1000 + index - late, seed: index)
                    writes.append(write)
                    try await vos.putArray(
                        [1], [1], at: UInt64(write.range.lowerBound),
                        .pattern(write.range.count, seed: write.seed), epoch: write.epoch)
                    if number % 9 == 8 { try await vos.checkpoint() }
                }
                try await vos.aggregate(upTo: 999 + UInt64(writes.count))
                cut += vos.extentsCut
                let painted = Painted(writes, count: count, unit: unit)
                let read = try await vos.getArray([1], [1], 0..<UInt64(count)).bytes
                #expect(read == painted.bytes)
                let stored = try await vos.storedExtents()
                #expect(stored.count <= painted.parts.count)
                let weight = stored.reduce(0) { $0 + $1.head.weight }
                #expect(
                    weight < 2 * painted.weight(inlineThreshold: options.inlineThreshold))
                try await vos.checkInvariants()
                if life != 1 { await target.close(vos) }
            }
            #expect(finished)
            if life != 1 { #expect(findings(target) == []) }
            target.restart()
        }
        #expect(cut > 0)
    }

    /// A load that overwrites an array at shifting offsets.
    struct Load: CustomTestStringConvertible {
        var length: Int
        var step: Int
        /// After so many bytes it begins again.
        var span: Int
        var writes: Int
        var recordSize: UInt32 = 1

        var testDescription: String { "\(length) bytes every \(step) of \(span)" }
    }

    /// However long it goes on, the array takes no more than a few times what can be read.
    @Test(arguments: [
        Load(length: 65_536, step: 1024, span: 128 << 10, writes: 384),
        Load(length: 1 << 20, step: 1024, span: 64 << 10, writes: 96),
        Load(length: 4096, step: 1024, span: 256 << 10, writes: 768),
        Load(length: 3000, step: 300, span: 90_000, writes: 900),
        Load(length: 9600, step: 1200, span: 120_000, writes: 300, recordSize: 24),
    ])
    func aLongLoad(load: Load) {
        let target = SimulatedTarget(seed: 1, blocks: 8192, logBlocks: Self.logBlocks)
        let live = (load.span + load.length + 4095) / 4096
        let finished = target.run {
            let vos = try await target.open()
            var expected = [UInt8](repeating: 0, count: load.span + load.length)
            for number in 0..<load.writes {
                let offset = number * load.step % load.span
                let bytes = [UInt8].pattern(load.length, seed: UInt64(number))
                try await vos.putArray(
                    [1], [1], at: UInt64(offset), bytes, epoch: 10 + UInt64(number),
                    recordSize: load.recordSize)
                expected.replaceSubrange(offset..<offset + load.length, with: bytes)
                guard number % 12 == 11 else { continue }
                try await vos.aggregate(upTo: 10 + UInt64(number))
                let used = Int(vos.store.allocator.usedBlocks)
                #expect(used <= 2 * live + 60, "after \(number + 1) writes")
            }
            let read = try await vos.getArray([1], [1], 0..<UInt64(expected.count)).bytes
            #expect(read == expected)
            try await vos.checkInvariants()
            await target.close(vos)
        }
        #expect(finished)
        #expect(findings(target) == [])
    }

    /// When extents have filled a device of which little can be seen, there is room for copies.
    @Test func aFullDevice() {
        let target = SimulatedTarget(seed: 2, blocks: 8192, logBlocks: Self.logBlocks)
        let finished = target.run {
            let vos = try await target.open()
            var number: UInt64 = 0
            for _ in 0..<3 {
                let first = number
                filling: while true {
                    do {
                        try await vos.putArray(
                            [1], [1], at: 4096 * (number - first),
                            .pattern(65_536, seed: number), epoch: 10 + number)
                        number += 1
                    } catch VOSError.noSpace {
                        break filling
                    }
                }
                #expect(number - first > 300)
                try await vos.aggregate(upTo: 9 + number)
                let live = number - first + 16
                #expect(UInt64(vos.store.allocator.usedBlocks) < 2 * live + 100)
                for index in [first, number - 2] {
                    let start = 4096 * (index - first)
                    let read = try await vos.getArray([1], [1], start..<start + 4096).bytes
                    #expect(read == Array([UInt8].pattern(65_536, seed: index)[0..<4096]))
                }
                try await vos.checkInvariants()
            }
            await target.close(vos)
        }
        #expect(finished)
        #expect(findings(target) == [])
    }

    /// A snapshot holds an extent whole until it is given up.
    @Test func snapshotsHoldWhatTheyShow() {
        let target = SimulatedTarget(seed: 3)
        let finished = target.run {
            let vos = try await target.open()
            let old = [UInt8].pattern(100_000, seed: 1)
            let new = [UInt8].pattern(95_000, seed: 2)
            try await vos.putArray([1], [1], at: 0, old, epoch: 10)
            try await vos.takeSnapshot(
                pool: Names.pool, container: Names.container, epoch: 15)
            try await vos.putArray([1], [1], at: 5000, new, epoch: 20)
            try await vos.aggregate(upTo: 30)
            #expect(vos.extentsCut == 0)
            #expect(try await vos.getArray([1], [1], 0..<100_000, epoch: 15).bytes == old)
            try await vos.dropSnapshot(
                pool: Names.pool, container: Names.container, epoch: 15)
            try await vos.aggregate(upTo: 31)
            #expect(vos.extentsCut == 1)
            let read = try await vos.getArray([1], [1], 0..<100_000).bytes
            #expect(read == old[0..<5000] + new)
            #expect(vos.usage(pool: Names.pool).bytes == 100_000)
            try await vos.checkInvariants()
        }
        #expect(finished)
    }

    /// What hides the rest is too new: the extent stays whole until aggregation comes to it.
    @Test func whatCanBeReadStays() {
        let target = SimulatedTarget(seed: 4)
        let finished = target.run {
            let vos = try await target.open()
            let old = [UInt8].pattern(100_000, seed: 1)
            try await vos.putArray([1], [1], at: 0, old, epoch: 10)
            try await vos.putArray([1], [1], at: 5000, .pattern(95_000, seed: 2), epoch: 20)
            try await vos.aggregate(upTo: 19)
            #expect(vos.extentsCut == 0)
            #expect(try await vos.getArray([1], [1], 0..<100_000, epoch: 19).bytes == old)
            try await vos.aggregate(upTo: 20)
            #expect(vos.extentsCut == 1)
            // Nothing is copied again.
            let tables = vos.version.tables.map(\.info.id)
            try await vos.aggregate(upTo: 21)
            #expect(vos.extentsCut == 1 && vos.version.tables.map(\.info.id) == tables)
        }
        #expect(finished)
    }

    /// What fetches found in an extent is not looked for in its blocks when others have those.
    @Test func whatIsKnownOfAnExtentIsForgotten() {
        let target = SimulatedTarget(seed: 5)
        let finished = target.run {
            let vos = try await target.open()
            func read(_ range: Range<UInt64>) async throws -> [UInt8] {
                let fetch = Fetch(
                    pool: Names.pool, container: Names.container, object: Names.object,
                    dkey: [1], akey: [1], epoch: .max)
                let buffer = IOBuffer(count: range.count)
                let result = try await vos.fetchArray(
                    fetch, offset: range.lowerBound, length: range.count, into: buffer.bytes,
                    findingEnd: false)
                return buffer.array(0..<result.byteCount)
            }
            let old = [UInt8].pattern(60_000, seed: 1)
            try await vos.putArray([1], [1], at: 0, old, epoch: 10)
            // All of it comes into the cache.
            for _ in 0..<3 { #expect(try await read(0..<60_000) == old) }
            try await vos.putArray([1], [1], at: 5000, .pattern(55_000, seed: 2), epoch: 20)
            for _ in 0..<3 { #expect(try await read(0..<4096) == Array(old[0..<4096])) }
            #expect(vos.records.known.count == 1)
            try await vos.aggregate(upTo: 30)
            #expect(vos.extentsCut == 1)
            #expect(vos.records.known.isEmpty)
            for dkey in 2..<80 as Range<UInt8> {
                let other = [UInt8].pattern(60_000, seed: UInt64(dkey))
                try await vos.putSingle([dkey], [1], other, epoch: 40)
                for _ in 0..<3 { #expect(try await vos.getSingle([dkey], [1]) == other) }
            }
            for _ in 0..<3 { #expect(try await read(0..<4096) == Array(old[0..<4096])) }
            try await vos.checkInvariants()
        }
        #expect(finished)
    }

    /// An extent that is damaged stays as it is, so that whoever reads it is told.
    @Test func damageIsNotCopied() {
        let target = SimulatedTarget(seed: 6, logBlocks: Self.logBlocks)
        let finished = target.run {
            let vos = try await target.open()
            let new = [UInt8].pattern(90_000, seed: 2)
            try await vos.putArray([1], [1], at: 0, .pattern(100_000, seed: 1), epoch: 10)
            try await vos.checkpoint()
            let blocks = try #require(try await vos.storedExtents().first?.record.blocks)
            let place = (2 + Self.logBlocks + UInt64(blocks[0].start)) * 4096
            target.devices.damage(path: SimulatedTarget.path, at: place)
            try await vos.putArray([1], [1], at: 10_000, new, epoch: 20)
            try await vos.aggregate(upTo: 30)
            #expect(vos.extentsCut == 0)
            let counts = try await vos.storedExtents().map(\.head.byteCount)
            #expect(counts.sorted() == [90_000, 100_000])
            #expect(try await vos.getArray([1], [1], 10_000..<100_000).bytes == new)
            await #expect(throws: VOSError.self) {
                _ = try await vos.getArray([1], [1], 0..<10_000)
            }
            try await vos.checkInvariants()
        }
        #expect(finished)
    }

    /// A version of the tables that somebody reads keeps the blocks of an extent that was cut.
    @Test func readersKeepWhatTheyRead() {
        let target = SimulatedTarget(seed: 7)
        let finished = target.run {
            let vos = try await target.open()
            try await vos.putArray([1], [1], at: 0, .pattern(100_000, seed: 1), epoch: 10)
            try await vos.checkpoint()
            let blocks = try #require(try await vos.storedExtents().first?.record.blocks)
            try await vos.putArray([1], [1], at: 5000, .pattern(95_000, seed: 2), epoch: 20)
            var view: ReadView? = vos.makeView()
            try await vos.aggregate(upTo: 30)
            #expect(vos.extentsCut == 1)
            #expect(blocks.allSatisfy { vos.store.allocator.isUsed($0) })
            #expect(view?.limit != nil)
            view = nil
            #expect(blocks.allSatisfy { !vos.store.allocator.isUsed($0) })
        }
        #expect(finished)
    }
}

extension VOS {
    /// The extents of arrays that tables have, table after table.
    func storedExtents() async throws -> [(
        key: IndexKey.Bytes, head: EntryHead, record: IndexRecord
    )] {
        var extents: [(key: IndexKey.Bytes, head: EntryHead, record: IndexRecord)] = []
        for table in version.tables {
            let cursor = IndexCursor(
                merging: [RunCursor([table], prefix: .none, reader: PieceReader(store))])
            try await cursor.seek([])
            while cursor.isValid {
                let head = try cursor.entry.head()
                if head.kind == .extent {
                    extents.append(
                        (IndexKey.Bytes(cursor.entry.key), head, try cursor.entry.record()))
                }
                try await cursor.next()
            }
        }
        return extents
    }
}
