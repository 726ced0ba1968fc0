public import CaRT
public import DrayRuntime

/// What a container is opened for (DAOS: the flags of `daos_cont_open`).
public enum ContainerAccess: UInt8, Sendable {
    /// To read, list and compare its objects.
    case readOnly = 1
    /// To change them as well.
    case readWrite = 2
}

/// Shows that a container was opened, and what for. An engine gives it to who opens the container;
/// each request for objects carries it, beside the id of the container.
///
/// It needs no renewal, and ends with the container.
public struct Capability: Message, Hashable {
    public var access = ContainerAccess.readOnly
    /// The first half of the HMAC-SHA-256 of container and access, by the secret of the pool.
    public var tag: UInt128 = 0

    public init() {}

    public init(_ access: ContainerAccess, tag: UInt128) {
        self.access = access
        self.tag = tag
    }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&access)
        try coder.code(&tag)
    }
}

/// What the capabilities of a pool's containers are made with: made with the pool, and known to its
/// engines alone.
public struct PoolSecret: Message, Hashable, CustomStringConvertible {
    public var pool = UniqueID.zero
    public var key: [UInt8] = PoolSecret.none

    /// Bytes of a key.
    public static let keyLength = 32

    private static let none = [UInt8](repeating: 0, count: keyLength)

    public init() {}

    public init(pool: UniqueID, key: [UInt8]) {
        precondition(key.count == PoolSecret.keyLength, "a key of another length")
        self.pool = pool
        self.key = key
    }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&pool)
        try coder.code(&key, max: PoolSecret.keyLength)
        if key.count != PoolSecret.keyLength { throw .invalidValue }
    }

    /// Without the key: nothing that is printed or logged has it.
    public var description: String { "the secret of pool \(pool)" }
}

/// Opens containers of a pool.
public struct ContainerOpenRequest: Message, Hashable {
    public var pool = UniqueID.zero
    /// The one with this label. Nil: all of them.
    public var label: String?
    public var access = ContainerAccess.readOnly

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&pool)
        try coder.code(&label, default: "") { (coder, label) throws(DecodingFailure) in
            try coder.code(&label, max: Label.lengthMax)
        }
        try coder.code(&access)
    }
}

/// A container that was opened.
public struct OpenedContainer: Message, Hashable {
    public var record = ContainerRecord()
    public var capability = Capability()

    public init() {}

    public init(_ record: ContainerRecord, _ capability: Capability) {
        self.record = record
        self.capability = capability
    }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&record)
        try coder.code(&capability)
    }
}

/// Those that were asked for and are there, in no order.
public struct ContainerOpenReply: Message, Hashable {
    public var containers: [OpenedContainer] = []

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&containers, max: ClusterMetadata.containersMax)
    }
}
