internal import BIO
internal import DrayRuntime

/// Tells that a name is not in a table: a Bloom filter (1970) over the hashes of the paths of dkeys
/// and akeys that have entries, and of what its punches remove. Ten bits for each, six of which are
/// looked at: one in a hundred that is not there seems to be.
///
/// In a table: a header like that of an `EntryBlock` (its count is that of the bits), then the
/// bits.
enum TableFilter {
    private static let bitsPerHash = 10
    private static let probes = 6

    /// What is hashed: names of which there are entries, and names that are punched.
    static func path(_ prefix: UnsafeRawBufferPointer) -> UInt64 {
        unsafe StableKeyHash.hash(prefix, seed: 3)
    }

    static func punch(_ prefix: UnsafeRawBufferPointer) -> UInt64 {
        unsafe StableKeyHash.hash(prefix, seed: 4)
    }

    /// How many hashes are taken before others have their turn.
    private static let hashesPerSlice = 2048

    /// Cooperative: calls `giveWay` from time to time. Cost: O(n), some 30 ns for each hash.
    static func build(
        _ hashes: [UInt64], table: UInt64, place: Int, giveWay: () async -> Void
    ) async -> [UInt8] {
        let bits = max(64, (hashes.count * bitsPerHash + 7) / 8 * 8)
        let used = EntryBlock.headerLength + bits / 8
        let size = VOS.blockCount(used) * BlockDevice.blockSize
        var bytes = [UInt8](repeating: 0, count: size)
        for start in stride(from: 0, to: hashes.count, by: hashesPerSlice) {
            if start > 0 { await giveWay() }
            for hash in hashes[start..<min(hashes.count, start + hashesPerSlice)] {
                forEachBit(hash, bits: bits) { bit in
                    bytes[EntryBlock.headerLength + bit / 8] |= 1 << UInt8(bit % 8)
                    return true
                }
            }
        }
        TableBlockHeader.store(
            in: &bytes, table: table, place: place, used: used, count: bits, prefixLength: 0)
        return bytes
    }

    /// How many bits a filter in memory has; nil when it is damaged.
    static func bits(
        _ memory: UnsafeRawBufferPointer, table: UInt64, place: Int
    ) -> Int? {
        guard let used = unsafe EntryBlock.verifiedLength(memory, table: table, place: place)
        else { return nil }
        let bits = unsafe Int(memory.loadUnaligned(fromByteOffset: 20, as: UInt32.self))
        return bits > 0 && bits == (used - EntryBlock.headerLength) * 8 ? bits : nil
    }

    /// Whether `hash` may be among those of the filter with `bits` bits in `memory`.
    static func mayContain(
        _ hash: UInt64, _ memory: UnsafeRawBufferPointer, bits: Int
    ) -> Bool {
        var found = true
        forEachBit(hash, bits: bits) { bit in
            let byte = unsafe memory[EntryBlock.headerLength + bit / 8]
            found = byte & 1 << UInt8(bit % 8) != 0
            return found
        }
        return found
    }

    /// Double hashing (Kirsch and Mitzenmacher, 2006).
    @inline(__always)
    private static func forEachBit(_ hash: UInt64, bits: Int, _ body: (Int) -> Bool) {
        var position = hash
        let step = hash >> 32 | hash << 32 | 1
        for _ in 0..<probes {
            // The high half of a product is a fair remainder.
            let bit = Int(position.multipliedFullWidth(by: UInt64(bits)).high)
            guard body(bit) else { return }
            position = position &+ step
        }
    }
}
