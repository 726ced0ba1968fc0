/// What can go wrong on the fabric.
///
/// Words are kept apart, as every completion has room for an error.
public enum FabricError: Error, Hashable, Sendable {
    /// The provider's queue is full. Poll, then repeat the call.
    case tryAgain
    /// The peer refused, is gone, or the connection broke.
    case unreachable(code: Int32)
    /// The message is larger than the receive buffer or the provider's limit.
    case messageTooLong
    /// The address cannot be understood; what is wrong with it.
    indirect case badAddress(String)
    /// The port or name is in use by another process.
    indirect case addressInUse(String)
    /// There is no such provider on this machine.
    indirect case noProvider(String)
    /// The remote key or range is not valid.
    case badKey
    /// The operation was cancelled, or the endpoint closed.
    case cancelled
    /// Anything else that the provider reports: its error number and its words.
    indirect case provider(code: Int32, message: String)
}

extension FabricError: CustomStringConvertible {
    /// What went wrong, in words for people.
    public var description: String {
        switch self {
        case .tryAgain: "the provider's queue is full"
        case .unreachable: "the peer cannot be reached"
        case .messageTooLong: "the message is too long"
        case .badAddress(let why), .addressInUse(let why), .noProvider(let why): why
        case .badKey: "the remote key or range is not valid"
        case .cancelled: "cancelled"
        case .provider(let code, let message): "\(message) (error \(code))"
        }
    }
}
