import BIO
import DrayRuntime
import Testing

@testable import VOS

@Suite struct FaultTests {
    /// Where the blocks of the only value lie on the device.
    private func dataOffset(_ target: SimulatedTarget, _ vos: VOS) -> UInt64 {
        var start: UInt64 = 0
        vos.active.tree.forEach { entry in
            let record = entry.record
            if record.hasBlocks { start = UInt64(record.firstBlocks.start) }
            return true
        }
        // Two superblocks, then the log.
        return (2 + target.logBlocks + start) * 4096
    }

    @Test func aFlippedBitIsReportedAndNeverRead() {
        let target = SimulatedTarget(seed: 1)
        let bytes = [UInt8].pattern(100_000, seed: 1)
        let finished = target.run {
            let vos = try await target.open()
            try await vos.putArray([1], [2], at: 1000, bytes, epoch: 5)
            let offset = self.dataOffset(target, vos)
            target.devices.damage(path: SimulatedTarget.path, at: offset + 70_000, mask: 4)
            let expected = ValueLocation(
                pool: Names.pool, container: Names.container, object: Names.object, dkey: [1],
                akey: [2], offset: 1000, byteCount: 100_000, epoch: 5,
                device: SimulatedTarget.path, deviceOffset: offset + 65_536)
            // Chunk 2 is damaged: reads of any part of it fail, others do not.
            for (range, isHit) in [
                (1000..<101_000, true), (80_000..<80_010, true), (70_000..<71_000, true),
                (1000..<60_000, false), (99_305..<101_000, false),
            ] as [(Range<UInt64>, Bool)] {
                do {
                    let read = try await vos.getArray([1], [2], range)
                    #expect(!isHit)
                    let from = Int(range.lowerBound - 1000)
                    #expect(read.bytes == Array(bytes[from..<from + range.count]))
                } catch VOSError.corrupt(let location, _) {
                    #expect(isHit)
                    #expect(location == expected)
                }
            }
            try await vos.checkInvariants()
        }
        #expect(finished)
    }

    /// A value in the index is named, too, and the device that has the index.
    @Test func aValueInTheIndexThatWasDamagedOnItsWay() {
        let target = SimulatedTarget(seed: 21)
        let finished = target.run {
            let vos = try await target.open()
            try await vos.put(
                { value in
                    .array(
                        dkey: [1], akey: [2], offset: 7,
                        ValueBytes(value.bytes, checksums: [1], isVerified: false))
                }, [1, 2, 3], epoch: 5)
            let expected = ValueLocation(
                pool: Names.pool, container: Names.container, object: Names.object, dkey: [1],
                akey: [2], offset: 7, byteCount: 3, epoch: 5, device: SimulatedTarget.path,
                deviceOffset: nil)
            await #expect(
                throws: VOSError.corrupt(expected, what: "it does not match its checksum")
            ) {
                _ = try await vos.getArray([1], [2], 7..<10)
            }
            #expect("\(expected)".hasSuffix("epoch 5, in the index on disk"))
        }
        #expect(finished)
    }

    /// Each kind of block of a table says where it is.
    @Test func damageOfTheIndexSaysWhere() {
        let target = SimulatedTarget(seed: 22)
        target.run {
            let vos = try await target.open()
            try await vos.putSingle([1], [2], [3], epoch: 5)
            try await vos.checkpoint()
            await target.close(vos)
        }
        target.restart()
        let finished = target.run {
            let vos = try await target.open()
            let info = try #require(vos.version.tables.first).info
            // In the order in which they are read: what was read once stays in memory.
            for place in [info.filterPlace, info.fencePlace, 0] {
                let block = try #require(info.extents.block(place))
                let offset = try #require(vos.store.location(of: block)).offset
                let expected = VOSError.damaged(
                    what: "table \(info.id) of the index: block \(place) does not match its "
                        + "checksum (disk at byte \(offset))")
                target.devices.damage(path: SimulatedTarget.path, at: offset)
                await #expect(throws: expected) { _ = try await vos.getSingle([1], [2]) }
                // And back.
                target.devices.damage(path: SimulatedTarget.path, at: offset)
            }
            #expect(try await vos.getSingle([1], [2]) == [3])
        }
        #expect(finished)
    }

    /// Messages are short and printable, whatever the keys are.
    @Test func keysInMessages() {
        for (key, text) in [
            ([], "''"), (Array("a b".utf8), "'a b'"),
            ([0, 39, 92, 127, 255, 10], #"'\x00\x27\x5c\x7f\xff\x0a'"#),
            (Array("Straße".utf8), #"'Stra\xc3\x9fe'"#),
            (
                [UInt8](repeating: 255, count: 65_536),
                "'" + String(repeating: #"\xff"#, count: 64) + "'… (65536 bytes)"
            ),
        ] as [([UInt8], String)] {
            let location = ValueLocation(
                pool: Names.pool, container: Names.container, object: Names.object, dkey: key,
                akey: key, offset: .max, byteCount: 1 << 20, epoch: .max, device: "/dev/ng0n1",
                deviceOffset: .max)
            #expect(location.objectText.contains("dkey \(text), akey \(text), offset "))
            #expect(location.objectText.utf8.count <= 800 + location.device.utf8.count)
        }
    }

    @Test func unreadableSectorsAndFailedWritesAreErrorsOfTheDevice() {
        let target = SimulatedTarget(seed: 2)
        let finished = target.run {
            let vos = try await target.open()
            try await vos.putSingle([1], [], [UInt8].pattern(9000, seed: 1), epoch: 5)
            let offset = self.dataOffset(target, vos)
            target.devices.makeUnreadable(path: SimulatedTarget.path, at: offset)
            do {
                _ = try await vos.getSingle([1], [])
                Issue.record("read what cannot be read")
            } catch VOSError.device {}
            var faults = DeviceFaults()
            faults.flushErrorChance = 1_000_000
            faults.writeErrorChance = 1_000_000
            target.devices.setFaults(faults)
            do {
                try await vos.putSingle([2], [], [UInt8].pattern(9000, seed: 1), epoch: 6)
                Issue.record("acknowledged what was not written")
            } catch VOSError.device {}
            #expect(try await vos.getSingle([2], []) == nil)
        }
        #expect(finished)
    }

    @Test func wrongChecksumsOfTheCallerAreRefused() {
        let target = SimulatedTarget(seed: 3)
        target.run {
            let vos = try await target.open()
            let bytes = [UInt8].pattern(70_000, seed: 1)
            var checksums = bytes.withUnsafeBytes { VOS.checksums(of: $0) }
            checksums[2] ^= 1
            let wrong = checksums
            await #expect(throws: VOSError.checksumMismatch(chunk: 2)) {
                try await vos.putSingle([1], [], bytes, epoch: 1, checksums: wrong)
            }
            await #expect(throws: VOSError.badArgument("2 checksums for 70000 bytes")) {
                try await vos.putSingle([1], [], bytes, epoch: 1, checksums: [1, 2])
            }
            checksums[2] ^= 1
            try await vos.putSingle([1], [], bytes, epoch: 1, checksums: checksums)
            try await vos.checkInvariants()
        }
    }

    @Test func limitsAreChecked() {
        let target = SimulatedTarget(seed: 4)
        let finished = target.run {
            let vos = try await target.open()
            let long = [UInt8](repeating: 0, count: 65_537)
            await #expect(throws: VOSError.keyTooLong(length: 65_537, maximum: 65_536)) {
                try await vos.putSingle(long, [], [1], epoch: 1)
            }
            await #expect(throws: VOSError.keyTooLong(length: 65_537, maximum: 65_536)) {
                _ = try await vos.getSingle([], long)
            }
            let size = (1 << 20) + 1
            await #expect(throws: VOSError.valueTooLong(length: size, maximum: 1 << 20)) {
                try await vos.putSingle([], [], [UInt8](repeating: 0, count: size), epoch: 1)
            }
            await #expect(throws: VOSError.badArgument("epoch 0")) {
                try await vos.putSingle([], [], [1], epoch: 0)
            }
            await #expect(throws: VOSError.badArgument("an extent of no bytes")) {
                try await vos.putArray([], [], at: 0, [], epoch: 1)
            }
            try await vos.putSingle([], [], [1], epoch: 10)
            try await vos.putSingle([], [], [2], epoch: 20)
            try await vos.aggregate(upTo: 30)
            await #expect(throws: VOSError.epochTooOld(epoch: 30, oldest: 31)) {
                try await vos.putSingle([], [], [3], epoch: 30)
            }
            await #expect(throws: VOSError.epochTooOld(epoch: 29, oldest: 30)) {
                _ = try await vos.getSingle([], [], epoch: 29)
            }
            #expect(vos.entryCount == 1)
            try await vos.checkInvariants()
        }
        #expect(finished)
    }

    @Test func longestKeysOfZeroBytesSurviveEverything() {
        var options = VOSOptions()
        options.inlineThreshold = 4096
        let target = SimulatedTarget(seed: 5, blocks: 4096, logBlocks: 1024, options: options)
        let key = [UInt8](repeating: 0, count: 65_536)
        target.run {
            let vos = try await target.open()
            try await vos.putSingle(key, key, [1], epoch: 10)
            try await vos.putSingle(key, key, [2], epoch: 20)
            try await vos.aggregate(upTo: 20)
            #expect(vos.entryCount == 1)
            try await vos.putSingle(key, key, [3], epoch: 30)
            try await vos.checkpoint()
        }
        target.restart()
        let finished = target.run {
            let vos = try await target.open()
            #expect(try await vos.getSingle(key, key) == [3])
            #expect(try await vos.getSingle(key, key, epoch: 20) == [2])
            try await vos.checkInvariants()
        }
        #expect(finished)
    }

    @Test func aFullDeviceRefusesAndRecovers() {
        let target = SimulatedTarget(seed: 6, blocks: 600, logBlocks: 32)
        var stored = 0
        let finished = target.run {
            let vos = try await target.open()
            let free = vos.space.free
            for _ in 0..<3 {
                stored = 0
                filling: while true {
                    let bytes = [UInt8].pattern(20_000, seed: UInt64(stored))
                    do {
                        try await vos.putSingle(
                            [UInt8(stored)], [], bytes, epoch: 10 + UInt64(stored))
                        stored += 1
                    } catch VOSError.noSpace(let requested, let free) {
                        #expect(requested >= 20_000 && free < requested)
                        break filling
                    }
                }
                #expect(stored > 40)
                // Small values, which take no blocks, end as well: a checkpoint must have room.
                for index in 0..<stored {
                    let value = try await vos.getSingle([UInt8(index)], [])
                    #expect(value == [UInt8].pattern(20_000, seed: UInt64(index)))
                }
                try await vos.checkInvariants()
                try await vos.checkpoint()
                try await vos.destroyContainer(pool: Names.pool, container: Names.container)
                #expect(vos.usage(pool: Names.pool) == VOSUsage())
                try await vos.checkpoint()
                try await vos.checkInvariants()
                #expect(vos.entryCount == 0)
                #expect(free - vos.space.free < 64 << 10)
            }
            await target.close(vos)
        }
        #expect(finished)
    }

    /// Values in the index, of nearly a block: tables have them in twice the space. What is
    /// accepted can be flushed.
    @Test func aDeviceFullOfIndexCanBeFlushed() {
        let target = SimulatedTarget(seed: 8, blocks: 1400, logBlocks: 1000)
        let finished = target.run {
            let vos = try await target.open()
            var stored = 0
            filling: while true {
                let bytes = [UInt8].pattern(4095, seed: UInt64(stored))
                do {
                    try await vos.putSingle(
                        [UInt8(stored % 256), UInt8(stored / 256)], [], bytes, epoch: 10)
                    stored += 1
                } catch VOSError.noSpace {
                    break filling
                }
            }
            #expect(stored > 100)
            try await vos.checkpoint()
            try await vos.checkInvariants()
            for index in 0..<stored {
                let dkey = [UInt8(index % 256), UInt8(index / 256)]
                let value = try await vos.getSingle(dkey, [])
                #expect(value == [UInt8].pattern(4095, seed: UInt64(index)))
            }
            await target.close(vos)
        }
        #expect(finished)
    }

    /// The same with transactions that are prepared first: committing them asks for no space.
    @Test func aDeviceFullOfPreparedIndexCanBeFlushed() {
        let target = SimulatedTarget(seed: 9, blocks: 1400, logBlocks: 1000)
        let finished = target.run {
            let vos = try await target.open()
            var prepared: [DTX] = []
            filling: while true {
                let number = UInt64(prepared.count)
                let change = DTXChange.single(
                    [UInt8(number % 256), UInt8(number / 256)], .pattern(4095, seed: number))
                do {
                    try await prepared.append(
                        vos.prepare(.dtx(number + 1), [change], epoch: 20 + number))
                } catch VOSError.noSpace {
                    break filling
                }
            }
            #expect(prepared.count > 50)
            for dtx in prepared { vos.commit(dtx) }
            try await vos.flushOutcomes()
            for _ in 0..<2 { try await vos.checkpoint() }
            try await vos.checkInvariants()
            #expect(vos.entryCount == prepared.count)
            await target.close(vos)
        }
        #expect(finished)
    }

    /// Fills and closes a store, and returns the manifest with its chunks and the block map.
    private func makeManifest(_ target: SimulatedTarget) -> [ManifestPiece] {
        var pieces: [ManifestPiece] = []
        target.run {
            let vos = try await target.open()
            for key in 0..<50 as Range<UInt8> {
                try await vos.putSingle(
                    [key], [], .pattern(Int(key) * 100, seed: UInt64(key)), epoch: 10,
                    transaction: .dtx(UInt64(key)))
            }
            try await vos.checkpoint()
            pieces = [ManifestPiece(try #require(vos.store.checkpoint))] + vos.manifest.pieces
            await target.close(vos)
        }
        #expect(pieces.map(\.part) == [.manifest, .manifest, .blockMap])
        #expect(pieces.allSatisfy { $0.copies.count == 2 })
        return pieces
    }

    private func offset(_ target: SimulatedTarget, _ extents: [BlockExtent]) -> UInt64 {
        (2 + target.logBlocks + UInt64(extents[0].start)) * 4096 + 40
    }

    /// What `dray vos check` says of the closed store.
    private func findings(_ target: SimulatedTarget) async throws -> [StoreFinding] {
        let device = ReadOnlyDevice(
            try target.devices.open(path: SimulatedTarget.path, on: target.xstream))
        let reader = try await StoreReader.open(
            device, partition: 0..<device.size, on: target.xstream)
        let report = await StoreInspector.inspect(reader, depth: .values)
        await device.close()
        return report.findings
    }

    @Test(arguments: [false, true])
    func aDamagedCopyOfTheManifestIsMended(isUnreadable: Bool) {
        let target = SimulatedTarget(seed: 7)
        for piece in makeManifest(target) {
            let place = offset(target, piece.copies[0])
            target.restart()
            let finished = target.run {
                if isUnreadable {
                    target.devices.makeUnreadable(path: SimulatedTarget.path, at: place)
                } else {
                    target.devices.damage(path: SimulatedTarget.path, at: place)
                }
                let found = try await self.findings(target)
                #expect(found.map(\.part) == [piece.part])
                #expect(found.first?.block == piece.copies[0][0].start)
                let vos = try await target.open()
                try await vos.checkInvariants()
                for key in 0..<50 as Range<UInt8> {
                    let value = try await vos.getSingle([key], [])
                    #expect(value == .pattern(Int(key) * 100, seed: UInt64(key)))
                    #expect(vos.transactionOutcome(.dtx(UInt64(key))) == 10)
                }
                await target.close(vos)
                #expect(try await self.findings(target) == [], "\(piece.name)")
            }
            #expect(finished)
        }
    }

    @Test func damageOfBothCopiesOfTheManifestIsNoticed() {
        let target = SimulatedTarget(seed: 7)
        for piece in makeManifest(target) {
            let places = piece.copies.map { offset(target, $0) }
            target.restart()
            let finished = target.run {
                for place in places {
                    target.devices.damage(path: SimulatedTarget.path, at: place, mask: 1)
                }
                #expect(try await self.findings(target).count >= 2)
                do {
                    _ = try await target.open()
                    Issue.record("opened with damage of \(piece.name)")
                } catch let error as VOSError {
                    guard case .damaged = error else { throw error }
                }
                for place in places {
                    target.devices.damage(path: SimulatedTarget.path, at: place, mask: 1)
                }
            }
            #expect(finished)
        }
    }

    /// A device that cannot write the damaged copy again is out of order: the store stays closed.
    @Test func aCopyThatCannotBeMended() {
        let target = SimulatedTarget(seed: 7)
        let pieces = makeManifest(target)
        target.restart()
        let finished = target.run {
            target.devices.damage(
                path: SimulatedTarget.path, at: self.offset(target, pieces[1].copies[0]))
            var faults = DeviceFaults()
            faults.writeErrorChance = 1_000_000
            target.devices.setFaults(faults)
            do {
                _ = try await target.open()
                Issue.record("opened without mending")
            } catch VOSError.device {}
        }
        #expect(finished)
    }

    /// Each block of a table in turn: whoever needs it gets an error, and nobody another answer.
    @Test func aDamagedTableIsNoticed() {
        let target = SimulatedTarget(seed: 8, logBlocks: 512)
        target.run {
            let vos = try await target.open()
            for key in 0..<250 as Range<UInt8> {
                try await vos.putSingle([key], [], .pattern(200, seed: UInt64(key)), epoch: 10)
            }
            try await vos.checkpoint()
            #expect(vos.version.tables.count == 1)
            await target.close(vos)
        }
        var blocks = 0
        var block = 0
        repeat {
            target.restart()
            let finished = target.run {
                let vos = try await target.open()
                let table = try #require(vos.version.tables.first).info
                blocks = table.blocks
                let first = UInt64(table.extents[0].start) + UInt64(block)
                let offset = (2 + target.logBlocks + first) * 4096 + 40
                target.devices.damage(path: SimulatedTarget.path, at: offset, mask: 1)
                var errors = 0
                for key in 0..<250 as Range<UInt8> {
                    do throws(VOSError) {
                        let value = try await vos.getSingle([key], [])
                        #expect(value == .pattern(200, seed: UInt64(key)))
                    } catch {
                        guard case .damaged = error else { throw error }
                        errors += 1
                    }
                }
                // The bytes of a block of two may both be the second one's.
                #expect(errors > 0 || block < table.fencePlace)
                target.devices.damage(path: SimulatedTarget.path, at: offset, mask: 1)
                await target.close(vos)
            }
            #expect(finished)
            block += 1
        } while block < blocks
        #expect(blocks > 5)
    }

    /// Cut off, and with any bit of any byte changed: an error or a record, never a trap.
    @Test func decodingSurvivesAnyBytes() throws {
        let object = IndexKey.object(Names.pool, Names.container, Names.object)
        var bytes: [UInt8] = [1, 2, 3]
        let record = try bytes.withUnsafeMutableBytes { buffer throws(MalformedBytes) in
            let value = ValueBytes(UnsafeRawBufferPointer(buffer))
            let update = Update(
                pool: Names.pool, container: Names.container, object: Names.object, epoch: 3,
                transaction: Names.pool,
                operations: [
                    Operation(.punchObject), Operation(.punchDkey([0, 1])),
                    Operation(.single(dkey: [0, 1], akey: [2], value)),
                    Operation(.array(dkey: [1], akey: [], offset: 9, value)),
                    Operation(.array(dkey: [1], akey: [], offset: 9, recordSize: 3, value)),
                ])
            let records = [
                IndexRecord(kind: .objectPunch, dkeyEnd: 0, akeyEnd: 0, epoch: 3),
                IndexRecord(kind: .dkeyPunch, dkeyEnd: 53, akeyEnd: 0, epoch: 3),
                IndexRecord(
                    kind: .single, dkeyEnd: 53, akeyEnd: 57, epoch: 3, byteCount: 3,
                    inline: [1, 2, 3], checksums: [7]),
                IndexRecord(
                    kind: .extent, dkeyEnd: 52, akeyEnd: 55, epoch: 3, offset: 9, byteCount: 9000,
                    blocks: [BlockExtent(start: 4, count: 1), BlockExtent(start: 9, count: 2)],
                    checksums: [8]),
                IndexRecord(
                    kind: .extent, dkeyEnd: 52, akeyEnd: 55, epoch: 3, offset: 9, byteCount: 3,
                    inline: [1, 2, 3], recordSize: 3, checksums: [8]),
            ]
            let prepared = records.map { PreparedOperation(key: object, record: $0) }
            return LogRecord.encode(update, prepared: prepared)
        }
        guard
            case .update(let epoch, let transaction, let operations) = try LogRecord.decode(record)
        else { return #expect(Bool(false)) }
        #expect(epoch == 3 && transaction == Names.pool && operations.count == 5)
        #expect(operations.map(\.record.recordSize) == [1, 1, 1, 1, 3])
        #expect(operations[3].record.blocks.map(\.count) == [1, 2])
        #expect(operations[2].record.inline == [1, 2, 3])
        let discard = LogRecord.encodeDiscard(from: object, to: object + [9], epochs: 2...5)
        guard case .discard(object, object + [9], 2...5) = try LogRecord.decode(discard) else {
            return #expect(Bool(false))
        }
        for bytes in [record, discard, LogRecord.encodeRange(from: object, to: object + [9])] {
            _ = try LogRecord.decode(bytes)
            for length in 0..<bytes.count {
                #expect(throws: MalformedBytes.self) {
                    try LogRecord.decode(Array(bytes[0..<length]))
                }
            }
            for index in bytes.indices {
                for mask in [1, 0x80, 0xff] as [UInt8] {
                    var changed = bytes
                    changed[index] ^= mask
                    _ = try? LogRecord.decode(changed)
                    _ = try? Manifest.decode(changed)
                }
            }
        }
    }

    /// A transaction that is prepared twice: nothing refers to the first one's blocks any more.
    @Test func blocksThatNobodyRefersToAreNoticed() {
        let target = SimulatedTarget(seed: 10)
        target.run {
            let vos = try await target.open()
            let moved = [BlockExtent(start: 20, count: 1), BlockExtent(start: 30, count: 2)]
            for dtx in [self.prepared(), self.prepared(in: moved)] {
                try await vos.store.append(LogRecord.encode(dtx), checks: []) { _ in }
            }
        }
        target.restart()
        let finished = target.run {
            let total: UInt32 = 2048 - 2 - 64
            do {
                _ = try await target.open()
                Issue.record("opened with \(total - 6) free blocks")
            } catch let error as VOSError {
                let what = "3 blocks are referred to and \(total - 6) are free, of \(total)"
                #expect(error == .damaged(what: what))
            }
        }
        #expect(finished)
    }

    /// A prepared transaction of two objects, of which one change lies in blocks.
    private func prepared(
        in blocks: [BlockExtent] = [
            BlockExtent(start: 4, count: 1), BlockExtent(start: 9, count: 2),
        ]
    ) -> DTX {
        let dtx = DTX(id: .dtx(5), members: [1, 2, 3], isLeader: true)
        dtx.epoch = 77
        dtx.locks = [
            KeyLocks.Request(key: 1, mode: .write), KeyLocks.Request(key: 9, mode: .readBelow),
        ]
        let other = ObjectID(high: 1, low: 2)
        for (object, dkey, akey) in [
            (Names.object, nil, nil), (Names.object, [0, 1], nil), (Names.object, [0, 1], [2]),
            (other, [3], []), (other, [3], [0]),
        ] as [(ObjectID, [UInt8]?, [UInt8]?)] {
            let path = NamePath(
                object: IndexKey.object(Names.pool, Names.container, object), dkey: dkey, akey: akey
            )
            let index = dtx.operations.count
            let record = IndexRecord(
                kind: [.objectPunch, .dkeyPunch, .akeyPunch, .single, .extent][index],
                dkeyEnd: path.dkeyEnd, akeyEnd: path.akeyEnd, epoch: 77,
                offset: index == 4 ? 9 : 0, byteCount: [0, 0, 0, 3, 9000][index],
                inline: index == 3 ? [1, 2, 3] : [],
                blocks: index == 4 ? blocks : [], recordSize: index == 4 ? 9 : 1,
                checksums: index < 3 ? [] : [8])
            dtx.operations.append(PreparedOperation(key: path.key(for: record), record: record))
        }
        return dtx
    }

    /// Cut off, and with any bit of any byte changed: an error or a record, never a trap.
    @Test func decodingOfTransactionsSurvivesAnyBytes() throws {
        let dtx = prepared()
        let record = LogRecord.encode(dtx)
        guard case .prepared(let decoded) = try LogRecord.decode(record) else {
            return #expect(Bool(false))
        }
        #expect(decoded.id == dtx.id && decoded.epoch == 77 && decoded.isLeader)
        #expect(decoded.members == [1, 2, 3] && decoded.locks == dtx.locks)
        #expect(decoded.operations.map(\.key) == dtx.operations.map(\.key))
        #expect(decoded.operations.map(\.record.kind) == dtx.operations.map(\.record.kind))
        #expect(decoded.blocks == dtx.blocks && decoded.operations[3].record.inline == [1, 2, 3])
        #expect(decoded.record == record && LogRecord.encode(decoded) == record)
        let list = [
            DTXOutcome(kind: .committed, id: .dtx(1), epoch: 5),
            DTXOutcome(kind: .aborted, id: .dtx(2), epoch: .max),
            DTXOutcome(kind: .completed, id: .dtx(3), epoch: 0),
        ]
        let outcomes = LogRecord.encodeOutcomes(list)
        guard case .outcomes(list) = try LogRecord.decode(outcomes) else {
            return #expect(Bool(false))
        }
        guard case .outcomes([]) = try LogRecord.decode(LogRecord.encodeOutcomes([])) else {
            return #expect(Bool(false))
        }
        var random = Entropy(seed: 4)
        for bytes in [record, outcomes] {
            for length in 0..<bytes.count {
                #expect(throws: MalformedBytes.self) {
                    try LogRecord.decode(Array(bytes[0..<length]))
                }
            }
            #expect(throws: MalformedBytes.self) { try LogRecord.decode(bytes + [0]) }
            for index in bytes.indices {
                for mask in [1, 0x80, 0xff] as [UInt8] {
                    var changed = bytes
                    changed[index] ^= mask
                    _ = try? LogRecord.decode(changed)
                }
            }
            for _ in 0..<4_000 {
                var changed = bytes
                for _ in 0...random.below(4) {
                    let value: [UInt8] = [0, 1, 0x7f, 0xff, UInt8(random.below(256))]
                    let index = Int(random.below(UInt64(changed.count)))
                    changed[index] = value[Int(random.below(5))]
                }
                _ = try? LogRecord.decode(changed)
            }
        }
    }

    /// Manifests with anything in them, behind checksums that are right.
    @Test func manifestsOfAnyBytesAreRefused() throws {
        var manifest = Manifest()
        manifest.sequence = 5
        manifest.nextTable = 9
        manifest.chunks = [
            Manifest.Chunk(
                type: .transactions, byteCount: 24, checksum: 1,
                extents: [BlockExtent(start: 3, count: 1)],
                mirror: [BlockExtent(start: 30, count: 1)]),
            Manifest.Chunk(
                type: .prepared, byteCount: 9000, checksum: 2,
                extents: [BlockExtent(start: 4, count: 1), BlockExtent(start: 7, count: 2)],
                mirror: [BlockExtent(start: 31, count: 3)]),
        ]
        var table = TableInfo()
        table.id = 3
        table.extents = [BlockExtent(start: 10, count: 4)]
        (table.fencePlace, table.filterPlace, table.blocks) = (2, 3, 4)
        (table.entries, table.firstKey, table.lastKey) = (3, [1], [2, 2])
        manifest.tables = [table]
        let name = ContainerName(pool: Names.pool, container: Names.container)
        manifest.usages = [
            Manifest.Usage(name: name, usage: VOSUsage(bytes: 3, entries: 3, recordExtents: 2))
        ]
        manifest.pages = [BlockMap.Page(), BlockMap.Page(copies: [5, 40], checksum: 3)]
        manifest.snapshots = [Manifest.Snapshot(name: name, epoch: 4)]
        manifest.destroyed = [DestroyedRange(from: [1], to: [2], stamp: 7)]
        let good = manifest.encode()
        let decoded = try Manifest.decode(good)
        #expect(decoded.chunks.count == 2 && decoded.tables.map(\.id) == [3])
        #expect(decoded.chunks.map(\.mirror) == manifest.chunks.map(\.mirror))
        #expect(decoded.pages == manifest.pages)
        #expect(decoded.encode() == good)
        for length in 0..<good.count {
            #expect(throws: MalformedBytes.self) {
                try Manifest.decode(Array(good[0..<length]))
            }
        }
        manifest.usages[0].usage.recordExtents = 4
        let impossible = manifest.encode()
        #expect(throws: MalformedBytes.self) { try Manifest.decode(impossible) }
        var random = Entropy(seed: 3)
        for _ in 0..<4_000 {
            var bytes = good
            change(&bytes, &random)
            _ = try? Manifest.decode(bytes)
        }
    }

    private func change(_ bytes: inout [UInt8], _ random: inout Entropy) {
        for _ in 0...random.below(4) {
            let value: [UInt8] = [0, 1, 0x7f, 0xff, UInt8(random.below(256))]
            bytes[Int(random.below(UInt64(bytes.count)))] = value[Int(random.below(5))]
        }
    }

    /// Blocks of tables with anything in them, behind checksums that are right.
    @Test func blocksOfAnyBytesAreRefused() throws {
        let object = IndexKey.object(Names.pool, Names.container, Names.object)
        var builder = EntryBlockBuilder()
        for number in 0..<20 as Range<UInt8> {
            let path = NamePath(object: object, dkey: [0, number], akey: [2])
            let record = IndexRecord(
                kind: .extent, dkeyEnd: path.dkeyEnd, akeyEnd: path.akeyEnd, epoch: 3, offset: 9,
                byteCount: 9000, blocks: [BlockExtent(start: 4, count: 3)],
                recordSize: number % 2 == 0 ? 1 : 9000, checksums: [8])
            var key = path.key(for: record)
            key.append(word: 0)
            var value: [UInt8] = []
            EntryCoding.put(record, to: &value)
            key.withUnsafeBytes { key in value.withUnsafeBytes { builder.add(key, $0) } }
        }
        let good = builder.finish(table: 7, place: 3)
        var random = Entropy(seed: 4)
        for round in 0..<4_000 {
            var bytes = good
            if round > 0 { change(&bytes, &random) }
            let used = min(
                bytes.count,
                max(32, Int(bytes[16]) | Int(bytes[17]) << 8 | Int(bytes[18]) << 16))
            bytes.withUnsafeMutableBytes { memory in
                memory.storeBytes(
                    of: CRC32C.checksum(of: UnsafeRawBufferPointer(rebasing: memory[4..<used])),
                    as: UInt32.self)
                let view = UnsafeRawBufferPointer(memory)
                guard let block = EntryBlock(view, table: 7, place: 3) else {
                    #expect(round > 0)
                    return
                }
                #expect(round > 0 || block.count == 20)
                for index in 0..<block.count {
                    let (rest, value) = block.entry(index)
                    let key = [UInt8](block.prefix) + [UInt8](rest)
                    let record = key.withUnsafeBytes { EntryCoding.record(key: $0, value: value) }
                    #expect(round > 0 || record?.byteCount == 9000)
                    _ = key.withUnsafeBytes { block.lowerBound($0) }
                }
            }
            #expect(
                good.withUnsafeBytes { EntryBlock($0, table: 7, place: 4) } == nil)
        }
    }
}
