internal import DrayRuntime

/// The right and duty to answer one request.
///
/// Confined to the context's xstream. Dropping it unused reaches the caller as `.noReply`.
public final class DeferredReply<Reply: Message> {
    /// The request to answer.
    public let request: RequestContext

    init(_ request: RequestContext) {
        self.request = request
    }

    deinit {
        // Does nothing when the request was answered. Only the remains of a simulated process
        // that was killed are dropped elsewhere than on the xstream.
        guard request.context.xstream.isCurrent else { return }
        request.context.fail(.noReply, request)
    }

    /// Answers. Only the first answer counts.
    public func reply(_ message: Reply) {
        request.context.reply(message, to: request)
    }

    /// Answers with an error. Only the first answer counts.
    public func fail(_ error: RPCError) {
        request.context.fail(error, request)
    }
}
