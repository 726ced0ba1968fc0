public import CaRT
public import DrayPlacement
public import DrayRuntime

/// Who takes part in a transaction. The first one leads.
public struct TransactionMembers: Message, Hashable {
    public var targets: [TargetAddress] = []

    public static let targetsMax = 4096

    public init() {}

    public init(_ targets: [TargetAddress]) {
        self.targets = targets
    }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(
            &targets, max: TransactionMembers.targetsMax,
            default: TargetAddress(rank: 0, target: 0)
        ) { (coder, target) throws(DecodingFailure) in
            try coder.code(&target.rank)
            try coder.code(&target.target)
        }
        if targets.isEmpty { throw .invalidValue }
    }
}

/// One part of a transaction, as its leader sends it to a member.
public struct PreparePart: Message, Hashable {
    public var part = ObjectPart()
    /// The member leads the redundancy group: it checks conditions and conflicts.
    public var leads = false
    /// Where the data of the part begins in the data of the whole transaction.
    public var dataOffset: UInt32 = 0

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&part)
        try coder.code(&leads)
        try coder.code(&dataOffset)
    }
}

/// Asks a member to bring its parts of one transaction to stable storage.
public struct PrepareRequest: Message, Hashable {
    public var transaction = UniqueID.zero
    public var epoch: UInt64 = 0
    /// When the client gives up: wall clock, nanoseconds since 1970.
    public var deadline: UInt64 = 0
    public var members = TransactionMembers()
    public var snapshot: UInt64 = 0
    public var parts: [PreparePart] = []
    /// Where the client's memory holds the data of all parts, when it is not in the payload.
    public var bulk: BulkDescriptor?
    /// Over which of the engines' networks that memory is reached: 0 for the first one.
    public var network: UInt8 = 0
    /// Where in the payload the data of all parts begins, and how long it is.
    public var payloadOffset: UInt32 = 0
    public var payloadLength: UInt32 = 0

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&transaction)
        try coder.code(&epoch)
        try coder.code(&deadline)
        try coder.code(&members)
        try coder.code(&snapshot)
        try coder.code(&parts, max: ObjectLimits.partsMax)
        try coder.code(&bulk)
        try coder.code(&network)
        try coder.code(&payloadOffset)
        try coder.code(&payloadLength)
    }
}

/// Asks a member to prepare transactions that came to their leader at about the same time. The
/// payload is their data.
public struct PrepareBatchRequest: Message, Hashable {
    public var requests: [PrepareRequest] = []
    /// Transactions that were committed since; on stable storage when the answer comes.
    public var committed: [UniqueID] = []

    public static let requestsMax = 128
    public static let committedMax = 1024
    /// Bytes of data in one batch, but for that of a last transaction.
    public static let payloadMax = 256 << 10

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&requests, max: PrepareBatchRequest.requestsMax)
        try coder.code(&committed, max: PrepareBatchRequest.committedMax)
    }
}

/// What became of each request of a batch.
public struct PrepareBatchReply: Message, Hashable {
    public var outcomes: [PrepareOutcome] = []

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&outcomes, max: PrepareBatchRequest.requestsMax)
    }
}

/// What became of one request to prepare.
public struct PrepareOutcome: Message, Hashable {
    /// 0: it is on stable storage. Else a `ServiceCode`: it is not here.
    public var code: UInt32 = 0
    public var message = ""

    public static let messageMax = 1024

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&code)
        guard code != 0 else { return }
        try coder.code(&message, max: PrepareOutcome.messageMax)
    }
}

/// Tells a member what became of transactions. The answer says that it is on stable storage there.
public struct DecideRequest: Message, Hashable {
    public var committed: [UniqueID] = []
    public var aborted: [UniqueID] = []

    public static let transactionsMax = 1024

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&committed, max: DecideRequest.transactionsMax)
        try coder.code(&aborted, max: DecideRequest.transactionsMax)
    }
}

/// Asks a member what it knows of a transaction. One that has nothing of it promises that it never
/// will; the leader, that it was aborted.
public struct QueryRequest: Message, Hashable {
    public var transaction = UniqueID.zero
    public var epoch: UInt64 = 0
    /// Whether the one who asks leads the transaction, and was restarted.
    public var asksAsLeader = false
    /// Whether the one who is asked leads the transaction.
    public var asksLeader = false
    /// Whether the leader may get the transaction again and forward it: who has nothing of it
    /// promises nothing yet.
    public var mayBeForwarded = false

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&transaction)
        try coder.code(&epoch)
        try coder.code(&asksAsLeader)
        try coder.code(&asksLeader)
        try coder.code(&mayBeForwarded)
    }
}

/// What a member knows: `ResolutionMachine.Answer`.
public struct QueryReply: Message, Hashable {
    public var answer: UInt8 = 0

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&answer)
    }
}

/// The protocol between the targets that take part in a transaction (DAOS: DTX).
public enum TransactionProtocol {
    public static let id = ProtocolID(base: 0x14, version: 6)

    public static let prepare = Procedure<PrepareBatchRequest, PrepareBatchReply>(
        id, index: 0, name: "transaction.prepare")
    public static let decide = Procedure<DecideRequest, EmptyMessage>(
        id, index: 1, name: "transaction.decide")
    public static let query = Procedure<QueryRequest, QueryReply>(
        id, index: 2, name: "transaction.query")
    /// Asks what the member has of a transaction whose client has sent it again, and gives it what
    /// it may lack: who has nothing of it prepares it, or promises that it never will.
    public static let forward = Procedure<PrepareRequest, QueryReply>(
        id, index: 3, name: "transaction.forward")
}
