import BIO
import DrayRuntime
import Testing
import VOSSimulator

@testable import VOS

/// What the tools say of a healthy store, and of one with damage of every kind.
@Suite struct StoreInspectorTests {
    private static let path = SimulatedTarget.path

    /// A closed store with several tables, values in blocks, and something in the log.
    private func makeStore(seed: UInt64 = 1) -> SimulatedTarget {
        var options = VOSOptions()
        options.makeSmall()
        let target = SimulatedTarget(seed: seed, options: options)
        target.run {
            let vos = try await target.open()
            for number in 0..<60 as Range<UInt64> {
                if number == 40 {
                    // What comes later stays in tables of its own.
                    await vos.waitForMerges()
                    try await vos.mergeLock.withLock { () async throws(VOSError) in
                        try await vos.run(vos.picker.job(vos.version.levels[0], to: 6))
                    }
                    vos.mergesTables = false
                }
                let dkey = [1, UInt8(number % 40)]
                try await vos.putSingle(dkey, [2], .pattern(90, seed: number), epoch: 100 + number)
                if number % 4 == 0 {
                    try await vos.putArray(
                        [3], [UInt8(number)], at: number * 100, .pattern(40_000, seed: number),
                        epoch: 200 + number)
                }
                if number % 16 == 15 { try await vos.checkpoint() }
            }
            let punch = Operation(.punchDkey([1, 3]))
            try await vos.update(
                Update(
                    pool: Names.pool, container: Names.container, object: Names.object, epoch: 400,
                    transaction: .zero, operations: [punch]))
            // One that was under way does not have the punch.
            for _ in 0..<2 { try await vos.checkpoint() }
            try await vos.putArray([4], [4], at: 0, .pattern(9000, seed: 9), epoch: 500)
            try await vos.putSingle([5], [5], .pattern(10, seed: 9), epoch: 501)
            await target.close(vos)
        }
        return target
    }

    private func inspect(
        _ target: SimulatedTarget, depth: StoreInspector.Depth = .values,
        visit: @escaping (StoreEntry) -> Void = { _ in }
    ) -> InspectionReport? {
        var report: InspectionReport?
        target.run {
            let device = ReadOnlyDevice(
                try target.devices.open(path: Self.path, on: target.xstream))
            let reader = try await StoreReader.open(
                device, partition: 0..<device.size, on: target.xstream)
            report = await StoreInspector.inspect(reader, depth: depth, visit: visit)
            await device.close()
        }
        return report
    }

    private func findings(_ target: SimulatedTarget) -> [StoreFinding] {
        inspect(target)?.findings ?? []
    }

    /// Bytes of the device, changed by `body`, written back.
    private func edit(
        _ target: SimulatedTarget, at offset: UInt64, count: Int = 4096,
        _ body: @escaping (inout [UInt8]) -> Void
    ) {
        target.run {
            let device = try target.devices.open(path: Self.path, on: target.xstream)
            let buffer = IOBuffer(count: (count + 4095) / 4096 * 4096)
            try await device.read(into: buffer.bytes, at: offset)
            var bytes = buffer.array(0..<buffer.count)
            body(&bytes)
            let changed = IOBuffer(copying: bytes)
            try await device.write(
                UnsafeRawBufferPointer(changed.bytes), at: offset, durable: true)
            await device.close()
        }
    }

    @Test func healthy() throws {
        let target = makeStore()
        let before = target.devices.image(path: Self.path).fingerprint
        var entries: [StoreEntry] = []
        let report = try #require(inspect(target) { entries.append($0) })
        #expect(report.findings == [] && report.notes == [])
        #expect(report.identity == SimulatedTarget.identity)
        #expect(report.tables.count > 2 && Set(report.tables.map(\.level)).count > 1)
        #expect(report.entries == UInt64(entries.count))
        #expect(entries.contains { $0.table == nil && $0.name.dkey == [4] && $0.blocks.count > 0 })
        #expect(entries.contains { $0.name.isPunch && $0.name.dkey == [1, 3] })
        let included = try #require(report.manifest?.sequence)
        #expect(report.log.next == 79 && report.log.records == 78 - included)
        #expect(report.log.records >= 2 && report.log.groups >= 2)
        #expect(report.verifiedBytes > 15 * 40_000)
        let space = report.space
        #expect(space.logValues == 3 && space.values >= 150)
        let live = space.values + space.logValues + space.tables + space.metadata
        #expect(live + space.free == space.total)
        let summary = try #require(inspect(target, depth: .summary))
        #expect(summary.space == space && summary.findings == [])
        // Nothing was written; and what the store itself counts is the same.
        #expect(target.devices.image(path: Self.path).fingerprint == before)
        target.run {
            let vos = try await target.open()
            #expect(target.store?.allocator.usedBlocks == UInt32(live))
            #expect(vos.entryCount == entries.count)
            await target.close(vos)
        }
    }

    @Test func superblock() {
        for copy in 0..<2 as Range<UInt64> {
            let target = makeStore()
            target.devices.damage(path: Self.path, at: copy * 4096 + 100)
            let found = findings(target)
            #expect(found.map(\.part) == [.superblock])
            #expect(found.first?.offset == copy * 4096 && found.first?.device == Self.path)
            // It is still so: nothing was repaired.
            #expect(findings(target) == found)
        }
    }

    @Test func log() {
        // Wherever it is in its ring: each group after the checkpoint but the seal.
        var found: [StoreFinding] = []
        for block in 2..<UInt64(2 + 64) {
            let target = makeStore()
            target.devices.damage(path: Self.path, at: block * 4096 + 80)
            found += findings(target)
        }
        #expect(found.count >= 2)
        #expect(found.allSatisfy { $0.part == .log && $0.offset != nil }, "\(found)")
    }

    @Test func manifest() throws {
        let target = makeStore()
        let copies = try #require(inspect(target)?.manifest?.copies)
        #expect(copies.count == 2)
        for (copy, extents) in copies.enumerated() {
            let block = extents[0].start
            target.devices.damage(path: Self.path, at: offset(block) + 1)
            let found = findings(target)
            #expect(found.contains { $0.part == .manifest && $0.block == block })
            #expect(found.contains { $0.offset == offset(block) })
            // With one copy everything else is found.
            #expect((found.count == 1) == (copy == 0))
            #expect((inspect(target)?.manifest == nil) == (copy == 1))
        }
    }

    private func offset(_ block: UInt32) -> UInt64 { (2 + 64 + UInt64(block)) * 4096 }

    private func block(_ table: InspectionReport.Table, _ place: Int) -> UInt32 {
        table.blocks.flatMap { Array($0.start..<$0.start + $0.count) }[place]
    }

    @Test func everyBlockOfEveryTable() throws {
        let sound = try #require(inspect(makeStore()))
        for table in sound.tables {
            for place in 0..<table.byteCount / 4096 {
                let target = makeStore()
                let block = block(table, place)
                target.devices.damage(path: Self.path, at: offset(block) + 40)
                let found = findings(target)
                let part: StoreFinding.Part =
                    place >= table.filterPlace
                    ? .filter : place >= table.fencePlace ? .fences : .table
                // A block behind the first of a longer one may be beyond its bytes.
                #expect(
                    found.contains { $0.part == part && $0.table == table.id },
                    "table \(table.id), place \(place): \(found)")
                #expect(found.allSatisfy { $0.table == table.id }, "\(found)")
                if part != .table {
                    // All entries were found without them.
                    #expect(found.count == 1 && found.first?.block == block)
                    #expect(inspect(target)?.entries == sound.entries)
                }
            }
        }
    }

    @Test func everyValueBlock() throws {
        var entries: [StoreEntry] = []
        _ = inspect(makeStore()) { entries.append($0) }
        let target = makeStore()
        var damaged: [StoreEntry.Name] = []
        for entry in entries where !entry.blocks.isEmpty {
            // The first block of the second chunk, if there is one.
            let blocks = entry.blocks.flatMap { Array($0.start..<$0.start + $0.count) }
            target.devices.damage(path: Self.path, at: offset(blocks.last!))
            damaged.append(entry.name)
        }
        #expect(damaged.count > 10)
        let found = findings(target)
        #expect(found.allSatisfy { $0.part == .value })
        #expect(found.compactMap(\.entry) == damaged)
        #expect(inspect(target, depth: .tables)?.findings == [])
    }

    @Test func unreadableValue() throws {
        var entries: [StoreEntry] = []
        _ = inspect(makeStore()) { entries.append($0) }
        let target = makeStore()
        let entry = try #require(entries.first { $0.name.byteCount == 40_000 })
        target.devices.makeUnreadable(path: Self.path, at: offset(entry.blocks[0].start))
        let found = findings(target)
        #expect(found.count == 1 && found.first?.entry == entry.name)
        #expect(found.first?.what.contains("chunk 0") == true)
        #expect(found.first?.offset == offset(entry.blocks[0].start))
    }

    @Test func pageOfTheBlockMap() throws {
        let target = makeStore()
        let blocks = try #require(inspect(target)?.manifest?.pageCopies.first)
        #expect(blocks.count == 2)
        for (copy, block) in blocks.enumerated() {
            target.devices.damage(path: Self.path, at: offset(block) + 4000)
            let found = findings(target)
            #expect(found.allSatisfy { $0.part == .blockMap })
            #expect(found.compactMap(\.block) == Array(blocks[0...copy]))
        }
    }

    /// All checksums are right, but the map is wrong: one block too many, one too few.
    @Test func wrongBlockMap() throws {
        let target = makeStore()
        var entries: [StoreEntry] = []
        let sound = try #require(inspect(target) { entries.append($0) })
        let manifest = try #require(sound.manifest)
        let pages = try #require(manifest.pageCopies.first)
        #expect(manifest.copies.map(\.count) == [1, 1])
        let entry = try #require(entries.first { $0.table != nil && !$0.blocks.isEmpty })
        let missing = Int(entry.blocks[0].start)
        let surplus = 1900
        var checksums: (old: UInt32, new: UInt32) = (0, 0)
        for page in pages {
            edit(target, at: offset(page)) { bytes in
                checksums.old = bytes.checksum(first: 4096)
                bytes[missing / 8] ^= 1 << UInt8(missing % 8)
                bytes[surplus / 8] ^= 1 << UInt8(surplus % 8)
                checksums.new = bytes.checksum(first: 4096)
            }
        }
        var root: UInt32 = 0
        for copy in manifest.copies {
            edit(target, at: offset(copy[0].start), count: Int(manifest.byteCount)) {
                var record: [UInt8] = []
                for page in pages { record.put(page) }
                record.put(checksums.old)
                let place = (0..<$0.count - 12).first { [bytes = $0] start in
                    Array(bytes[start..<start + 12]) == record
                }
                guard let place else {
                    Issue.record("the manifest has no such page")
                    return
                }
                $0.store(checksums.new, at: place + 8)
                root = $0.checksum(first: Int(manifest.byteCount))
            }
        }
        for copy in 0..<2 as Range<UInt64> {
            edit(target, at: copy * 4096) { bytes in
                bytes.store(root, at: 144)
                bytes.store(bytes.checksum(first: 4092), at: 4092)
            }
        }
        let found = findings(target)
        #expect(found.allSatisfy { $0.part == .blockMap })
        #expect(found.count == 2, "\(found)")
        #expect(found.contains { $0.block == UInt32(missing) && $0.entry == entry.name })
        #expect(found.contains { $0.block == UInt32(surplus) && $0.entry == nil })
    }

    /// Has the manifest say something else, with right checksums.
    private func editManifest(
        _ target: SimulatedTarget, _ body: @escaping (inout Manifest) -> Void
    ) throws {
        let manifest = try #require(inspect(target)?.manifest)
        let count = Int(manifest.byteCount)
        var root: UInt32 = 0
        for copy in manifest.copies {
            #expect(copy.count == 1)
            edit(target, at: offset(copy[0].start), count: count) { bytes in
                do {
                    var changed = try Manifest.decode(Array(bytes[0..<count]))
                    body(&changed)
                    let encoded = changed.encode()
                    #expect(encoded.count == count)
                    bytes.replaceSubrange(0..<count, with: encoded)
                    root = encoded.checksum(first: count)
                } catch {
                    Issue.record("\(error)")
                }
            }
        }
        for copy in 0..<2 as Range<UInt64> {
            edit(target, at: copy * 4096) { bytes in
                bytes.store(root, at: 144)
                bytes.store(bytes.checksum(first: 4092), at: 4092)
            }
        }
    }

    /// What a table says of its hidden versions: one can go from epoch 220 on, a snapshot holds
    /// the other.
    @Test func hiddenVersions() throws {
        let weight = "weight of hidden versions"
        let epoch = "epoch when hidden versions can go"
        let held = "number of versions for snapshots"
        let cases: [(edit: (inout TableInfo) -> Void, found: Set<String>)] = [
            ({ _ in }, []),
            ({ $0.hiddenWeight -= 1 }, [weight]),
            ({ $0.hiddenWeight = $0.weight + 1 }, [weight]),
            ({ $0.hiddenEpoch = .max }, [epoch, held]),
            ({ $0.hiddenEpoch = 99 }, [epoch]),
            ({ $0.hiddenEpoch += 1 }, [held]),
            ({ $0.held = 0 }, [weight, held]),
            ({ $0.held = 5 }, [held]),
        ]
        for (number, (change, expected)) in cases.enumerated() {
            let target = SimulatedTarget(seed: 1)
            target.run {
                let vos = try await target.open()
                try await vos.putSingle([1], [1], .pattern(90, seed: 1), epoch: 100)
                try await vos.takeSnapshot(
                    pool: Names.pool, container: Names.container, epoch: 150)
                try await vos.putSingle([1], [1], .pattern(90, seed: 2), epoch: 200)
                try await vos.putSingle([2], [1], .pattern(90, seed: 3), epoch: 210)
                try await vos.putSingle([2], [1], .pattern(90, seed: 4), epoch: 220)
                try await vos.checkpoint()
                await target.close(vos)
            }
            try editManifest(target) { manifest in
                #expect(manifest.tables.count == 1 && manifest.tables[0].hiddenEpoch == 220)
                #expect(manifest.tables[0].held == 1)
                change(&manifest.tables[0])
            }
            let found = findings(target)
            #expect(found.allSatisfy { $0.part == .table && $0.table != nil }, "\(found)")
            let names = [weight, epoch, held].filter { name in
                found.contains { $0.what.contains(name) }
            }
            #expect(Set(names) == expected && found.count == expected.count, "case \(number)")
        }
    }

    /// Any sector may be anything: never a trap, and whatever an engine would refuse is found.
    @Test(arguments: UInt64(1)...3)
    func randomSectors(seed: UInt64) throws {
        let sound = makeStore()
        let image = sound.devices.image(path: Self.path)
        let sectors = (0..<2048 * 8 as Range<UInt64>).filter { sector in
            image.bytes(at: sector * 512, count: 512).contains { $0 != 0 }
        }
        var entropy = Entropy(seed: seed)
        var found = 0
        for round in 0..<150 {
            var other = image
            for _ in 0..<1 + round % 3 {
                let sector = sectors[Int(entropy.below(UInt64(sectors.count)))]
                other.overwrite(at: sector * 512, with: .pattern(512, seed: entropy.next()))
            }
            let process = SimulatedStore(
                seed: 4, shape: SimulatedStore.Shape(), image: StoreImage(data: other))
            let ended = process.run {
                let device = ReadOnlyDevice(
                    try process.devices.open(path: SimulatedStore.path, on: process.xstream))
                let reader: StoreReader
                do {
                    reader = try await StoreReader.open(
                        device, partition: 0..<device.size, on: process.xstream)
                } catch is BIOError {
                    found += 1
                    return
                }
                let report = await StoreInspector.inspect(reader, depth: .values)
                found += report.findings.isEmpty ? 0 : 1
            }
            #expect(ended && process.failures == [])
        }
        #expect(found > 50)
    }

    /// Whatever a crash leaves, at any moment, is no damage.
    @Test(arguments: [CrashOutcome.keep, .lose, .tear])
    func crashes(outcome: CrashOutcome) {
        final class Moments {
            var images: [StoreImage] = []
        }
        var shape = SimulatedStore.Shape()
        shape.blocks = 300
        shape.options = .shrunken()
        let process = SimulatedStore(seed: 5, shape: shape)
        let player = StorePlayer(process, seed: 5)
        process.run {
            try await process.format()
            try await player.openStore()
        }
        let moments = Moments()
        let context = SimulationConfined((moments, process), to: process.simulation)
        process.devices.onBoundary { _, _ in
            let (moments, process) = context.value
            moments.images.append(process.image)
        }
        let ended = process.run { try await Self.play(player) }
        process.devices.onBoundary(nil)
        #expect(ended && process.failures == [] && player.violations == [])
        var entries: UInt64 = 0
        var undecided = 0
        for (number, image) in moments.images.enumerated() {
            let other = SimulatedStore(
                seed: 6, shape: shape, image: image.crashed(outcome, seed: UInt64(number)))
            other.run {
                let device = ReadOnlyDevice(
                    try other.devices.open(path: SimulatedStore.path, on: other.xstream))
                let reader = try await StoreReader.open(
                    device, partition: 0..<device.size, on: other.xstream)
                let report = await StoreInspector.inspect(reader, depth: .values)
                // A torn copy of the superblock cannot be told from a damaged one.
                let torn = report.findings.filter { $0.part == .superblock }
                #expect(report.findings == torn, "boundary \(number)")
                #expect(torn.count <= (outcome == .tear ? 1 : 0), "boundary \(number)")
                entries = max(entries, report.entries)
                undecided = max(undecided, report.undecided)
                await device.close()
            }
            #expect(other.failures == [])
        }
        #expect(moments.images.count > 50 && entries > 10 && undecided > 0)
    }

    private static func play(_ player: StorePlayer) async throws {
        let container = UniqueID(high: 0xbb, low: 7)
        for step in 0..<8 as Range<UInt64> {
            try await player.put(1, 6000, epoch: 100 + step)
            try await player.put(UInt8(step), 30, epoch: 110 + step)
            try await player.update(
                [.extent(3, at: step * 700, 5000, seed: step)], epoch: 120 + step)
        }
        try await player.update([.value(5, 5000, seed: 5)], epoch: 132, container: container)
        let first = try await player.prepare(1, [.value(6, 5000, seed: 6)], epoch: 150)
        let second = try await player.prepare(2, [.value(7, 5000, seed: 7)], epoch: 151)
        try await player.checkpoint()
        player.commit(first)
        try await player.abort(second)
        try await player.destroy(container)
        for step in 0..<4 as Range<UInt64> {
            try await player.put(10, 9000, epoch: 160 + step)
            try await player.vos.aggregate(upTo: 150 + step)
            try await player.checkpoint()
        }
        let third = try await player.prepare(3, [.value(8, 4500, seed: 8)], epoch: 170)
        try await player.abort(third)
        try await player.put(9, 33_000, epoch: 181)
    }

    @Test func blocksOfTwo() {
        var set = BlockSet(totalBlocks: 200)
        #expect(set.insert(BlockExtent(start: 60, count: 10)) == nil)
        #expect(set.insert(BlockExtent(start: 68, count: 4)) == 68)
        #expect(set.count == 12 && set.contains(71) && !set.contains(72))
        set.remove(BlockExtent(start: 62, count: 1))
        let runs = set.runs(without: BlockSet(totalBlocks: 200), limit: 9)
        #expect(runs == [BlockExtent(start: 60, count: 2), BlockExtent(start: 63, count: 9)])
        #expect(!set.contains(5000))
    }
}
