/// What can go wrong on the fabric.
public enum FabricError: Error, Hashable, Sendable {
    /// The provider's queue is full. Poll, then repeat the call.
    case tryAgain
    /// The peer refused, is gone, or the connection broke.
    case unreachable(code: Int32)
    /// The message is larger than the receive buffer or the provider's limit.
    case messageTooLong
    /// The address cannot be understood; what is wrong with it.
    case badAddress(String)
    /// The port or name is in use by another process.
    case addressInUse(String)
    /// There is no such provider on this machine.
    case noProvider(String)
    /// The remote key or range is not valid.
    case badKey
    /// The operation was cancelled, or the endpoint closed.
    case cancelled
    /// Anything else that the provider reports: its error number and its words.
    case provider(code: Int32, message: String)
}
