public import DrayFabric

/// Whom to call.
public enum Destination: Hashable, Sendable {
    /// A member of the group, by the context's group map.
    case rank(UInt32, tag: UInt32)
    /// A member of a group, wherever that is known from: `Group.destination`. Refused by whoever
    /// else listens there.
    case member(rank: UInt32, tag: UInt32, at: FabricAddress)
    /// Whoever listens at an address.
    case address(FabricAddress)
}

/// When a call gives up.
public enum Deadline: Hashable, Sendable {
    /// After `ContextOptions.timeout`.
    case standard
    /// After a duration from now.
    case after(Duration)
    /// Never: the call ends with its reply, the loss or eviction of its peer, or cancellation.
    case unlimited
    /// At a time of the wall clock, in nanoseconds since 1970: `RequestContext.deadline` of the
    /// request that caused this one, for instance.
    case at(UInt64)
}

/// Which of the calls that wait for a peer's credits goes first, and which requests a loaded peer
/// refuses first.
public enum RequestPriority: UInt8, Hashable, Sendable, CaseIterable, Comparable {
    /// Work that can wait: goes when nothing else waits, and is refused when three quarters of the
    /// peer's `activeRequestsMax` are in use.
    case low
    /// As most requests are.
    case normal
    /// Goes before everything else, and has an eighth of `activeRequestsMax` on top.
    case high

    public static func < (left: RequestPriority, right: RequestPriority) -> Bool {
        left.rawValue < right.rawValue
    }
}

/// How a request is treated on its way.
public struct CallOptions: Hashable, Sendable {
    /// Among calls that wait for credits of the same peer.
    public var priority = RequestPriority.normal

    /// Whether the call goes before those of its priority that wait already.
    public var isFirst = false

    /// The version of the group that the caller acted upon; the peer refuses the request with
    /// `.groupVersion` when its own is another. 0: any.
    public var groupVersion: UInt32 = 0

    /// Whether a call that ends early returns at once, although its peer may still use the memory
    /// that it exposes: for memory that is not used again. See `BulkHandle.isQuarantined`.
    public var leavesMemory = false

    /// Of normal priority, behind what waits already, and for any version of the group, unless said
    /// otherwise.
    public init(
        priority: RequestPriority = .normal, isFirst: Bool = false, groupVersion: UInt32 = 0,
        leavesMemory: Bool = false
    ) {
        self.priority = priority
        self.isFirst = isFirst
        self.groupVersion = groupVersion
        self.leavesMemory = leavesMemory
    }
}
