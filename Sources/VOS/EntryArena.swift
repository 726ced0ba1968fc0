internal import DrayRuntime

/// An entry in the memory of an `EntryArena`.
///
///     stamp 8 | length of the key 4 | length of the value 4 | key | value
///
/// The value is what a table has behind the key (`EntryCoding`). Who has an entry owns nothing: it
/// is copied, moved and forgotten without touching its memory.
@safe struct ArenaEntry {
    static let headerLength = 16

    // SAFETY: the arena has written all that the lengths say, keeps it, and never writes it again.
    private let start: UnsafeRawPointer

    fileprivate init(_ start: UnsafeRawPointer) { unsafe self.start = start }

    /// Of its record.
    var stamp: UInt64 { unsafe start.load(as: UInt64.self) }

    @inline(__always)
    var key: UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(
            start: start + ArenaEntry.headerLength,
            count: Int(start.load(fromByteOffset: 8, as: UInt32.self)))
    }

    var value: UnsafeRawBufferPointer {
        let key = unsafe key
        return unsafe UnsafeRawBufferPointer(
            start: key.baseAddress! + key.count,
            count: Int(start.load(fromByteOffset: 12, as: UInt32.self)))
    }

    var head: EntryHead {
        guard let head = unsafe EntryCoding.head(key: key, value: value) else {
            preconditionFailure("an entry in memory cannot be read")
        }
        return head
    }

    var record: IndexRecord {
        guard let record = unsafe EntryCoding.record(key: key, value: value) else {
            preconditionFailure("an entry in memory cannot be read")
        }
        return record
    }
}

/// Memory of the entries of a memtable: given out one behind the other, and freed slab by slab.
@safe final class EntryArena {
    private static let slabBytes = 64 << 10

    // SAFETY: owned; freed in `freeSlab` and `deinit` only, when nobody has an entry any more.
    @safe @exclusivity(unchecked) private var slabs: [UnsafeMutableRawPointer] = unsafe []
    @safe @exclusivity(unchecked) private var next: UnsafeMutableRawPointer?
    @safe @exclusivity(unchecked) private var left = 0
    /// Kept from entry to entry.
    @safe @exclusivity(unchecked) private var encoded: [UInt8] = []

    deinit { while freeSlab() {} }

    func put(_ key: IndexKey.Bytes, _ record: IndexRecord) -> ArenaEntry {
        encoded.removeAll(keepingCapacity: true)
        EntryCoding.put(record, to: &encoded)
        let count = ArenaEntry.headerLength + key.count + encoded.count
        let start = unsafe take(count)
        unsafe start.storeBytes(of: record.stamp, as: UInt64.self)
        unsafe start.storeBytes(of: UInt32(key.count), toByteOffset: 8, as: UInt32.self)
        unsafe start.storeBytes(of: UInt32(encoded.count), toByteOffset: 12, as: UInt32.self)
        let room = unsafe UnsafeMutableRawBufferPointer(
            start: start + ArenaEntry.headerLength, count: count - ArenaEntry.headerLength)
        unsafe room.copyBytes(from: key)
        unsafe UnsafeMutableRawBufferPointer(rebasing: room[key.count...]).copyBytes(from: encoded)
        return unsafe ArenaEntry(UnsafeRawPointer(start))
    }

    private func take(_ count: Int) -> UnsafeMutableRawPointer {
        // The next one is aligned, too.
        let size = (count + 7) & ~7
        if size > left {
            guard size <= EntryArena.slabBytes / 4 else {
                // Alone: the rest of the slab serves others.
                return unsafe addSlab(size)
            }
            next = unsafe addSlab(EntryArena.slabBytes)
            left = EntryArena.slabBytes
        }
        guard let start = next else { preconditionFailure("a slab was added") }
        next = unsafe start + size
        left -= size
        return unsafe start
    }

    private func addSlab(_ byteCount: Int) -> UnsafeMutableRawPointer {
        let slab = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: 8)
        unsafe slabs.append(slab)
        return unsafe slab
    }

    /// Frees one slab; false when there is none. Nobody may use an entry any more.
    func freeSlab() -> Bool {
        guard let slab = unsafe slabs.popLast() else { return false }
        unsafe slab.deallocate()
        next = nil
        left = 0
        return true
    }
}
