/// What the failure detector of a context has done and found.
public struct SwimCounters: Hashable, Sendable {
    /// Messages handed to the transport, answers included.
    public var messagesSent = 0
    /// Messages of others, answers included.
    public var messagesReceived = 0
    /// Messages that were not sent: nobody waits for the answer any more, or a fault was injected.
    public var messagesDropped = 0
    /// Pings, requests for help and news that nobody answered.
    public var messagesUnanswered = 0
    /// Pings sent, those for others included.
    public var pingsSent = 0
    /// Acknowledgements that came.
    public var acksReceived = 0
    /// Requests sent to others to ping a silent member.
    public var helpRequestsSent = 0
    /// Members that became suspects.
    public var suspicions = 0
    /// Members that were found, or heard, to be dead.
    public var deaths = 0
    /// Members that were suspects or dead, and are alive.
    public var recoveries = 0
    /// Times that others took us for dead, or had a group without us.
    public var exclusions = 0
    /// Times that the detector came to doubt itself, or doubted itself more.
    public var doubts = 0

    /// How much reason the detector has now to doubt itself: 0 (none) to 8.
    public var doubt = 0
}
