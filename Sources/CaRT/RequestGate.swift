internal import DequeModule
internal import DrayRuntime

/// What is between the arrival of requests and their handlers, in a context that has a hook there,
/// or a limit. Others have no gate, and pay nothing.
final class RequestGate {
    /// A request, and what is to be done with it.
    struct Entry {
        let request: RequestContext
        let handler: ProcedureTable.Handler
        let opcode: UInt32
        /// It has to be fetched from its caller's memory.
        let isSpilled: Bool
    }

    /// Handlers that may be at work; 0: any number.
    let handlersMax: Int
    var hook: ((InboundRequest) -> Void)?
    /// Handlers at work.
    var running = 0
    /// Those that wait are being let in, further up the stack.
    var isLetting = false

    private var high = Deque<Entry>()
    private var normal = Deque<Entry>()
    private var low = Deque<Entry>()

    init(handlersMax: Int) { self.handlersMax = handlersMax }

    /// Whether another handler may begin.
    var hasRoom: Bool { handlersMax == 0 || running < handlersMax }

    /// Requests that wait for room.
    var waitingCount: Int { high.count + normal.count + low.count }

    func append(_ entry: Entry) {
        switch entry.request.priority {
        case .high: high.append(entry)
        case .normal: normal.append(entry)
        case .low: low.append(entry)
        }
    }

    /// The oldest of the highest priority.
    func popFirst() -> Entry? { high.popFirst() ?? normal.popFirst() ?? low.popFirst() }

    /// A request waits no more. O(requests that wait).
    func remove(_ request: RequestContext) {
        high.removeAll { $0.request === request }
        normal.removeAll { $0.request === request }
        low.removeAll { $0.request === request }
    }
}

extension Context {
    /// Sees every request before its handler, and says when that begins, if at all; nil: at once.
    ///
    /// Set it before requests come, and do not wait in it. Those of CaRT's own protocols pass it
    /// by: the failure detector's above all, and incast variables, which have a hook of their own.
    /// A request with the hook holds a receive. When its caller gives up, it is answered, and
    /// running it does nothing.
    public var inbound: ((InboundRequest) -> Void)? {
        get { gate?.hook }
        set {
            if gate == nil, newValue != nil { gate = RequestGate(handlersMax: 0) }
            gate?.hook = newValue
        }
    }

    /// Whether a request has to pass the gate.
    @inline(__always)
    func isGated(_ opcode: UInt32) -> Bool {
        gate != nil && opcode >> 24 < UInt32(ProtocolID.reservedBase)
    }

    /// A request has arrived at the gate.
    func arrive(_ entry: RequestGate.Entry) {
        entry.request.isAtGate = true
        if let hook = gate?.hook {
            hook(InboundRequest(entry, self))
        } else {
            admit(entry)
        }
    }

    /// Lets the handler of a request begin, now or when others have ended.
    func admit(_ entry: RequestGate.Entry) {
        guard let gate, !entry.request.isAnswered else { return }
        if isClosing {
            fail(.closed, entry.request)
        } else if gate.hasRoom {
            enter(entry, gate)
        } else {
            counts.requestsDelayed += 1
            gate.append(entry)
        }
    }

    private func enter(_ entry: RequestGate.Entry, _ gate: RequestGate) {
        let request = entry.request
        request.isAtGate = false
        guard request.deadline >= wallTime else {
            counts.expired += 1
            fail(.timedOut, request)
            return
        }
        gate.running += 1
        request.isBehindGate = true
        begin(request, entry.handler, isSpilled: entry.isSpilled)
    }

    /// A request that had passed the gate, or waited there, was answered.
    func leaveGate(_ request: RequestContext) {
        guard let gate else { return }
        if request.isAtGate {
            request.isAtGate = false
            gate.remove(request)
        }
        guard request.isBehindGate else { return }
        request.isBehindGate = false
        gate.running -= 1
        // A handler that answers at once comes here again.
        guard !gate.isLetting else { return }
        gate.isLetting = true
        while gate.hasRoom, let next = gate.popFirst() { enter(next, gate) }
        gate.isLetting = false
    }

    /// The caller of a request gave up. One that no handler has seen is answered for it.
    func cancel(_ request: RequestContext) {
        request.cancel()
        if request.isAtGate { fail(.cancelled, request) }
    }
}
