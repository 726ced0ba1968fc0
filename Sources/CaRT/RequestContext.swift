internal import BasicContainers
public import DrayFabric
internal import DrayRuntime

/// What a handler knows about a request beside its message.
///
/// Confined to the context's xstream.
@safe public final class RequestContext {
    /// The context that received the request, for calls of the handler's own.
    public var context: Context {
        guard let owner else { preconditionFailure("a request that nobody kept was used") }
        return owner
    }
    /// Nil while the object waits for another request.
    @safe @exclusivity(unchecked) private var owner: Context?
    @safe @exclusivity(unchecked) private var header: WireHeader
    /// The caller's context instance.
    @safe @exclusivity(unchecked) public private(set) var sourceInstance: UInt64
    /// The caller's rank; nil for clients.
    public var sourceRank: UInt32? {
        header.sourceRank == WireHeader.anyRank ? nil : header.sourceRank
    }
    /// Where the caller's context listens; nil once its session is over.
    public var sourceAddress: FabricAddress? {
        context.sessions.find(session).map { context.sessions.sessions[$0].address }
    }
    /// When the caller gives up: wall clock, nanoseconds since 1970. Pass it on as
    /// `Deadline.at(request.deadline)`.
    public var deadline: UInt64 { header.deadline }
    /// The caller's clock when it sent the request; ours has moved ahead of it.
    public var stamp: UInt64 { header.stamp }
    /// Follows a request through every process. Pass it on.
    public var trace: UInt64 { header.trace }
    /// How urgent the caller finds it.
    public var priority: RequestPriority { header.flags.priority }
    /// Nobody waits for a reply: what the handler answers is dropped.
    public var isOneWay: Bool { header.flags.contains(.oneWay) }
    /// The caller wants to know where the time goes: name the request in bulk transfers for it.
    public var isTraced: Bool { header.flags.contains(.traced) }

    var session: SessionID { header.session }
    var slot: UInt32 { header.slot }
    var slotGeneration: UInt32 { header.slotGeneration }
    var requestID: UInt64 { header.requestID }
    /// Where the context keeps this request among the active ones.
    @safe @exclusivity(unchecked) var position: Int32 = -1
    /// When it arrived, and when its handler began: monotonic nanoseconds; 0 when nobody counts.
    @safe @exclusivity(unchecked) var arrivedAt: UInt64 = 0
    @safe @exclusivity(unchecked) private var begunAt: UInt64 = 0
    /// Nanoseconds in bulk transfers.
    @safe @exclusivity(unchecked) var bulkTime: UInt64 = 0
    /// Calls made for it that are over, if it is traced.
    @safe @exclusivity(unchecked) private(set) var nested: [NestedCall] = []
    /// Nil once nobody reads the message any more.
    @safe @exclusivity(unchecked) private(set) var message: HeldMessage?
    @safe @exclusivity(unchecked) private(set) var isAnswered = false
    @safe @exclusivity(unchecked) private var wasCancelled = false
    /// The caller has said that it gave up: its answer need not say anything.
    @safe @exclusivity(unchecked) var isUnwanted = false
    @safe @exclusivity(unchecked) private var cancelHook: (() -> Void)?
    /// What the handler runs in, while that may be cancelled.
    @safe @exclusivity(unchecked) private var task: SpawnedTask?
    /// Its caller gave up, and no handler shall begin.
    @safe @exclusivity(unchecked) private var isTaskCancelled = false
    /// It waits where the context's hook or limit keeps requests from their handlers.
    @safe @exclusivity(unchecked) var isAtGate = false
    /// It was let in there, and is counted.
    @safe @exclusivity(unchecked) var isBehindGate = false
    // SAFETY: `replyOwner`, or the handler's promise, keeps the bytes until the reply is encoded.
    var replyPayload: UnsafeRawBufferPointer?
    @safe @exclusivity(unchecked) private var replyOwner: AnyObject?

    init(_ header: WireHeader, _ message: HeldMessage, context: Context, instance: UInt64) {
        owner = context
        self.header = header
        sourceInstance = instance
        self.message = message
        unsafe replyPayload = nil
    }

    /// The object, which was retired, serves another request.
    func reuse(_ header: WireHeader, _ message: HeldMessage, context: Context, instance: UInt64) {
        owner = context
        self.header = header
        sourceInstance = instance
        self.message = message
        (arrivedAt, begunAt, bulkTime) = (0, 0, 0)
        (isAnswered, wasCancelled, isUnwanted, isTaskCancelled) = (false, false, false, false)
        nested = []
    }

    /// It was answered, and nobody but the context knows it any more.
    func retire() { owner = nil }

    /// The caller gave up: its task was cancelled, its deadline passed, or it is gone. The reply
    /// will reach nobody.
    public var isCancelled: Bool {
        wasCancelled || context.world.clock.wallNanoseconds > deadline
    }

    /// What the caller is told of a request that is cancelled, if it still listens: it may have
    /// more time by its own clock.
    var cancellationError: RPCError {
        if isUnwanted { return .cancelled }
        return wasCancelled ? .unreachable : .timedOut
    }

    /// Runs `body` when the caller gives up; at once when it already has. One at a time: replaces
    /// the one before.
    public func onCancel(_ body: @escaping () -> Void) {
        if wasCancelled {
            body()
        } else if !isAnswered {
            cancelHook = body
        }
    }

    /// From here on the handler's task is not cancelled when the caller gives up: for what must not
    /// stop half way. `isCancelled` and `onCancel` go on to tell.
    ///
    /// - Throws: `.cancelled` when the task was cancelled before.
    public func ignoreCancellation() throws(RPCError) {
        guard !isTaskCancelled else { throw .cancelled }
        task = nil
    }

    /// Suspends the handler for `duration`, or until its task is cancelled.
    ///
    /// - Throws: `.cancelled` in the second case.
    public func sleep(for duration: Duration) async throws(RPCError) {
        do throws(CancellationError) {
            try await context.xstream.sleepOrCancel(for: duration)
        } catch {
            throw .cancelled
        }
    }

    /// The raw bytes beside the request; empty when there are none. Valid until
    /// `releasePayload()` or the reply. Holding them holds a posted receive: copy what you keep,
    /// and release before anything slow.
    public var payload: UnsafeRawBufferPointer {
        guard let message else { return unsafe UnsafeRawBufferPointer(start: nil, count: 0) }
        return unsafe message.payload
    }

    /// The payload is used no more.
    public func releasePayload() { releaseMessage(to: context) }

    private func releaseMessage(to context: Context) {
        guard let held = message else { return }
        message = nil
        context.release(held.source)
    }

    /// Sends raw bytes beside the reply. They must stay unchanged until the handler has returned
    /// and the reply was encoded; `keeping` is held until then.
    public func setReplyPayload(_ bytes: UnsafeRawBufferPointer, keeping owner: AnyObject?) {
        unsafe replyPayload = unsafe bytes
        replyOwner = owner
    }

    /// The encoded message.
    var body: UnsafeRawBufferPointer {
        guard let message else { return unsafe UnsafeRawBufferPointer(start: nil, count: 0) }
        return unsafe message.body
    }

    /// The body was decoded: without a payload, the receive is free.
    func bodyWasRead(by context: Context) {
        if let message, message.payloadLength == 0 { releaseMessage(to: context) }
    }

    /// The message was fetched from the caller's memory.
    func replaceMessage(_ fetched: HeldMessage) {
        releasePayload()
        message = fetched
    }

    /// The caller gave up: the handler hears of it, and its task is cancelled.
    func cancel() {
        tellCancelled()
        cancelTask()
    }

    /// The handler hears that nobody waits for it. It may go on.
    func tellCancelled() {
        guard !wasCancelled, !isAnswered else { return }
        wasCancelled = true
        let hook = cancelHook
        cancelHook = nil
        hook?()
    }

    /// The task of the handler is cancelled; if it has not begun, it will not.
    func cancelTask() {
        guard !isTaskCancelled, !isAnswered else { return }
        isTaskCancelled = true
        let task = task
        self.task = nil
        task?.cancel()
    }

    /// `task` begins to work on the request. Throws when it need not any more.
    func enter(_ task: SpawnedTask) throws(RPCError) {
        guard !isTaskCancelled else { throw .cancelled }
        self.task = task
    }

    /// The task does something else from here on.
    func leave() { task = nil }

    /// The handler begins.
    @inline(__always) func begin() {
        if arrivedAt != 0 { measureWait() }
    }

    private func measureWait() {
        begunAt = context.xstream.now.nanoseconds
        context.times.wait.record(
            nanoseconds: begunAt > arrivedAt ? begunAt - arrivedAt : 0)
    }

    /// The handler has answered.
    @inline(__always) func end() {
        if begunAt != 0 {
            let now = context.xstream.now.nanoseconds
            context.times.handler.record(nanoseconds: now > begunAt ? now - begunAt : 0)
        }
    }

    /// What the reply to a traced request says.
    var timings: ReplyTimings {
        let now = context.xstream.now.nanoseconds
        var timings = ReplyTimings()
        timings.arrived = arrivedAt &+ context.wallOffset
        timings.waiting = begunAt > arrivedAt ? begunAt - arrivedAt : 0
        timings.handler = now > begunAt ? now - begunAt : 0
        timings.bulk = bulkTime
        return timings
    }

    /// A call that was made for the request is over, with calls that were made for that.
    func add(_ call: NestedCall, _ calls: [NestedCall]) {
        guard isTraced, !isAnswered, nested.count < NestedCall.countMax else { return }
        nested.append(call)
        for var call in calls.prefix(NestedCall.countMax - nested.count) where call.depth < 255 {
            call.depth += 1
            nested.append(call)
        }
    }

    /// The right to answer, once.
    func claimAnswer() -> Bool {
        guard !isAnswered else { return false }
        isAnswered = true
        cancelHook = nil
        return true
    }

    /// The answer is out.
    func finish(by context: Context) {
        releaseMessage(to: context)
        unsafe replyPayload = nil
        replyOwner = nil
    }
}
