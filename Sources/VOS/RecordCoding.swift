internal import BIO
internal import DrayChecksums
internal import DrayRuntime

/// Encodes and decodes the value of an index record, the same in the log and in checkpoints.
enum RecordCoding {
    static let flagBlocks: UInt8 = 1
    static let flagSameDkey: UInt8 = 2
    /// Of an extent: its record size follows, because it is not 1.
    static let flagRecordSize: UInt8 = 32
    /// Where the type of the checksums is among the flags.
    private static let typeShift: UInt8 = 2
    private static let typeMask: UInt8 = 12

    /// The flags of a value.
    static func flags(of record: IndexRecord) -> UInt8 {
        record.checksumType.rawValue << typeShift | (record.hasBlocks ? flagBlocks : 0)
            | (record.recordSize != 1 ? flagRecordSize : 0)
    }

    static func checksumType(flags: UInt8) throws(MalformedBytes) -> ChecksumType {
        guard flags & ~(flagBlocks | flagSameDkey | typeMask | flagRecordSize) == 0,
            let type = ChecksumType(rawValue: (flags & typeMask) >> typeShift)
        else {
            throw MalformedBytes(what: "flags \(flags) of an operation")
        }
        return type
    }

    /// offset 8 (extents), record size 4 (extents, with the flag), byteCount 4, then the extents of
    /// blocks (count 2, each start 4 and count 4) or the bytes, then the checksum of each chunk:
    /// words of 4.
    static func put(_ record: IndexRecord, to bytes: inout ByteWriter) {
        guard !record.kind.isPunch else { return }
        if record.kind == .extent { bytes.put(record.offset) }
        if record.recordSize != 1 { bytes.put(record.recordSize) }
        bytes.put(UInt32(record.byteCount))
        if record.hasBlocks {
            bytes.put(UInt16(1 + record.moreBlocks.count))
            bytes.put(record.firstBlocks.start)
            bytes.put(record.firstBlocks.count)
            for extent in record.moreBlocks {
                bytes.put(extent.start)
                bytes.put(extent.count)
            }
        } else {
            bytes.put(bytes: record.inline)
        }
        for word in 0..<record.checksumWords { bytes.put(record.checksumWord(word)) }
    }

    /// The most bytes that `put` writes.
    static func length(of record: IndexRecord) -> Int {
        18 + 8 * (1 + record.moreBlocks.count) + record.inline.count + 4 * record.checksumWords
    }

    static func record(
        kind: IndexRecord.Kind, flags: UInt8, dkeyEnd: Int, akeyEnd: Int, epoch: UInt64,
        from reader: inout ByteReader
    ) throws(MalformedBytes) -> IndexRecord {
        let type = try checksumType(flags: flags)
        guard kind == .extent || flags & flagRecordSize == 0 else {
            throw MalformedBytes(what: "the record size of what is no array")
        }
        if kind.isPunch {
            return IndexRecord(kind: kind, dkeyEnd: dkeyEnd, akeyEnd: akeyEnd, epoch: epoch)
        }
        let offset = kind == .extent ? try reader.quad() : 0
        let recordSize = flags & flagRecordSize != 0 ? try reader.long() : 1
        guard recordSize > 1 || flags & flagRecordSize == 0 else {
            throw MalformedBytes(what: "a record size of \(recordSize)")
        }
        let byteCount = Int(try reader.long())
        guard byteCount <= VOSLimits.valueLengthMax, byteCount > 0 || kind == .single,
            offset <= UInt64.max - UInt64(byteCount)
        else { throw MalformedBytes(what: "a value of \(byteCount) bytes at \(offset)") }
        var inline: [UInt8] = []
        var blocks: [BlockExtent] = []
        if flags & flagBlocks != 0 {
            blocks = try extents(from: &reader, count: Int(try reader.short()))
            let stored = blocks.reduce(0) { $0 + Int($1.count) }
            guard stored == VOS.blockCount(byteCount) else {
                throw MalformedBytes(what: "\(byteCount) bytes in \(stored) blocks")
            }
        } else {
            inline = try reader.string(byteCount)
        }
        var checksums: [UInt32] = []
        for _ in 0..<VOS.chunkCount(byteCount) * type.words { checksums.append(try reader.long()) }
        return IndexRecord(
            kind: kind, dkeyEnd: dkeyEnd, akeyEnd: akeyEnd, epoch: epoch, offset: offset,
            byteCount: byteCount, inline: inline, blocks: blocks, recordSize: recordSize,
            checksumType: type, checksums: checksums)
    }

    static func extents(
        from reader: inout ByteReader, count: Int
    ) throws(MalformedBytes) -> [BlockExtent] {
        guard count > 0, count <= reader.remaining / 8 else {
            throw MalformedBytes(what: "\(count) extents of blocks")
        }
        var extents: [BlockExtent] = []
        extents.reserveCapacity(count)
        for _ in 0..<count {
            let extent = BlockExtent(start: try reader.long(), count: try reader.long())
            guard extent.count > 0,
                UInt64(extent.start) + UInt64(extent.count) <= UInt64(UInt32.max)
            else { throw MalformedBytes(what: "an extent of \(extent.count) blocks") }
            extents.append(extent)
        }
        return extents
    }
}
