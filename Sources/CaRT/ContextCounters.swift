/// What a context has done and is doing, for telemetry.
public struct ContextCounters: Hashable, Sendable {
    /// Requests sent.
    public var requestsSent = 0
    /// Requests received, before any check.
    public var requestsReceived = 0
    /// Replies sent, errors included.
    public var repliesSent = 0
    /// Replies sent that carry an error.
    public var errorRepliesSent = 0
    /// Replies that were not sent: their caller is gone, or takes no more.
    public var repliesDropped = 0
    /// Replies that reached their caller.
    public var repliesReceived = 0
    /// Those of them that carry an error.
    public var errorRepliesReceived = 0
    /// Replies that no call waited for (any more). They are among the messages dropped.
    public var lateReplies = 0
    /// Calls that ended with an error.
    public var callsFailed = 0
    /// Calls that ended by their deadline.
    public var timedOut = 0
    /// Calls that had to wait for credits, or for the answer to a hello.
    public var callsDelayed = 0
    /// Calls that ended at once because too many waited.
    public var callsRefused = 0
    /// Calls whose task was cancelled.
    public var cancelled = 0
    /// Requests that we answered `.overloaded`.
    public var overloaded = 0
    /// Requests that waited because as many handlers as may be were at work.
    public var requestsDelayed = 0
    /// Requests refused because their deadline had passed.
    public var expired = 0
    /// Messages that could not be understood or came too late, and were dropped.
    public var dropped = 0
    /// Hellos sent, probes included.
    public var hellosSent = 0
    /// Members that were asked where their contexts are.
    public var lookUps = 0
    /// Those of them that failed.
    public var lookUpsFailed = 0
    /// Those that failed by their deadline.
    public var lookUpsTimedOut = 0
    /// Look-ups of others that we answered.
    public var lookUpsAnswered = 0
    /// Times that the fabric could not use the address of a peer.
    public var addressesFailed = 0
    /// Connections and peers' instances found to be gone.
    public var peersLost = 0
    /// Messages handed to the fabric; several requests and replies may travel in one.
    public var messagesSent = 0
    /// Times the fabric refused a message, and it was tried again.
    public var sendsRefused = 0
    /// Messages that the fabric could not deliver, or did not take in time.
    public var sendsFailed = 0
    /// Requests and replies too large to travel inline, left in our memory to be fetched.
    public var spills = 0
    /// Bulk transfers that we started and that read a peer's memory.
    public var bulkReads = 0
    /// Bulk transfers that we started and that write to a peer's memory.
    public var bulkWrites = 0
    /// Bulk transfers of ours that failed.
    public var bulksFailed = 0
    /// Bytes read and written by bulk transfers that we started.
    public var bulkBytes = 0
    /// Bulk transfers of ours that waited because as many as may be were with the fabric.
    public var bulksDelayed = 0
    /// Times that memory was exposed to peers.
    public var exposuresMade = 0
    /// Times that it could not be: the fabric did not register it.
    public var exposuresFailed = 0
    /// Exposed memory that was not freed because a peer may still use it, in bytes.
    public var quarantinedBytes = 0
    /// What was done in collectives.
    public var collectives = CollectiveCounters()
    /// What the failure detector did; nothing where none runs.
    public var swim = SwimCounters()
    /// What all namespaces of incast variables did.
    public var incast = IncastCounters()
    /// The user's own memory that was registered already when it was to be used.
    public var registrationHits = 0
    /// The user's own memory that had to be registered.
    public var registrationMisses = 0
    /// Registrations given up to make room for others.
    public var registrationEvictions = 0

    /// Calls under way now.
    public var inFlight = 0
    /// Calls that wait now for credits or a hello.
    public var waiting = 0
    /// Requests that our handlers work on now.
    public var active = 0
    /// Receives that hold a message which somebody still reads.
    public var receivesHeld = 0
    /// Requests that wait now for handlers to end.
    public var requestsWaiting = 0
    /// Sessions of callers now.
    public var sessions = 0
    /// Bulk transfers under way now.
    public var transfers = 0
    /// Those of them that wait now for others to end, or for the fabric to take them.
    public var waitingTransfers = 0
    /// Bytes of the user's own memory that are registered now.
    public var registeredBytes = 0
    /// Pieces of memory that peers may reach now.
    public var exposures = 0
    /// Memory of large replies that their callers have not fetched, in bytes.
    public var keptReplyBytes = 0
}
