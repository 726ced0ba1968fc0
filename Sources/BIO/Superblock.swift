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

/// The other partition of a store that lies on two devices.
struct Partner: Hashable {
    /// Where it lies on its device.
    var partition: Range<UInt64>
    /// What both superblocks say: these two belong together.
    var pairID: UniqueID
    /// Blocks on the metadata device. They are numbered after those on the data device.
    var metadataBlocks: UInt32
}

/// What a partition is: its identity, its parts, and its last checkpoint. There are two copies,
/// each in a block of its own; both are rewritten, one after the other, at every checkpoint.
///
/// A store on two devices has them on both. Those on the metadata device are the ones that change;
/// those on the data device say for ever where the others are.
struct Superblock: Hashable {
    static let magic: UInt64 = 0x3142_534f_5941_5244  // "DRAYOSB1"
    /// Of a store on one device, and on two.
    static let layoutVersion: UInt32 = 3
    static let pairedLayoutVersion: UInt32 = 4
    static let checksumOffset = BlockDevice.blockSize - 4
    static let copies: UInt64 = 2
    private static let extentsOffset = 256
    private static let mirrorOffset = extentsOffset + CheckpointRoot.extentsMax * 8
    private static let faultyOffset = mirrorOffset + CheckpointRoot.extentsMax * 8

    var sequence: UInt64 = 1
    var identity: StoreIdentity
    var partition: Range<UInt64>
    var logBlocks: UInt64
    var dataBlocks: UInt32
    /// Tells the groups of this format from those of an earlier one.
    var generation: UInt64
    var tail: LogCursor
    var checkpoint: CheckpointRoot?
    var role = Role.single
    /// Nil when there is one device only.
    var partner: Partner?
    /// The device was declared faulty, and nobody has returned it to service.
    var isFaulty = false

    /// What is in a partition.
    enum Role: UInt32 {
        /// Everything.
        case single = 0
        /// The data blocks of a store whose other part is on a metadata device.
        case data = 1
        /// The log, and the blocks for metadata.
        case metadata = 2
    }

    private static let headBytes = copies * UInt64(BlockDevice.blockSize)

    /// Where the log begins on its device, in bytes.
    var logOffset: UInt64 { partition.lowerBound + Superblock.headBytes }

    /// Where the blocks begin that this partition has, in bytes.
    var blocksOffset: UInt64 {
        role == .data ? logOffset : logOffset + logBlocks * UInt64(BlockDevice.blockSize)
    }

    /// Where the data blocks begin on the data device, in bytes.
    var dataOffset: UInt64 {
        guard role == .metadata, let partner else { return blocksOffset }
        return partner.partition.lowerBound + Superblock.headBytes
    }

    var metadataBlocks: UInt32 { partner?.metadataBlocks ?? 0 }

    /// Blocks on both devices.
    var totalBlocks: UInt32 { dataBlocks + metadataBlocks }

    /// Whether there are such blocks, on one device.
    func holds(_ extent: BlockExtent) -> Bool {
        extent.count > 0 && extent.end <= UInt64(totalBlocks)
            && (extent.start >= dataBlocks || extent.end <= UInt64(dataBlocks))
    }

    func encode(into buffer: IOBuffer) {
        buffer.zero(0..<BlockDevice.blockSize)
        buffer.store(Superblock.magic, at: 0)
        buffer.store(
            partner == nil ? Superblock.layoutVersion : Superblock.pairedLayoutVersion, at: 8)
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
            buffer.store(checkpoint.byteCount, at: 128)
            buffer.store(checkpoint.logSequence, at: 136)
            buffer.store(checkpoint.checksum, at: 144)
            buffer.store(UInt32(checkpoint.extents.count), at: 148)
            buffer.store(UInt32(checkpoint.mirror.count), at: 192)
            Superblock.encode(checkpoint.extents, into: buffer, at: Superblock.extentsOffset)
            Superblock.encode(checkpoint.mirror, into: buffer, at: Superblock.mirrorOffset)
        }
        if let partner {
            buffer.store(role.rawValue, at: 152)
            buffer.store(partner.metadataBlocks, at: 156)
            buffer.store(partner.partition.lowerBound, at: 160)
            buffer.store(partner.partition.upperBound, at: 168)
            buffer.store(partner.pairID, at: 176)
        }
        buffer.store(UInt32(isFaulty ? 1 : 0), at: Superblock.faultyOffset)
        buffer.store(
            buffer.checksum(0..<Superblock.checksumOffset), at: Superblock.checksumOffset)
    }

    private static func encode(_ extents: [BlockExtent], into buffer: IOBuffer, at place: Int) {
        precondition(extents.count <= CheckpointRoot.extentsMax)
        for (index, extent) in extents.enumerated() {
            buffer.store(extent.start, at: place + index * 8)
            buffer.store(extent.count, at: place + index * 8 + 4)
        }
    }

    private static func extents(_ buffer: IOBuffer, at place: Int, count: Int) -> [BlockExtent] {
        (0..<count).map { index in
            BlockExtent(
                start: buffer.load(UInt32.self, at: place + index * 8),
                count: buffer.load(UInt32.self, at: place + index * 8 + 4))
        }
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
        guard version == layoutVersion || version == pairedLayoutVersion else {
            return .version(version)
        }
        guard buffer.load(UInt32.self, at: 12) == BlockDevice.blockSize else {
            return .damaged("block size")
        }
        let lower = buffer.load(UInt64.self, at: 64)
        let upper = buffer.load(UInt64.self, at: 72)
        guard lower < upper else { return .damaged("partition bounds") }
        let extentCount = Int(buffer.load(UInt32.self, at: 148))
        let mirrorCount = Int(buffer.load(UInt32.self, at: 192))
        guard max(extentCount, mirrorCount) <= CheckpointRoot.extentsMax else {
            return .damaged("extent count")
        }
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
        superblock.isFaulty = buffer.load(UInt32.self, at: faultyOffset) != 0
        if buffer.load(UInt32.self, at: 124) != 0 {
            superblock.checkpoint = CheckpointRoot(
                extents: extents(buffer, at: extentsOffset, count: extentCount),
                mirror: extents(buffer, at: mirrorOffset, count: mirrorCount),
                byteCount: buffer.load(UInt64.self, at: 128),
                checksum: buffer.load(UInt32.self, at: 144),
                logSequence: buffer.load(UInt64.self, at: 136))
        }
        if version == pairedLayoutVersion {
            guard let role = Role(rawValue: buffer.load(UInt32.self, at: 152)), role != .single
            else { return .damaged("role") }
            let lower = buffer.load(UInt64.self, at: 160)
            let upper = buffer.load(UInt64.self, at: 168)
            guard lower < upper else { return .damaged("bounds of the other partition") }
            superblock.role = role
            superblock.partner = Partner(
                partition: lower..<upper, pairID: buffer.loadIdentity(at: 176),
                metadataBlocks: buffer.load(UInt32.self, at: 156))
        }
        if let problem = superblock.inconsistency { return .damaged(problem) }
        return .valid(superblock)
    }

    /// What contradicts itself, if anything does.
    private var inconsistency: String? {
        let unit = UInt64(BlockDevice.blockSize)
        for bounds in [partition, partner?.partition ?? partition] {
            guard bounds.lowerBound % unit == 0, bounds.upperBound % unit == 0 else {
                return "partition alignment"
            }
        }
        // Where the log is, and where the data blocks are.
        let here = (partition.upperBound - partition.lowerBound) / unit
        let there = partner.map { ($0.partition.upperBound - $0.partition.lowerBound) / unit }
        let (logRoom, dataRoom) =
            switch role {
            case .single: (here, here)
            case .data: (there ?? 0, here)
            case .metadata: (here, there ?? 0)
            }
        let blocksWithLog = UInt64(role == .single ? dataBlocks : metadataBlocks)
        guard logBlocks >= BlockStore.logSizeMin / unit, logBlocks < logRoom,
            Superblock.copies + logBlocks + blocksWithLog <= logRoom, dataBlocks > 0,
            Superblock.copies + UInt64(dataBlocks) <= dataRoom,
            UInt64(dataBlocks) + UInt64(metadataBlocks) <= UInt64(UInt32.max)
        else { return "sizes" }
        // They only grow, by one or a few at a time: nothing that was written comes near.
        let counters = [sequence, tail.position, tail.number, tail.sequence]
        guard counters.allSatisfy({ $0 < 1 << 62 }), tail.sequence >= 1 else { return "counters" }
        guard let checkpoint else { return nil }
        guard checkpoint.logSequence < 1 << 62 else { return "counters" }
        for copy in checkpoint.copies {
            guard copy.allSatisfy(holds) else { return "extents" }
            let bytes = copy.reduce(0) { $0 + $1.byteCount }
            guard checkpoint.byteCount <= bytes else { return "checkpoint size" }
        }
        return nil
    }
}

extension BlockStore {
    /// Where the data blocks lie in a partition with a log of `logSize` bytes; of 0 when that is on
    /// a metadata device.
    package static func dataArea(of partition: Range<UInt64>, logSize: UInt64) -> Range<UInt64> {
        let start = partition.lowerBound + Superblock.copies * UInt64(BlockDevice.blockSize)
        return start + logSize..<partition.upperBound
    }
}

/// Where the parts of an opened store lie.
struct StorePlaces {
    let data: BlockDevice
    /// Nil when the data device has everything.
    let metadata: BlockDevice?
    private let dataBlocks: UInt32
    private let dataOffset: UInt64
    private let metadataOffset: UInt64

    /// `superblock` is the one that changes.
    init(data: BlockDevice, metadata: BlockDevice?, superblock: Superblock) {
        precondition((metadata != nil) == (superblock.role == .metadata))
        self.data = data
        self.metadata = metadata
        dataBlocks = superblock.dataBlocks
        dataOffset = superblock.dataOffset
        metadataOffset = superblock.blocksOffset
    }

    /// The device with the log and the superblocks that change.
    var log: BlockDevice { metadata ?? data }

    /// The store's partition of one of its devices; `superblock` is the one that changes.
    func partition(on device: BlockDevice, _ superblock: Superblock) -> Range<UInt64> {
        guard device !== log, let partner = superblock.partner else { return superblock.partition }
        return partner.partition
    }

    /// Registers a buffer sparingly, whichever device transfers go to. Returns whether one has it.
    func register(_ buffer: IOBuffer) -> Bool {
        let isAtData = data.register(buffer, sparingly: true)
        let isAtMetadata = metadata?.register(buffer, sparingly: true) ?? false
        return isAtData || isAtMetadata
    }

    func isOnMetadata(_ extent: BlockExtent) -> Bool { extent.start >= dataBlocks }

    /// The device with the blocks of `extent`, and where they begin.
    func place(of extent: BlockExtent) -> (device: BlockDevice, offset: UInt64) {
        let unit = UInt64(BlockDevice.blockSize)
        guard let metadata, isOnMetadata(extent) else {
            return (data, dataOffset + UInt64(extent.start) * unit)
        }
        return (metadata, metadataOffset + UInt64(extent.start - dataBlocks) * unit)
    }
}
