internal import DrayRuntime

/// A procedure that every rank of a set runs; their replies become one on the way back.
///
/// ```swift
/// enum Census {
///     static let id = ProtocolID(base: 0x11, version: 1)
///     static let count = CollectiveProcedure<EmptyMessage, Total>(
///         id, index: 1, name: "census.count") { total, child in total.people += child.people }
/// }
/// context.register(Census.count) { _, _ in Total(people: 3) }
/// let result = try await context.broadcast(Census.count, EmptyMessage())
/// ```
public struct CollectiveProcedure<Request: Message, Reply: Message>: Sendable {
    let procedure: Procedure<CollectiveRequest, CollectiveAnswer>
    let aggregate: @Sendable (inout Reply, Reply) -> Void

    /// For logs and metrics.
    public var name: StaticString { procedure.name }

    /// A procedure of the protocol `id`, and how replies to it become one.
    ///
    /// - Parameters:
    ///   - id: the protocol and version that it belongs to.
    ///   - index: which of the protocol's procedures it is: below 4,096.
    ///   - name: for logs and metrics.
    ///   - aggregate: takes the reply of a child into another. Replies come in any order and are
    ///     joined in any order.
    public init(
        _ id: ProtocolID, index: UInt16, name: StaticString,
        aggregate: @escaping @Sendable (inout Reply, Reply) -> Void
    ) {
        procedure = Procedure(id, index: index, name: name)
        self.aggregate = aggregate
    }
}

extension CollectiveProcedure where Reply == EmptyMessage {
    /// A procedure whose replies say nothing but that they are there.
    public init(_ id: ProtocolID, index: UInt16, name: StaticString) {
        self.init(id, index: index, name: name) { _, _ in }
    }
}

/// Whom a collective goes to.
public enum CollectiveMembers: Hashable, Sendable {
    /// The whole group.
    case all
    /// These members of the group.
    case including([UInt32])
    /// The group without these ranks. (DAOS: FILTER_INVERT)
    case excluding([UInt32])
}

/// How a collective goes about.
public struct CollectiveOptions: Hashable, Sendable {
    /// Who asks whom.
    public var tree = TreeTopology.kNomial(4)

    /// Which context of each member.
    public var tag: UInt32 = 0

    /// The first failure ends it, and whatever goes on is cancelled. (CO_FAILOUT)
    public var isFailFast = false

    /// Ranks that know another version of the group take part, too: for what does not depend on
    /// who its members are.
    var isForAnyVersion = false

    /// In what portions bulk data goes from rank to rank: each passes on what it has got of it
    /// while it fetches more. In bytes: 4 KiB to 1 GiB.
    public var chunkSize = 1 << 20

    /// Follows the requests through every process; 0 begins a new one.
    public var trace: UInt64 = 0

    /// A tree with four branches at each rank, to tag 0.
    public init() {}
}

/// Why a rank has no part in the reply of a collective.
public struct CollectiveFailure: Hashable, Sendable {
    /// The rank that failed, or of which nothing is known.
    public var rank: UInt32
    /// Its handler's error, or how it could not be reached.
    public var error: RPCError

    /// The failure of a rank.
    public init(rank: UInt32, error: RPCError) {
        self.rank = rank
        self.error = error
    }
}

/// What became of a collective.
public struct CollectiveResult<Reply: Message>: Sendable {
    /// The replies of all ranks that succeeded; nil when there is none.
    public var reply: Reply?

    /// Ranks whose replies are in `reply`.
    public var succeeded = 0

    /// Ranks that failed, or of which nothing is known. After a failure of a fail-fast collective,
    /// all of them.
    public var failed = 0

    /// The first 64 failures.
    public var failures: [CollectiveFailure] = []

    /// The reply, when every rank succeeded.
    ///
    /// - Throws: the first failure.
    public func complete() throws(RPCError) -> Reply {
        if let failure = failures.first { throw failure.error }
        guard let reply else { throw .noReply }
        return reply
    }
}
