internal import BIO
internal import DrayRuntime

/// A block of a table: some entries in ascending order of their keys.
///
///     checksum 4 | table 8 | place in the table, in device blocks 4 | bytes in use 4 | entries 4 |
///     length of the prefix 4 | 0 4 |
///     prefix | where each entry begins: 2 (4 in a block of more than 64 KiB) |
///     entries: length of the rest of the key (7 bits a byte), rest of the key, value
///
/// The prefix is what all keys have in common. The checksum (CRC32C) covers all that follows it, up
/// to the bytes in use; it has the place in it, so that a block that was written elsewhere, or
/// belongs to another table, is damage like any other. What is behind, up to whole device blocks,
/// is zero.
///
/// A view of memory that somebody else keeps. Made only of bytes that were verified.
@safe struct EntryBlock {
    static let headerLength = 32

    // SAFETY: the `CachedBlock` that made it keeps the memory; `init` has verified every length
    // that the accessors use.
    private let base: UnsafeRawPointer
    let count: Int
    let prefixLength: Int
    private let used: Int
    private let isWide: Bool
    // SAFETY: likewise; as many as entries, or nil.
    private var heads: UnsafePointer<UInt64>?

    /// Nil when the bytes are not a block of entries in `place` of `table`. Cost: O(n).
    init?(_ memory: UnsafeRawBufferPointer, table: UInt64, place: Int) {
        guard let used = unsafe EntryBlock.verifiedLength(memory, table: table, place: place)
        else { return nil }
        unsafe base = memory.baseAddress!
        self.used = used
        isWide = used > Int(UInt16.max)
        unsafe count = Int(memory.loadUnaligned(fromByteOffset: 20, as: UInt32.self))
        unsafe prefixLength = Int(memory.loadUnaligned(fromByteOffset: 24, as: UInt32.self))
        guard count > 0, count <= used, prefixLength <= IndexKey.lengthMax,
            entriesStart <= used
        else { return nil }
        var previous = entriesStart
        for index in 0..<count {
            let start = offset(index)
            guard index == 0 ? start == previous : start > previous, start < used else {
                return nil
            }
            previous = start
        }
        for index in 0..<count {
            let end = self.end(index)
            var reader = unsafe RawReader(
                UnsafeRawBufferPointer(start: base + offset(index), count: end - offset(index)))
            guard let length = reader.length(max: IndexKey.lengthMax), length <= reader.remaining
            else { return nil }
        }
    }

    /// How many bytes of a block, header included, its checksum covers; nil when that is wrong.
    static func verifiedLength(
        _ memory: UnsafeRawBufferPointer, table: UInt64, place: Int
    ) -> Int? {
        guard memory.count >= headerLength else { return nil }
        let used = unsafe Int(memory.loadUnaligned(fromByteOffset: 16, as: UInt32.self))
        guard used >= headerLength, used <= memory.count,
            unsafe memory.loadUnaligned(fromByteOffset: 4, as: UInt64.self) == table,
            unsafe Int(memory.loadUnaligned(fromByteOffset: 12, as: UInt32.self)) == place
        else { return nil }
        let covered = unsafe UnsafeRawBufferPointer(rebasing: memory[4..<used])
        let checksum = unsafe memory.loadUnaligned(as: UInt32.self)
        return unsafe CRC32C.checksum(of: covered) == checksum ? used : nil
    }

    /// Has searches look at `heads` first: the first eight bytes of each key behind the prefix.
    /// They lie side by side, so that a search looks at few places in memory. Whoever keeps the
    /// block keeps them too.
    mutating func search(with heads: UnsafeMutablePointer<UInt64>) {
        for index in 0..<count {
            unsafe heads[index] = unsafe KeyHead.of(entry(index).rest)
        }
        unsafe self.heads = unsafe UnsafePointer(heads)
    }

    private var offsetsStart: Int { EntryBlock.headerLength + prefixLength }
    private var entriesStart: Int { offsetsStart + count * (isWide ? 4 : 2) }

    @inline(__always)
    private func offset(_ index: Int) -> Int {
        isWide
            ? unsafe Int(
                base.loadUnaligned(fromByteOffset: offsetsStart + 4 * index, as: UInt32.self))
            : unsafe Int(
                base.loadUnaligned(fromByteOffset: offsetsStart + 2 * index, as: UInt16.self))
    }

    private func end(_ index: Int) -> Int { index + 1 < count ? offset(index + 1) : used }

    /// What all keys begin with.
    var prefix: UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(
            start: base + EntryBlock.headerLength, count: prefixLength)
    }

    /// What comes behind the prefix in a key, and the value.
    @inline(__always)
    func entry(
        _ index: Int
    ) -> (rest: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) {
        precondition(index >= 0 && index < count)
        var start = offset(index)
        let end = end(index)
        var length = 0
        var shift = 0
        while true {
            let byte = unsafe base.load(fromByteOffset: start, as: UInt8.self)
            start += 1
            length |= Int(byte & 127) << shift
            if byte < 128 { break }
            shift += 7
        }
        let valueStart = start + length
        return unsafe (
            UnsafeRawBufferPointer(start: base + start, count: length),
            UnsafeRawBufferPointer(start: base + valueStart, count: end - valueStart)
        )
    }

    /// The index of the first entry whose key is not below `key`; `count` when all are.
    func lowerBound(_ key: UnsafeRawBufferPointer) -> Int {
        let common = unsafe IndexKey.common(prefix, key)
        if common < prefixLength {
            // The prefix decides.
            if common == key.count { return 0 }
            return unsafe prefix[common] > key[common] ? 0 : count
        }
        let rest = unsafe UnsafeRawBufferPointer(rebasing: key[prefixLength...])
        var low = 0
        var high = count
        if let heads = unsafe heads {
            let head = unsafe KeyHead.of(rest)
            low = unsafe KeyHead.lowerBound(heads, 0..<count, head)
            guard low < count, unsafe heads[low] == head else { return low }
            high =
                head == .max
                ? count : unsafe KeyHead.lowerBound(heads, low..<count, head + 1)
        }
        while low < high {
            let middle = (low + high) / 2
            if unsafe IndexKey.compare(entry(middle).rest, rest) < 0 {
                low = middle + 1
            } else {
                high = middle
            }
        }
        return low
    }
}

/// Makes blocks of entries.
struct EntryBlockBuilder {
    private var keys: [UInt8] = []
    private var values: [UInt8] = []
    /// Where each key and each value ends.
    private var ends: [(key: Int, value: Int)] = []
    private var prefixLength = 0

    var isEmpty: Bool { ends.isEmpty }
    var count: Int { ends.count }

    /// How many bytes the block would have at most with one more entry.
    func byteCount(adding key: UnsafeRawBufferPointer, valueCount: Int) -> Int {
        let prefix = ends.isEmpty ? key.count : unsafe commonPrefix(key)
        let count = ends.count + 1
        let total = keys.count + key.count - count * prefix + values.count + valueCount
        // Three bytes for the length of each key, and four for its place.
        return EntryBlock.headerLength + prefix + total + count * 7
    }

    private func commonPrefix(_ key: UnsafeRawBufferPointer) -> Int {
        unsafe keys.withUnsafeBytes { keys in
            unsafe IndexKey.common(
                UnsafeRawBufferPointer(rebasing: keys[0..<prefixLength]), key)
        }
    }

    mutating func add(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) {
        prefixLength = ends.isEmpty ? key.count : unsafe commonPrefix(key)
        unsafe keys.append(contentsOf: key)
        unsafe values.append(contentsOf: value)
        ends.append((keys.count, values.count))
    }

    /// Replaces the value of the entry that came last by one of the same length.
    mutating func setLastValue(_ value: [UInt8]) {
        precondition(ends.last?.value == values.count && values.count >= value.count)
        values.replaceSubrange((values.count - value.count)..., with: value)
    }

    /// The bytes of the block, whole device blocks, for `place` of `table`; the builder is empty
    /// then.
    mutating func finish(table: UInt64, place: Int) -> [UInt8] {
        precondition(!ends.isEmpty)
        let lengths = ends.count * 3 + keys.count - ends.count * prefixLength + values.count
        let most = EntryBlock.headerLength + prefixLength + ends.count * 4 + lengths
        var bytes = build(isWide: most > Int(UInt16.max))
        let used = bytes.count
        let size = VOS.blockCount(used) * BlockDevice.blockSize
        bytes.append(contentsOf: [UInt8](repeating: 0, count: size - used))
        TableBlockHeader.store(
            in: &bytes, table: table, place: place, used: used, count: ends.count,
            prefixLength: prefixLength)
        keys.removeAll(keepingCapacity: true)
        values.removeAll(keepingCapacity: true)
        ends.removeAll(keepingCapacity: true)
        return bytes
    }

    private func build(isWide: Bool) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: EntryBlock.headerLength)
        bytes.append(contentsOf: keys[0..<prefixLength])
        let offsets = bytes.count
        bytes.append(contentsOf: [UInt8](repeating: 0, count: ends.count * (isWide ? 4 : 2)))
        var start = (key: 0, value: 0)
        for (index, end) in ends.enumerated() {
            if isWide {
                bytes.store(UInt32(bytes.count), at: offsets + 4 * index)
            } else {
                bytes.store(UInt16(bytes.count), at: offsets + 2 * index)
            }
            bytes.put(varint: UInt64(end.key - start.key - prefixLength))
            bytes.append(contentsOf: keys[(start.key + prefixLength)..<end.key])
            bytes.append(contentsOf: values[start.value..<end.value])
            start = end
        }
        // A narrow block that would have been a wide one by the estimate alone cannot be told
        // apart from one that is.
        return isWide && bytes.count <= Int(UInt16.max) ? build(isWide: false) : bytes
    }
}

/// The header that every block of a table begins with.
enum TableBlockHeader {
    static func store(
        in bytes: inout [UInt8], table: UInt64, place: Int, used: Int, count: Int,
        prefixLength: Int
    ) {
        bytes.store(table, at: 4)
        bytes.store(UInt32(place), at: 12)
        bytes.store(UInt32(used), at: 16)
        bytes.store(UInt32(count), at: 20)
        bytes.store(UInt32(prefixLength), at: 24)
        let checksum = unsafe bytes.withUnsafeBytes { bytes in
            unsafe CRC32C.checksum(of: UnsafeRawBufferPointer(rebasing: bytes[4..<used]))
        }
        bytes.store(checksum, at: 0)
    }
}

extension [UInt8] {
    /// Writes a number over the bytes at `index`, least significant byte first.
    mutating func store<Number: FixedWidthInteger & BitwiseCopyable>(
        _ number: Number, at index: Int
    ) {
        precondition(index >= 0 && index + MemoryLayout<Number>.size <= count)
        unsafe withUnsafeMutableBytes { bytes in
            unsafe bytes.storeBytes(
                of: number.littleEndian, toByteOffset: index, as: Number.self)
        }
    }
}
