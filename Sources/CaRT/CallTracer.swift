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

    /// The whole call.
    public var total: UInt64 { queued + sending + waiting + handling + bulk + replying }
}

/// Collects where the time of calls goes, by procedure. Confined to the xstream of the context
/// whose `tracer` it is.
///
/// A traced call costs three readings of the clock more, at both ends together.
public final class CallTracer {
    /// The calls of one procedure.
    public struct Summary: Sendable {
        /// The procedure's name.
        public var name: String
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

    private var byOpcode: [UInt32: Summary] = [:]
    /// What came with replies, by the slot of the call.
    var timings: [Int32: ReplyTimings] = [:]

    /// Nothing collected yet.
    public init() {}

    /// What was collected so far, by opcode.
    public var summaries: [Summary] {
        byOpcode.sorted { $0.key < $1.key }.map(\.value)
    }

    func record(_ trace: CallTrace, opcode: UInt32, name: StaticString) {
        var summary = byOpcode[opcode] ?? Summary(name: "\(name)")
        summary.queued.record(nanoseconds: trace.queued)
        summary.sending.record(nanoseconds: trace.sending)
        summary.waiting.record(nanoseconds: trace.waiting)
        summary.handling.record(nanoseconds: trace.handling)
        summary.bulk.record(nanoseconds: trace.bulk)
        summary.replying.record(nanoseconds: trace.replying)
        summary.total.record(nanoseconds: trace.total)
        byOpcode[opcode] = summary
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
