public import DrayFabric

/// How a call ends when not with a reply.
public enum RPCError: Error, Hashable, Sendable {
    /// The deadline passed. The handler may have run, or may still run. (DAOS: DER_TIMEDOUT)
    case timedOut
    /// The peer cannot be reached, or the connection broke; the outcome of a request that was
    /// under way is unknown. (DER_UNREACH)
    case unreachable
    /// The calling task was cancelled. The handler may have run. (DER_CANCELED)
    case cancelled
    /// The peer, or our own queue towards it, takes no more; the handler did not run. Try again
    /// later. (DER_OVERLOAD_RETRY)
    case overloaded
    /// The handler gave up the request without an answer, or the peer has no room for one so large
    /// (`ContextOptions.replyBytesMax`). (DER_NOREPLY)
    case noReply
    /// The peer does not know the procedure. (DER_UNREG)
    case unknownProcedure
    /// The peer knows the protocol, but not at this version.
    case protocolVersion
    /// A message cannot be understood: by the peer (the handler did not run), or its reply by us.
    case badMessage
    /// The peer is not the rank that was asked for. (DER_BAD_TARGET)
    case wrongRank
    /// The peer's context does not have the tag that was asked for. (DER_BAD_TARGET)
    case wrongTag
    /// The destination rank or tag is not in the group as we know it: get a newer version.
    /// (DER_OOG)
    case staleGroup
    /// The request was meant for another version of the group than the peer has; the handler did
    /// not run. (DER_GRPVER)
    case groupVersion
    /// The clocks of the two processes are further apart than allowed. (DER_HLC_SYNC)
    case clockSkew
    /// The peer is another process than the one that got the request: it restarted. Whether the
    /// old one ran the handler is unknown.
    case peerRestarted
    /// The handler's own error: a code of the layer above, and words for people.
    case application(code: UInt32, message: String)
    /// The fabric failed in another way.
    case fabric(FabricError)
    /// This context is closed.
    case closed
    /// The message is larger than `ContextOptions.messageSizeMax`.
    case messageTooLong
}

extension RPCError: CustomStringConvertible {
    /// What went wrong, in words for people.
    public var description: String {
        switch self {
        case .timedOut: "no answer before the deadline"
        case .unreachable: "the peer cannot be reached"
        case .cancelled: "cancelled"
        case .overloaded: "the peer takes no more requests now"
        case .noReply: "the peer gave up the request"
        case .unknownProcedure: "the peer does not know the procedure"
        case .protocolVersion: "the peer speaks another version of the protocol"
        case .badMessage: "a message cannot be understood"
        case .wrongRank, .wrongTag: "another process answers at this address"
        case .staleGroup: "the rank is not in the group"
        case .groupVersion: "the peer knows another version of the group"
        case .clockSkew: "the clocks are too far apart"
        case .peerRestarted: "the peer restarted"
        case .application(_, let message): message
        case .fabric(let error): "\(error)"
        case .closed: "the context is closed"
        case .messageTooLong: "the message is too long"
        }
    }
}
