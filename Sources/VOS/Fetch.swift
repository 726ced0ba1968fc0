public import DrayChecksums
public import DrayRuntime

/// Names an attribute key at an epoch: what a fetch reads from.
public struct Fetch: Sendable {
    public var pool: UniqueID
    public var container: UniqueID
    public var object: ObjectID
    public var dkey: [UInt8]
    public var akey: [UInt8]

    /// The newest version whose epoch is not above this one is read.
    public var epoch: UInt64

    /// How long to wait for updates under way; nil: for ever.
    public var patience: Instant?

    /// The read is part of a transaction whose snapshot is `epoch`: what is newer ends it with
    /// `.conflict`, and nothing will be written at that epoch or before any more.
    public var isTransactional = false

    /// The type of the checksums that the result gets, whatever the value was stored with.
    public var checksumType = ChecksumType.crc32c

    /// What the device holds is read and verified, even if the value is in memory.
    public var readsDevice = false

    public init(
        pool: UniqueID, container: UniqueID, object: ObjectID, dkey: [UInt8], akey: [UInt8],
        epoch: UInt64 = .max
    ) {
        self.pool = pool
        self.container = container
        self.object = object
        self.dkey = dkey
        self.akey = akey
        self.epoch = epoch
    }
}

/// What a fetch found.
public struct FetchResult: Hashable, Sendable {
    /// For a single value its length; for an array its end (one past its last byte), whatever part
    /// of it was asked for.
    public var size: UInt64

    /// How many bytes of the buffer were filled: 0 when a single value does not fit into it.
    public var byteCount: Int

    /// The words of the checksums of each `VOSLimits.checksumChunk` bytes of what was filled, as
    /// `Fetch.checksumType` says.
    public var checksums: [UInt32]

    /// The epoch of the newest version that contributed; 0 when nothing did.
    public var epoch: UInt64
}

/// One visible piece of an array.
public struct ArrayExtent: Hashable, Sendable {
    public var offset: UInt64
    public var byteCount: UInt64
    public var epoch: UInt64
}

/// How much a pool or container holds on this target.
public struct VOSUsage: Hashable, Sendable {
    /// Bytes of values, superseded versions included until they are aggregated.
    public var bytes: UInt64 = 0
    /// Bytes of blocks on the device.
    public var blockBytes: UInt64 = 0
    /// Entries of the index: versions of values and punches.
    public var entries: UInt64 = 0
}
