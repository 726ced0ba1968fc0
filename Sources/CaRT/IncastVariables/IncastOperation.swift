internal import DrayRuntime

/// Until when something goes on.
struct IncastLimit: Hashable {
    /// Monotonic.
    var end: Instant
    /// The same by the wall clock, nanoseconds since 1970.
    var wall: UInt64

    /// So many eighths of the time that is left.
    func eighths(_ count: UInt64, from now: Instant) -> IncastLimit {
        let cut = end.since(now).nanosecondsClamped / 8 * (8 - count)
        return IncastLimit(
            end: Instant(nanoseconds: end.nanoseconds - cut), wall: wall &- min(wall, cut))
    }
}

/// One operation at one rank: begun here, or on its way through here.
///
/// What it waits for ends when the operation is given up.
final class IncastOperation {
    let limit: IncastLimit
    let trace: UInt64
    /// Who sent it; nil when it began here.
    let source: UInt32?
    /// Goes straight to the owner.
    let isDirect: Bool
    private var isGivenUp = false
    private var giveUpWait: (() -> Void)?

    init(limit: IncastLimit, trace: UInt64, source: UInt32?, isDirect: Bool) {
        self.limit = limit
        self.trace = trace
        self.source = source
        self.isDirect = isDirect
    }

    /// Whoever waits for the operation waits no more.
    func giveUp() {
        isGivenUp = true
        let wait = giveUpWait
        giveUpWait = nil
        wait?()
    }

    /// Waits for the end of `wait`, as long as the operation goes on.
    func result<Value>(
        of wait: IncastWait<Value>, on xstream: XStream
    ) async -> Result<Value, RPCError> {
        guard !isGivenUp else { return .failure(.cancelled) }
        giveUpWait = { wait.finish(.failure(.cancelled)) }
        let result = await wait.result(until: limit.end, on: xstream)
        giveUpWait = nil
        return result
    }
}

/// A result that one task waits for. Only the first one counts.
final class IncastWait<Value> {
    private var result: Result<Value, RPCError>?
    private var task: SuspendedTask?

    var isFinished: Bool { result != nil }

    func finish(_ result: Result<Value, RPCError>) {
        guard self.result == nil else { return }
        self.result = result
        task?.resume()
        task = nil
    }

    /// The result; `.timedOut` at `end`, `.cancelled` when the task is.
    func result(until end: Instant, on xstream: XStream) async -> Result<Value, RPCError> {
        if let result { return result }
        let timer = xstream.schedule(at: end) { self.finish(.failure(.timedOut)) }
        let bound = XStreamBound(self, to: xstream)
        await withTaskCancellationHandler {
            if result == nil { await SuspendedTask.suspend { task = $0 } }
        } onCancel: {
            bound.xstream.submit { bound.value.finish(.failure(.cancelled)) }
        }
        timer.cancel()
        guard let result else { preconditionFailure("a wait went on without a result") }
        return result
    }
}

extension RPCError {
    /// Whether an operation that failed like this may succeed when it is tried again: members
    /// come and go, know different versions of the group, or have too much to do.
    var isTransient: Bool {
        switch self {
        case .timedOut, .unreachable, .cancelled, .overloaded, .noReply, .unknownProcedure,
            .wrongRank, .wrongTag, .staleGroup, .groupVersion, .peerRestarted, .closed:
            true
        case .protocolVersion, .badMessage, .clockSkew, .application, .fabric, .messageTooLong:
            false
        }
    }
}
