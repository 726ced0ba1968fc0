internal import CoreMetrics
internal import DrayFabric
public import DrayRuntime

/// How long things took on a context.
public struct ContextTimes: Hashable, Sendable {
    /// From the begin of a call to its reply.
    public var call = LatencyHistogram(precision: LatencyHistogram.precisions.lowerBound)
    /// Of calls that had to wait for credits or a hello's answer: how long.
    public var delay = LatencyHistogram(precision: LatencyHistogram.precisions.lowerBound)
    /// From the arrival of a request to the begin of its handler.
    public var wait = LatencyHistogram(precision: LatencyHistogram.precisions.lowerBound)
    /// From the begin of a handler to its answer.
    public var handler = LatencyHistogram(precision: LatencyHistogram.precisions.lowerBound)

    /// Of so many requests one is timed at the server: reading the clock twice for each would cost
    /// more than all other counting.
    static let timedRequests = 16
}

/// What a context tells about itself: a moment's counters and times.
public struct ContextMetrics: Sendable {
    /// What was done so far, and what is under way.
    public var counters: ContextCounters
    /// How long things took so far.
    public var times: ContextTimes

    private typealias Entry = MetricSet<ContextMetrics>.Entry

    private static func counter(
        _ stem: String, unit: MetricDefinition.Unit = .none, _ help: String,
        _ read: @escaping @Sendable (ContextCounters) -> Int
    ) -> Entry {
        .counter("dray_cart_" + stem, unit: unit, help) { read($0.counters) }
    }

    private static func gauge(
        _ stem: String, unit: MetricDefinition.Unit = .none, _ help: String,
        _ read: @escaping @Sendable (ContextCounters) -> Int
    ) -> Entry {
        .gauge("dray_cart_" + stem, unit: unit, help) { read($0.counters) }
    }

    private static func times(
        _ stem: String, _ help: String,
        _ read: @escaping @Sendable (ContextTimes) -> LatencyHistogram
    ) -> Entry {
        .times("dray_cart_" + stem, help) { read($0.times) }
    }

    /// Every metric of a context. A new counter is one line here, and one in `docs/metrics.md`,
    /// which `dray metrics --documentation` writes.
    package static let set = MetricSet<ContextMetrics>([
        counter("requests_sent", "Requests sent.") { $0.requestsSent },
        counter("requests_received", "Requests received, before any check.") {
            $0.requestsReceived
        },
        counter("replies_sent", "Replies sent, errors included.") { $0.repliesSent },
        counter("error_replies_sent", "Replies sent that carry an error.") {
            $0.errorRepliesSent
        },
        counter("replies_received", "Replies that reached their caller.") { $0.repliesReceived },
        counter("calls_failed", "Calls that ended with an error.") { $0.callsFailed },
        counter("calls_timed_out", "Calls that ended by their deadline.") { $0.timedOut },
        counter("calls_cancelled", "Calls whose task was cancelled.") { $0.cancelled },
        counter("calls_delayed", "Calls that waited for credits or a hello's answer.") {
            $0.callsDelayed
        },
        counter("requests_overloaded", "Requests answered with 'overloaded'.") { $0.overloaded },
        counter("requests_expired", "Requests refused because their deadline had passed.") {
            $0.expired
        },
        counter("messages_sent", "Messages handed to the fabric; one may carry several requests.") {
            $0.messagesSent
        },
        counter("messages_dropped", "Messages not understood or too late, and dropped.") {
            $0.dropped
        },
        counter("sends_refused", "Times the fabric refused a message, and it was tried again.") {
            $0.sendsRefused
        },
        counter("hellos_sent", "Hellos sent, probes included.") { $0.hellosSent },
        counter("look_ups", "Members that were asked where their contexts are.") { $0.lookUps },
        counter("peers_lost", "Connections and peers' instances found to be gone.") {
            $0.peersLost
        },
        counter("spills", "Requests and replies too large to travel inline.") { $0.spills },
        counter("bulk_reads", "Bulk transfers started that read a peer's memory.") {
            $0.bulkReads
        },
        counter("bulk_writes", "Bulk transfers started that write a peer's memory.") {
            $0.bulkWrites
        },
        counter("bulk_failures", "Bulk transfers started that failed.") { $0.bulksFailed },
        counter("bulk", unit: .bytes, "Bytes of the bulk transfers started.") { $0.bulkBytes },
        gauge("calls_in_flight", "Calls under way: each has a credit of its peer.") {
            $0.inFlight
        },
        gauge("calls_waiting", "Calls that wait for credits or a hello's answer.") { $0.waiting },
        gauge("requests_active", "Requests that handlers work on.") { $0.active },
        gauge("sessions", "Callers that are known.") { $0.sessions },
        gauge("bulk_transfers_active", "Bulk transfers under way.") { $0.transfers },
        gauge("exposures", "Pieces of memory that peers may reach.") { $0.exposures },
        gauge("quarantined", unit: .bytes, "Memory kept because a silent peer may still use it.") {
            $0.quarantinedBytes
        },
        times("call_duration", "From the begin of a call to its reply.") { $0.call },
        times("call_delay", "How long calls waited that had to, for credits or a hello.") {
            $0.delay
        },
        times("request_wait", "From the arrival of a request to its handler; one in 16 is timed.") {
            $0.wait
        },
        times("handler_duration", "From the begin of a handler to its answer; one in 16 is timed.")
        { $0.handler },
    ])
}

extension Context {
    /// What is known now. Cheap.
    public var metrics: ContextMetrics { ContextMetrics(counters: counters, times: times) }

    /// Brings the metrics to the world's swift-metrics factory, under the labels `rank`, `tag` and
    /// `provider`. Whoever reads them there calls this before, or from time to time; until then
    /// they are plain integers of the context.
    public func publishMetrics() {
        var publisher =
            publisher
            ?? MetricPublisher(
                ContextMetrics.set, factory: world.metrics,
                dimensions: [
                    ("rank", rank.map { "\($0)" } ?? "none"), ("tag", "\(options.tag)"),
                    ("provider", address.provider),
                ])
        publisher.publish(metrics)
        self.publisher = publisher
    }
}
