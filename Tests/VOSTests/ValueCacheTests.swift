import BIO
import DrayRuntime
import Testing

@testable import VOS

@Suite struct ValueCacheTests {
    private func dataOffset(_ target: SimulatedTarget, _ vos: VOS, dkey: UInt8) -> UInt64 {
        var start: UInt64 = 0
        vos.active.tree.forEach { entry in
            let record = entry.record
            if record.hasBlocks, unsafe entry.key[IndexKey.objectLength + 1] == dkey {
                start = UInt64(record.firstBlocks.start)
            }
            return true
        }
        return (2 + target.logBlocks + start) * 4096
    }

    private func fetch(_ dkey: UInt8, readsDevice: Bool) -> Fetch {
        var fetch = Fetch(
            pool: Names.pool, container: Names.container, object: Names.object, dkey: [dkey],
            akey: [9])
        fetch.readsDevice = readsDevice
        return fetch
    }

    /// After the second read nothing on the device matters, except to who asks for the device.
    @Test(arguments: [4096, 5000, 40_000, 65_536])
    func readsFromMemory(count: Int) {
        let target = SimulatedTarget(seed: 1)
        let finished = target.run {
            let vos = try await target.open()
            let bytes = [UInt8].pattern(count, seed: 1)
            try await vos.putArray([1], [9], at: 100, bytes, epoch: 5)
            let range = 100..<UInt64(100 + count)
            // A part of it says nothing about the rest.
            _ = try await vos.getArray([1], [9], 200..<300)
            _ = try await vos.getArray([1], [9], 200..<300)
            _ = try await vos.getArray([1], [9], range)
            #expect(vos.cache.count == 0)
            _ = try await vos.getArray([1], [9], range)
            #expect(vos.cache.count == 1 && vos.cache.bytes == count)
            let offset = self.dataOffset(target, vos, dkey: 1)
            target.devices.damage(path: SimulatedTarget.path, at: offset + 10, mask: 4)
            #expect(try await vos.getArray([1], [9], range).bytes == bytes)
            #expect(
                try await vos.getArray([1], [9], 90..<140).bytes
                    == [UInt8](repeating: 0, count: 10) + bytes[0..<40])
            let buffer = IOBuffer(count: count)
            do {
                _ = try await vos.fetchArray(
                    self.fetch(1, readsDevice: true), offset: 100, length: count,
                    into: buffer.bytes)
                Issue.record("the device was not read")
            } catch VOSError.corrupt {}
            // What comes from the device is not what others are to get.
            #expect(try await vos.getArray([1], [9], range).bytes == bytes)
            // A newer version is another value.
            let newer = [UInt8].pattern(count, seed: 2)
            try await vos.putArray([1], [9], at: 100, newer, epoch: 6)
            #expect(try await vos.getArray([1], [9], range).bytes == newer)
            #expect(try await vos.getArray([1], [9], range, epoch: 5).bytes == bytes)
            try await vos.checkInvariants()
        }
        #expect(finished)
    }

    /// A part of a value is given with checksums that are made of it: so it is verified first.
    @Test func whatHasChangedInMemoryIsNotRead() {
        let target = SimulatedTarget(seed: 5)
        let finished = target.run {
            let vos = try await target.open()
            let bytes = [UInt8].pattern(40_000, seed: 1)
            try await vos.putArray([1], [9], at: 0, bytes, epoch: 5)
            for range in [50..<150, 32_700..<32_800, 39_000..<40_000] as [Range<UInt64>] {
                while vos.cache.count == 0 { _ = try await vos.getArray([1], [9], 0..<40_000) }
                for block in vos.cache.blocks {
                    _ = unsafe vos.cache.withValue(at: block) { value in
                        let middle = Int(range.lowerBound + range.upperBound) / 2
                        unsafe UnsafeMutableRawBufferPointer(mutating: value)[middle] ^= 1
                    }
                }
                let expected = Array(bytes[Int(range.lowerBound)..<Int(range.upperBound)])
                #expect(try await vos.getArray([1], [9], range).bytes == expected)
                #expect(vos.cache.count == 0)
            }
        }
        #expect(finished)
    }

    @Test func longValuesAndInlineOnesStayWhereTheyAre() {
        let target = SimulatedTarget(seed: 2)
        let finished = target.run {
            let vos = try await target.open()
            for (dkey, count) in [(1, 65_537), (2, 200_000), (3, 100)] as [(UInt8, Int)] {
                let bytes = [UInt8].pattern(count, seed: 1)
                try await vos.putSingle([dkey], [9], bytes, epoch: 5)
                for _ in 0..<4 { #expect(try await vos.getSingle([dkey], [9]) == bytes) }
            }
            #expect(vos.cache.count == 0)
        }
        #expect(finished)
    }

    /// One long scan drives nothing out; values that are read often stay, others make room.
    @Test func keepsWhatIsInUse() {
        var options = VOSOptions()
        options.cacheBytes = 8 * 4096
        let target = SimulatedTarget(seed: 3, logBlocks: 512, options: options)
        let finished = target.run {
            let vos = try await target.open()
            func value(_ dkey: UInt8) -> [UInt8] { .pattern(4096, seed: UInt64(dkey)) }
            func read(_ dkey: UInt8) async throws {
                #expect(try await vos.getSingle([dkey], [9]) == value(dkey))
            }
            for dkey in 0..<60 as Range<UInt8> {
                try await vos.putSingle([dkey], [9], value(dkey), epoch: 5)
            }
            func cached() -> Set<UInt8> {
                var found: Set<UInt8> = []
                vos.active.tree.forEach { entry in
                    if vos.cache.blocks.contains(entry.record.firstBlocks.start) {
                        unsafe found.insert(entry.key[IndexKey.objectLength + 1])
                    }
                    return true
                }
                #expect(found.count == vos.cache.count)
                #expect(found.count * 4096 == vos.cache.bytes)
                #expect(vos.cache.bytes <= options.cacheBytes)
                return found
            }
            for _ in 0..<3 { for dkey in 0..<4 as Range<UInt8> { try await read(dkey) } }
            for dkey in 10..<60 as Range<UInt8> { try await read(dkey) }
            #expect(cached() == [0, 1, 2, 3])
            // Twice each: they come in, one after the other, and those in use are used meanwhile.
            for dkey in 10..<60 as Range<UInt8> {
                try await read(dkey)
                for hot in 0..<4 as Range<UInt8> { try await read(hot) }
                #expect(cached().isSuperset(of: [0, 1, 2, 3]))
            }
            #expect(cached().count == 8)
        }
        #expect(finished)
    }

    /// Random reads, changes and aggregation over a cache that is much too small.
    @Test(arguments: 1...4 as ClosedRange<UInt64>) func countsWhatItHolds(seed: UInt64) {
        var options = VOSOptions()
        options.cacheBytes = 60_000
        options.retention = 10
        let target = SimulatedTarget(seed: seed, blocks: 8192, options: options)
        let finished = target.run {
            let vos = try await target.open()
            var entropy = Entropy(seed: seed)
            var values: [UInt8: [UInt8]] = [:]
            for epoch in 10..<900 as Range<UInt64> {
                let dkey = UInt8(entropy.below(20))
                switch entropy.below(10) {
                case 0, 1:
                    let count = Int(entropy.below(3) == 0 ? 70_000 : 20_000)
                    let bytes = [UInt8].pattern(
                        1 + Int(entropy.below(UInt64(count))), seed: entropy.next())
                    try await vos.putSingle([dkey], [9], bytes, epoch: epoch)
                    values[dkey] = bytes
                case 2:
                    try await vos.punch(
                        pool: Names.pool, container: Names.container, object: Names.object,
                        dkey: [dkey], epoch: epoch)
                    values[dkey] = nil
                case 3: try await vos.aggregate(upTo: epoch - 5)
                default: #expect(try await vos.getSingle([dkey], [9]) == values[dkey])
                }
                vos.cache.checkInvariants()
                #expect(vos.cache.bytes <= options.cacheBytes)
                for block in vos.cache.blocks {
                    #expect(vos.store.allocator.isUsed(BlockExtent(start: block, count: 1)))
                }
            }
            #expect(vos.cache.count > 0)
            try await vos.checkInvariants()
        }
        #expect(finished)
    }
}
