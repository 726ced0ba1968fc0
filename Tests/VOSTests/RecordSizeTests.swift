import BIO
import DrayRuntime
import Testing

@testable import VOS

/// Arrays keep the record size that their first write has chosen.
@Suite struct RecordSizeTests {
    /// How a write ended.
    private static func error(
        _ body: () async throws(VOSError) -> Void
    ) async -> VOSError? {
        do throws(VOSError) {
            try await body()
            return nil
        } catch {
            return error
        }
    }

    private static func fetch(
        _ akey: [UInt8] = [2], epoch: UInt64 = .max, recordSize: UInt32 = 0
    ) -> Fetch {
        var fetch = Fetch(
            pool: Names.pool, container: Names.container, object: Names.object, dkey: [1],
            akey: akey, epoch: epoch)
        fetch.recordSize = recordSize
        return fetch
    }

    private static func run(
        seed: UInt64 = 1, options: VOSOptions = VOSOptions(),
        _ body: @escaping (VOS) async throws -> Void
    ) {
        let target = SimulatedTarget(seed: seed, options: options)
        let finished = target.run {
            let vos = try await target.open()
            try await body(vos)
            try await vos.checkInvariants()
            await target.close(vos)
        }
        #expect(finished)
    }

    /// Each size against each other.
    @Test(arguments: [1, 3, 8, 4096, 1 << 20, 5 << 20] as [UInt32]) func mismatch(stored: UInt32) {
        Self.run { vos in
            func bytes(_ size: UInt32) -> [UInt8] { .pattern(Int(min(size, 1 << 20)), seed: 4) }
            try await vos.putArray(
                [1], [2], at: UInt64(stored), bytes(stored), epoch: 10, recordSize: stored)
            for given in [1, 3, 8, 4096, 1 << 20, 5 << 20, .max] as [UInt32] {
                let before = vos.usage(pool: Names.pool)
                let failure = await Self.error { () async throws(VOSError) in
                    try await vos.putArray(
                        [1], [2], at: 0, bytes(given), epoch: 20, recordSize: given)
                }
                let mismatch = VOSError.recordSizeMismatch(stored: stored, given: given)
                #expect(failure == (given == stored ? nil : mismatch), "\(given)")
                #expect((vos.usage(pool: Names.pool) == before) == (given != stored))
                let read = await Self.error { () async throws(VOSError) in
                    _ = try await vos.arrayShape(Self.fetch(recordSize: given))
                }
                #expect(read == (given == stored ? nil : mismatch))
                // Another akey, and the single value, have nothing to do with it.
                #expect(try await vos.arrayShape(Self.fetch([3], recordSize: given)).end == 0)
            }
            let shape = try await vos.arrayShape(Self.fetch())
            #expect(shape.recordSize == stored)
            try await vos.putSingle([1], [2], [7], epoch: 30)
            try await vos.putArray([1], [3], at: 1, [7], epoch: 30)
        }
    }

    struct Extent: Sendable {
        var recordSize: UInt32
        var offset: UInt64
        var count: Int
        var isWhole: Bool
    }

    /// Records of up to 1 MiB come whole, longer ones in pieces.
    @Test(arguments: [
        Extent(recordSize: 0, offset: 0, count: 8, isWhole: false),
        Extent(recordSize: 8, offset: 0, count: 8, isWhole: true),
        Extent(recordSize: 8, offset: 16, count: 24, isWhole: true),
        Extent(recordSize: 8, offset: 4, count: 8, isWhole: false),
        Extent(recordSize: 8, offset: 8, count: 12, isWhole: false),
        Extent(recordSize: 3, offset: 1 << 40, count: 3, isWhole: false),
        Extent(recordSize: 1 << 20, offset: 0, count: 1 << 19, isWhole: false),
        Extent(recordSize: 1 << 20, offset: 1 << 20, count: 1 << 20, isWhole: true),
        Extent(recordSize: 1 << 20 + 1, offset: 7, count: 5, isWhole: true),
        Extent(recordSize: .max, offset: 7, count: 5, isWhole: true),
    ]) func wholeRecords(_ extent: Extent) {
        Self.run { vos in
            let failure = await Self.error { () async throws(VOSError) in
                try await vos.putArray(
                    [1], [2], at: extent.offset, .pattern(extent.count, seed: 1), epoch: 10,
                    recordSize: extent.recordSize)
            }
            guard extent.isWhole else {
                guard case .badArgument = failure else {
                    Issue.record("\(String(describing: failure))")
                    return
                }
                return
            }
            #expect(failure == nil)
            let shape = try await vos.arrayShape(Self.fetch())
            #expect(shape.recordSize == extent.recordSize)
        }
    }

    /// After a punch at any level the next write chooses anew; what was there before stays
    /// readable as it was.
    @Test(arguments: 0..<6) func punchAndChoose(kind: Int) {
        Self.run { vos in
            try await vos.putArray([1], [2], at: 0, .pattern(24, seed: 1), epoch: 10, recordSize: 8)
            let work = DTXWork(
                .zero,
                [
                    DTXChange(
                        dkey: [1], akey: [2],
                        body: [.punchObject, .punchDkey, .punchAkey][kind % 3]),
                    DTXChange(
                        dkey: [1], akey: [2],
                        body: .array(10, .pattern(15, seed: 2), recordSize: 5)),
                ])
            var update = work.updates[0]
            update.epoch = 20
            if kind < 3 {
                // One after the other; else in one update.
                var punch = update
                punch.operations.removeLast()
                try await vos.update(punch)
                update.operations.removeFirst()
                update.epoch = 21
            }
            try await vos.update(update)
            withExtendedLifetime(work) {}
            let new = ArrayShape(end: 25, recordSize: 5)
            #expect(try await vos.arrayShape(Self.fetch(recordSize: 5)) == new)
            let old = ArrayShape(end: 24, recordSize: 8)
            #expect(try await vos.arrayShape(Self.fetch(epoch: 19, recordSize: 8)) == old)
            let refused = await Self.error { () async throws(VOSError) in
                try await vos.putArray([1], [2], at: 0, [1], epoch: 30)
            }
            #expect(refused == .recordSizeMismatch(stored: 5, given: 1))
            try await vos.checkpoint()
            let before = try await vos.getArray([1], [2], 0..<24, epoch: 19)
            #expect(before.bytes == .pattern(24, seed: 1))
            #expect(try await vos.arrayShape(Self.fetch(epoch: 19)) == old)
        }
    }

    /// Of the changes of one update, in order.
    @Test func withinOneUpdate() {
        Self.run { vos in
            func array(_ size: UInt32, _ akey: [UInt8] = [2]) -> DTXChange {
                DTXChange(
                    dkey: [1], akey: akey, body: .array(0, .pattern(24, seed: 1), recordSize: size))
            }
            let punch = DTXChange(dkey: [1], akey: [2], body: .punchAkey)
            let whole = DTXChange(dkey: [1], akey: [], body: .punchDkey)
            let cases: [([DTXChange], VOSError?)] = [
                ([array(8), array(1)], .recordSizeMismatch(stored: 8, given: 1)),
                ([array(1), array(8)], .recordSizeMismatch(stored: 1, given: 8)),
                ([array(8), array(8), array(1, [3])], nil),
                ([array(8), punch, array(4)], nil),
                ([array(8), whole, array(4), array(8)], .recordSizeMismatch(stored: 4, given: 8)),
                ([whole, array(4), array(12, [3]), punch, array(2)], nil),
                ([array(2), punch], nil),
                ([punch, array(4), array(4)], nil),
                // The one before has chosen 4.
                ([array(2)], .recordSizeMismatch(stored: 4, given: 2)),
                ([array(2), punch], .recordSizeMismatch(stored: 4, given: 2)),
            ]
            var epoch: UInt64 = 100
            for (number, (changes, expected)) in cases.enumerated() {
                let work = DTXWork(.dtx(UInt64(number) + 1), changes)
                var update = work.updates[0]
                epoch += 10
                update.epoch = epoch
                let failure = await Self.error { () async throws(VOSError) in
                    try await vos.update(update)
                }
                #expect(failure == expected, "case \(number)")
                guard number < 7 else { continue }
                epoch += 10
                try await vos.punch(
                    pool: Names.pool, container: Names.container, object: Names.object,
                    epoch: epoch)
            }
        }
    }

    /// Epochs that do not come in order: what would be seen together agrees, at every epoch.
    @Test func olderEpochs() {
        Self.run { vos in
            func write(_ size: UInt32, _ epoch: UInt64) async -> VOSError? {
                await Self.error { () async throws(VOSError) in
                    try await vos.putArray(
                        [1], [2], at: 0, .pattern(24, seed: 1), epoch: epoch, recordSize: size)
                }
            }
            func punch(_ epoch: UInt64) async throws {
                try await vos.punch(
                    pool: Names.pool, container: Names.container, object: Names.object,
                    dkey: [1], epoch: epoch)
            }
            #expect(await write(8, 50) == nil)
            // It would be there at 50.
            #expect(await write(4, 20) == .recordSizeMismatch(stored: 8, given: 4))
            try await punch(100)
            // At 60 the older one is still there, though it is not now.
            #expect(await write(4, 60) == .recordSizeMismatch(stored: 8, given: 4))
            #expect(await write(8, 60) == nil)
            #expect(await write(4, 20) == .recordSizeMismatch(stored: 8, given: 4))
            #expect(await write(3, 110) == nil)
            #expect(await write(8, 99) == nil)
            #expect(await write(3, 99) == .recordSizeMismatch(stored: 8, given: 3))
            try await punch(30)
            // Now nothing of 50 is seen where this is.
            #expect(await write(4, 20) == nil)
            // A punch at its own epoch hides what is older, not what is newer.
            let work = DTXWork(
                .zero,
                [
                    DTXChange(dkey: [1], akey: [2], body: .punchAkey),
                    DTXChange(dkey: [1], akey: [2], body: .array(0, [1, 2, 3], recordSize: 3)),
                ])
            var update = work.updates[0]
            update.epoch = 49
            let older = await Self.error { () async throws(VOSError) in
                try await vos.update(update)
            }
            #expect(older == .recordSizeMismatch(stored: 8, given: 3))
            let expected: [(UInt64, UInt32)] = [(19, 0), (20, 4), (30, 0), (50, 8), (99, 8)]
            for (epoch, size) in expected + [(100, 0), (110, 3), (.max, 3)] {
                let found = try await vos.arrayShape(Self.fetch(epoch: epoch)).recordSize
                #expect(found == size, "at \(epoch)")
            }
        }
    }

    /// What a read says of the record size, and what it refuses.
    @Test func reading() {
        Self.run { vos in
            let buffer = IOBuffer(count: 8192)
            func read(
                _ akey: [UInt8], _ offset: UInt64, _ length: Int, size: UInt32 = 0,
                findingEnd: Bool = false
            ) async throws(VOSError) -> UInt32 {
                try await vos.fetchArray(
                    Self.fetch(akey, recordSize: size), offset: offset, length: length,
                    into: buffer.bytes, findingEnd: findingEnd
                ).recordSize
            }
            try await vos.putArray([1], [1], at: 10, [1, 2, 3], epoch: 10)
            #expect(try await read([1], 0, 100) == 1)
            #expect(try await read([1], 0, 5, findingEnd: true) == 1)
            #expect(try await read([1], 0, 0) == 1)
            // A hole tells nothing, but it is no array of anything else.
            #expect(try await read([1], 0, 5) == 0)
            let hole = await Self.error { () async throws(VOSError) in
                _ = try await read([1], 0, 5, size: 8)
            }
            #expect(hole == .recordSizeMismatch(stored: 1, given: 8))
            try await vos.putArray(
                [1], [2], at: 64, .pattern(64, seed: 3), epoch: 11, recordSize: 8)
            for (offset, length) in [(64, 64), (0, 8), (0, 100), (1000, 8), (0, 0)] {
                for findsEnd in [false, true] {
                    let found = try await read(
                        [2], UInt64(offset), length, size: 8, findingEnd: findsEnd)
                    #expect(found == 8, "\(offset), \(length)")
                    let failure = await Self.error { () async throws(VOSError) in
                        _ = try await read(
                            [2], UInt64(offset), length, size: 1, findingEnd: findsEnd)
                    }
                    #expect(failure == .recordSizeMismatch(stored: 8, given: 1))
                }
            }
            #expect(try await read([3], 0, 8, size: 8, findingEnd: true) == 0)
            let extents = try await vos.listExtents(Self.fetch(), limit: 9).extents
            #expect(extents.map(\.recordSize) == [8])
        }
    }

    /// Replayed from the log, from tables, and after merges; with nothing to keep, nothing is.
    @Test(arguments: [false, true]) func restarts(withSmallIndex: Bool) {
        var options = VOSOptions()
        options.retention = 1
        if withSmallIndex { options.makeSmall() }
        let target = SimulatedTarget(seed: 3, options: options)
        let other = UniqueID(high: 0xcc, low: 1)
        func check(_ vos: VOS, extents: UInt64) async throws {
            let name = ContainerName(pool: Names.pool, container: Names.container)
            let usage = vos.usage(pool: Names.pool, container: Names.container)
            #expect(usage.recordExtents == extents)
            #expect(vos.mayHaveRecords(name) == (extents > 0))
            #expect(!vos.mayHaveRecords(ContainerName(pool: Names.pool, container: other)))
            #expect(try await vos.arrayShape(Self.fetch()) == ArrayShape(end: 48, recordSize: 8))
            let failure = await Self.error { () async throws(VOSError) in
                try await vos.putArray([1], [2], at: 0, [1], epoch: 1000)
            }
            #expect(failure == .recordSizeMismatch(stored: 8, given: 1))
        }
        let first =
            target.run {
                let vos = try await target.open()
                let name = ContainerName(pool: Names.pool, container: Names.container)
                try await vos.putArray([1], [1], at: 0, [1, 2], epoch: 9)
                #expect(!vos.mayHaveRecords(name))
                try await vos.putArray(
                    [1], [2], at: 0, .pattern(24, seed: 1), epoch: 10, recordSize: 8)
                try await vos.putArray(
                    [1], [2], at: 24, .pattern(24, seed: 2), epoch: 11, recordSize: 8)
                try await vos.putSingle([1], [1], [5], epoch: 12, container: other)
                try await check(vos, extents: 2)
            }
        #expect(first)
        // Four lives: from the log; then from tables; then with both; then after a merge.
        for life in 0..<4 {
            target.restart()
            let finished =
                target.run {
                    let vos = try await target.open()
                    try await check(vos, extents: life < 2 ? 2 : 3)
                    if life == 0 { try await vos.checkpoint() }
                    if life == 1 {
                        try await vos.putArray(
                            [1], [2], at: 0, .pattern(24, seed: 3), epoch: 40, recordSize: 8)
                    }
                    if life == 2 {
                        try await vos.checkpoint()
                        try await vos.aggregate(upTo: 50)
                        // The first of the three is hidden.
                        try await check(vos, extents: 2)
                        try await vos.putArray(
                            [1], [2], at: 0, .pattern(24, seed: 4), epoch: 60, recordSize: 8)
                    }
                    if life == 3 {
                        try await vos.punch(
                            pool: Names.pool, container: Names.container, object: Names.object,
                            epoch: 70)
                        try await vos.checkpoint()
                        try await vos.aggregate(upTo: 80)
                        let usage = vos.usage(pool: Names.pool, container: Names.container)
                        #expect(usage.recordExtents == 0)
                        try await vos.putArray([1], [2], at: 0, [1], epoch: 90)
                        #expect(try await vos.arrayShape(Self.fetch()).recordSize == 1)
                    }
                    try await vos.checkInvariants()
                }
            #expect(finished)
        }
    }

    /// A transaction that is prepared keeps everybody out who might choose another size, also when
    /// another target leads it.
    @Test(arguments: [false, true], [false, true])
    func preparedTransactions(leads: Bool, commits: Bool) {
        Self.run { vos in
            let eight = DTXChange(
                dkey: [1], akey: [2], body: .array(8, .pattern(16, seed: 1), recordSize: 8))
            let byte = DTXChange(dkey: [1], akey: [2], body: .array(3, [1, 2]))
            let dtx = try await vos.prepare(.dtx(1), [eight], epoch: 10, leads: leads)
            for (number, change) in [byte, eight].enumerated() {
                let work = DTXWork(.dtx(UInt64(5 + number)), [change])
                let failure = await Self.error { () async throws(VOSError) in
                    _ = try await vos.begin(work, epoch: 20)
                }
                #expect(failure == .conflict)
                var update = work.updates[0]
                update.epoch = 20
                let waiting = await Self.error { () async throws(VOSError) in
                    try await vos.update(update, patience: vos.xstream.now + .milliseconds(1))
                }
                #expect(waiting == .undecided)
            }
            if commits { vos.commit(dtx) } else { try await vos.abort(dtx) }
            let expected: VOSError? = commits ? .recordSizeMismatch(stored: 8, given: 1) : nil
            let late = await Self.error { () async throws(VOSError) in
                try await vos.prepare(.dtx(3), [byte], epoch: 30)
            }
            #expect(late == expected)
            if !commits { vos.commit(try vos.prepared(.dtx(3))) }
            // Who only follows does as the leader has said.
            let followed = try await vos.prepare(.dtx(4), [byte], epoch: 40, leads: false)
            try await vos.abort(followed)
            try await vos.flushOutcomes()
        }
    }

    /// Of parts of one transaction, of one object.
    @Test func partsOfATransaction() {
        Self.run { vos in
            let other = ObjectID(high: 1, low: 1)
            let changes = [
                DTXChange(
                    dkey: [1], akey: [2], body: .array(8, .pattern(16, seed: 1), recordSize: 8)),
                .single([1], [3], object: other),
                DTXChange(dkey: [1], akey: [2], body: .array(8, [1])),
            ]
            let failure = await Self.error { () async throws(VOSError) in
                try await vos.prepare(.dtx(1), changes, epoch: 10)
            }
            #expect(failure == .recordSizeMismatch(stored: 8, given: 1))
            let dtx = try await vos.prepare(.dtx(2), Array(changes[..<2]), epoch: 11)
            vos.commit(dtx)
            try await vos.flushOutcomes()
            #expect(try await vos.arrayShape(Self.fetch()).recordSize == 8)
        }
    }

    /// Many at once choose for the same arrays: one size wins, of each.
    @Test(arguments: 0..<12 as Range<UInt64>) func races(seed: UInt64) {
        let target = SimulatedTarget(seed: seed)
        let finished = target.run {
            let vos = try await target.open()
            var entropy = Entropy(seed: seed).fork("races")
            let sizes: [UInt32] = [1, 1, 2, 3, 8]
            var running = 0
            var chosen: [UInt8: Set<UInt32>] = [:]
            for number in 0..<60 as Range<UInt64> {
                let akey = UInt8(entropy.below(4))
                let size = sizes[Int(entropy.below(5))]
                let count = Int(size) * Int(1 + entropy.below(2000))
                let pause = Duration.microseconds(Int(entropy.below(300)))
                running += 1
                vos.xstream.spawn {
                    await vos.xstream.sleep(for: pause)
                    let failure = await Self.error { () async throws(VOSError) in
                        try await vos.putArray(
                            [1], [akey], at: 0, .pattern(count, seed: number), epoch: 10 + number,
                            recordSize: size)
                    }
                    switch failure {
                    case nil: chosen[akey, default: []].insert(size)
                    case .recordSizeMismatch(let stored, size): #expect(stored != size)
                    default: Issue.record("\(String(describing: failure))")
                    }
                    running -= 1
                }
            }
            while running > 0 { await vos.xstream.sleep(for: .milliseconds(1)) }
            #expect(!chosen.isEmpty)
            for (akey, sizes) in chosen {
                #expect(sizes.count == 1, "akey \(akey)")
                let shape = try await vos.arrayShape(Self.fetch([akey]))
                #expect(shape.recordSize == sizes.first)
            }
            try await vos.checkInvariants()
            await target.close(vos)
        }
        #expect(finished)
    }

    /// A byte array takes what it always took; a size that is no size is refused.
    @Test func coding() throws {
        let object = IndexKey.object(Names.pool, Names.container, Names.object)
        let path = NamePath(object: object, dkey: [1], akey: [2])
        func record(_ size: UInt32) -> IndexRecord {
            IndexRecord(
                kind: .extent, dkeyEnd: path.dkeyEnd, akeyEnd: path.akeyEnd, epoch: 3, offset: 0,
                byteCount: 3, inline: [1, 2, 3], recordSize: size, checksums: [9])
        }
        var key = path.key(for: record(1))
        key.append(word: 0)
        func value(_ size: UInt32) -> [UInt8] {
            var value: [UInt8] = []
            EntryCoding.put(record(size), to: &value)
            return value
        }
        func decoded(_ value: [UInt8]) -> IndexRecord? {
            key.withUnsafeBytes { key in
                value.withUnsafeBytes { EntryCoding.record(key: key, value: $0) }
            }
        }
        for (size, bytes) in [(1, 0), (3, 1), (200, 2), (.max, 5)] as [(UInt32, Int)] {
            #expect(value(size).count == value(1).count + bytes)
            #expect(decoded(value(size))?.recordSize == size)
        }
        // kind, lengths of the names, byte count, record size.
        for bad in [0, 1] as [UInt8] {
            var other = value(3)
            #expect(other[4] == 3)
            other[4] = bad
            #expect(decoded(other) == nil)
        }
        var single = value(3)
        single[0] = single[0] & ~7 | IndexRecord.Kind.single.rawValue
        #expect(decoded(single) == nil)

        let log = [UInt8].written(capacity: 100) { RecordCoding.put(record(3), to: &$0) }
        #expect(
            [UInt8].written(capacity: 100) { RecordCoding.put(record(1), to: &$0) }.count + 4
                == log.count)
        let flags = RecordCoding.flags(of: record(3))
        func logged(
            _ bytes: [UInt8], _ kind: IndexRecord.Kind = .extent
        ) throws(MalformedBytes) -> UInt32 {
            var reader = ByteReader(bytes)
            return try RecordCoding.record(
                kind: kind, flags: flags, dkeyEnd: path.dkeyEnd, akeyEnd: path.akeyEnd, epoch: 3,
                from: &reader
            ).recordSize
        }
        #expect(try logged(log) == 3)
        for bad in [0, 1] as [UInt8] {
            var other = log
            #expect(other[8] == 3)
            other[8] = bad
            #expect(throws: MalformedBytes.self) { try logged(other) }
        }
        #expect(throws: MalformedBytes.self) { try logged(log, .single) }
        #expect(throws: MalformedBytes.self) { try logged(log, .akeyPunch) }
    }

    /// Writes an extent as no update does: nothing is checked.
    private static func putUnchecked(
        _ vos: VOS, akey: [UInt8], at offset: UInt64, _ bytes: [UInt8], epoch: UInt64,
        recordSize: UInt32
    ) async throws {
        let object = IndexKey.object(Names.pool, Names.container, Names.object)
        let path = NamePath(object: object, dkey: [1], akey: akey)
        let record = IndexRecord(
            kind: .extent, dkeyEnd: path.dkeyEnd, akeyEnd: path.akeyEnd, epoch: epoch,
            offset: offset, byteCount: bytes.count, inline: bytes, recordSize: recordSize,
            checksums: bytes.withUnsafeBytes { VOS.checksums(of: $0) })
        let changes = [PreparedOperation(key: path.key(for: record), record: record)]
        let work = DTXWork(
            .zero, [DTXChange(dkey: [1], akey: akey, body: .array(offset, bytes))])
        var update = work.updates[0]
        update.epoch = epoch
        try await vos.append(LogRecord.encode(update, prepared: changes)) {
            vos.applyUpdate(
                epoch: epoch, transaction: .zero, operations: changes, sequence: $0)
        }
    }

    /// What looks at a closed store tells the size, and an extent that has no whole records.
    @Test func inspection() {
        let target = SimulatedTarget(seed: 9)
        target.run {
            let vos = try await target.open()
            try await vos.putArray([1], [2], at: 8, .pattern(24, seed: 1), epoch: 10, recordSize: 8)
            try await vos.checkpoint()
            try await vos.putArray([1], [3], at: 0, .pattern(9, seed: 1), epoch: 11)
            try await vos.putSingle([1], [3], [1], epoch: 12)
            try await Self.putUnchecked(vos, akey: [4], at: 1, [1, 2, 3], epoch: 13, recordSize: 2)
            try await vos.checkpoint()
            await target.close(vos)
        }
        var sizes: [[UInt8]: [UInt32?]] = [:]
        target.restart()
        target.run {
            let device = ReadOnlyDevice(
                try target.devices.open(path: SimulatedTarget.path, on: target.xstream))
            let reader = try await StoreReader.open(
                device, partition: 0..<device.size, on: target.xstream)
            let report = await StoreInspector.inspect(reader, depth: .values) { entry in
                sizes[entry.name.akey ?? [], default: []].append(entry.name.recordSize)
            }
            await device.close()
            #expect(report.findings.count == 1, "\(report.findings)")
            #expect(report.findings.first?.what.contains("whole records of 2 bytes") == true)
        }
        #expect(sizes[[2]] == [8] && sizes[[4]] == [2])
        #expect(Set(sizes[[3]] ?? []) == [1, nil])
    }

    /// What is done to one array, one after the other.
    enum Step: Sendable {
        case write(epoch: UInt64, recordSize: UInt32)
        case punch(Punch, epoch: UInt64)
    }

    enum Punch: CaseIterable, Sendable {
        case object, dkey, akey, anotherAkey

        var body: Operation.Body {
            switch self {
            case .object: .punchObject
            case .dkey: .punchDkey([1])
            case .akey: .punchAkey(dkey: [1], akey: [2])
            case .anotherAkey: .punchAkey(dkey: [1], akey: [3])
            }
        }
    }

    /// Steps, and whether extents of two sizes can be seen together after them.
    static let histories: [([Step], Bool)] =
        [
            ([.write(epoch: 10, recordSize: 8), .write(epoch: 20, recordSize: 8)], false),
            ([.write(epoch: 10, recordSize: 1), .write(epoch: 20, recordSize: 8)], true),
            ([.write(epoch: 10, recordSize: 8), .write(epoch: 20, recordSize: 1)], true),
            ([.write(epoch: 20, recordSize: 4), .write(epoch: 10, recordSize: 8)], true),
            ([.write(epoch: 10, recordSize: 4), .write(epoch: 10, recordSize: 8)], true),
        ]
        + Punch.allCases.flatMap { punch in
            func history(_ punchEpoch: UInt64, _ isWrong: Bool) -> ([Step], Bool) {
                let steps: [Step] = [
                    .write(epoch: 10, recordSize: 4), .punch(punch, epoch: punchEpoch),
                    .write(epoch: 20, recordSize: 8),
                ]
                return (steps, isWrong || punch == .anotherAkey)
            }
            return [history(15, false), history(20, false), history(9, true), history(21, true)]
        }

    /// `vos check` finds extents that should not be there together, in tables and in the log.
    @Test(arguments: histories) func disagreement(steps: [Step], isWrong: Bool) {
        for flushed in 0...steps.count {
            let target = SimulatedTarget(seed: 9)
            target.run {
                let vos = try await target.open()
                for (index, step) in steps.enumerated() {
                    if index == flushed { for _ in 0..<2 { try await vos.checkpoint() } }
                    switch step {
                    case .write(let epoch, let recordSize):
                        try await Self.putUnchecked(
                            vos, akey: [2], at: UInt64(index) * 64, .pattern(16, seed: 1),
                            epoch: epoch, recordSize: recordSize)
                    case .punch(let punch, let epoch):
                        try await vos.update(
                            Update(
                                pool: Names.pool, container: Names.container,
                                object: Names.object, epoch: epoch, transaction: .zero,
                                operations: [Operation(punch.body)]))
                    }
                }
                await target.close(vos)
            }
            let findings = Self.findings(target)
            #expect(findings.count == (isWrong ? 1 : 0), "\(flushed): \(findings)")
            #expect(findings.allSatisfy { $0.what.contains("no punch between") })
            #expect(findings.allSatisfy { $0.entry?.akey == [2] })
        }
    }

    /// Only what can be read counts: from the bound of aggregation on, or in a snapshot. A punch
    /// that was between the extents may be gone when a newer one hides both.
    @Test(
        arguments: [
            (bound: 25, snapshot: nil, isWrong: true), (bound: 30, snapshot: nil, isWrong: false),
            (bound: 40, snapshot: 25, isWrong: true), (bound: 40, snapshot: 15, isWrong: false),
            (bound: 40, snapshot: 35, isWrong: false),
        ] as [(bound: UInt64, snapshot: UInt64?, isWrong: Bool)], [false, true])
    func readableDisagreement(
        history: (bound: UInt64, snapshot: UInt64?, isWrong: Bool), isSnapshotDropped: Bool
    ) {
        let target = SimulatedTarget(seed: 9)
        target.run {
            let vos = try await target.open()
            vos.mergesTables = false
            for (epoch, recordSize) in [(10, 4), (20, 8)] as [(UInt64, UInt32)] {
                try await Self.putUnchecked(
                    vos, akey: [2], at: epoch * 64, .pattern(16, seed: 1), epoch: epoch,
                    recordSize: recordSize)
            }
            if let snapshot = history.snapshot {
                try await vos.takeSnapshot(
                    pool: Names.pool, container: Names.container, epoch: snapshot)
            }
            for _ in 0..<2 { try await vos.checkpoint() }
            try await vos.update(
                Update(
                    pool: Names.pool, container: Names.container, object: Names.object, epoch: 30,
                    transaction: .zero, operations: [Operation(.punchObject)]))
            vos.raiseAggregatedEpoch(to: history.bound)
            for _ in 0..<2 { try await vos.checkpoint() }
            if let snapshot = history.snapshot, isSnapshotDropped {
                try await vos.dropSnapshot(
                    pool: Names.pool, container: Names.container, epoch: snapshot)
            }
            await target.close(vos)
        }
        let isReadable = history.snapshot == nil || !isSnapshotDropped
        let findings = Self.findings(target)
        #expect(findings.count == (history.isWrong && isReadable ? 1 : 0), "\(findings)")
    }

    /// What was destroyed agrees with everything.
    @Test(arguments: [false, true]) func destroyedDisagreement(isFlushed: Bool) {
        let target = SimulatedTarget(seed: 9)
        target.run {
            let vos = try await target.open()
            vos.mergesTables = false
            try await Self.putUnchecked(
                vos, akey: [2], at: 0, .pattern(16, seed: 1), epoch: 10, recordSize: 4)
            for _ in 0..<2 { try await vos.checkpoint() }
            try await vos.destroyContainer(pool: Names.pool, container: Names.container)
            if isFlushed { try await vos.checkpoint() }
            try await Self.putUnchecked(
                vos, akey: [2], at: 64, .pattern(16, seed: 1), epoch: 20, recordSize: 8)
            await target.close(vos)
        }
        #expect(Self.findings(target) == [])
    }

    private static func findings(_ target: SimulatedTarget) -> [StoreFinding] {
        var findings: [StoreFinding] = []
        target.restart()
        target.run {
            let device = ReadOnlyDevice(
                try target.devices.open(path: SimulatedTarget.path, on: target.xstream))
            let reader = try await StoreReader.open(
                device, partition: 0..<device.size, on: target.xstream)
            findings = await StoreInspector.inspect(reader, depth: .values).findings
            await device.close()
        }
        return findings
    }
}
