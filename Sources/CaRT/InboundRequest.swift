internal import DrayRuntime

/// A request that has arrived and that no handler has seen: what the inbound hook of a context
/// decides about.
///
/// Run it once, on the context's xstream, from wherever and whenever it suits, or refuse it. One
/// that is dropped instead reaches its caller as `.noReply`. (DAOS:
/// `crt_context_register_rpc_task`)
public final class InboundRequest {
    /// Which procedure it is for.
    public let opcode: UInt32
    /// Who sent it, until when, how urgently. It has no message yet.
    public var request: RequestContext { entry.request }

    private let entry: RequestGate.Entry
    private let context: Context
    private var isDecided = false

    init(_ entry: RequestGate.Entry, _ context: Context) {
        self.entry = entry
        self.context = context
        opcode = entry.opcode
    }

    deinit {
        // Only the remains of a simulated process that was killed are dropped elsewhere.
        if !isDecided, context.xstream.isCurrent { context.fail(.noReply, entry.request) }
    }

    /// The handler may begin: at once, or when `ContextOptions.handlersMax` lets it. Does nothing
    /// when the caller has given up meanwhile.
    public func run() {
        decide()
        context.admit(entry)
    }

    /// No handler will see the request: its caller gets `error`.
    public func refuse(_ error: RPCError) {
        decide()
        context.fail(error, entry.request)
    }

    private func decide() {
        precondition(!isDecided, "a request was run or refused twice")
        isDecided = true
    }
}
