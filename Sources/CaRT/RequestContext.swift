
/// What a handler knows about a request beside its message.
///
/// Confined to the context's xstream.
public final class RequestContext {
    /// The context that received the request, for calls of the handler's own.
    public let context: Context
    /// The caller's context instance.
    public let sourceInstance: UInt64
    /// The caller's rank; nil for clients.
    public let sourceRank: UInt32?
    /// When the caller gives up: wall clock, nanoseconds since 1970. Pass it on as
    /// `Deadline.at(request.deadline)`.
    public let deadline: UInt64
    /// The caller's clock when it sent the request; ours has moved ahead of it.
    public let stamp: UInt64
    /// Follows a request through every process.
    public let trace: UInt64

    /// The caller gave up: its task was cancelled, its deadline passed, or it is gone. The reply
    /// will reach nobody.
    public var isCancelled: Bool { preconditionFailure("to come") }

    /// Runs `body` when the caller gives up; at once when it already has. One at a time: replaces
    /// the one before.
    public func onCancel(_ body: @escaping () -> Void) { preconditionFailure("to come") }

    /// The raw bytes beside the request; empty when there are none. Valid until
    /// `releasePayload()` or the reply. Holding them holds a posted receive: copy what you keep,
    /// and release before anything slow.
    public var payload: UnsafeRawBufferPointer { preconditionFailure("to come") }

    /// The payload is used no more.
    public func releasePayload() { preconditionFailure("to come") }

    /// Sends raw bytes beside the reply. They must stay unchanged until the handler has returned
    /// and the reply was encoded; `keeping` is held until then.
    public func setReplyPayload(_ bytes: UnsafeRawBufferPointer, keeping owner: AnyObject?) {
        preconditionFailure("to come")
    }

    init() { preconditionFailure("to come") }
}

/// The right and duty to answer one request.
public final class DeferredReply<Reply: Message> {
    public let request: RequestContext

    /// Answers. Only the first answer counts.
    public func reply(_ message: Reply) { preconditionFailure("to come") }

    /// Answers with an error. Only the first answer counts.
    public func fail(_ error: RPCError) { preconditionFailure("to come") }

    init() { preconditionFailure("to come") }
}
