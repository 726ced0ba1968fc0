/// What a context has done in collectives.
public struct CollectiveCounters: Hashable, Sendable {
    /// Collectives that began here.
    public var started = 0
    /// Those that ended because their task was cancelled.
    public var cancelled = 0
    /// Those in which a rank failed.
    public var failed = 0
    /// Ranks that replied to collectives that began here.
    public var ranksSucceeded = 0
    /// Ranks that failed in collectives that began here.
    public var ranksFailed = 0
    /// Requests of parents to take part; the same may come from several.
    public var requestsReceived = 0
    /// Collectives that this rank took part in.
    public var parts = 0
    /// Requests sent to children, adopted ones included.
    public var forwarded = 0
}
