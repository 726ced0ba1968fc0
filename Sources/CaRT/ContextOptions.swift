public import DrayRuntime

/// What a context is made with. The defaults suit engines and clients alike.
public struct ContextOptions: Sendable {
    /// The process's clock, shared by all its contexts.
    public var clock: HybridLogicalClock

    /// Our rank in the group; nil for clients.
    public var rank: UInt32?

    /// The name of the group whose members it calls by rank; see `Group.isName`.
    public var groupName = "default"

    /// Which of the process's contexts this is, as destinations name it.
    public var tag: UInt32 = 0

    /// The most bytes of encoded message and payload together that travel inline; more goes by
    /// bulk transfer. Both ends must be created with the same value or a larger one: the smaller
    /// of the two is used.
    public var eagerLimit = 20 * 1024

    /// Receives that are posted at any time.
    public var receiveCount = 256

    /// Once handlers hold this many receives, requests with a payload are answered `.overloaded`.
    public var heldReceivesMax = 192

    /// Requests whose handlers may run at a time; further ones are answered `.overloaded`.
    public var activeRequestsMax = 4096

    /// Requests in flight that we allow to each peer that calls us; 0 for any number.
    public var credits: UInt32 = 32

    /// Calls that may wait for credits of one peer; further ones end with `.overloaded`.
    public var waitingMax = 65_536

    /// Bulk transfers that are with the fabric at a time; further ones wait for those.
    public var bulksMax = 256

    /// Memory of the user's own that stays registered for the next transfer; the longest unused
    /// goes first.
    public var cachedRegistrationBytesMax = 64 << 20

    /// What the context does when there is nothing to do.
    public var progress = ProgressMode.event

    /// The time a call has unless it says otherwise.
    public var timeout: Duration = .seconds(60)

    /// The largest encoded message with its payload, either way.
    public var messageSizeMax = 64 << 20

    /// Peers that may have called us and not been forgotten; the longest idle one goes first.
    public var sessionsMax = 65_536

    /// A peer that has not called for so long is forgotten (and says hello when it calls again).
    public var sessionIdle: Duration = .seconds(300)

    /// Free pooled memory beyond this goes back to the system.
    public var pooledBytesMax = 64 << 20

    public init(clock: HybridLogicalClock) {
        self.clock = clock
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
