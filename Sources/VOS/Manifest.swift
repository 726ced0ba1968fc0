internal import BIO
internal import DrayRuntime

/// The manifest: what stands on the device beside the log, and where.
///
///     magic 4, version 4, sequence 8, aggregated epoch 8, horizon of transactions 8,
///     transactions 8, next table 8,
///     chunks 4, each: type 1, byte count 4, checksum 4, extents 4 and extents of the second copy
///             4, each: start 4, count 4
///     tables 4, each: `TableInfo`
///     usages 4, each: pool 16, container 16, bytes 8, bytes in blocks 8, entries 8,
///               extents of records that are not bytes 8
///     pages of the block map 4, each: blocks of the two copies 4 (0xffffffff: none), checksum 4
///     snapshots 4, each: pool 16, container 16, epoch 8
///     destroyed ranges 4, each: from 4 + n, to 4 + n, first epoch 8, last epoch 8, stamp 8
///
/// It lies, twice, in the blocks that BIO's `CheckpointRoot` names. A chunk of type 1 has
/// transactions (id 16, epoch 8, committed 1), one of type 3 undecided transactions (sequence 8,
/// log record 4 + n), one of type 4 committed ones that others may not know of (id 16, epoch 8,
/// members 4 + n). All of it is as it was after the log record `sequence`.
struct Manifest {
    static let magic: UInt32 = 0x534f_5644  // "DVOS"
    static let version: UInt32 = 6

    enum ChunkType: UInt8 {
        case transactions = 1
        case prepared = 3
        case completions = 4
    }

    struct Chunk {
        /// A chunk is closed when it has this many bytes.
        static let byteCountGoal = 64 << 10
        /// The most bytes of a chunk: the goal and the longest of what it has.
        static let byteCountMax = 1 << 20

        var type: ChunkType
        var byteCount: Int
        var checksum: UInt32
        var extents: [BlockExtent]
        /// The second copy.
        var mirror: [BlockExtent]
    }

    struct Usage {
        var name: ContainerName
        var usage: VOSUsage
    }

    struct Snapshot {
        var name: ContainerName
        var epoch: UInt64
    }

    var sequence: UInt64 = 0
    var aggregatedEpoch: UInt64 = 0
    var horizon: UInt64 = 0
    var transactionCount: UInt64 = 0
    var nextTable: UInt64 = 1
    var chunks: [Chunk] = []
    var tables: [TableInfo] = []
    var usages: [Usage] = []
    var pages: [BlockMap.Page] = []
    var snapshots: [Snapshot] = []
    var destroyed: [DestroyedRange] = []

    /// The blocks of everything that it names, but the values and itself.
    var extents: [BlockExtent] {
        metadata + tables.flatMap(\.extents)
    }

    func encode() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.put(Manifest.magic)
        bytes.put(Manifest.version)
        for number in [
            sequence, aggregatedEpoch, horizon, transactionCount, nextTable,
        ] {
            bytes.put(number)
        }
        bytes.put(UInt32(chunks.count))
        for chunk in chunks {
            bytes.append(chunk.type.rawValue)
            bytes.put(UInt32(chunk.byteCount))
            bytes.put(chunk.checksum)
            for copy in [chunk.extents, chunk.mirror] {
                bytes.put(UInt32(copy.count))
                for extent in copy {
                    bytes.put(extent.start)
                    bytes.put(extent.count)
                }
            }
        }
        bytes.put(UInt32(tables.count))
        for table in tables { table.encode(to: &bytes) }
        bytes.put(UInt32(usages.count))
        for entry in usages {
            bytes.append(id: entry.name.pool)
            bytes.append(id: entry.name.container)
            bytes.put(entry.usage.bytes)
            bytes.put(entry.usage.blockBytes)
            bytes.put(entry.usage.entries)
            bytes.put(entry.usage.recordExtents)
        }
        bytes.put(UInt32(pages.count))
        for page in pages {
            for block in page.copies.isEmpty ? [.max, .max] : page.copies { bytes.put(block) }
            bytes.put(page.checksum)
        }
        bytes.put(UInt32(snapshots.count))
        for snapshot in snapshots {
            bytes.append(id: snapshot.name.pool)
            bytes.append(id: snapshot.name.container)
            bytes.put(snapshot.epoch)
        }
        bytes.put(UInt32(destroyed.count))
        for range in destroyed {
            bytes.put(string: range.from)
            bytes.put(string: range.to)
            bytes.put(range.epochs.lowerBound)
            bytes.put(range.epochs.upperBound)
            bytes.put(range.stamp)
        }
        return bytes
    }

    static func decode(_ bytes: [UInt8]) throws(MalformedBytes) -> Manifest {
        var reader = ByteReader(bytes)
        guard try reader.long() == magic else { throw MalformedBytes(what: "no manifest") }
        let version = try reader.long()
        guard version == Manifest.version else {
            throw MalformedBytes(what: "manifest version \(version)")
        }
        var manifest = Manifest()
        manifest.sequence = try reader.quad()
        manifest.aggregatedEpoch = try reader.quad()
        manifest.horizon = try reader.quad()
        manifest.transactionCount = try reader.quad()
        manifest.nextTable = try reader.quad()
        for _ in 0..<(try reader.long()) { manifest.chunks.append(try chunk(&reader)) }
        for _ in 0..<(try reader.long()) {
            let table = try TableInfo(from: &reader)
            guard table.id < manifest.nextTable else {
                throw MalformedBytes(what: "table \(table.id), which is to come")
            }
            manifest.tables.append(table)
        }
        for _ in 0..<(try reader.long()) {
            let name = try containerName(&reader)
            let usage = VOSUsage(
                bytes: try reader.quad(), blockBytes: try reader.quad(),
                entries: try reader.quad(), recordExtents: try reader.quad())
            guard usage.recordExtents <= usage.entries else {
                throw MalformedBytes(what: "more extents than entries")
            }
            manifest.usages.append(Usage(name: name, usage: usage))
        }
        for _ in 0..<(try reader.long()) {
            let copies = [try reader.long(), try reader.long()]
            manifest.pages.append(
                BlockMap.Page(
                    copies: copies.contains(.max) ? [] : copies, checksum: try reader.long()))
        }
        for _ in 0..<(try reader.long()) {
            let name = try containerName(&reader)
            manifest.snapshots.append(Snapshot(name: name, epoch: try reader.quad()))
        }
        for _ in 0..<(try reader.long()) {
            manifest.destroyed.append(
                DestroyedRange(
                    from: try reader.countedString(maximum: IndexKey.lengthMax),
                    to: try reader.countedString(maximum: IndexKey.lengthMax),
                    epochs: try reader.epochs(), stamp: try reader.quad()))
        }
        guard reader.remaining == 0 else {
            throw MalformedBytes(what: "\(reader.remaining) bytes after a manifest")
        }
        return manifest
    }

    private static func containerName(
        _ reader: inout ByteReader
    ) throws(MalformedBytes) -> ContainerName {
        ContainerName(pool: try reader.id(), container: try reader.id())
    }

    private static func chunk(_ reader: inout ByteReader) throws(MalformedBytes) -> Chunk {
        let typeByte = try reader.byte()
        guard let type = ChunkType(rawValue: typeByte) else {
            throw MalformedBytes(what: "manifest chunk type \(typeByte)")
        }
        let byteCount = Int(try reader.long())
        let checksum = try reader.long()
        var copies: [[BlockExtent]] = []
        for _ in 0..<2 {
            let extents = try RecordCoding.extents(from: &reader, count: Int(try reader.long()))
            let blocks = extents.reduce(0) { $0 + Int($1.count) }
            guard byteCount > 0, byteCount <= Chunk.byteCountMax,
                blocks == VOS.blockCount(byteCount)
            else { throw MalformedBytes(what: "a manifest chunk of \(byteCount) bytes") }
            copies.append(extents)
        }
        return Chunk(
            type: type, byteCount: byteCount, checksum: checksum, extents: copies[0],
            mirror: copies[1])
    }
}
