internal import DrayRuntime

/// What a handler of a collective knows beside its message.
///
/// Confined to the context's xstream.
public final class CollectiveContext {
    /// The context that takes part, for calls of the handler's own.
    public let context: Context
    /// The context instance that began the collective.
    public let initiatorInstance: UInt64
    /// When the initiator began it, by its hybrid logical clock.
    public let beginStamp: UInt64
    /// Who takes part.
    public let ranks: RankSet
    /// When our reply must be there: wall clock, nanoseconds since 1970. A little before the
    /// initiator's deadline, so that the replies can travel back.
    public let deadline: UInt64
    /// Follows the collective through every process.
    public let trace: UInt64
    /// The bulk data, when the collective has any: all of it is there once the handler runs.
    /// In the hook before, its bytes are not valid yet.
    public let bulk: RegisteredBuffer?

    /// Nobody waits for our reply any more. The handler's task is cancelled then.
    public private(set) var isCancelled = false
    private var cancelHook: (() -> Void)?

    init(
        _ request: CollectiveRequest, context: Context, deadline: UInt64, trace: UInt64,
        bulk: RegisteredBuffer?
    ) {
        self.context = context
        initiatorInstance = request.id.initiator
        beginStamp = request.id.stamp
        ranks = request.ranks
        self.deadline = deadline
        self.trace = trace
        self.bulk = bulk
    }

    /// Runs `body` when nobody waits for our reply any more; at once when that is so already. One
    /// at a time: replaces the one before.
    public func onCancel(_ body: @escaping () -> Void) {
        if isCancelled { body() } else { cancelHook = body }
    }

    func cancel() {
        guard !isCancelled else { return }
        isCancelled = true
        let hook = cancelHook
        cancelHook = nil
        hook?()
    }

    /// The handler has ended.
    func finish() { cancelHook = nil }
}
