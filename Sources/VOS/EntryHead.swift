internal import BIO
internal import DrayChecksums
internal import DrayRuntime
internal import Glibc

/// What an entry of the index is, read from its key and the beginning of its value, without the
/// value itself.
struct EntryHead {
    var kind = IndexRecord.Kind.single
    /// How long a prefix of the key names the dkey; 0 for the punch of an object.
    var dkeyEnd = 0
    /// How long a prefix of the key names the akey; 0 for punches of objects and dkeys.
    var akeyEnd = 0
    var epoch: UInt64 = 0
    var stamp: UInt64 = 0
    /// The first byte of an extent.
    var offset: UInt64 = 0
    var byteCount = 0
    /// Of an extent: how many bytes a record of its array has. Not 0.
    var recordSize: UInt32 = 1
    var hasBlocks = false
    var checksumType = ChecksumType.crc32c

    var blockCount: UInt64 { hasBlocks ? UInt64(VOS.blockCount(byteCount)) : 0 }

    /// What it weighs (`TableInfo.weight`): what readers can get of it, and a little.
    var weight: UInt64 { EntryHead.weight(byteCount, hasBlocks: hasBlocks) }

    /// What the version of a value of so many bytes weighs.
    static func weight(_ byteCount: Int, hasBlocks: Bool) -> UInt64 {
        64 + UInt64(hasBlocks ? VOS.blockCount(byteCount) * BlockDevice.blockSize : byteCount)
    }

    /// One past the last byte of an extent.
    var end: UInt64 { offset + UInt64(byteCount) }

    /// How long a prefix of the key names what the entry is a version of: for a punch, what it
    /// removes.
    var nameEnd: Int {
        switch kind {
        case .objectPunch: IndexKey.objectLength
        case .dkeyPunch: dkeyEnd
        case .akeyPunch, .single, .extent: akeyEnd
        }
    }

    /// Whether this wins over `other` where both apply.
    @inline(__always)
    func isNewer(than other: EntryHead) -> Bool {
        epoch != other.epoch ? epoch > other.epoch : stamp > other.stamp
    }

    init() {}

    init(_ record: IndexRecord) {
        kind = record.kind
        dkeyEnd = Int(record.dkeyEnd)
        akeyEnd = Int(record.akeyEnd)
        epoch = record.epoch
        stamp = record.stamp
        offset = record.offset
        byteCount = Int(record.byteCount)
        recordSize = record.recordSize
        hasBlocks = record.hasBlocks
        checksumType = record.checksumType
    }
}

/// Encodes and decodes what a table has behind a key.
///
///     kind, type of the checksums and flags 1 (kind: 7; type: 48; flag 128: in blocks; flag 8:
///     with a record size) | length of the escaped dkey, of the escaped akey, byte count |
///     record size (of an extent, when it is not 1) |
///     in blocks: number of extents, each start 4 and count; else the bytes |
///     checksums, as many bytes for each chunk as the type has
///
/// Without further word a number is of 7 bits a byte, least significant first, the highest bit of
/// the last byte 0. Punches end after the lengths that they have. Epoch, stamp, and the offset of
/// an extent are in the key.
enum EntryCoding {
    private static let flagBlocks: UInt8 = 128
    private static let flagRecordSize: UInt8 = 8
    private static let kindMask: UInt8 = 7
    private static let typeShift: UInt8 = 4
    private static let typeMask: UInt8 = 48

    static func put(_ record: IndexRecord, to bytes: inout [UInt8]) {
        bytes.append(
            record.kind.rawValue | record.checksumType.rawValue << typeShift
                | (record.hasBlocks ? flagBlocks : 0)
                | (record.recordSize != 1 ? flagRecordSize : 0))
        if record.dkeyEnd > 0 {
            bytes.put(varint: UInt64(Int(record.dkeyEnd) - IndexKey.objectLength - 1))
        }
        if record.akeyEnd > 0 { bytes.put(varint: UInt64(record.akeyEnd - record.dkeyEnd - 1)) }
        guard !record.kind.isPunch else { return }
        bytes.put(varint: UInt64(record.byteCount))
        if record.recordSize != 1 { bytes.put(varint: UInt64(record.recordSize)) }
        if record.hasBlocks {
            bytes.put(varint: UInt64(1 + record.moreBlocks.count))
            bytes.put(record.firstBlocks.start)
            bytes.put(varint: UInt64(record.firstBlocks.count))
            for extent in record.moreBlocks {
                bytes.put(extent.start)
                bytes.put(varint: UInt64(extent.count))
            }
        } else {
            bytes.append(contentsOf: record.inline)
        }
        for word in 0..<record.checksumWords { bytes.put(record.checksumWord(word)) }
    }

    /// The head of the entry with `key` and `value`; nil when they do not fit together.
    static func head(
        key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer
    ) -> EntryHead? {
        var reader = unsafe RawReader(value)
        return unsafe head(key: key, from: &reader)
    }

    private static func head(
        key: UnsafeRawBufferPointer, from reader: inout RawReader
    ) -> EntryHead? {
        guard let first = reader.byte(),
            first & ~(kindMask | typeMask | flagBlocks | flagRecordSize) == 0,
            let kind = IndexRecord.Kind(rawValue: first & kindMask),
            kind == .extent || first & flagRecordSize == 0,
            let type = ChecksumType(rawValue: (first & typeMask) >> typeShift)
        else { return nil }
        var head = EntryHead()
        head.kind = kind
        head.checksumType = type
        var length = IndexKey.objectLength
        if kind != .objectPunch {
            guard let dkey = reader.length(max: IndexKey.lengthMax) else { return nil }
            length += 1 + dkey
            head.dkeyEnd = length
        }
        if kind.rawValue >= IndexRecord.Kind.akeyPunch.rawValue {
            guard let akey = reader.length(max: IndexKey.lengthMax) else { return nil }
            length += 1 + akey
            head.akeyEnd = length
        }
        length += 1
        if kind == .extent {
            length += IndexKey.extentLength
            guard key.count >= length + IndexKey.versionLength else { return nil }
            head.offset = unsafe IndexKey.extentOffset(key, at: length - IndexKey.extentLength)
        }
        guard key.count == length + IndexKey.versionLength else { return nil }
        unsafe head.epoch = ~IndexKey.word(key, at: length)
        unsafe head.stamp = ~IndexKey.word(key, at: length + 8)
        guard !kind.isPunch else { return head }
        guard let byteCount = reader.length(max: VOSLimits.valueLengthMax),
            byteCount > 0 || kind == .single, head.offset <= UInt64.max - UInt64(byteCount)
        else { return nil }
        head.byteCount = byteCount
        if first & flagRecordSize != 0 {
            guard let size = reader.length(max: Int(UInt32.max)), size > 1 else { return nil }
            head.recordSize = UInt32(size)
        }
        head.hasBlocks = first & flagBlocks != 0
        return head
    }

    /// The record of the entry with `key` and `value`; nil when they do not fit together.
    static func record(
        key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer
    ) -> IndexRecord? {
        var reader = unsafe RawReader(value)
        guard let head = unsafe head(key: key, from: &reader) else { return nil }
        var value = StoredValue()
        if !head.kind.isPunch {
            if head.hasBlocks {
                guard let extents = Self.blocks(&reader, byteCount: head.byteCount) else {
                    return nil
                }
                (value.firstBlocks, value.moreBlocks) = extents
            } else {
                guard let bytes = reader.bytes(head.byteCount) else { return nil }
                value.inline = bytes
            }
            let words = VOS.chunkCount(head.byteCount) * head.checksumType.words
            guard reader.remaining == 4 * words else { return nil }
            for index in 0..<words {
                guard let word = reader.long() else { return nil }
                if index == 0 {
                    value.firstChecksum = word
                } else {
                    value.moreChecksums.append(word)
                }
            }
        }
        guard reader.remaining == 0 else { return nil }
        return IndexRecord(head, value)
    }

    /// The first extent and the others.
    private static func blocks(
        _ reader: inout RawReader, byteCount: Int
    ) -> (BlockExtent, [BlockExtent])? {
        let total = VOS.blockCount(byteCount)
        guard let count = reader.length(max: total), count > 0 else { return nil }
        var first = BlockExtent(start: 0, count: 0)
        var more: [BlockExtent] = []
        var stored = 0
        for index in 0..<count {
            guard let start = reader.long(), let length = reader.length(max: total), length > 0,
                UInt64(start) + UInt64(length) <= UInt64(UInt32.max)
            else { return nil }
            let extent = BlockExtent(start: start, count: UInt32(length))
            if index == 0 { first = extent } else { more.append(extent) }
            stored += length
        }
        return stored == total ? (first, more) : nil
    }
}

/// Reads numbers from memory, and never beyond it.
@safe struct RawReader {
    // SAFETY: whoever makes one keeps the memory while it is used.
    private let memory: UnsafeRawBufferPointer
    private var index = 0

    init(_ memory: UnsafeRawBufferPointer) { unsafe self.memory = memory }

    var remaining: Int { unsafe memory.count - index }

    @inline(__always)
    mutating func byte() -> UInt8? {
        guard remaining > 0 else { return nil }
        defer { index += 1 }
        return unsafe memory[index]
    }

    mutating func long() -> UInt32? {
        guard remaining >= 4 else { return nil }
        defer { index += 4 }
        return unsafe UInt32(
            littleEndian: memory.loadUnaligned(fromByteOffset: index, as: UInt32.self))
    }

    /// A number of 7 bits a byte that is not above `max`.
    @inline(__always)
    mutating func length(max: Int) -> Int? {
        var value = 0
        var shift = 0
        while let byte = byte(), shift < 56 {
            value |= Int(byte & 127) << shift
            if byte < 128 { return value <= max ? value : nil }
            shift += 7
        }
        return nil
    }

    mutating func bytes(_ count: Int) -> [UInt8]? {
        guard count >= 0, remaining >= count else { return nil }
        defer { index += count }
        return unsafe [UInt8](
            copying: UnsafeRawBufferPointer(rebasing: memory[index..<index + count]))
    }
}

extension [UInt8] {
    /// A number of 7 bits a byte, least significant first.
    @inline(__always)
    mutating func put(varint number: UInt64) {
        var rest = number
        while rest >= 128 {
            append(UInt8(truncatingIfNeeded: rest) | 128)
            rest >>= 7
        }
        append(UInt8(rest))
    }
}

extension IndexKey {
    /// The eight bytes at `index`, most significant first.
    @inline(__always)
    static func word(_ key: UnsafeRawBufferPointer, at index: Int) -> UInt64 {
        unsafe UInt64(bigEndian: key.loadUnaligned(fromByteOffset: index, as: UInt64.self))
    }

    /// The offset of the extent that is filed at `index`.
    static func extentOffset(_ key: UnsafeRawBufferPointer, at index: Int) -> UInt64 {
        // The four highest bits of a window are 0.
        let window = unsafe word(key, at: index) >> 16 & (1 << 44 - 1)
        let low =
            unsafe UInt64(key[index + 7]) << 16 | UInt64(key[index + 8]) << 8
            | UInt64(key[index + 9])
        return window * windowBytes + low % windowBytes
    }

    /// Below, at or above 0 as `left` is below, equal to or above `right`.
    @inline(__always)
    static func compare(
        _ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer
    ) -> Int {
        let common = min(left.count, right.count)
        if common > 0 {
            let result = unsafe memcmp(left.baseAddress!, right.baseAddress!, common)
            if result != 0 { return Int(result) }
        }
        return left.count - right.count
    }

    /// How many bytes two keys have in common at their beginning.
    @inline(__always)
    static func common(
        _ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer
    ) -> Int {
        let most = min(left.count, right.count)
        var index = 0
        while index + 8 <= most {
            let first = unsafe left.loadUnaligned(fromByteOffset: index, as: UInt64.self)
            let second = unsafe right.loadUnaligned(fromByteOffset: index, as: UInt64.self)
            if first != second {
                return index + (first ^ second).trailingZeroBitCount / 8
            }
            index += 8
        }
        while index < most, unsafe left[index] == right[index] { index += 1 }
        return index
    }
}
