public import CaRT
public import DrayChecksums
public import DrayPlacement
public import DrayRuntime

/// What the cluster knows of its pools and containers: one document, kept whole on every engine.
public struct ClusterMetadata: Message, Hashable {
    public var pools: [PoolRecord] = []
    public var containers: [ContainerRecord] = []
    /// In no order.
    public var snapshots: [SnapshotRecord] = []
    /// The pools and containers that were destroyed last, oldest first: engines that missed it free
    /// the space later.
    public var destroyed: [DestroyedRecord] = []
    /// The snapshots that were destroyed last while their containers were kept, oldest first,
    /// without their labels: so that no late resend makes one of them again.
    public var destroyedSnapshots: [SnapshotRecord] = []
    /// One of each pool. Clients get none of them.
    public var secrets: [PoolSecret] = []

    public static let poolsMax = 256
    public static let containersMax = 4096
    /// Of all containers together.
    public static let snapshotsMax = 1024
    /// Pools and containers.
    public static let destroyedMax = 1024
    public static let destroyedSnapshotsMax = 1024
    /// Bytes of the whole document. Engines store it as one value of at most 1 MiB, with something
    /// around it, as in the messages that carry it.
    public static let bytesMax = (1 << 20) - 4096

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&pools, max: ClusterMetadata.poolsMax)
        try coder.code(&containers, max: ClusterMetadata.containersMax)
        try coder.code(&snapshots, max: ClusterMetadata.snapshotsMax)
        try coder.code(&destroyed, max: ClusterMetadata.destroyedMax)
        try coder.code(&destroyedSnapshots, max: ClusterMetadata.destroyedSnapshotsMax)
        try coder.code(&secrets, max: ClusterMetadata.poolsMax)
    }

    /// What a client may know.
    public var withoutSecrets: ClusterMetadata {
        var metadata = self
        metadata.secrets = []
        return metadata
    }

    /// The secret of a pool.
    public func secret(of pool: UniqueID) -> PoolSecret? {
        secrets.first { $0.pool == pool }
    }

    /// The pool with this label.
    public func pool(label: String) -> PoolRecord? {
        pools.first { $0.label == label }
    }

    /// The container with this label in the pool.
    public func container(label: String, pool: UniqueID) -> ContainerRecord? {
        containers.first { $0.pool == pool && $0.label == label }
    }

    /// The snapshots of a container, oldest first.
    public func snapshots(of container: UniqueID) -> [SnapshotRecord] {
        snapshots.filter { $0.container == container }.sorted { $0.epoch < $1.epoch }
    }
}

/// One pool.
public struct PoolRecord: Message, Hashable {
    public var id = UniqueID.zero
    public var label = ""
    /// Raw bytes on all targets together.
    public var size: UInt64 = 0
    public var map = PoolMap(version: 0, engines: [])

    public init() {}

    /// The smallest share of a target, in bytes.
    public static let sizePerTargetMin: UInt64 = 16 << 20

    /// Bytes of each target that belong to the pool.
    public var sizePerTarget: UInt64 {
        map.targetCount == 0 ? 0 : size / UInt64(map.targetCount)
    }

    /// What to say when the pool has too few engines for a class.
    public func problem(with objectClass: ObjectClass) -> String {
        let needed = objectClass.replicaCount
        return "class \(objectClass) needs \(needed) \(needed == 1 ? "engine" : "engines"); "
            + "pool \(label) has \(map.engineCount)"
    }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&id)
        try coder.code(&label, max: Label.lengthMax)
        try coder.code(&size)
        try coder.code(&map.version)
        try coder.code(
            &map.engines, max: PoolRecord.enginesMax,
            default: PoolMap.Engine(rank: 0, targetCount: 0)
        ) { (coder, engine) throws(DecodingFailure) in
            try coder.code(&engine.rank)
            try coder.code(&engine.targetCount)
            if engine.targetCount > PoolRecord.targetsPerEngineMax { throw .invalidValue }
        }
    }

    static let enginesMax = 4096
    static let targetsPerEngineMax: UInt32 = 1024
}

/// One container.
public struct ContainerRecord: Message, Hashable {
    public var pool = UniqueID.zero
    public var id = UniqueID.zero
    public var label = ""
    /// The class that new objects get.
    public var objectClass = ObjectClass.sx
    /// How its values are checked (DAOS: `cksum`).
    public var checksumType = ChecksumType.crc32c
    /// Whether targets compare what they store with its checksums first (DAOS: `srv_cksum`).
    public var isServerVerified = true

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&pool)
        try coder.code(&id)
        try coder.code(&label, max: Label.lengthMax)
        var code = objectClass.code
        try coder.code(&code)
        guard let known = ObjectClass(code: code) else { throw .invalidValue }
        objectClass = known
        try coder.code(&checksumType)
        try coder.code(&isServerVerified)
    }
}

/// A container as it was at one epoch, which stays readable until the snapshot is destroyed.
public struct SnapshotRecord: Message, Hashable {
    /// Chosen by who asked for it, so that a resend is recognised.
    public var id = UniqueID.zero
    public var container = UniqueID.zero
    /// Shows every change up to this epoch, and none after it.
    public var epoch: UInt64 = 0
    /// Empty, or a label that no other snapshot of the container has.
    public var label = ""

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&id)
        try coder.code(&container)
        try coder.code(&epoch)
        try coder.code(&label, max: Label.lengthMax)
    }
}

/// Names an epoch of a container.
public struct SnapshotReference: Message, Hashable {
    public var pool = UniqueID.zero
    public var container = UniqueID.zero
    public var epoch: UInt64 = 0

    public init() {}

    public init(pool: UniqueID, container: UniqueID, epoch: UInt64) {
        self.pool = pool
        self.container = container
        self.epoch = epoch
    }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&pool)
        try coder.code(&container)
        try coder.code(&epoch)
    }
}

/// A pool (its container is zero) or a container that was destroyed.
public struct DestroyedRecord: Message, Hashable {
    public var pool = UniqueID.zero
    public var container = UniqueID.zero

    public init() {}

    public init(pool: UniqueID, container: UniqueID = .zero) {
        self.pool = pool
        self.container = container
    }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&pool)
        try coder.code(&container)
    }
}

/// The names of pools and containers.
public enum Label {
    /// Bytes, as in DAOS.
    public static let lengthMax = 127

    /// Why `label` cannot be one; nil when it can. Allowed are letters, digits, `.`, `_` and `-`,
    /// beginning with a letter or digit.
    public static func problem(with label: String) -> String? {
        if label.isEmpty { return "a label must not be empty" }
        if label.utf8.count > lengthMax {
            return "a label has at most \(lengthMax) characters, this one \(label.utf8.count)"
        }
        let allowed = label.utf8.enumerated().allSatisfy { index, byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"):
                true
            case UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"): index > 0
            default: false
            }
        }
        return allowed
            ? nil
            : "a label has letters, digits, '.', '_' and '-', and begins with a letter or digit"
    }
}
