internal import DrayRuntime

/// Something that has come for a namespace and is to be worked on: what the inbound hook decides
/// about.
///
/// Run it once, on the xstream, from whatever task and whenever it suits. A request that is dropped
/// instead reaches its sender as `.noReply`; so does a response that is, to what waits for it.
/// (DAOS: crt_context_register_rpc_task)
public final class IncastJob {
    /// What has come.
    public enum Kind: Hashable, Sendable, CaseIterable {
        /// A fetch that is to be answered or forwarded.
        case fetch
        /// An update or an invalidation.
        case update
        /// News, from above.
        case refresh
        /// The answer to a request of ours, or the error that ended it.
        case response
    }

    /// What it is.
    public let kind: Kind
    /// The class of the variable.
    public let number: UInt32
    /// Who sent it: of a response, whom we asked.
    public let source: UInt32?
    /// That of the request.
    public let priority: RequestPriority

    private let xstream: XStream
    private var body: (() async -> Void)?
    private var dropped: (() -> Void)?

    init(
        _ kind: Kind, number: UInt32, source: UInt32?, priority: RequestPriority,
        xstream: XStream, dropped: @escaping () -> Void, body: @escaping () async -> Void
    ) {
        self.kind = kind
        self.number = number
        self.source = source
        self.priority = priority
        self.xstream = xstream
        self.dropped = dropped
        self.body = body
    }

    deinit {
        // Only the remains of a simulated process that was killed are dropped elsewhere.
        if body != nil, xstream.isCurrent { dropped?() }
    }

    /// Does the work. May wait. Once.
    public func run() async {
        guard let body else { preconditionFailure("a job of a namespace ran twice") }
        self.body = nil
        dropped = nil
        await body()
    }
}
