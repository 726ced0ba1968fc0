public import DrayRuntime

/// Where the time of one call went, in nanoseconds.
///
/// What is measured at the peer comes with its reply. The two ways over the wire are told apart by
/// the clocks of both machines, and halved where those disagree.
public struct CallTrace: Hashable, Sendable {
    /// Until the request was with the fabric: the first hello, and waiting for credits.
    public var queued: UInt64 = 0
    /// From there until the peer had it.
    public var sending: UInt64 = 0
    /// At the peer, before its handler began.
    public var waiting: UInt64 = 0
    /// In the peer's handler, but for its bulk transfers.
    public var handling: UInt64 = 0
    /// In bulk transfers of the handler.
    public var bulk: UInt64 = 0
    /// From the answer until the caller had it, fetched and decoded.
    public var replying: UInt64 = 0

    /// No time at all.
    public init() {}

    /// The whole call.
    public var total: UInt64 { queued + sending + waiting + handling + bulk + replying }
}

/// Collects where the time of calls goes, by procedure. Confined to the xstream of the context
/// whose `tracer` it is.
///
/// A traced call costs three readings of the clock more, at both ends together.
public final class CallTracer {
    /// The calls of one procedure, or those that its handlers made of another one.
    public struct Summary: Sendable {
        /// The procedure's name.
        public var name: String
        /// 0 for calls of ours, 1 for those of their handlers, and so on.
        public var depth: Int
        /// Until the request was with the fabric.
        public var queued = LatencyHistogram()
        /// From there until the peer had it.
        public var sending = LatencyHistogram()
        /// At the peer, before the handler began.
        public var waiting = LatencyHistogram()
        /// In the handler, but for its bulk transfers.
        public var handling = LatencyHistogram()
        /// In the handler's bulk transfers.
        public var bulk = LatencyHistogram()
        /// From the answer until the caller had it.
        public var replying = LatencyHistogram()
        /// From the begin of the call to its end.
        public var total = LatencyHistogram()
    }

    /// By the opcodes of the call and of those that it was made for, the outermost first.
    private var byPath: [[UInt32]: Summary] = [:]

    /// Summaries at most: what a peer says of more is dropped.
    static let summariesMax = 64

    /// Nothing collected yet.
    public init() {}

    /// What was collected so far, by opcode; the calls of handlers behind the one that they belong
    /// to.
    public var summaries: [Summary] {
        byPath.sorted { $0.key.lexicographicallyPrecedes($1.key) }.map(\.value)
    }

    /// A call of ours, and those that its handler told of: each behind the one it was made for.
    func record(_ call: NestedCall, _ calls: [NestedCall]) {
        var path = [call.opcode]
        record(call, at: path)
        for nested in calls {
            path.removeLast(path.count - min(path.count, Int(nested.depth)))
            path.append(nested.opcode)
            record(nested, at: path)
        }
    }

    private func record(_ call: NestedCall, at path: [UInt32]) {
        guard byPath[path] != nil || byPath.count < CallTracer.summariesMax else { return }
        let trace = call.trace
        var summary = byPath[path] ?? Summary(name: call.name, depth: path.count - 1)
        summary.queued.record(nanoseconds: trace.queued)
        summary.sending.record(nanoseconds: trace.sending)
        summary.waiting.record(nanoseconds: trace.waiting)
        summary.handling.record(nanoseconds: trace.handling)
        summary.bulk.record(nanoseconds: trace.bulk)
        summary.replying.record(nanoseconds: trace.replying)
        summary.total.record(nanoseconds: trace.total)
        byPath[path] = summary
    }
}

/// What the peer says in the reply to a traced request. It stands in fields of the header that a
/// reply has no other use for; durations in units of `unit` nanoseconds.
struct ReplyTimings: Hashable {
    /// When the request arrived: wall clock, nanoseconds since 1970.
    var arrived: UInt64 = 0
    /// Nanoseconds before the handler began, in it, and in its bulk transfers.
    var waiting: UInt64 = 0
    var handler: UInt64 = 0
    var bulk: UInt64 = 0

    private static let unit: UInt64 = 100

    init() {}

    init(_ header: WireHeader) {
        arrived = header.deadline
        waiting = UInt64(header.opcode) * ReplyTimings.unit
        handler = UInt64(header.destinationRank) * ReplyTimings.unit
        bulk = min(handler, UInt64(header.destinationTag) * ReplyTimings.unit)
    }

    func store(in header: inout WireHeader) {
        func units(_ nanoseconds: UInt64) -> UInt32 {
            UInt32(clamping: nanoseconds / ReplyTimings.unit)
        }
        header.flags.insert(.traced)
        header.deadline = arrived
        header.opcode = units(waiting)
        header.destinationRank = units(handler)
        header.destinationTag = units(bulk)
    }

    /// The trace of a call that began, was sent and ended then: monotonic nanoseconds, and the wall
    /// clock of the second.
    func trace(begun: UInt64, sent: UInt64, sentWall: UInt64, ended: UInt64) -> CallTrace {
        var trace = CallTrace()
        trace.queued = sent > begun ? sent - begun : 0
        let outside = ended > sent ? ended - sent : 0
        // A peer that says more than there was is not believed.
        trace.waiting = min(waiting, outside)
        let inHandler = min(handler, outside - trace.waiting)
        trace.bulk = min(bulk, inHandler)
        trace.handling = inHandler - trace.bulk
        let wire = outside - trace.waiting - inHandler
        let way = arrived > sentWall ? arrived - sentWall : .max
        trace.sending = way <= wire ? way : wire / 2
        trace.replying = wire - trace.sending
        return trace
    }
}
