public import DrayFabric

/// Whom to call.
public enum Destination: Hashable, Sendable {
    /// A member of the group, by the context's group map.
    case rank(UInt32, tag: UInt32)
    /// Whoever listens at an address.
    case address(FabricAddress)
}

/// When a call gives up.
public enum Deadline: Hashable, Sendable {
    /// After `ContextOptions.timeout`.
    case standard
    /// After a duration from now.
    case after(Duration)
    /// At a time of the wall clock, in nanoseconds since 1970: `RequestContext.deadline` of the
    /// request that caused this one, for instance.
    case at(UInt64)
}
