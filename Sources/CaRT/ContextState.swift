internal import BasicContainers
internal import DequeModule
internal import DrayFabric
internal import DrayRuntime

/// What a context changes with every message.
///
/// It lies at a fixed place behind a pointer, not in the context object itself: the language
/// checks each access to a property of a class at run time, which adds up to a tenth of the cost
/// of a call. Nothing here calls back into the context, so no access overlaps another.
struct ContextState: ~Copyable {
    // Calls, by slot.
    var tracker: CallTracker
    var waiters = UniqueArray<SuspendedTask?>()
    var outcomes = UniqueArray<CallOutcome>()
    /// Whether the call shall watch for its task's cancellation.
    var unattended = UniqueArray<Bool>()
    /// Calls that do not yet, oldest first; many of them are over.
    var watched = UniqueDeque<WatchedCall>()

    // Peers that we call, by number.
    var links = UniqueArray<PeerLink>()
    /// Whom we called last by address; ourselves at first.
    var lastPeer = 0

    // Callers and what we do for them.
    var sessions: SessionTable
    var activeRequests = UniqueArray<RequestContext?>()
    var freeActive = UniqueArray<Int32>()
    /// The object of a request that is over, for the next one.
    var spareRequest: RequestContext?

    // Memory and messages.
    var sends: SendPool
    var receives: ReceivePool
    var bulks = BulkTable()
    var loopback = UniqueDeque<UInt32>()
    /// Messages that go out at the end of the round, in order.
    var outbox = UniqueArray<UInt32>()
    /// Whether one of them has as many messages as need not wait for that.
    var hasGathered = false
    /// Whether the outbox is being sent just now.
    var isSending = false
    var retrySends = UniqueDeque<UInt32>()

    var counts = ContextCounters()
    var times = ContextTimes()

    // Time, in nanoseconds.
    /// When the one timer fires.
    var timerAt: UInt64 = .max
    /// When peers and spills are looked after.
    var maintenanceAt: UInt64 = .max
    /// When what the provider refused is tried again.
    var retryAt: UInt64 = .max
    /// The monotonic time of the last poll that found something.
    var pollTime: UInt64 = 0
    /// The wall clock minus the monotonic one, as of `wallReadAt`.
    var wallOffset: UInt64 = 0
    var wallReadAt: UInt64 = 0
}

extension Context {
    var tracker: CallTracker {
        _read { yield unsafe state.pointee.tracker }
        _modify { yield unsafe &state.pointee.tracker }
    }
    var waiters: UniqueArray<SuspendedTask?> {
        _read { yield unsafe state.pointee.waiters }
        _modify { yield unsafe &state.pointee.waiters }
    }
    var outcomes: UniqueArray<CallOutcome> {
        _read { yield unsafe state.pointee.outcomes }
        _modify { yield unsafe &state.pointee.outcomes }
    }
    var unattended: UniqueArray<Bool> {
        _read { yield unsafe state.pointee.unattended }
        _modify { yield unsafe &state.pointee.unattended }
    }
    var watched: UniqueDeque<WatchedCall> {
        _read { yield unsafe state.pointee.watched }
        _modify { yield unsafe &state.pointee.watched }
    }
    var links: UniqueArray<PeerLink> {
        _read { yield unsafe state.pointee.links }
        _modify { yield unsafe &state.pointee.links }
    }
    var lastPeer: Int {
        get { unsafe state.pointee.lastPeer }
        set { unsafe state.pointee.lastPeer = newValue }
    }
    var sessions: SessionTable {
        _read { yield unsafe state.pointee.sessions }
        _modify { yield unsafe &state.pointee.sessions }
    }
    var activeRequests: UniqueArray<RequestContext?> {
        _read { yield unsafe state.pointee.activeRequests }
        _modify { yield unsafe &state.pointee.activeRequests }
    }
    var freeActive: UniqueArray<Int32> {
        _read { yield unsafe state.pointee.freeActive }
        _modify { yield unsafe &state.pointee.freeActive }
    }
    var spareRequest: RequestContext? {
        _read { yield unsafe state.pointee.spareRequest }
        _modify { yield unsafe &state.pointee.spareRequest }
    }
    var sends: SendPool {
        _read { yield unsafe state.pointee.sends }
        _modify { yield unsafe &state.pointee.sends }
    }
    var receives: ReceivePool {
        _read { yield unsafe state.pointee.receives }
        _modify { yield unsafe &state.pointee.receives }
    }
    var bulks: BulkTable {
        _read { yield unsafe state.pointee.bulks }
        _modify { yield unsafe &state.pointee.bulks }
    }
    var loopback: UniqueDeque<UInt32> {
        _read { yield unsafe state.pointee.loopback }
        _modify { yield unsafe &state.pointee.loopback }
    }
    var outbox: UniqueArray<UInt32> {
        _read { yield unsafe state.pointee.outbox }
        _modify { yield unsafe &state.pointee.outbox }
    }
    var retrySends: UniqueDeque<UInt32> {
        _read { yield unsafe state.pointee.retrySends }
        _modify { yield unsafe &state.pointee.retrySends }
    }
    var counts: ContextCounters {
        _read { yield unsafe state.pointee.counts }
        _modify { yield unsafe &state.pointee.counts }
    }
    var times: ContextTimes {
        _read { yield unsafe state.pointee.times }
        _modify { yield unsafe &state.pointee.times }
    }
    var timerAt: UInt64 {
        get { unsafe state.pointee.timerAt }
        set { unsafe state.pointee.timerAt = newValue }
    }
    var maintenanceAt: UInt64 {
        get { unsafe state.pointee.maintenanceAt }
        set { unsafe state.pointee.maintenanceAt = newValue }
    }
    var retryAt: UInt64 {
        get { unsafe state.pointee.retryAt }
        set { unsafe state.pointee.retryAt = newValue }
    }
    var pollTime: UInt64 { unsafe state.pointee.pollTime }
    var wallOffset: UInt64 { unsafe state.pointee.wallOffset }

    /// Takes over the time of the xstream's round, or a later one.
    func refreshTime(_ time: Instant) {
        let now = time.nanoseconds
        unsafe state.pointee.pollTime = now
        // The offset changes when somebody sets the clock: that need not be noticed at once.
        if unsafe now >= state.pointee.wallReadAt &+ Context.wallReadInterval {
            unsafe state.pointee.wallReadAt = now
            unsafe state.pointee.wallOffset =
                world.clock.wallNanoseconds &- xstream.now.nanoseconds
        }
    }

    /// How long, in nanoseconds, the offset of the wall clock is taken to stay as it is.
    private static let wallReadInterval: UInt64 = 10_000_000

    /// The wall clock, as of the last poll.
    var wallTime: UInt64 { pollTime &+ wallOffset }

    /// Moves our clock ahead of a stamp that arrived. Returns false, and changes nothing, when it
    /// is further ahead than clocks may be. As we may have been stopped since the last poll, the
    /// clock is read anew before that is said.
    func observe(_ stamp: UInt64) -> Bool {
        clock.observe(stamp, physical: wallTime) || clock.observe(stamp)
    }
}
