public import BIO
public import DrayChecksums
public import DrayRuntime

/// Changes of one object that become visible together or not at all: one record of the log.
public struct Update {
    public var pool: UniqueID
    public var container: UniqueID
    public var object: ObjectID

    /// The version that the changes belong to: a stamp of the hybrid logical clock. Not 0.
    ///
    /// Two updates of one value at one epoch: the one that was logged last wins.
    public var epoch: UInt64

    /// Makes resends exactly once: a transaction that was applied is not applied again while it is
    /// remembered. `UniqueID.zero` opts out.
    public var transaction: UniqueID

    /// What is done, in this order. At most `VOSLimits.operationsMax`, at least one.
    public var operations: [Operation]

    /// Whose blocks its values take: `.rebuild` for what restores replicas, so that it lies apart
    /// from what clients write. No other stream. The log does not tell.
    public var stream: BlockStream

    public init(
        pool: UniqueID, container: UniqueID, object: ObjectID, epoch: UInt64,
        transaction: UniqueID, operations: [Operation], stream: BlockStream = .foreground
    ) {
        self.pool = pool
        self.container = container
        self.object = object
        self.epoch = epoch
        self.transaction = transaction
        self.operations = operations
        self.stream = stream
    }
}

/// One change of an `Update`.
public struct Operation {
    /// What is changed. Keys are arbitrary bytes, empty ones included.
    public enum Body {
        /// Removes everything in the object that is older.
        case punchObject
        /// Removes everything under the distribution key that is older.
        case punchDkey([UInt8])
        /// Removes everything under the attribute key that is older.
        case punchAkey(dkey: [UInt8], akey: [UInt8])
        /// Sets the single value of an attribute key.
        case single(dkey: [UInt8], akey: [UInt8], ValueBytes)
        /// Writes a range of the array of an attribute key. `offset` is its first byte. At least
        /// one byte.
        ///
        /// `recordSize` is how many bytes a record of the array has, 1 or more. The first write
        /// of an array chooses it; until the array is punched, all others must have the same.
        /// Records of up to `VOSLimits.valueLengthMax` bytes are written whole: `offset` and the
        /// byte count are multiples of the size. Longer ones are written in any pieces.
        case array(
            dkey: [UInt8], akey: [UInt8], offset: UInt64, recordSize: UInt32 = 1, ValueBytes)
    }

    /// What must hold when the update is applied. Checked against the newest state before the
    /// update; nothing else changes the same distribution key between the check and the change.
    public enum Condition: UInt8, Sendable {
        case none
        /// The key (the attribute key; for the punch of an object or distribution key, that) must
        /// have no value: `.exists` otherwise.
        case insert
        /// It must have one: `.notFound` otherwise.
        case update
        /// The distribution key must have no value.
        case insertDkey
        /// The distribution key must have one.
        case updateDkey
    }

    public var body: Body
    public var condition: Condition

    public init(_ body: Body, condition: Condition = .none) {
        self.body = body
        self.condition = condition
    }
}

/// The bytes of a value, in the caller's memory.
///
/// The memory must stay valid and unchanged until the update returns. Page-aligned memory of a
/// whole number of blocks goes to the device as it is; anything else is copied.
@safe public struct ValueBytes {
    // SAFETY: whoever makes one promises that the memory outlives the update.
    public let bytes: UnsafeRawBufferPointer

    /// The words of the checksums of each `VOSLimits.checksumChunk` bytes, the last chunk being
    /// shorter; nil: computed.
    public let checksums: [UInt32]?

    /// What they are; the value keeps them.
    public let checksumType: ChecksumType

    /// Whether the bytes are compared with the checksums before they are stored. If not, who reads
    /// them finds out.
    public let isVerified: Bool

    public init(
        _ bytes: UnsafeRawBufferPointer, checksums: [UInt32]? = nil,
        type checksumType: ChecksumType = .crc32c, isVerified: Bool = true
    ) {
        unsafe self.bytes = bytes
        self.checksums = checksums
        self.checksumType = checksumType
        self.isVerified = isVerified
    }
}
