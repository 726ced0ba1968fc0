import BIO
import DrayChecksums
import DrayRuntime
import Testing

@testable import VOS

/// Values with checksums of each type: stored with them, verified, and found when damaged.
@Suite struct ChecksumTypeTests {
    private static let sizes = [0, 1, 90, 4096, 32_768, 32_769, 100_001]

    private func put(
        _ vos: VOS, _ dkey: [UInt8], _ bytes: [UInt8], _ type: ChecksumType, epoch: UInt64,
        checksums: [UInt32]? = nil, isVerified: Bool = true
    ) async throws(VOSError) {
        let buffer = IOBuffer(copying: bytes)
        let value = ValueBytes(
            UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<bytes.count]), checksums: checksums,
            type: type, isVerified: isVerified)
        var operations = [Operation(.single(dkey: dkey, akey: [1], value))]
        if bytes.count > 0 {
            operations.append(Operation(.array(dkey: dkey, akey: [2], offset: 7, value)))
        }
        try await vos.update(
            Update(
                pool: Names.pool, container: Names.container, object: Names.object, epoch: epoch,
                transaction: .zero, operations: operations))
        withExtendedLifetime(buffer) {}
    }

    /// Reads a value both ways, with checksums of type `wanted`.
    private func check(
        _ vos: VOS, _ dkey: [UInt8], _ bytes: [UInt8], _ wanted: ChecksumType
    ) async throws(VOSError) {
        let buffer = IOBuffer(count: 1 << 17)
        for akey in [1, 2] as [UInt8] {
            var fetch = Fetch(
                pool: Names.pool, container: Names.container, object: Names.object, dkey: dkey,
                akey: [akey])
            fetch.checksumType = wanted
            fetch.readsDevice = true
            let result =
                akey == 1
                ? try await vos.fetchSingle(fetch, into: buffer.bytes)
                : try await vos.fetchArray(
                    fetch, offset: 7, length: bytes.count, into: buffer.bytes)
            #expect(buffer.array(0..<result.byteCount) == bytes)
            #expect(
                result.checksums
                    == bytes.withUnsafeBytes { wanted.checksums(of: $0, chunk: 32_768) }
            )
        }
    }

    /// From the log, from the memtable, and from tables; after a kill and after a clean end.
    @Test(arguments: ChecksumType.allCases)
    func storedAndRead(type: ChecksumType) {
        let target = SimulatedTarget(seed: 1)
        for life in 0..<4 {
            let finished = target.run {
                let vos = try await target.open()
                for (number, size) in Self.sizes.enumerated() {
                    let bytes = [UInt8].pattern(size, seed: UInt64(number))
                    if life == 0 {
                        let given = bytes.withUnsafeBytes { VOS.checksums(of: $0, type) }
                        try await self.put(
                            vos, [UInt8(number)], bytes, type, epoch: 10 + UInt64(number),
                            checksums: number % 2 == 0 ? given : nil)
                    }
                    for wanted in ChecksumType.allCases {
                        try await self.check(vos, [UInt8(number)], bytes, wanted)
                    }
                }
                if life == 1 { try await vos.aggregate(upTo: 5) }
                try await vos.checkInvariants()
                if life >= 1 { await target.close(vos) }
            }
            #expect(finished)
            target.restart()
        }
    }

    /// A changed bit on the medium is never given out; without checksums nobody can tell.
    @Test(arguments: ChecksumType.allCases)
    func damaged(type: ChecksumType) {
        let target = SimulatedTarget(seed: 2)
        let finished = target.run {
            let vos = try await target.open()
            let bytes = [UInt8].pattern(100_001, seed: 3)
            try await self.put(vos, [1], bytes, type, epoch: 10)
            try await vos.checkpoint()
            let table = try #require(vos.version.tables.first)
            let cursor = IndexCursor(merging: [RunCursor([table], prefix: .none)])
            try await cursor.seek([])
            let record = try cursor.entry.record()
            #expect(record.checksumType == type)
            #expect(record.checksums().count == 4 * type.words)
            let block = UInt64(record.blocks[0].start) + 9
            target.devices.damage(path: SimulatedTarget.path, at: (2 + 64 + block) * 4096 + 4)
            let buffer = IOBuffer(count: 1 << 17)
            var fetch = Fetch(
                pool: Names.pool, container: Names.container, object: Names.object, dkey: [1],
                akey: [1])
            fetch.readsDevice = true
            do throws(VOSError) {
                let result = try await vos.fetchSingle(fetch, into: buffer.bytes)
                #expect(type == .off && buffer.array(0..<result.byteCount) != bytes)
            } catch {
                guard case .corrupt(let place, let what) = error else { throw error }
                #expect(type != .off && place.byteCount == 100_001 && what.hasPrefix("chunk 1 "))
                let byte = (2 + 64 + UInt64(record.blocks[0].start) + 8) * 4096
                #expect(place.device == SimulatedTarget.path && place.deviceOffset == byte)
                #expect("\(place)".hasSuffix("in \(SimulatedTarget.path) at byte \(byte)"))
                #expect("\(place)".contains("object \(Names.object), dkey '\\x01'"))
            }
            #expect(vos.startScrub(rate: 1 << 40))
            while vos.scrubStatus.current != nil {
                await target.xstream.sleep(for: .milliseconds(1))
            }
            #expect(vos.scrubStatus.errors == (type == .off ? 0 : 1))
            await target.close(vos)
            let device = ReadOnlyDevice(
                try target.devices.open(path: SimulatedTarget.path, on: target.xstream))
            let reader = try await StoreReader.open(
                device, partition: 0..<device.size, on: target.xstream)
            let report = await StoreInspector.inspect(reader, depth: .values)
            #expect(report.findings.count == (type == .off ? 0 : 1))
            await device.close()
        }
        #expect(finished)
    }

    /// Long values are read and verified in parts: none is missing or in the wrong place, and
    /// damage in any of them is found.
    @Test(arguments: [262_144, 262_145, (1 << 20) - 5, 1 << 20], [0, 1, 2])
    func longValues(count: Int, place: Int) {
        let target = SimulatedTarget(seed: 4, blocks: 4000)
        let finished = target.run {
            let vos = try await target.open()
            let bytes = [UInt8].pattern(count, seed: 3)
            try await vos.putArray([1], [2], at: 0, bytes, epoch: 10)
            try await vos.checkpoint()
            let table = try #require(vos.version.tables.first)
            let cursor = IndexCursor(merging: [RunCursor([table], prefix: .none)])
            try await cursor.seek([])
            let blocks = try cursor.entry.record().blocks
            func read(_ range: Range<Int>, room: Int) async throws(VOSError) -> [UInt8] {
                let fetch = Fetch(
                    pool: Names.pool, container: Names.container, object: Names.object,
                    dkey: [1], akey: [2])
                let buffer = IOBuffer(copying: [UInt8](repeating: 0xee, count: range.count + room))
                _ = try await vos.fetchArray(
                    fetch, offset: UInt64(range.lowerBound), length: range.count,
                    into: UnsafeMutableRawBufferPointer(
                        rebasing: buffer.bytes[0..<range.count + room]))
                return buffer.array(0..<range.count)
            }
            for (start, room) in [(0, 0), (0, 4095), (32_768, 0), (5, 0), (200_000, 100)] {
                for end in [count, count - 1, count - 32_768] where end > start {
                    let part = try await read(start..<end, room: room)
                    #expect(part == Array(bytes[start..<end]), "\(start)..<\(end)")
                }
            }
            let chunk = (count / 32_768 - 1) * place / 2
            var block = chunk * 8
            let extent = try #require(
                blocks.first { extent in
                    guard block >= Int(extent.count) else { return true }
                    block -= Int(extent.count)
                    return false
                })
            let damaged = 2 + 64 + UInt64(extent.start) + UInt64(block)
            target.devices.damage(path: SimulatedTarget.path, at: damaged * 4096)
            do throws(VOSError) {
                _ = try await read(0..<count, room: 0)
                Issue.record("chunk \(chunk) was read")
            } catch {
                guard case .corrupt(_, let what) = error else { throw error }
                #expect(what.hasPrefix("chunk \(chunk) "), "\(what)")
            }
        }
        #expect(finished)
    }

    /// What does not match is refused, with the chunk; unless nobody is to look, and then who reads
    /// it finds out, also after a kill.
    @Test(arguments: [ChecksumType.crc32c, .xxh64, .sha256])
    func damagedOnItsWay(type: ChecksumType) {
        let target = SimulatedTarget(seed: 3, crash: .lose)
        let bytes = [UInt8].pattern(100_001, seed: 3)
        var wrong = bytes.withUnsafeBytes { VOS.checksums(of: $0, type) }
        // Of chunk 2.
        wrong[3 * type.words - 1] ^= 1 << 31
        let given = wrong
        func isCorrupt(_ vos: VOS) async throws -> Bool {
            do throws(VOSError) {
                try await check(vos, [1], bytes, type)
                return false
            } catch {
                guard case .corrupt(_, let what) = error else { throw error }
                return what.hasPrefix("chunk 2 ")
            }
        }
        let finished = target.run {
            let vos = try await target.open()
            do throws(VOSError) {
                try await self.put(vos, [1], bytes, type, epoch: 10, checksums: given)
                Issue.record("it was stored")
            } catch {
                #expect(error == .checksumMismatch(chunk: 2))
            }
            try await self.put(
                vos, [1], bytes, type, epoch: 11, checksums: given, isVerified: false)
            #expect(try await isCorrupt(vos))
        }
        #expect(finished)
        target.restart()
        let again = target.run {
            let vos = try await target.open()
            #expect(try await isCorrupt(vos))
            // Too many, too few.
            for count in [given.count - 1, given.count + 1] {
                do throws(VOSError) {
                    try await self.put(
                        vos, [2], bytes, type, epoch: 12,
                        checksums: Array((given + [0])[..<count]))
                    Issue.record("\(count) words were taken")
                } catch {
                    guard case .badArgument = error else { throw error }
                }
            }
            await target.close(vos)
        }
        #expect(again)
    }

    /// Entries of tables and records of the log with each type; cut off they are refused.
    @Test(arguments: ChecksumType.allCases)
    func coding(type: ChecksumType) throws {
        let object = IndexKey.object(Names.pool, Names.container, Names.object)
        let path = NamePath(object: object, dkey: [1], akey: [2])
        let words = (0..<UInt32(2 * type.words)).map { $0 &* 0x9e37_79b9 }
        let record = IndexRecord(
            kind: .extent, dkeyEnd: path.dkeyEnd, akeyEnd: path.akeyEnd, epoch: 3, offset: 9,
            byteCount: 40_000, blocks: [BlockExtent(start: 4, count: 10)], checksumType: type,
            checksums: words)
        var key = path.key(for: record)
        key.append(word: 0)
        var value: [UInt8] = []
        EntryCoding.put(record, to: &value)
        func decoded(_ value: [UInt8]) -> IndexRecord? {
            key.withUnsafeBytes { key in
                value.withUnsafeBytes { EntryCoding.record(key: key, value: $0) }
            }
        }
        let again = try #require(decoded(value))
        #expect(again.checksumType == type && again.checksums() == words)
        #expect(again.checksums(from: 1) == Array(words[type.words...]))
        for length in 0..<value.count { #expect(decoded(Array(value[..<length])) == nil) }
        #expect(decoded(value + [0]) == nil)
        // A bit that nothing stands for.
        for bit in [8, 64] as [UInt8] {
            var other = value
            other[0] |= bit
            #expect(decoded(other) == nil)
        }
        let flags = RecordCoding.flags(of: record)
        #expect(try RecordCoding.checksumType(flags: flags) == type)
        #expect(throws: MalformedBytes.self) { try RecordCoding.checksumType(flags: flags | 16) }
    }
}
