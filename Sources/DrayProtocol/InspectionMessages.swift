public import CaRT
public import DrayRuntime

/// Asks one target for the objects of a container that have anything visible there.
public struct ObjectListRequest: Message, Hashable {
    public var pool = UniqueID.zero
    public var container = UniqueID.zero
    /// The version of the pool map that the caller knows.
    public var mapVersion: UInt32 = 0
    /// Shows that the caller has opened the container.
    public var capability = Capability()
    /// Only objects after this one.
    public var after: ObjectID?
    public var limit: UInt32 = 0
    /// What was visible at this epoch; 0: what is visible now.
    public var epoch: UInt64 = 0

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&pool)
        try coder.code(&container)
        try coder.code(&mapVersion)
        try coder.code(&capability)
        try coder.code(&after, default: ObjectID(high: 0, low: 0)) {
            (coder, object) throws(DecodingFailure) in try coder.code(&object)
        }
        try coder.code(&limit)
        try coder.code(&epoch)
    }
}

/// One page of objects, in order.
public struct ObjectListReply: Message, Hashable {
    public var objects: [ObjectID] = []
    /// Whether there are objects after these.
    public var more = false

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(
            &objects, max: ObjectLimits.pageMax, default: ObjectID(high: 0, low: 0)
        ) { (coder, object) throws(DecodingFailure) in try coder.code(&object) }
        try coder.code(&more)
    }
}

/// Asks one replica for all that is visible of an object there, with checksums of what its device
/// gives. For comparison with the other replicas.
public struct ObjectInspectRequest: Message, Hashable {
    public var target = ObjectTarget()
    public var group: UInt16 = 0
    /// Only what is below this dkey. Nil: everything.
    public var dkey: [UInt8]?
    /// Only dkeys after this one.
    public var afterDkey: [UInt8]?
    /// At most so many dkeys.
    public var limit: UInt32 = 0
    /// What was visible at this epoch; 0: what is visible now.
    public var epoch: UInt64 = 0

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&target)
        try coder.code(&group)
        try coder.code(&dkey, default: []) { (coder, key) throws(DecodingFailure) in
            try coder.code(&key, max: ObjectLimits.keyMax)
        }
        try coder.code(&afterDkey, default: []) { (coder, key) throws(DecodingFailure) in
            try coder.code(&key, max: ObjectLimits.keyMax)
        }
        try coder.code(&limit)
        try coder.code(&epoch)
    }
}

/// One visible value, or visible part of an array.
public struct InspectedValue: Message, Hashable {
    public var dkey: [UInt8] = []
    public var akey: [UInt8] = []
    public var isArray = false
    public var offset: UInt64 = 0
    public var length: UInt64 = 0
    /// Array: how many bytes a record has.
    public var recordSize: UInt32 = 0
    public var epoch: UInt64 = 0
    /// CRC32C of the bytes as read from the device.
    public var checksum: UInt32 = 0
    /// The bytes do not match the checksums that are stored with them.
    public var isCorrupt = false

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&dkey, max: ObjectLimits.keyMax)
        try coder.code(&akey, max: ObjectLimits.keyMax)
        try coder.code(&isArray)
        try coder.code(&offset)
        try coder.code(&length)
        try coder.code(&recordSize)
        try coder.code(&epoch)
        try coder.code(&checksum)
        try coder.code(&isCorrupt)
    }
}

/// The values of some dkeys, in order.
public struct ObjectInspectReply: Message, Hashable {
    public var values: [InspectedValue] = []
    /// Go on after this dkey; nil: there is no more.
    public var next: [UInt8]?
    /// When these values were visible.
    public var epoch: UInt64 = 0

    public static let valuesMax = 1 << 20

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&values, max: ObjectInspectReply.valuesMax)
        try coder.code(&next, default: []) { (coder, key) throws(DecodingFailure) in
            try coder.code(&key, max: ObjectLimits.keyMax)
        }
        try coder.code(&epoch)
    }
}
