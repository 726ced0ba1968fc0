import BIO
import DrayChecksums
import DrayRuntime
import Testing
import VOSSimulator

@testable import VOS

/// The scrubber: what it finds, what it does not, how fast it reads, and what may happen meanwhile.
@Suite struct ScrubTests {
    private static let path = SimulatedTarget.path
    private static let logBlocks: UInt64 = 64

    /// Where a block is on the device.
    private func offset(_ block: UInt32) -> UInt64 {
        (2 + Self.logBlocks + UInt64(block)) * 4096
    }

    private func makeTarget(
        seed: UInt64 = 1, blocks: UInt64 = 2048, hasLongTables: Bool = false
    ) -> SimulatedTarget {
        var options = VOSOptions()
        options.makeSmall()
        if hasLongTables {
            options.indexBytes = 512 << 10
            options.memtableBytes = 64 << 10
            options.tableBytes = 64 << 10
        }
        return SimulatedTarget(
            seed: seed, blocks: blocks, logBlocks: Self.logBlocks, options: options)
    }

    /// Tables of several levels, small values and large ones, and a punch; all of it in tables.
    private func fill(_ vos: VOS) async throws {
        for number in 0..<60 as Range<UInt64> {
            let dkey = [1, UInt8(number % 40)]
            try await vos.putSingle(dkey, [2], .pattern(90, seed: number), epoch: 100 + number)
            if number % 4 == 0 {
                try await vos.putArray(
                    [3], [UInt8(number)], at: number * 100, .pattern(40_000, seed: number),
                    epoch: 200 + number)
            }
            if number % 16 == 15 { try await vos.checkpoint() }
        }
        await vos.waitForMerges()
        vos.mergesTables = false
        try await vos.punch(
            pool: Names.pool, container: Names.container, object: Names.object, dkey: [1, 3],
            epoch: 400)
        try await flush(vos)
        try await vos.putArray([3], [0], at: 10, .pattern(50_000, seed: 9), epoch: 410)
        try await vos.putSingle([1, 3], [2], .pattern(10, seed: 9), epoch: 411)
        try await flush(vos)
        #expect(Set(vos.version.tables.map(\.info.level)).count > 1)
    }

    /// A checkpoint that is under way already does not have everything.
    private func flush(_ vos: VOS) async throws {
        try await vos.checkpoint()
        try await vos.checkpoint()
    }

    /// One pass, as fast as it can.
    @discardableResult
    private func scrub(
        _ vos: VOS, _ target: SimulatedTarget, rate: UInt64 = 1 << 40
    ) async throws -> ScrubPass {
        #expect(vos.startScrub(rate: rate))
        #expect(!vos.startScrub())
        while vos.scrubStatus.current != nil { await target.xstream.sleep(for: .milliseconds(1)) }
        return try #require(vos.scrubStatus.last)
    }

    /// A store that was filled, and is open.
    private func withStore(
        isReadable: Bool = true, hasLongTables: Bool = false,
        _ body: @escaping (VOS, SimulatedTarget) async throws -> Void
    ) {
        let target = makeTarget(hasLongTables: hasLongTables)
        let finished = target.run {
            let vos = try await target.open()
            try await self.fill(vos)
            try await body(vos, target)
            if isReadable { try await vos.checkInvariants() }
            await target.close(vos)
        }
        #expect(finished)
    }

    /// The values of the tables, and where they are.
    private func entries(_ vos: VOS) async throws -> [(
        name: StoreEntry.Name, blocks: [BlockExtent]
    )] {
        var found: [(StoreEntry.Name, [BlockExtent])] = []
        for table in vos.version.tables {
            let cursor = IndexCursor(merging: [RunCursor([table], prefix: .none)])
            try await cursor.seek([])
            while cursor.isValid {
                let record = try cursor.entry.record()
                let key = IndexKey.Bytes(cursor.entry.key)
                let name = try #require(StoreEntry.Name(key: key, record, stamp: record.stamp))
                found.append((name, record.blocks))
                try await cursor.next()
            }
        }
        return found
    }

    // MARK: - Findings

    @Test func nothingIsDamaged() {
        withStore { vos, target in
            let entries = try await self.entries(vos)
            let before = target.devices.image(path: Self.path).fingerprint
            let pass = try await self.scrub(vos, target)
            #expect(pass.isComplete && pass.errors == 0 && pass.findings == [])
            #expect(pass.values == UInt64(entries.count { !$0.name.isPunch }))
            #expect(pass.tables == UInt64(vos.version.tables.count) && pass.tables > 2)
            // All blocks of tables and values, and the metadata.
            let stored = vos.version.tables.reduce(0) {
                $0 + UInt64($1.info.byteCount) + 4096 * $1.info.valueBlocks
            }
            #expect(pass.bytes > stored && pass.bytes < stored + 16 * 4096)
            #expect(pass.bytesTotal >= stored && pass.bytesTotal < stored + 4096)
            #expect(pass.ended.map { $0 >= pass.started } == true)
            // Nothing was written.
            #expect(target.devices.image(path: Self.path).fingerprint == before)
            #expect(vos.scrubStatus.passes == 1 && vos.scrubStatus.bytes == pass.bytes)
        }
    }

    @Test func everyDamagedValue() {
        withStore { vos, target in
            let entries = try await self.entries(vos).filter { !$0.blocks.isEmpty }
            #expect(entries.count > 10)
            for (name, extents) in entries {
                let blocks = extents.flatMap { Array($0.start..<$0.start + $0.count) }
                // The first block of the second chunk.
                let block = blocks[8]
                target.devices.damage(path: Self.path, at: self.offset(block) + 17)
                let pass = try await self.scrub(vos, target)
                #expect(pass.isComplete && pass.errors == 1)
                let finding = try #require(pass.findings.first)
                #expect(finding.part == .value && finding.entry == name)
                #expect(finding.device == Self.path && finding.offset == self.offset(block))
                #expect(finding.what.hasPrefix("1 of the 2 chunks of a value, from chunk 1 on"))
                #expect(finding.text.contains("object \(Names.object), dkey '\\x03'"))
                target.devices.damage(path: Self.path, at: self.offset(block) + 17)
            }
            let status = vos.scrubStatus
            #expect(status.passes == status.errors && status.errors == UInt64(entries.count))
            try await self.scrub(vos, target)
            #expect(vos.scrubStatus.findings == [])
        }
    }

    @Test(arguments: [false, true]) func everyDamagedBlockOfEveryTable(hasLongTables: Bool) {
        withStore(hasLongTables: hasLongTables) { vos, target in
            if hasLongTables {
                for number in 0..<200 as Range<UInt64> {
                    try await vos.putSingle(
                        [6, UInt8(number)], [6], .pattern(90, seed: number), epoch: 500 + number)
                }
                // All into one table.
                try await vos.aggregate(upTo: 10)
            }
            // Of several blocks of entries, which are of 8 KiB.
            #expect(vos.version.tables.contains { $0.info.fencePlace > 4 } == hasLongTables)
            for table in vos.version.tables {
                let info = table.info
                let blocks = info.extents.flatMap { Array($0.start..<$0.start + $0.count) }
                for place in 0..<info.blocks {
                    // Within what every block has.
                    let byte = self.offset(blocks[place]) + 21
                    target.devices.damage(path: Self.path, at: byte)
                    let pass = try await self.scrub(vos, target)
                    target.devices.damage(path: Self.path, at: byte)
                    #expect(pass.isComplete)
                    let part: StoreFinding.Part =
                        place >= info.filterPlace
                        ? .filter : place >= info.fencePlace ? .fences : .table
                    let found = pass.findings.filter { $0.part == part && $0.table == info.id }
                    #expect(found.count == 1 && pass.errors == 1, "\(place): \(pass.findings)")
                    #expect(found.first?.device == Self.path)
                    // A block behind the first of a longer one.
                    let start = try #require(found.first?.offset)
                    #expect(start <= byte && byte < start + 3 * 4096)
                }
            }
        }
    }

    /// The bytes of a value that stands in the index itself are those of a block of a table.
    @Test func aDamagedInlineValue() {
        withStore { vos, target in
            let value = [UInt8].pattern(90, seed: 59)
            var places: [(table: UInt64, block: UInt32, byte: UInt64)] = []
            for info in vos.version.tables.map(\.info) {
                let buffer = IOBuffer(count: info.blocks * 4096)
                try await vos.store.read(into: buffer.bytes, from: info.extents)
                guard let found = buffer.array(0..<buffer.count).firstRange(of: value) else {
                    continue
                }
                let place = found.lowerBound + 50
                let block = try #require(info.extents.block(place / 4096))
                places.append((info.id, block, self.offset(block) + UInt64(place % 4096)))
            }
            #expect(places.count == 1)
            let place = try #require(places.first)
            target.devices.damage(path: Self.path, at: place.byte)
            let pass = try await self.scrub(vos, target)
            target.devices.damage(path: Self.path, at: place.byte)
            #expect(pass.isComplete && pass.errors == 1, "\(pass.findings)")
            let finding = try #require(pass.findings.first)
            #expect(finding.part == .table && finding.table == place.table)
            #expect(finding.offset.map { $0 <= place.byte && place.byte < $0 + 3 * 4096 } == true)
        }
    }

    /// A value that was damaged before it came here stands in a block that is as it should be.
    @Test(arguments: [ChecksumType.crc32c, .xxh64, .sha256])
    func anInlineValueThatNobodyVerified(type: ChecksumType) {
        withStore { vos, target in
            let bytes = [UInt8].pattern(200, seed: 77)
            let buffer = IOBuffer(copying: bytes)
            let data = UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<bytes.count])
            var words = VOS.checksums(of: data, type)
            words[0] ^= 1
            let value = ValueBytes(data, checksums: words, type: type, isVerified: false)
            try await vos.update(
                Update(
                    pool: Names.pool, container: Names.container, object: Names.object,
                    epoch: 500, transaction: .zero,
                    operations: [Operation(.single(dkey: [8], akey: [8], value))]))
            withExtendedLifetime(buffer) {}
            try await self.flush(vos)
            let pass = try await self.scrub(vos, target)
            #expect(pass.isComplete && pass.errors == 1, "\(pass.findings)")
            let finding = try #require(pass.findings.first)
            #expect(finding.part == .value && finding.table != nil && finding.block != nil)
            #expect(finding.entry?.dkey == [8] && finding.entry?.epoch == 500)
            #expect(finding.what == "a value in the index does not match its checksum")
        }
    }

    @Test func damagedManifestAndBlockMap() {
        withStore { vos, target in
            // Transactions that are remembered are in a chunk.
            try await vos.putSingle(
                [7], [7], .pattern(9, seed: 7), epoch: 600,
                transaction: UniqueID(high: 1, low: 600))
            try await self.flush(vos)
            let root = ManifestPiece(try #require(vos.store.checkpoint))
            let pieces = [root] + vos.manifest.pieces
            #expect(Set(pieces.map(\.part)) == [.manifest, .blockMap] && pieces.count > 2)
            for piece in pieces {
                let blocks = piece.copies.map { $0[0].start }
                #expect(blocks.count == 2)
                // One copy is mended with the other.
                for block in blocks {
                    target.devices.damage(path: Self.path, at: self.offset(block) + 5)
                    let pass = try await self.scrub(vos, target)
                    #expect(pass.errors == 1 && pass.findings.first?.part == piece.part)
                    #expect(pass.findings.first?.block == block)
                    #expect(pass.findings.first?.offset == self.offset(block))
                    #expect(pass.findings.first?.what.contains("written again") == true)
                    #expect(try await self.scrub(vos, target).errors == 0)
                }
                // Nothing is left to mend them with.
                for block in blocks {
                    target.devices.damage(path: Self.path, at: self.offset(block) + 5)
                }
                for _ in 0..<2 {
                    let pass = try await self.scrub(vos, target)
                    #expect(pass.findings.map(\.block) == blocks)
                    #expect(pass.findings.allSatisfy { !$0.what.contains("written again") })
                }
                for block in blocks {
                    target.devices.damage(path: Self.path, at: self.offset(block) + 5)
                }
            }
        }
    }

    @Test func whatCannotBeRead() {
        withStore(isReadable: false) { vos, target in
            let entries = try await self.entries(vos).filter { !$0.blocks.isEmpty }
            let (name, blocks) = entries[2]
            target.devices.makeUnreadable(path: Self.path, at: self.offset(blocks[0].start))
            let table = try #require(vos.version.tables.first)
            let block = table.info.extents.flatMap {
                Array($0.start..<$0.start + $0.count)
            }[table.info.filterPlace]
            target.devices.makeUnreadable(path: Self.path, at: self.offset(block))
            let pass = try await self.scrub(vos, target)
            #expect(pass.isComplete && pass.errors == 2, "\(pass.findings)")
            let value = pass.findings.first { $0.part == .value }
            #expect(value?.entry == name && value?.offset == self.offset(blocks[0].start))
            #expect(value?.what.contains("from chunk 0 on, cannot be read") == true)
            #expect(pass.findings.contains { $0.table == table.info.id && $0.block == block })
            // The store goes on.
            try await vos.putSingle([9], [9], [9], epoch: 900)
        }
    }

    /// It finds as much as can be kept, and goes on counting.
    @Test func muchDamage() {
        let target = makeTarget(blocks: 4096)
        let finished = target.run {
            let vos = try await target.open()
            for number in 0..<100 as Range<UInt64> {
                try await vos.putSingle(
                    [UInt8(number)], [1], .pattern(5000, seed: number), epoch: 10 + number)
            }
            try await self.flush(vos)
            for (_, blocks) in try await self.entries(vos) {
                target.devices.damage(path: Self.path, at: self.offset(blocks[0].start))
            }
            let pass = try await self.scrub(vos, target)
            #expect(pass.isComplete && pass.errors == 100)
            #expect(pass.findings.count == ScrubPass.findingsMax)
            #expect(pass.findings.allSatisfy { $0.part == .value })
            await target.close(vos)
        }
        #expect(finished)
    }

    // MARK: - While others work

    /// Overwritten, punched, destroyed and merged away in the middle of a pass, and their blocks
    /// used for other values.
    @Test(arguments: UInt64(1)...6)
    func changesMeanwhile(seed: UInt64) {
        let target = makeTarget(seed: seed, blocks: 3000)
        let container = UniqueID(high: 0xbb, low: 9)
        let finished = target.run {
            let vos = try await target.open()
            var epoch: UInt64 = 100
            func write(_ count: UInt64) async throws {
                for number in 0..<count {
                    epoch += 1
                    try await vos.putSingle(
                        [UInt8(number % 50)], [1], .pattern(20_000, seed: epoch), epoch: epoch,
                        container: number % 5 == 0 ? container : Names.container)
                    if number % 10 == 9 { try await vos.checkpoint() }
                }
            }
            try await write(50)
            let tables = Set(vos.version.tables.map(\.info.id))
            let used = vos.blockMap.blocks
            // A pass takes two seconds of the simulation.
            #expect(vos.startScrub(rate: 512 << 10))
            for _ in 0..<8 {
                try await write(50)
                epoch += 1
                try await vos.punch(
                    pool: Names.pool, container: Names.container, object: Names.object,
                    dkey: [UInt8(epoch % 50)], epoch: epoch)
                try await vos.aggregate(upTo: epoch)
                await target.xstream.sleep(for: .milliseconds(100))
                try await vos.destroyContainer(pool: Names.pool, container: container)
            }
            #expect(tables.isDisjoint(with: vos.version.tables.map(\.info.id)))
            #expect(used != vos.blockMap.blocks)
            #expect(vos.scrubStatus.current != nil, "the pass was too fast")
            while vos.scrubStatus.current != nil {
                await target.xstream.sleep(for: .milliseconds(10))
            }
            let pass = try #require(vos.scrubStatus.last)
            #expect(pass.isComplete && pass.errors == 0, "\(pass.findings)")
            #expect(pass.values > 20)
            try await vos.checkInvariants()
            await target.close(vos)
        }
        #expect(finished)
    }

    /// What was there when a pass began, and stays, is verified, whatever is merged meanwhile.
    @Test func mergedBehindItsBack() {
        let target = makeTarget(seed: 3, blocks: 4096)
        let finished = target.run {
            let vos = try await target.open()
            vos.mergesTables = false
            for number in 0..<80 as Range<UInt64> {
                try await vos.putSingle(
                    [UInt8(number)], [1], .pattern(8000, seed: number), epoch: 100 + number)
                if number % 8 == 7 { try await vos.checkpoint() }
            }
            let before = try await self.entries(vos)
            let last = try #require(before.last { $0.name.dkey == [79] })
            target.devices.damage(path: Self.path, at: self.offset(last.blocks[0].start))
            #expect(vos.startScrub(rate: 512 << 10))
            await target.xstream.sleep(for: .milliseconds(200))
            // Everything comes into other tables, and nothing into other blocks.
            let tables = Set(vos.version.tables.map(\.info.id))
            try await vos.aggregate(upTo: 10)
            try await vos.putSingle([200], [1], [1], epoch: 300)
            try await vos.aggregate(upTo: 11)
            #expect(tables.isDisjoint(with: vos.version.tables.map(\.info.id)))
            #expect(vos.scrubStatus.current != nil)
            while vos.scrubStatus.current != nil {
                await target.xstream.sleep(for: .milliseconds(10))
            }
            let pass = try #require(vos.scrubStatus.last)
            #expect(pass.errors == 1 && pass.findings.first?.entry == last.name)
            #expect(pass.values == 80 || pass.values == 81)
            await target.close(vos)
        }
        #expect(finished)
    }

    // MARK: - Rate and time

    /// It reads no faster than it may, at any time, and not much slower.
    @Test(arguments: [UInt64(256 << 10), 4 << 20])
    func rate(rate: UInt64) {
        let target = makeTarget(seed: 4, blocks: 6000)
        let finished = target.run {
            let vos = try await target.open()
            for number in 0..<16 as Range<UInt64> {
                try await vos.putSingle(
                    [UInt8(number)], [1], .pattern(1 << 20, seed: number), epoch: 100 + number)
            }
            try await self.flush(vos)
            let device = try #require(target.store?.device)
            let start = target.xstream.now
            let first = device.statistics.bytesRead
            #expect(vos.startScrub(rate: rate))
            var samples: [(Duration, UInt64)] = []
            while vos.scrubStatus.current != nil {
                samples.append(
                    (target.xstream.now.since(start), device.statistics.bytesRead - first))
                await target.xstream.sleep(for: .milliseconds(50))
            }
            let pass = try #require(vos.scrubStatus.last)
            #expect(pass.isComplete && pass.bytes > 16 << 20)
            for (time, bytes) in samples {
                // A value, the blocks that name it, and what is too short for a pause.
                let most = rate * time.nanosecondsClamped / 1_000_000_000 + (1 << 20) + (128 << 10)
                #expect(bytes <= most, "\(bytes) bytes after \(time)")
            }
            let took = target.xstream.now.since(start)
            #expect(took < .nanoseconds(Int64(pass.bytes * 1_000_000_000 / rate)) * 11 / 10)
            await target.close(vos)
        }
        #expect(finished)
    }

    /// The first pass comes by itself after the interval, the next one that much later.
    @Test func interval() {
        var options = VOSOptions()
        options.scrubRate = 1 << 30
        options.scrubInterval = .seconds(60)
        let target = SimulatedTarget(seed: 5, logBlocks: Self.logBlocks, options: options)
        let finished = target.run {
            let vos = try await target.open()
            target.xstream.spawn { await vos.runBackground() }
            try await vos.putSingle([1], [1], .pattern(9000, seed: 1), epoch: 100)
            await target.xstream.sleep(for: .seconds(59))
            #expect(vos.scrubStatus == ScrubStatus())
            await target.xstream.sleep(for: .seconds(2))
            #expect(vos.scrubStatus.passes == 1 && vos.scrubStatus.last?.values == 1)
            await target.xstream.sleep(for: .seconds(58))
            #expect(vos.scrubStatus.passes == 1)
            await target.xstream.sleep(for: .seconds(2))
            #expect(vos.scrubStatus.passes == 2 && vos.scrubStatus.errors == 0)
            await target.close(vos)
        }
        #expect(finished)
    }

    /// Without a rate none comes by itself.
    @Test func off() {
        let target = makeTarget(seed: 6)
        let finished = target.run {
            let vos = try await target.open()
            target.xstream.spawn { await vos.runBackground() }
            await target.xstream.sleep(for: .seconds(3000))
            #expect(vos.scrubStatus == ScrubStatus())
            await target.close(vos)
        }
        #expect(finished)
    }

    @Test func stopped() {
        withStore { vos, target in
            #expect(vos.startScrub(rate: 1000))
            await target.xstream.sleep(for: .seconds(20))
            #expect(vos.scrubStatus.current.map { $0.bytes > 0 && $0.ended == nil } == true)
            vos.stopScrub()
            await target.xstream.sleep(for: .seconds(1))
            let pass = try #require(vos.scrubStatus.last)
            #expect(vos.scrubStatus.current == nil && !pass.isComplete && pass.ended != nil)
            #expect(vos.scrubStatus.passes == 0 && pass.bytes < 100_000)
            let next = try await self.scrub(vos, target)
            #expect(next.isComplete)
        }
    }

    /// A store that is closed does not wait for a slow pass.
    @Test func closed() {
        let target = makeTarget(seed: 7)
        let finished = target.run {
            let vos = try await target.open()
            try await self.fill(vos)
            #expect(vos.startScrub(rate: 1000))
            await target.xstream.sleep(for: .seconds(5))
            let start = target.xstream.now
            await target.close(vos)
            #expect(target.xstream.now.since(start) < .seconds(1))
            await target.xstream.sleep(for: .seconds(5))
            #expect(vos.scrubStatus.current == nil && vos.scrubStatus.last?.isComplete == false)
            #expect(!vos.startScrub())
        }
        #expect(finished)
    }
}
