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

    /// What may still be written at `epoch` or before, once this has been read.
    public var isolation = ReadIsolation.none

    /// The type of the checksums that the result gets, whatever the value was stored with.
    public var checksumType = ChecksumType.crc32c

    /// The record size that the array must have; 0: any. With another one the fetch ends with
    /// `.recordSizeMismatch`. An array that is not there has none, and so any.
    public var recordSize: UInt32 = 0

    /// What the device holds is read and verified, even if the value is in memory.
    public var readsDevice = false

    /// What must be there for a value, or the shape of an array, to be read.
    public enum Condition: UInt8, Sendable {
        case none
        /// The distribution key must have a value, under whatever attribute key: `.notFound`
        /// otherwise (DAOS: `DAOS_COND_DKEY_FETCH`).
        case dkeyExists
        /// The attribute key must have one, of either kind (DAOS: `DAOS_COND_AKEY_FETCH`).
        case akeyExists
    }

    /// Checked at `epoch`, as everything is read.
    public var condition = Condition.none

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

/// How far a read keeps later writes from what it has seen.
public enum ReadIsolation: Sendable {
    /// Not at all: a part of a transaction that was led elsewhere may come later, with an epoch
    /// before the read's.
    case none
    /// Nothing will be written at the read's epoch or before any more: whoever reads there again
    /// sees the same.
    case repeatable
    /// So, and what is newer already ends the read with `.conflict`: part of a transaction whose
    /// snapshot is the epoch.
    case serializable
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

    /// How many bytes a record of the array has; 0 for a single value, for an array that is not
    /// there, and when nothing was found in the range and the end was not looked for.
    public var recordSize: UInt32 = 0
}

/// How large an array is.
public struct ArrayShape: Hashable, Sendable {
    /// One past its last byte; 0 when it is not there.
    public var end: UInt64 = 0
    /// How many bytes a record has; 0 when it is not there.
    public var recordSize: UInt32 = 0
}

/// One visible piece of an array.
public struct ArrayExtent: Hashable, Sendable {
    public var offset: UInt64
    public var byteCount: UInt64
    public var epoch: UInt64
    /// How many bytes a record of the array has.
    public var recordSize: UInt32
}

/// How much a pool or container holds on this target.
public struct VOSUsage: Hashable, Sendable {
    /// Bytes of values, superseded versions included until they are aggregated.
    public var bytes: UInt64 = 0
    /// Bytes of blocks on the device.
    public var blockBytes: UInt64 = 0
    /// Entries of the index: versions of values and punches.
    public var entries: UInt64 = 0
    /// Of these, extents of arrays whose records are not single bytes. As long as there are none,
    /// who writes bytes need not look for the record size of what is there.
    public var recordExtents: UInt64 = 0
}
