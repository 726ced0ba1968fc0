public import CaRT
public import DrayChecksums
internal import DrayPlacement
public import DrayRuntime

/// One engine of the cluster and how to reach it.
public struct EngineRecord: Message, Hashable {
    public var rank: UInt32 = 0
    /// The address of each context as text, by tag: the system's, one per target, and that of the
    /// context that watches the other engines.
    public var addresses: [String] = []
    /// For each further network of the engine, the addresses of its contexts there, by tag: the
    /// system's and one per target. Clients may use any of them; engines call each other over the
    /// first network alone. (DAOS: secondary providers)
    public var secondary: [[String]] = []

    public static let countMax = 4096
    /// Networks of an engine, the first one included.
    public static let networksMax = 8
    public static let addressesMax = 1026
    public static let addressLengthMax = 600

    public init() {}

    public init(rank: UInt32, addresses: [String], secondary: [[String]] = []) {
        self.rank = rank
        self.addresses = addresses
        self.secondary = secondary
    }

    /// The addresses by network, the first one first, and by tag.
    public var networks: [[String]] { [addresses] + secondary }

    /// The number of targets.
    public var targetCount: UInt32 { UInt32(max(0, addresses.count - 2)) }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&rank)
        try EngineRecord.code(&addresses, with: &coder)
        try coder.code(&secondary, max: EngineRecord.networksMax - 1, default: []) {
            (coder, addresses) throws(DecodingFailure) in
            try EngineRecord.code(&addresses, with: &coder)
        }
    }

    private static func code(
        _ addresses: inout [String], with coder: inout ByteCoder
    ) throws(DecodingFailure) {
        try coder.code(&addresses, max: addressesMax, default: "") {
            (coder, address) throws(DecodingFailure) in
            try coder.code(&address, max: addressLengthMax)
        }
    }
}

/// Who is in the cluster.
public struct ClusterMapReply: Message, Hashable {
    public var cluster = UniqueID.zero
    public var engines: [EngineRecord] = []

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&cluster)
        try coder.code(&engines, max: EngineRecord.countMax)
    }
}

/// How one engine is.
public struct EngineStatusReply: Message, Hashable {
    public var rank: UInt32 = 0
    public var process: Int64 = 0
    public var uptimeNanoseconds: UInt64 = 0
    public var targets: [TargetStatus] = []
    /// Who is alive, as the engine sees it; itself included, ascending by rank.
    public var members: [EngineMember] = []

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&rank)
        try coder.code(&process)
        try coder.code(&uptimeNanoseconds)
        try coder.code(&targets, max: EngineRecord.addressesMax)
        try coder.code(&members, max: EngineRecord.countMax)
    }
}

/// How one engine seems to another one.
public struct EngineMember: Message, Hashable {
    public var rank: UInt32 = 0
    /// Which of its lives, and contradictions to those who took it for dead; 0 when it was not
    /// heard of yet.
    public var incarnation: UInt64 = 0
    public var state = SwimState.alive

    public init() {}

    public init(rank: UInt32, incarnation: UInt64, state: SwimState) {
        self.rank = rank
        self.incarnation = incarnation
        self.state = state
    }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&rank)
        try coder.code(&incarnation)
        try coder.code(&state)
    }
}

/// How full one target is, in bytes.
public struct TargetStatus: Message, Hashable {
    /// 0 for a target that is out of service because its device is missing.
    public var capacity: UInt64 = 0
    public var free: UInt64 = 0
    /// What the pool that was asked for uses; of all pools, when none was named.
    public var used: UInt64 = 0

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&capacity)
        try coder.code(&free)
        try coder.code(&used)
    }
}

/// Names a pool; zero for none.
public struct PoolReference: Message, Hashable {
    public var pool = UniqueID.zero

    public init() {}
    public init(_ pool: UniqueID) { self.pool = pool }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&pool)
    }
}

/// A change of pools and containers. The client chooses the id, so a resend is recognised.
public struct MetadataChange: Message, Hashable {
    /// What is changed.
    public enum Kind: UInt8, Sendable {
        case createPool = 1
        case destroyPool = 2
        case createContainer = 3
        case destroyContainer = 4
        case createSnapshot = 5
        case destroySnapshot = 6
    }

    public var kind = Kind.createPool
    /// The pool (for containers: the pool it is in).
    public var pool = UniqueID.zero
    /// The container, for containers and snapshots.
    public var container = UniqueID.zero
    /// The snapshot, for its creation.
    public var snapshot = UniqueID.zero
    /// The epoch of a snapshot that is destroyed. The engine chooses that of a new one.
    public var epoch: UInt64 = 0
    /// The label, for creations.
    public var label = ""
    /// Raw bytes, for pools.
    public var size: UInt64 = 0
    /// The class, for containers.
    public var objectClass = ObjectClass.sx.code
    /// How values are checked, for containers.
    public var checksumType = ChecksumType.crc32c
    public var isServerVerified = true

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&kind)
        try coder.code(&pool)
        try coder.code(&container)
        try coder.code(&snapshot)
        try coder.code(&epoch)
        try coder.code(&label, max: 1024)
        try coder.code(&size)
        try coder.code(&objectClass)
        try coder.code(&checksumType)
        try coder.code(&isServerVerified)
    }
}

/// What shall change in a running engine.
public struct TuneRequest: Message, Hashable {
    /// Log masks as `LogFacilities.set(mask:)` reads them; nil: as they are.
    public var logMask: String?
    /// All faults to inject, as `FaultRule.init(parsing:)` reads them; nil: as they are.
    public var faults: [String]?

    static let textMax = 4096
    static let rulesMax = 256

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&logMask, default: "") { (coder, text) throws(DecodingFailure) in
            try coder.code(&text, max: TuneRequest.textMax)
        }
        try coder.code(&faults, default: []) { (coder, rules) throws(DecodingFailure) in
            try coder.code(&rules, max: TuneRequest.rulesMax, default: "") {
                (coder, text) throws(DecodingFailure) in
                try coder.code(&text, max: TuneRequest.textMax)
            }
        }
    }
}

/// How a running engine is set, after the change.
public struct TuneReply: Message, Hashable {
    public var logMask = ""
    public var faults: [Fault] = []

    /// A fault that is injected, and what it has done.
    public struct Fault: Message, Hashable {
        /// As `FaultRule.text` gives it.
        public var rule = ""
        /// Times that its point was passed.
        public var passed: UInt64 = 0
        /// Times that it struck.
        public var struck: UInt64 = 0

        public init() {}

        public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&rule, max: TuneRequest.textMax)
            try coder.code(&passed)
            try coder.code(&struck)
        }
    }

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&logMask, max: TuneRequest.textMax)
        try coder.code(&faults, max: TuneRequest.rulesMax)
    }
}

/// The management protocol, served by tag 0 of every engine for clients.
public enum ManagementProtocol {
    public static let id = ProtocolID(base: 0x11, version: 6)

    public static let clusterMap = Procedure<EmptyMessage, ClusterMapReply>(
        id, index: 0, name: "management.clusterMap")
    public static let status = Procedure<PoolReference, EngineStatusReply>(
        id, index: 1, name: "management.status")
    /// Reads the metadata of all engines that answer and returns the newest.
    public static let metadata = Procedure<EmptyMessage, ClusterMetadata>(
        id, index: 2, name: "management.metadata")
    /// Makes a change on all engines and returns the metadata after it.
    public static let change = Procedure<MetadataChange, ClusterMetadata>(
        id, index: 3, name: "management.change")
    /// Reads the engine's metrics.
    public static let metrics = Procedure<EmptyMessage, MetricsReply>(
        id, index: 4, name: "management.metrics")
    /// Reads or changes log masks and injected faults.
    public static let tune = Procedure<TuneRequest, TuneReply>(
        id, index: 5, name: "management.tune")
    /// Begins or ends the scrubbing of the engine's stores, or asks how it goes.
    public static let scrub = Procedure<ScrubRequest, ScrubReply>(
        id, index: 6, name: "management.scrub")
    /// Opens containers, by the newest metadata of all engines that answer.
    public static let open = Procedure<ContainerOpenRequest, ContainerOpenReply>(
        id, index: 7, name: "management.open")
}

/// Orders proposals of metadata: by time, then by the rank that made them.
public struct Ballot: Message, Hashable, Comparable {
    public var stamp: UInt64 = 0
    public var rank: UInt32 = 0

    public init() {}

    public init(stamp: UInt64, rank: UInt32) {
        self.stamp = stamp
        self.rank = rank
    }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&stamp)
        try coder.code(&rank)
    }

    public static func < (left: Ballot, right: Ballot) -> Bool {
        (left.stamp, left.rank) < (right.stamp, right.rank)
    }
}

/// Asks an engine to promise that it refuses ballots below this one; zero only reads.
public struct MetadataPrepareRequest: Message, Hashable {
    public var ballot = Ballot()

    public init() {}
    public init(_ ballot: Ballot) { self.ballot = ballot }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&ballot)
    }
}

/// What an engine has accepted last, and whether it promised.
public struct MetadataPrepareReply: Message, Hashable {
    public var promised = false
    /// The highest ballot the engine knows of, when it did not promise.
    public var highest = Ballot()
    public var accepted = Ballot()
    public var metadata = ClusterMetadata()
    /// The engine's clock, which is ahead of all epochs that it has given.
    public var stamp: UInt64 = 0

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&promised)
        try coder.code(&highest)
        try coder.code(&accepted)
        try coder.code(&metadata)
        try coder.code(&stamp)
    }
}

/// Tells an engine to store metadata, unless it promised a higher ballot.
public struct MetadataAcceptRequest: Message, Hashable {
    public var ballot = Ballot()
    public var metadata = ClusterMetadata()

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&ballot)
        try coder.code(&metadata)
    }
}

/// Whether it is durably stored.
public struct MetadataAcceptReply: Message, Hashable {
    public var accepted = false
    public var highest = Ballot()

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&accepted)
        try coder.code(&highest)
    }
}

/// The metadata protocol, between engines.
public enum MetadataProtocol {
    public static let id = ProtocolID(base: 0x12, version: 5)

    public static let prepare = Procedure<MetadataPrepareRequest, MetadataPrepareReply>(
        id, index: 0, name: "metadata.prepare")
    public static let accept = Procedure<MetadataAcceptRequest, MetadataAcceptReply>(
        id, index: 1, name: "metadata.accept")
    /// Holds what is visible at an epoch on every target of the engine, and answers when all that
    /// has an epoch up to it is decided there.
    public static let hold = Procedure<SnapshotReference, EmptyMessage>(
        id, index: 2, name: "metadata.hold")
    /// Gives up what was held for a snapshot that will not be.
    public static let release = Procedure<SnapshotReference, EmptyMessage>(
        id, index: 3, name: "metadata.release")
}

/// The target protocol, from the system context of an engine to its own targets.
public enum TargetProtocol {
    public static let id = ProtocolID(base: 0x13, version: 1)

    public static let status = Procedure<PoolReference, TargetStatus>(
        id, index: 0, name: "target.status")
}

/// Codes of `RPCError.application` that engines answer with.
public enum ServiceCode: UInt32, Sendable {
    case notFound = 1
    case exists = 2
    case noSpace = 3
    case unavailable = 4
    case invalidArgument = 5
    case corrupt = 6
    case staleMap = 7
    case busy = 8
    case device = 9
    case tooOld = 10
    /// The transaction was aborted: nothing of it will ever be seen. It may be tried again, as
    /// another one.
    case aborted = 11
    /// What the transaction has read, or would write, has changed: begin again.
    case conflict = 12
    /// It cannot be known now what became of an earlier change: ask again, or another replica.
    case undecided = 13
    /// The request does not show that the container was opened for what it asks for.
    case notPermitted = 14
}
