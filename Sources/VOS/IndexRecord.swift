internal import BIO
internal import DrayChecksums
internal import DrayRuntime

/// What the index holds under a key: one version of a value, or a punch.
///
/// Immutable once it is in the index.
final class IndexRecord {
    enum Kind: UInt8 {
        case objectPunch = 1
        case dkeyPunch = 2
        case akeyPunch = 3
        case single = 4
        case extent = 5

        var isPunch: Bool { rawValue <= 3 }
    }

    let kind: Kind
    let checksumType: ChecksumType
    /// How long a prefix of the key names the dkey; 0 for the punch of an object.
    let dkeyEnd: Int32
    /// How long a prefix of the key names the akey; 0 for punches of objects and dkeys.
    let akeyEnd: Int32
    /// How many bytes the value has.
    let byteCount: Int32
    let epoch: UInt64
    /// The order of logging: breaks ties between equal epochs. Set when the record is applied.
    var stamp: UInt64 = 0
    /// The first byte of an extent of an array.
    let offset: UInt64

    /// The bytes of a value that has no blocks.
    let inline: [UInt8]
    /// Where the value lies; the first extent apart, because most values have but one.
    let firstBlocks: BlockExtent
    let moreBlocks: [BlockExtent]
    /// Of an extent: how many bytes a record of its array has. Not 0.
    let recordSize: UInt32
    /// The words of the checksums of its chunks; the first apart.
    let firstChecksum: UInt32
    let moreChecksums: [UInt32]

    init(
        kind: Kind, dkeyEnd: Int, akeyEnd: Int, epoch: UInt64, offset: UInt64 = 0,
        byteCount: Int = 0, inline: [UInt8] = [], blocks: [BlockExtent] = [],
        recordSize: UInt32 = 1, checksumType: ChecksumType = .crc32c, checksums: [UInt32] = []
    ) {
        precondition(recordSize > 0)
        self.kind = kind
        self.dkeyEnd = Int32(dkeyEnd)
        self.akeyEnd = Int32(akeyEnd)
        self.epoch = epoch
        self.offset = offset
        self.byteCount = Int32(byteCount)
        self.inline = inline
        firstBlocks = blocks.first ?? BlockExtent(start: 0, count: 0)
        moreBlocks = blocks.count > 1 ? Array(blocks[1...]) : []
        self.recordSize = recordSize
        self.checksumType = checksumType
        firstChecksum = checksums.first ?? 0
        moreChecksums = checksums.count > 1 ? Array(checksums[1...]) : []
    }

    /// Of an entry of a table.
    init(_ head: EntryHead, _ value: StoredValue) {
        kind = head.kind
        dkeyEnd = Int32(head.dkeyEnd)
        akeyEnd = Int32(head.akeyEnd)
        epoch = head.epoch
        stamp = head.stamp
        offset = head.offset
        byteCount = Int32(head.byteCount)
        inline = value.inline
        firstBlocks = value.firstBlocks
        moreBlocks = value.moreBlocks
        recordSize = head.recordSize
        checksumType = head.checksumType
        firstChecksum = value.firstChecksum
        moreChecksums = value.moreChecksums
    }

    /// Whether this wins over `other` where both apply.
    @inline(__always)
    func isNewer(than other: IndexRecord) -> Bool {
        epoch != other.epoch ? epoch > other.epoch : stamp > other.stamp
    }

    var hasBlocks: Bool { firstBlocks.count > 0 }

    var blocks: [BlockExtent] { hasBlocks ? [firstBlocks] + moreBlocks : [] }

    var blockCount: UInt64 {
        moreBlocks.reduce(UInt64(firstBlocks.count)) { $0 + UInt64($1.count) }
    }

    /// One past the last byte of an extent.
    var end: UInt64 { offset + UInt64(byteCount) }

    var chunkCount: Int { VOS.chunkCount(Int(byteCount)) }

    /// How many words its checksums have.
    var checksumWords: Int { chunkCount * checksumType.words }

    @inline(__always)
    func checksumWord(_ index: Int) -> UInt32 {
        index == 0 ? firstChecksum : moreChecksums[index - 1]
    }

    /// The words of the checksums from `chunk` on.
    func checksums(from chunk: Int = 0) -> [UInt32] {
        let first = chunk * checksumType.words
        // The usual case, in one allocation.
        if first + 1 == checksumWords { return [checksumWord(first)] }
        return (first..<checksumWords).map { checksumWord($0) }
    }

    /// Whether `bytes` are those of a chunk, as far as its checksum tells.
    func matches(_ bytes: UnsafeRawBufferPointer, chunk: Int) -> Bool {
        guard checksumType != .crc32c else {
            return unsafe CRC32C.checksum(of: bytes) == checksumWord(chunk)
        }
        var words: [UInt32] = []
        unsafe checksumType.append(of: bytes, to: &words)
        let first = chunk * checksumType.words
        return words.indices.allSatisfy { words[$0] == checksumWord(first + $0) }
    }

    /// The first chunk of `bytes` that does not match its checksum, or nil. They are those of the
    /// value from `chunk` on.
    func firstDamagedChunk(_ bytes: UnsafeRawBufferPointer, from chunk: Int = 0) -> Int? {
        var chunk = chunk
        var start = 0
        while start < bytes.count {
            let end = min(bytes.count, start + VOSLimits.checksumChunk)
            let part = unsafe UnsafeRawBufferPointer(rebasing: bytes[start..<end])
            guard unsafe matches(part, chunk: chunk) else { return chunk }
            chunk += 1
            start = end
        }
        return nil
    }
}

/// What a record says of its value: see there.
struct StoredValue {
    var inline: [UInt8] = []
    var firstBlocks = BlockExtent(start: 0, count: 0)
    var moreBlocks: [BlockExtent] = []
    var firstChecksum: UInt32 = 0
    var moreChecksums: [UInt32] = []
}
