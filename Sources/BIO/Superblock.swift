internal import DrayRuntime

/// A place in the log: where the next group is expected, and what links it to the one before.
struct LogCursor: Hashable {
    /// In log blocks since format, never wrapping; modulo the log's size it is the place on disk.
    var position: UInt64 = 0
    /// The number of the group.
    var number: UInt64 = 0
    /// The header checksum of the group before.
    var chain: UInt32 = 0
    /// The sequence number of the group's first record.
    var sequence: UInt64 = 1
}

/// What a partition is: its identity, its parts, and its last checkpoint. There are two copies,
/// each in a block of its own; both are rewritten, one after the other, at every checkpoint.
struct Superblock: Hashable {
    static let magic: UInt64 = 0x3142_534f_5941_5244  // "DRAYOSB1"
    static let layoutVersion: UInt32 = 1
    static let checksumOffset = BlockDevice.blockSize - 4
    static let copies: UInt64 = 2
    private static let extentsOffset = 256

    var sequence: UInt64 = 1
    var identity: StoreIdentity
    var partition: Range<UInt64>
    var logBlocks: UInt64
    var dataBlocks: UInt32
    /// Tells the groups of this format from those of an earlier one.
    var generation: UInt64
    var tail: LogCursor
    var checkpoint: CheckpointRoot?

    /// Where the log begins on the device, in bytes.
    var logOffset: UInt64 {
        partition.lowerBound + Superblock.copies * UInt64(BlockDevice.blockSize)
    }

    /// Where the data blocks begin on the device, in bytes.
    var dataOffset: UInt64 { logOffset + logBlocks * UInt64(BlockDevice.blockSize) }

    func encode(into buffer: IOBuffer) {
        buffer.zero(0..<BlockDevice.blockSize)
        buffer.store(Superblock.magic, at: 0)
        buffer.store(Superblock.layoutVersion, at: 8)
        buffer.store(UInt32(BlockDevice.blockSize), at: 12)
        buffer.store(sequence, at: 16)
        buffer.store(identity.clusterID, at: 24)
        buffer.store(identity.engineID, at: 40)
        buffer.store(identity.target, at: 56)
        buffer.store(dataBlocks, at: 60)
        buffer.store(partition.lowerBound, at: 64)
        buffer.store(partition.upperBound, at: 72)
        buffer.store(logBlocks, at: 80)
        buffer.store(generation, at: 88)
        buffer.store(tail.position, at: 96)
        buffer.store(tail.number, at: 104)
        buffer.store(tail.sequence, at: 112)
        buffer.store(tail.chain, at: 120)
        buffer.store(UInt32(checkpoint == nil ? 0 : 1), at: 124)
        if let checkpoint {
            precondition(checkpoint.extents.count <= CheckpointRoot.extentsMax)
            buffer.store(checkpoint.byteCount, at: 128)
            buffer.store(checkpoint.logSequence, at: 136)
            buffer.store(checkpoint.checksum, at: 144)
            buffer.store(UInt32(checkpoint.extents.count), at: 148)
            for (index, extent) in checkpoint.extents.enumerated() {
                buffer.store(extent.start, at: Superblock.extentsOffset + index * 8)
                buffer.store(extent.count, at: Superblock.extentsOffset + index * 8 + 4)
            }
        }
        buffer.store(
            buffer.checksum(0..<Superblock.checksumOffset), at: Superblock.checksumOffset)
    }

    /// What a block that should hold a superblock turns out to be.
    enum Decoded {
        case valid(Superblock)
        case zero
        /// It begins as a superblock does, but is damaged.
        case damaged(String)
        case version(UInt32)
        case foreign
    }

    static func decode(_ buffer: IOBuffer) -> Decoded {
        guard buffer.load(UInt64.self, at: 0) == magic else {
            return buffer.isZero(0..<BlockDevice.blockSize) ? .zero : .foreign
        }
        guard buffer.load(UInt32.self, at: checksumOffset) == buffer.checksum(0..<checksumOffset)
        else { return .damaged("checksum") }
        let version = buffer.load(UInt32.self, at: 8)
        guard version == layoutVersion else { return .version(version) }
        guard buffer.load(UInt32.self, at: 12) == BlockDevice.blockSize else {
            return .damaged("block size")
        }
        let lower = buffer.load(UInt64.self, at: 64)
        let upper = buffer.load(UInt64.self, at: 72)
        guard lower < upper else { return .damaged("partition bounds") }
        let extentCount = Int(buffer.load(UInt32.self, at: 148))
        guard extentCount <= CheckpointRoot.extentsMax else { return .damaged("extent count") }
        var superblock = Superblock(
            identity: StoreIdentity(
                clusterID: buffer.loadIdentity(at: 24), engineID: buffer.loadIdentity(at: 40),
                target: buffer.load(UInt32.self, at: 56)),
            partition: lower..<upper, logBlocks: buffer.load(UInt64.self, at: 80),
            dataBlocks: buffer.load(UInt32.self, at: 60),
            generation: buffer.load(UInt64.self, at: 88),
            tail: LogCursor(
                position: buffer.load(UInt64.self, at: 96),
                number: buffer.load(UInt64.self, at: 104),
                chain: buffer.load(UInt32.self, at: 120),
                sequence: buffer.load(UInt64.self, at: 112)))
        superblock.sequence = buffer.load(UInt64.self, at: 16)
        if buffer.load(UInt32.self, at: 124) != 0 {
            superblock.checkpoint = CheckpointRoot(
                extents: (0..<extentCount).map { index in
                    BlockExtent(
                        start: buffer.load(UInt32.self, at: extentsOffset + index * 8),
                        count: buffer.load(UInt32.self, at: extentsOffset + index * 8 + 4))
                },
                byteCount: buffer.load(UInt64.self, at: 128),
                checksum: buffer.load(UInt32.self, at: 144),
                logSequence: buffer.load(UInt64.self, at: 136))
        }
        if let problem = superblock.inconsistency { return .damaged(problem) }
        return .valid(superblock)
    }

    /// What contradicts itself, if anything does.
    private var inconsistency: String? {
        let unit = UInt64(BlockDevice.blockSize)
        let blocks = (partition.upperBound - partition.lowerBound) / unit
        guard partition.lowerBound % unit == 0, partition.upperBound % unit == 0 else {
            return "partition alignment"
        }
        guard logBlocks >= BlockStore.logSizeMin / unit, logBlocks < blocks,
            Superblock.copies + logBlocks + UInt64(dataBlocks) <= blocks, dataBlocks > 0
        else { return "sizes" }
        // They only grow, by one or a few at a time: nothing that was written comes near.
        let counters = [sequence, tail.position, tail.number, tail.sequence]
        guard counters.allSatisfy({ $0 < 1 << 62 }), tail.sequence >= 1 else { return "counters" }
        guard let checkpoint else { return nil }
        guard checkpoint.logSequence < 1 << 62 else { return "counters" }
        var bytes: UInt64 = 0
        for extent in checkpoint.extents {
            guard extent.count > 0, extent.end <= UInt64(dataBlocks) else { return "extents" }
            bytes += extent.byteCount
        }
        return checkpoint.byteCount <= bytes ? nil : "checkpoint size"
    }
}

extension BlockStore {
    /// Where the data blocks lie in a partition with a log of `logSize` bytes.
    package static func dataArea(of partition: Range<UInt64>, logSize: UInt64) -> Range<UInt64> {
        let start = partition.lowerBound + Superblock.copies * UInt64(BlockDevice.blockSize)
        return start + logSize..<partition.upperBound
    }
}
