public import CaRT
public import DrayChecksums
public import DrayRuntime

/// What every request for an object names.
public struct ObjectTarget: Message, Hashable {
    public var pool = UniqueID.zero
    public var container = UniqueID.zero
    public var object = ObjectID(high: 0, low: 0)
    /// The version of the pool map that the caller computed the layout from.
    public var mapVersion: UInt32 = 0
    /// Shows that the caller has opened the container. Looked at by the target that a client calls,
    /// and not by those that a leader sends parts to.
    public var capability = Capability()

    public init() {}

    public init(
        pool: UniqueID, container: UniqueID, object: ObjectID, mapVersion: UInt32,
        capability: Capability
    ) {
        self.pool = pool
        self.container = container
        self.object = object
        self.mapVersion = mapVersion
        self.capability = capability
    }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&pool)
        try coder.code(&container)
        try coder.code(&object)
        try coder.code(&mapVersion)
        try coder.code(&capability)
    }
}

/// One change of an object.
public struct ObjectOperation: Message, Hashable {
    /// What is done, and to what: a value, or all below a key or an object.
    public enum Kind: UInt8, Sendable {
        case updateSingle = 1
        case updateArray = 2
        case punchAkey = 3
        case punchDkey = 4
        case punchObject = 5

        /// Whether it names an akey.
        public var hasAkey: Bool {
            switch self {
            case .updateSingle, .updateArray, .punchAkey: true
            case .punchDkey, .punchObject: false
            }
        }
    }

    /// What must hold for the operation to be done.
    public enum Condition: UInt8, Sendable {
        case none = 0
        /// What is named (the akey; in the punch of a dkey or object, that) must have no value.
        case insert = 1
        /// It must have one.
        case update = 2
        /// The dkey must have no value, under whatever akey.
        case insertDkey = 3
        /// The dkey must have one.
        case updateDkey = 4
    }

    public var kind = Kind.updateSingle
    public var condition = Condition.none
    public var dkey: [UInt8] = []
    public var akey: [UInt8] = []
    /// Array: the first byte written.
    public var offset: UInt64 = 0
    /// Updates: bytes of data, in the order of the operations.
    public var length: UInt32 = 0
    /// Array: how many bytes a record has. Not 0.
    public var recordSize: UInt32 = 1
    /// What the checksums are: what the container says.
    public var checksumType = ChecksumType.crc32c
    /// The words of the checksums of each `checksumChunk` bytes of the data, counted from its
    /// start.
    public var checksums: [UInt32] = []

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&kind)
        try coder.code(&condition)
        try coder.code(&dkey, max: ObjectLimits.keyMax)
        try coder.code(&akey, max: ObjectLimits.keyMax)
        try coder.code(&offset)
        try coder.code(&length)
        try coder.code(&recordSize)
        try coder.code(&checksumType)
        try coder.code(&checksums, max: ObjectLimits.checksumWordsMax)
    }
}

/// Limits of the object protocol.
public enum ObjectLimits {
    /// Bytes of a dkey or akey.
    public static let keyMax = 65_536
    /// Bytes of data in one request; a single value or an extent is no longer.
    public static let dataMax = 1 << 20
    /// Operations in one part of a transaction.
    public static let operationsMax = 64
    /// Things read in one part of a transaction.
    public static let readsMax = 1024
    /// Parts of a transaction: redundancy groups of objects.
    public static let partsMax = 4096
    /// Bytes that one checksum covers.
    public static let checksumChunk = 32 << 10
    /// Words of the checksums of one operation.
    public static let checksumWordsMax = dataMax / checksumChunk * ChecksumType.wordsMax
    /// Keys in one page of an enumeration.
    public static let pageMax = 1024
    /// Bytes of keys in one page of an enumeration, but for the last one.
    public static let pageBytesMax = 256 << 10
    /// Bytes of data that travel in the message itself.
    public static let inlineMax = 16 << 10
}

/// What a transaction does with one redundancy group of an object.
public struct ObjectPart: Message, Hashable {
    public var target = ObjectTarget()
    /// The redundancy group that holds every dkey named here.
    public var group: UInt16 = 0
    public var operations: [ObjectOperation] = []
    /// What the transaction has read in this group and must not have changed.
    public var reads: [ObjectRead] = []

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&target)
        try coder.code(&group)
        try coder.code(&operations, max: ObjectLimits.operationsMax)
        try coder.code(&reads, max: ObjectLimits.readsMax)
    }

    /// The bytes of data of all operations.
    public var length: Int { operations.reduce(0) { $0 + Int($1.length) } }
}

/// Something that a transaction has read.
public struct ObjectRead: Message, Hashable {
    /// Nil: the list of dkeys of the group.
    public var dkey: [UInt8]?
    /// Which incarnation of the target answered: another one has forgotten who read what.
    public var instance: UInt64 = 0

    public init() {}

    public init(dkey: [UInt8]?, instance: UInt64) {
        self.dkey = dkey
        self.instance = instance
    }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&dkey, default: []) { (coder, key) throws(DecodingFailure) in
            try coder.code(&key, max: ObjectLimits.keyMax)
        }
        try coder.code(&instance)
    }
}

/// Changes one or more objects, as one transaction. Sent to the leader of the first part. The data
/// of all operations, in their order, is the payload, or `bulk`.
public struct ObjectUpdateRequest: Message, Hashable {
    /// Chosen by the client; a resend carries the same, and is applied once. Its lower half is the
    /// client's clock when it was made.
    public var transaction = UniqueID.zero
    /// Whether an earlier attempt may have been served, or may be still: when this one conflicts,
    /// the transaction is aborted, so that none of the others is applied later.
    public var isResend = false
    /// The epoch at which the transaction has read; 0 when it has not.
    public var snapshot: UInt64 = 0
    public var parts: [ObjectPart] = []
    /// Where the client's memory holds the data, when it is not in the payload.
    public var bulk: BulkDescriptor?

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&transaction)
        try coder.code(&isResend)
        try coder.code(&snapshot)
        try coder.code(&parts, max: ObjectLimits.partsMax)
        try coder.code(&bulk)
    }
}

/// The answer to an update: it is durable.
public struct ObjectUpdateReply: Message, Hashable {
    /// The epoch at which the change happened.
    public var epoch: UInt64 = 0

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&epoch)
    }
}

/// Reads one value. The data comes back as payload, or into `bulk`.
public struct ObjectFetchRequest: Message, Hashable {
    /// The kind of value that is read.
    public enum Kind: UInt8, Sendable {
        case single = 1
        case array = 2
        /// No data: only how far the array extends, and its record size.
        case arrayEnd = 3
    }

    /// What must be there when it is read, at its epoch.
    public enum Condition: UInt8, Sendable {
        case none = 0
        /// The dkey must have a value, under whatever akey.
        case dkeyExists = 1
        /// The akey must have one, of either kind.
        case akeyExists = 2
    }

    public var target = ObjectTarget()
    public var kind = Kind.single
    public var condition = Condition.none
    public var dkey: [UInt8] = []
    public var akey: [UInt8] = []
    /// Array: the first byte to read.
    public var offset: UInt64 = 0
    /// The most bytes to return; for an array, the bytes to read.
    public var length: UInt32 = 0
    /// Array: the record size that it must have, if it is there; 0: any.
    public var recordSize: UInt32 = 0
    /// The read of a transaction at this epoch: `now` for its first one, which chooses the epoch.
    /// 0: no transaction.
    public var snapshot: UInt64 = 0
    /// The checksums that the reply is to have.
    public var checksumType = ChecksumType.crc32c
    /// Without a transaction: reads what was visible at this epoch; 0: now.
    public var epoch: UInt64 = 0
    public var bulk: BulkDescriptor?

    /// The snapshot of a transaction that has none yet.
    public static let now = UInt64.max

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&target)
        try coder.code(&kind)
        try coder.code(&condition)
        try coder.code(&dkey, max: ObjectLimits.keyMax)
        try coder.code(&akey, max: ObjectLimits.keyMax)
        try coder.code(&offset)
        try coder.code(&length)
        try coder.code(&recordSize)
        try coder.code(&snapshot)
        try coder.code(&checksumType)
        try coder.code(&epoch)
        try coder.code(&bulk)
    }
}

/// What was read.
public struct ObjectFetchReply: Message, Hashable {
    public var found = false
    /// The condition of the request does not hold: nothing was read. No error, because a
    /// transaction has read that, too.
    public var isRefused = false
    /// A single value's size, which may exceed `length` (nothing is returned then); bytes
    /// returned of an array; or the end of the array.
    public var size: UInt64 = 0
    /// Array: how many bytes a record has; 0 when it is not there, or nothing that was read of it.
    public var recordSize: UInt32 = 0
    /// The words of the checksums of each `checksumChunk` bytes of the data returned, counted from
    /// its start, as the request says.
    public var checksums: [UInt32] = []
    /// Of a transaction's read: its snapshot, and which incarnation of the target answers.
    public var snapshot: UInt64 = 0
    public var instance: UInt64 = 0

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&found)
        try coder.code(&isRefused)
        try coder.code(&size)
        try coder.code(&recordSize)
        try coder.code(&snapshot)
        try coder.code(&instance)
        try coder.code(&checksums, max: ObjectLimits.checksumWordsMax)
    }
}

/// Lists dkeys of a redundancy group, or akeys of a dkey.
public struct ObjectEnumerateRequest: Message, Hashable {
    public var target = ObjectTarget()
    /// Nil: list dkeys. Otherwise list the akeys of this dkey.
    public var dkey: [UInt8]?
    /// Which keys, and in which order.
    public var range = KeyRange.all
    /// Only keys after this one, in that order.
    public var after: [UInt8]?
    public var limit: UInt32 = 0
    /// As for a fetch.
    public var snapshot: UInt64 = 0
    /// As for a fetch.
    public var epoch: UInt64 = 0

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&target)
        try ObjectEnumerateRequest.code(&dkey, with: &coder)
        try ObjectEnumerateRequest.code(&range.lower, with: &coder)
        try ObjectEnumerateRequest.code(&range.upper, with: &coder)
        try coder.code(&range.isReversed)
        try ObjectEnumerateRequest.code(&after, with: &coder)
        try coder.code(&limit)
        try coder.code(&snapshot)
        try coder.code(&epoch)
    }

    private static func code(
        _ key: inout [UInt8]?, with coder: inout ByteCoder
    ) throws(DecodingFailure) {
        try coder.code(&key, default: []) { (coder, key) throws(DecodingFailure) in
            try coder.code(&key, max: ObjectLimits.keyMax)
        }
    }
}

/// One page of keys.
public struct ObjectEnumerateReply: Message, Hashable {
    public var keys: [[UInt8]] = []
    /// Whether there are keys after these.
    public var more = false
    /// Of a transaction's read: its snapshot, and which incarnation of the target answers.
    public var snapshot: UInt64 = 0
    public var instance: UInt64 = 0

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&snapshot)
        try coder.code(&instance)
        try coder.code(&keys, max: ObjectLimits.pageMax, bytesMax: ObjectLimits.keyMax)
        try coder.code(&more)
    }
}

/// The object protocol, served by every target.
public enum ObjectProtocol {
    public static let id = ProtocolID(base: 0x10, version: 7)

    public static let update = Procedure<ObjectUpdateRequest, ObjectUpdateReply>(
        id, index: 0, name: "object.update")
    public static let fetch = Procedure<ObjectFetchRequest, ObjectFetchReply>(
        id, index: 1, name: "object.fetch")
    public static let enumerate = Procedure<ObjectEnumerateRequest, ObjectEnumerateReply>(
        id, index: 2, name: "object.enumerate")
    /// Whether what a transaction without changes has read is still the newest.
    public static let validate = Procedure<ObjectUpdateRequest, EmptyMessage>(
        id, index: 3, name: "object.validate")
    public static let inspect = Procedure<ObjectInspectRequest, ObjectInspectReply>(
        id, index: 4, name: "object.inspect")
    public static let listObjects = Procedure<ObjectListRequest, ObjectListReply>(
        id, index: 5, name: "object.list-objects")
}

extension ChecksumType {
    /// The words of the checksums of each `ObjectLimits.checksumChunk` bytes of `bytes`.
    public func checksums(of bytes: UnsafeRawBufferPointer) -> [UInt32] {
        unsafe checksums(of: bytes, chunk: ObjectLimits.checksumChunk)
    }
}

extension ObjectOperation {
    /// Says of the data that it comes with how long it is, and its checksums of a container's type.
    public mutating func describe(_ data: UnsafeRawBufferPointer, _ type: ChecksumType) {
        length = UInt32(clamping: data.count)
        checksumType = type
        unsafe checksums = type.checksums(of: data)
    }
}
