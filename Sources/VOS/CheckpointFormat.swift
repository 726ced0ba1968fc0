internal import BIO
internal import DrayRuntime

/// A waiter for the checkpoint under way.
@safe struct CheckpointWaiter {
    let continuation: UnsafeContinuation<VOSError?, Never>
}

/// The directory of a checkpoint: where its chunks are.
///
///     magic 4, version 4, sequence 8, aggregated epoch 8, horizon of transactions 8,
///     transactions 8, entries 8, chunks 4,
///     each: type 1, byteCount 4, checksum 4, extents 4, each: start 4, count 4
///
/// The directory lies in the blocks that BIO's `CheckpointRoot` names. A chunk of type 1 has
/// transactions (id 16, epoch 8, committed 1), one of type 2 index entries in ascending order, one
/// of type 3 undecided transactions (sequence 8, log record 4 + n), one of type 4 committed ones
/// that others may not know of (id 16, epoch 8, members 4 + n).
struct CheckpointDirectory {
    static let magic: UInt32 = 0x534f_5644  // "DVOS"
    static let version: UInt32 = 2

    enum ChunkType: UInt8 {
        case transactions = 1
        case entries = 2
        case prepared = 3
        case completions = 4
    }

    struct Chunk {
        var type: ChunkType
        var byteCount: Int
        var checksum: UInt32
        var extents: [BlockExtent]
    }

    var sequence: UInt64 = 0
    var aggregatedEpoch: UInt64 = 0
    var horizon: UInt64 = 0
    var transactionCount: UInt64 = 0
    var entryCount: UInt64 = 0
    var chunks: [Chunk] = []

    func encode() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.put(CheckpointDirectory.magic)
        bytes.put(CheckpointDirectory.version)
        bytes.put(sequence)
        bytes.put(aggregatedEpoch)
        bytes.put(horizon)
        bytes.put(transactionCount)
        bytes.put(entryCount)
        bytes.put(UInt32(chunks.count))
        for chunk in chunks {
            bytes.append(chunk.type.rawValue)
            bytes.put(UInt32(chunk.byteCount))
            bytes.put(chunk.checksum)
            bytes.put(UInt32(chunk.extents.count))
            for extent in chunk.extents {
                bytes.put(extent.start)
                bytes.put(extent.count)
            }
        }
        return bytes
    }

    static func decode(_ bytes: [UInt8]) throws(MalformedBytes) -> CheckpointDirectory {
        var reader = ByteReader(bytes)
        guard try reader.long() == magic else {
            throw MalformedBytes(what: "no checkpoint directory")
        }
        let version = try reader.long()
        guard version == CheckpointDirectory.version else {
            throw MalformedBytes(what: "checkpoint version \(version)")
        }
        var directory = CheckpointDirectory()
        directory.sequence = try reader.quad()
        directory.aggregatedEpoch = try reader.quad()
        directory.horizon = try reader.quad()
        directory.transactionCount = try reader.quad()
        directory.entryCount = try reader.quad()
        let count = Int(try reader.long())
        for _ in 0..<count {
            let typeByte = try reader.byte()
            guard let type = ChunkType(rawValue: typeByte) else {
                throw MalformedBytes(what: "checkpoint chunk type \(typeByte)")
            }
            let byteCount = Int(try reader.long())
            let checksum = try reader.long()
            let extents = try RecordCoding.extents(from: &reader, count: Int(try reader.long()))
            let blocks = extents.reduce(0) { $0 + Int($1.count) }
            guard byteCount > 0, byteCount <= CheckpointChunk.byteCountMax,
                blocks == VOS.blockCount(byteCount)
            else { throw MalformedBytes(what: "a checkpoint chunk of \(byteCount) bytes") }
            directory.chunks.append(
                Chunk(type: type, byteCount: byteCount, checksum: checksum, extents: extents))
        }
        guard reader.remaining == 0 else {
            throw MalformedBytes(what: "\(reader.remaining) bytes after a checkpoint directory")
        }
        return directory
    }
}

/// What a chunk of a checkpoint has in it.
enum CheckpointChunk {
    /// A chunk is closed when it has this many bytes.
    static let byteCountGoal = 512 << 10
    /// The most bytes of a chunk: the goal and the longest entry.
    static let byteCountMax = 1 << 20

    /// key (shared with the one before in the chunk 4, rest 4 + n), kind 1, flags 1, dkeyEnd 4,
    /// akeyEnd 4, epoch 8, stamp 8, value (`RecordCoding`).
    static func put(
        _ key: IndexKey.Bytes, after previous: IndexKey.Bytes, _ record: IndexRecord,
        to bytes: inout [UInt8]
    ) {
        KeyCompression.put(key, after: previous, to: &bytes)
        bytes += .written(capacity: 26 + RecordCoding.length(of: record)) { writer in
            writer.put(record.kind.rawValue)
            writer.put(record.hasBlocks ? RecordCoding.flagBlocks : 0)
            writer.put(UInt32(record.dkeyEnd))
            writer.put(UInt32(record.akeyEnd))
            writer.put(record.epoch)
            writer.put(record.stamp)
            RecordCoding.put(record, to: &writer)
        }
    }

    static func entry(
        after previous: IndexKey.Bytes, from reader: inout ByteReader
    ) throws(MalformedBytes) -> (key: IndexKey.Bytes, record: IndexRecord) {
        let key = try KeyCompression.key(after: previous, from: &reader)
        let kindByte = try reader.byte()
        guard let kind = IndexRecord.Kind(rawValue: kindByte) else {
            throw MalformedBytes(what: "an index entry of kind \(kindByte)")
        }
        let flags = try reader.byte()
        let dkeyEnd = Int(try reader.long())
        let akeyEnd = Int(try reader.long())
        let epoch = try reader.quad()
        let stamp = try reader.quad()
        let end: Int
        switch kind {
        case .objectPunch: end = IndexKey.objectLength + 9
        case .dkeyPunch: end = dkeyEnd + 9
        case .akeyPunch, .single: end = akeyEnd + 9
        case .extent: end = akeyEnd + 25
        }
        let hasDkey = kind != .objectPunch
        let hasAkey = hasDkey && kind != .dkeyPunch
        guard key.count == end, hasDkey ? dkeyEnd > IndexKey.objectLength : dkeyEnd == 0,
            hasAkey ? akeyEnd > dkeyEnd : akeyEnd == 0
        else { throw MalformedBytes(what: "an index entry whose key has \(key.count) bytes") }
        let record = try RecordCoding.record(
            kind: kind, hasBlocks: flags & RecordCoding.flagBlocks != 0, dkeyEnd: dkeyEnd,
            akeyEnd: akeyEnd, epoch: epoch, from: &reader)
        record.stamp = stamp
        return (key, record)
    }
}
