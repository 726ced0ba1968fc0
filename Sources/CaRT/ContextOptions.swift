public import DrayRuntime

/// What a context is made with. The defaults suit servers and clients alike; values that cannot
/// work trap when the context is made.
public struct ContextOptions: Sendable {
    /// The process's clock, shared by all its contexts.
    public var clock: HybridLogicalClock

    /// Our rank in the group; nil for clients.
    public var rank: UInt32?

    /// The name of the group whose members it calls by rank; see `Group.isName`.
    public var groupName = "default"

    /// Which of the process's contexts this is, as destinations name it: 0 to 1,023. The first
    /// tells where the others are.
    public var tag: UInt32 = 0

    /// The most bytes of encoded message and payload together that travel inline; more goes by
    /// bulk transfer. Of the two ends' values the smaller one is used. At least 1,024; no more than
    /// the provider's largest message (24 KiB over RDMA) is used. Each receive has as much memory.
    public var eagerLimit = 64 * 1024

    /// The most receives that are posted at a time, for all peers together; more than
    /// `heldReceivesMax`. There are 16 at first, and more where they are used.
    public var receiveCount = 256

    /// Once handlers hold this many receives, requests with a payload are answered `.overloaded`.
    public var heldReceivesMax = 192

    /// Requests of normal priority whose handlers may run at a time; further ones are answered
    /// `.overloaded`. See `RequestPriority` for the others.
    public var activeRequestsMax = 4096

    /// Requests whose handlers are at work at a time, whoever sent them; 0 for any number. Further
    /// ones wait, in order of their priority, then of arrival, each with a receive: with
    /// `heldReceivesMax` of those, and with `activeRequestsMax` requests, others are answered
    /// `.overloaded`. CaRT's own protocols do not count. A handler counts until it answers: those
    /// that wait for calls that come back here may wait for each other.
    public var handlersMax = 0

    /// Requests in flight that we allow to each peer that calls us; 0 for any number.
    public var credits: UInt32 = 32

    /// Calls that may wait for credits of one peer; further ones end with `.overloaded`.
    public var waitingMax = 65_536

    /// Bulk transfers that are with the fabric at a time; further ones wait for those. At least 1.
    public var bulksMax = 256

    /// The most bytes of exposed memory that are kept because peers may still use them although the
    /// calls that named them are over (`BulkHandle.isQuarantined`). While some are, what would be
    /// exposed beyond that is refused with `.overloaded`.
    public var quarantinedBytesMax = 1 << 30

    /// Memory of large replies that is kept because their callers have not fetched them, in bytes.
    /// Once there is so much, or a quarter of it for one caller's address, further large replies,
    /// or those to that caller, become `.noReply`.
    public var replyBytesMax = 2 << 30

    /// Bytes of the user's own memory that stay registered for the next transfer; the longest
    /// unused goes first.
    public var cachedRegistrationBytesMax = 64 << 20

    /// What the context does when there is nothing to do.
    public var progress = ProgressMode.event

    /// The time a call has unless it says otherwise.
    public var timeout: Duration = .seconds(60)

    /// The most bytes of an encoded message with its payload, either way. At most 2^31 − 1.
    public var messageSizeMax = 64 << 20

    /// Callers that are remembered; of more, the one that has been idle longest is forgotten.
    public var sessionsMax = 65_536

    /// A peer that has not called for so long is forgotten (and says hello when it calls again).
    public var sessionIdle: Duration = .seconds(300)

    /// Bytes of free pooled memory that are kept; more goes back to the system.
    public var pooledBytesMax = 64 << 20

    /// The defaults, for a context of the process whose clock this is.
    public init(clock: HybridLogicalClock) {
        self.clock = clock
    }

    /// The defaults, with a new clock: for a process with one context, or for its first one.
    public init(world: World) {
        self.init(clock: HybridLogicalClock(clock: world.clock))
    }
}

/// How a context waits for what comes next.
public enum ProgressMode: String, Hashable, Sendable, CaseIterable {
    /// Its xstream spins for some microseconds where that has paid lately, then sleeps until
    /// something arrives.
    case event
    /// Its xstream polls all the time and keeps a processor busy: for the last microseconds.
    case busy
}
