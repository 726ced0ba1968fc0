import BIO
import DrayChecksums
import DrayRuntime
import Testing

@testable import VOS

@Suite struct EntryArenaTests {
    /// Entries of all sizes, small ones and those that get a slab of their own, come back as they
    /// were, also when many others came after them.
    @Test func entriesComeBackAsTheyWere() {
        let arena = EntryArena()
        let object = IndexKey.object(Names.pool, Names.container, Names.object)
        var entropy = Entropy(seed: 1)
        var entries: [(entry: ArenaEntry, key: IndexKey.Bytes, bytes: [UInt8], stamp: UInt64)] = []
        for number in 0..<600 as Range<UInt64> {
            let count = Int(entropy.below(number % 50 == 7 ? 100_000 : 300))
            let dkey = [UInt8].pattern(1 + Int(entropy.below(200)), seed: number)
            let path = NamePath(object: object, dkey: dkey, akey: [1])
            let bytes = [UInt8].pattern(count, seed: number)
            let checksums = unsafe bytes.withUnsafeBytes { unsafe VOS.checksums(of: $0, .crc32c) }
            let record = IndexRecord(
                kind: .single, dkeyEnd: path.dkeyEnd, akeyEnd: path.akeyEnd, epoch: number,
                byteCount: count, inline: bytes, checksums: checksums)
            record.stamp = number * 3
            var key = path.bytes
            key.append(IndexKey.singleTag)
            key.append(word: ~number)
            key.append(word: ~record.stamp)
            entries.append((arena.put(key, record), key, bytes, record.stamp))
        }
        for (entry, key, bytes, stamp) in entries {
            #expect(entry.stamp == stamp)
            #expect(unsafe [UInt8](copying: entry.key) == key)
            let record = entry.record
            #expect(record.inline == bytes && record.stamp == stamp)
            #expect(unsafe bytes.withUnsafeBytes { unsafe record.firstDamagedChunk($0) } == nil)
            #expect(entry.head.byteCount == bytes.count && entry.head.stamp == stamp)
        }
    }

    /// Freed in steps, and as often as one asks.
    @Test func slabsAreFreedOneByOne() {
        let arena = EntryArena()
        #expect(!arena.freeSlab())
        let record = IndexRecord(kind: .objectPunch, dkeyEnd: 0, akeyEnd: 0, epoch: 1)
        for number in 0..<5000 as Range<UInt64> {
            var key: IndexKey.Bytes = []
            key.append(word: number)
            _ = arena.put(key, record)
        }
        #expect(arena.freeSlab() && arena.freeSlab() && arena.freeSlab())
        while arena.freeSlab() {}
        // What comes then begins a new slab.
        let entry = arena.put([7], record)
        #expect(unsafe [UInt8](copying: entry.key) == [7])
        #expect(arena.freeSlab() && !arena.freeSlab())
    }
}
