internal import DrayRuntime

/// The first bytes of a group of log records. It stands within one sector of 512 bytes, so that a
/// torn write leaves either the whole header or none of it.
struct GroupHeader: Hashable {
    static let magic: UInt32 = 0x3147_4c44  // "DLG1"
    static let byteCount = 64
    /// Each record is preceded by its length.
    static let recordPrefix = 4
    /// A check in a group: start, count, byte count, checksum.
    static let checkBytes = 16
    private static let sealFlag: UInt32 = 1

    var generation: UInt64
    /// Where it stands, and its link to the group before.
    var cursor: LogCursor
    var recordCount: UInt32
    var checkCount: UInt32
    var payloadBytes: UInt32
    var payloadChecksum: UInt32
    /// A group without records that says: everything before me was durable.
    var isSeal: Bool

    /// The blocks of a group with a payload of `payloadBytes`.
    static func blocks(payloadBytes: Int) -> UInt64 {
        UInt64((byteCount + payloadBytes + BlockDevice.blockSize - 1) / BlockDevice.blockSize)
    }

    var blocks: UInt64 { GroupHeader.blocks(payloadBytes: Int(payloadBytes)) }

    /// Writes the header at the start of `buffer` and returns its checksum: the next group's
    /// chain.
    func encode(into buffer: IOBuffer) -> UInt32 {
        buffer.store(GroupHeader.magic, at: 0)
        buffer.store(UInt32(0), at: 4)
        buffer.store(generation, at: 8)
        buffer.store(cursor.number, at: 16)
        buffer.store(cursor.position, at: 24)
        buffer.store(cursor.sequence, at: 32)
        buffer.store(recordCount, at: 40)
        buffer.store(checkCount, at: 44)
        buffer.store(payloadBytes, at: 48)
        buffer.store(payloadChecksum, at: 52)
        buffer.store(cursor.chain, at: 56)
        buffer.store(isSeal ? GroupHeader.sealFlag : 0, at: 60)
        let checksum = buffer.checksum(0..<GroupHeader.byteCount)
        buffer.store(checksum, at: 4)
        return checksum
    }

    /// Reads the header at `offset`; nil when there is no intact one. The second value is its
    /// checksum.
    static func decode(_ buffer: IOBuffer, at offset: Int) -> (GroupHeader, chain: UInt32)? {
        guard buffer.load(UInt32.self, at: offset) == magic else { return nil }
        let stored = buffer.load(UInt32.self, at: offset + 4)
        // The checksum was computed with zero in its own place.
        let zero: [UInt8] = [0, 0, 0, 0]
        var checksum = buffer.checksum(offset..<offset + 4)
        checksum = unsafe CRC32C.checksum(of: zero.span.bytes, continuing: checksum)
        checksum = unsafe CRC32C.checksum(
            of: buffer.readable(offset + 8..<offset + byteCount), continuing: checksum)
        guard checksum == stored else { return nil }
        let header = GroupHeader(
            generation: buffer.load(UInt64.self, at: offset + 8),
            cursor: LogCursor(
                position: buffer.load(UInt64.self, at: offset + 24),
                number: buffer.load(UInt64.self, at: offset + 16),
                chain: buffer.load(UInt32.self, at: offset + 56),
                sequence: buffer.load(UInt64.self, at: offset + 32)),
            recordCount: buffer.load(UInt32.self, at: offset + 40),
            checkCount: buffer.load(UInt32.self, at: offset + 44),
            payloadBytes: buffer.load(UInt32.self, at: offset + 48),
            payloadChecksum: buffer.load(UInt32.self, at: offset + 52),
            isSeal: buffer.load(UInt32.self, at: offset + 60) & sealFlag != 0)
        return (header, stored)
    }

    /// The check number `index` of the group at `offset`; nil when it makes no sense.
    func check(_ index: Int, in buffer: IOBuffer, at offset: Int) -> BlockCheck? {
        let place = offset + GroupHeader.byteCount + index * GroupHeader.checkBytes
        let extent = BlockExtent(
            start: buffer.load(UInt32.self, at: place),
            count: buffer.load(UInt32.self, at: place + 4))
        let bytes = buffer.load(UInt32.self, at: place + 8)
        guard extent.count > 0, UInt64(bytes) <= extent.byteCount else { return nil }
        return BlockCheck(
            extent: extent, byteCount: Int(bytes),
            checksum: buffer.load(UInt32.self, at: place + 12))
    }

    /// Where the records of the group at `offset` stand in `buffer`; nil when the lengths
    /// contradict each other.
    func records(in buffer: IOBuffer, at offset: Int) -> [Range<Int>]? {
        let end = offset + GroupHeader.byteCount + Int(payloadBytes)
        var place = offset + GroupHeader.byteCount + Int(checkCount) * GroupHeader.checkBytes
        guard place <= end else { return nil }
        var ranges: [Range<Int>] = []
        for _ in 0..<recordCount {
            guard place + GroupHeader.recordPrefix <= end else { return nil }
            let length = Int(buffer.load(UInt32.self, at: place))
            place += GroupHeader.recordPrefix
            guard length <= end - place else { return nil }
            ranges.append(place..<place + length)
            place += length
        }
        return place == end ? ranges : nil
    }
}

/// A group that the log still needs.
struct LiveGroup {
    var cursor: LogCursor
    var blocks: UInt64
    /// The sequence number after its last record.
    var nextSequence: UInt64
}
