/// A kind of fault that a run may inject.
public enum FaultKind: String, CaseIterable, Sendable {
    /// One engine, or all of them, is killed and its device loses what was not flushed.
    case crash
    /// The same at the beginning or end of a write or a flush.
    case boundary
    /// Engines and clients are cut off from others, in one direction or both.
    case partition
    /// The network delays, loses and misdelivers; or it loses nothing, and some messages take long.
    case network
    /// All connections of an engine break.
    case connections
    /// An engine stops, for longer than clients wait.
    case pause
    /// Disks are slow.
    case disks
    /// A client is killed in the middle of its operations.
    case client
    /// Tasks of a client are cancelled in the middle of their operations.
    case cancel
    /// A wall clock is off: by what is allowed, or by more. And no two clocks ever agree.
    case clock

    /// How often it happens, beside the others.
    var weight: UInt64 {
        switch self {
        case .crash, .boundary: 3
        case .client, .cancel, .pause, .disks, .clock: 2
        case .partition, .network, .connections: 1
        }
    }
}
