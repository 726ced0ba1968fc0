internal import DrayRuntime

/// What a handler knows about a request beside its message.
///
/// Confined to the context's xstream.
@safe public final class RequestContext {
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
    /// Follows a request through every process. Pass it on.
    public let trace: UInt64
    /// How urgent the caller finds it.
    public let priority: RequestPriority
    /// Nobody waits for a reply: what the handler answers is dropped.
    public let isOneWay: Bool
    /// The caller wants to know where the time goes: name the request in bulk transfers for it.
    public let isTraced: Bool

    let session: SessionID
    let slot: UInt32
    let slotGeneration: UInt32
    let requestID: UInt64
    /// Where the context keeps this request among the active ones.
    var position: Int32 = -1
    /// When it arrived, and when its handler began: monotonic nanoseconds; 0 when nobody counts.
    var arrivedAt: UInt64 = 0
    private var begunAt: UInt64 = 0
    /// Nanoseconds in bulk transfers.
    var bulkTime: UInt64 = 0
    /// Nil once nobody reads the message any more.
    private(set) var message: HeldMessage?
    private(set) var isAnswered = false
    private var wasCancelled = false
    /// The caller has said that it gave up: its answer need not say anything.
    var isUnwanted = false
    private var cancelHook: (() -> Void)?
    // SAFETY: `replyOwner`, or the handler's promise, keeps the bytes until the reply is encoded.
    var replyPayload: UnsafeRawBufferPointer?
    private var replyOwner: AnyObject?

    init(_ header: WireHeader, _ message: HeldMessage, context: Context, instance: UInt64) {
        self.context = context
        sourceInstance = instance
        sourceRank = header.sourceRank == WireHeader.anyRank ? nil : header.sourceRank
        deadline = header.deadline
        stamp = header.stamp
        trace = header.trace
        priority = header.flags.priority
        isOneWay = header.flags.contains(.oneWay)
        isTraced = header.flags.contains(.traced)
        session = header.session
        slot = header.slot
        slotGeneration = header.slotGeneration
        requestID = header.requestID
        self.message = message
        unsafe replyPayload = nil
    }

    /// The caller gave up: its task was cancelled, its deadline passed, or it is gone. The reply
    /// will reach nobody.
    public var isCancelled: Bool {
        wasCancelled || context.world.clock.wallNanoseconds > deadline
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

    /// The raw bytes beside the request; empty when there are none. Valid until
    /// `releasePayload()` or the reply. Holding them holds a posted receive: copy what you keep,
    /// and release before anything slow.
    public var payload: UnsafeRawBufferPointer {
        guard let message else { return unsafe UnsafeRawBufferPointer(start: nil, count: 0) }
        return unsafe message.payload
    }

    /// The payload is used no more.
    public func releasePayload() {
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
    func bodyWasRead() {
        if let message, message.payloadLength == 0 { releasePayload() }
    }

    /// The message was fetched from the caller's memory.
    func replaceMessage(_ fetched: HeldMessage) {
        releasePayload()
        message = fetched
    }

    /// The caller gave up.
    func cancel() {
        guard !wasCancelled, !isAnswered else { return }
        wasCancelled = true
        let hook = cancelHook
        cancelHook = nil
        hook?()
    }

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

    /// The right to answer, once.
    func claimAnswer() -> Bool {
        guard !isAnswered else { return false }
        isAnswered = true
        cancelHook = nil
        return true
    }

    /// The answer is out.
    func finish() {
        releasePayload()
        unsafe replyPayload = nil
        replyOwner = nil
    }
}
