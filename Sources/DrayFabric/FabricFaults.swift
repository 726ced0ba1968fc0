/// What goes wrong on a simulated fabric, and how often. Rates are out of `FabricFaults.unit`.
public struct FabricFaults: Hashable, Sendable {
    /// Certainty.
    public static let unit: UInt64 = 1_000_000

    /// The shortest and the longest time that a message is under way. Every message draws its
    /// own: nothing is ordered.
    public var latency: ClosedRange<Duration> = .microseconds(2) ... .microseconds(20)

    /// How often a message takes up to `slowLatencyMax` instead.
    public var slowRate: UInt64 = 0
    public var slowLatencyMax: Duration = .milliseconds(100)

    /// How often a message finds its connection broken: whatever is under way between the two
    /// endpoints, either way, vanishes. Of the operations this hits, remote reads and writes
    /// always fail; half of the sends report success all the same.
    public var connectionLossRate: UInt64 = 0

    /// How often an operation is told to try again without a reason.
    public var tryAgainRate: UInt64 = 0

    /// How often a message to an endpoint that closed or died while it was under way reaches the
    /// endpoint that has taken over its address. It is lost otherwise.
    public var misdeliveryRate: UInt64 = 0

    /// How often a part of a remote write lands although its connection broke, after the writer
    /// was told of the failure.
    public var lateWriteRate: UInt64 = 0

    /// How often a wrong key costs the connection, as it does on TCP.
    public var badKeyBreakRate: UInt64 = 0

    public init() {}

    /// A fabric that delays and reorders, and loses nothing.
    public static var none: FabricFaults { FabricFaults() }

    /// Everything happens, often enough to see each kind in a run of some thousand messages.
    public static var harsh: FabricFaults {
        var faults = FabricFaults()
        faults.slowRate = 5_000
        faults.connectionLossRate = 2_000
        faults.tryAgainRate = 10_000
        faults.misdeliveryRate = 100_000
        faults.lateWriteRate = 200_000
        faults.badKeyBreakRate = 500_000
        return faults
    }
}

/// How often each fault has happened on a simulated fabric.
public struct FabricFaultCounts: Hashable, Sendable {
    /// Messages and remote operations that left.
    public var operations: UInt64 = 0
    /// Connections that broke, for whatever reason.
    public var connectionsLost: UInt64 = 0
    /// Messages that vanished.
    public var messagesLost: UInt64 = 0
    /// Operations that failed because nobody was at the address.
    public var refusals: UInt64 = 0
    /// Messages and remote operations that a partition stopped.
    public var partitioned: UInt64 = 0
    public var tryAgains: UInt64 = 0
    public var slowMessages: UInt64 = 0
    /// Messages that had to wait for a posted receive.
    public var starvations: UInt64 = 0
    /// Messages larger than the receive they met.
    public var truncations: UInt64 = 0
    public var badKeys: UInt64 = 0
    /// Parts of remote operations, over connections that hold, whose memory had been deregistered
    /// since they began. Whoever exposes memory must not let this happen: a real provider does not
    /// stop, and reads and writes what lies there now.
    public var regionsLost: UInt64 = 0
    public var misdeliveries: UInt64 = 0
    public var lateWrites: UInt64 = 0
    /// Times that a part of a remote write waited because its process stands still.
    public var heldParts: UInt64 = 0

    public init() {}

    /// All faults that were injected rather than provoked.
    public var injected: UInt64 {
        connectionsLost + messagesLost + refusals + partitioned + tryAgains + slowMessages
            + misdeliveries + lateWrites
    }
}
