public import DrayRuntime

/// A run of data blocks of one target: `count` blocks of 4 KiB from block `start`.
///
/// Blocks are counted from the first data block of the target's partition.
public struct BlockExtent: Hashable, Sendable {
    public var start: UInt32
    public var count: UInt32

    public init(start: UInt32, count: UInt32) {
        self.start = start
        self.count = count
    }

    /// The block after the last one.
    public var end: UInt64 { UInt64(start) + UInt64(count) }

    /// The size in bytes.
    public var byteCount: UInt64 { UInt64(count) * UInt64(BlockDevice.blockSize) }
}

/// What a log record says about blocks that were written for it: recovery of an unfinished flush
/// compares the blocks with it.
public struct BlockCheck: Hashable, Sendable {
    /// Where the bytes are.
    public var extent: BlockExtent
    /// How many bytes of the extent the checksum covers, from its start.
    public var byteCount: Int
    /// CRC32C of those bytes.
    public var checksum: UInt32

    public init(extent: BlockExtent, byteCount: Int, checksum: UInt32) {
        precondition(byteCount >= 0, "a check covers a negative number of bytes")
        precondition(UInt64(byteCount) <= extent.byteCount, "a check covers more than its extent")
        self.extent = extent
        self.byteCount = byteCount
        self.checksum = checksum
    }
}

/// Whose data a partition holds.
public struct StoreIdentity: Hashable, Sendable {
    public var clusterID: UniqueID
    public var engineID: UniqueID
    /// The index of the target within its engine.
    public var target: UInt32

    public init(clusterID: UniqueID, engineID: UniqueID, target: UInt32) {
        self.clusterID = clusterID
        self.engineID = engineID
        self.target = target
    }
}

extension StoreIdentity: CustomStringConvertible {
    public var description: String {
        "cluster \(clusterID), engine \(engineID), target \(target)"
    }
}

/// Where the last checkpoint stands. What the bytes mean is up to the layer above.
public struct CheckpointRoot: Hashable, Sendable {
    /// The blocks that hold the checkpoint's root, in order; at most `extentsMax`.
    public var extents: [BlockExtent]
    /// The blocks that hold it once more, as many extents at most; empty when there is one copy.
    public var mirror: [BlockExtent]
    /// How many bytes of them count.
    public var byteCount: UInt64
    /// A checksum of those bytes, for the layer above to verify.
    public var checksum: UInt32
    /// The checkpoint includes every record up to and including this one.
    public var logSequence: UInt64

    /// The places of each copy.
    package var copies: [[BlockExtent]] { mirror.isEmpty ? [extents] : [extents, mirror] }

    /// As many as a superblock has room for.
    public static let extentsMax = 200

    public init(
        extents: [BlockExtent], mirror: [BlockExtent] = [], byteCount: UInt64, checksum: UInt32,
        logSequence: UInt64
    ) {
        self.extents = extents
        self.mirror = mirror
        self.byteCount = byteCount
        self.checksum = checksum
        self.logSequence = logSequence
    }
}
