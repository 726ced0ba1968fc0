internal import CoreMetrics
internal import DrayFabric
public import DrayRuntime

/// How long things took on a context.
public struct ContextTimes: Hashable, Sendable {
    /// From the begin of a call to its reply.
    public var call = ContextTimes.empty
    /// Of calls that had to wait for credits or a hello's answer: how long.
    public var delay = ContextTimes.empty
    /// From the arrival of a request to the begin of its handler.
    public var wait = ContextTimes.empty
    /// From the begin of a handler to its answer.
    public var handler = ContextTimes.empty
    /// From the begin of a collective to its result.
    public var collective = ContextTimes.empty
    /// From a ping of the failure detector to its answer.
    public var ping = ContextTimes.empty

    /// Shared until something is recorded, as most contexts have most of them empty for good.
    private static let empty = LatencyHistogram(
        precision: LatencyHistogram.precisions.lowerBound)

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
    package static let set = MetricSet<ContextMetrics>(
        requests + transfers + timings + collectives + membership + incast)

    private static let requests: [Entry] = [
        counter("requests_sent", "Requests sent.") { $0.requestsSent },
        counter("requests_received", "Requests received, before any check.") {
            $0.requestsReceived
        },
        counter("replies_sent", "Replies sent, errors included.") { $0.repliesSent },
        counter("error_replies_sent", "Replies sent that carry an error.") {
            $0.errorRepliesSent
        },
        counter("replies_dropped", "Replies not sent: their caller is gone, or takes no more.") {
            $0.repliesDropped
        },
        counter("replies_received", "Replies that reached their caller.") { $0.repliesReceived },
        counter("error_replies_received", "Replies received that carry an error.") {
            $0.errorRepliesReceived
        },
        counter("replies_late", "Replies that no call waited for any more; dropped messages, too.")
        { $0.lateReplies },
        counter("calls_failed", "Calls that ended with an error.") { $0.callsFailed },
        counter("calls_timed_out", "Calls that ended by their deadline.") { $0.timedOut },
        counter("calls_cancelled", "Calls whose task was cancelled.") { $0.cancelled },
        counter("calls_delayed", "Calls that waited for credits or a hello's answer.") {
            $0.callsDelayed
        },
        counter("calls_refused", "Calls that ended at once, as too many waited.") {
            $0.callsRefused
        },
        counter("requests_overloaded", "Requests answered with 'overloaded'.") { $0.overloaded },
        counter("requests_delayed", "Requests that waited for other handlers to end.") {
            $0.requestsDelayed
        },
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
        counter("sends_failed", "Messages that the fabric did not deliver, or take in time.") {
            $0.sendsFailed
        },
        counter("hellos_sent", "Hellos sent, probes included.") { $0.hellosSent },
        counter("look_ups", "Members that were asked where their contexts are.") { $0.lookUps },
        counter("look_ups_failed", "Look-ups that failed.") { $0.lookUpsFailed },
        counter("look_ups_timed_out", "Look-ups that failed by their deadline.") {
            $0.lookUpsTimedOut
        },
        counter("look_ups_answered", "Look-ups of others that were answered.") {
            $0.lookUpsAnswered
        },
        counter("addresses_failed", "Times the fabric could not use the address of a peer.") {
            $0.addressesFailed
        },
        counter("peers_lost", "Connections and peers' instances found to be gone.") {
            $0.peersLost
        },
        counter("spills", "Requests and replies too large to travel inline.") { $0.spills },
        gauge("calls_in_flight", "Calls under way: each has a credit of its peer.") {
            $0.inFlight
        },
        gauge("calls_waiting", "Calls that wait for credits or a hello's answer.") { $0.waiting },
        gauge("requests_active", "Requests that handlers work on.") { $0.active },
        gauge("receives_held", "Receives whose message somebody still reads.") {
            $0.receivesHeld
        },
        gauge("requests_waiting", "Requests that wait for other handlers to end.") {
            $0.requestsWaiting
        },
        gauge("sessions", "Callers that are known.") { $0.sessions },
    ]

    private static let transfers: [Entry] = [
        counter("bulk_reads", "Bulk transfers started that read a peer's memory.") {
            $0.bulkReads
        },
        counter("bulk_writes", "Bulk transfers started that write a peer's memory.") {
            $0.bulkWrites
        },
        counter("bulk_failures", "Bulk transfers started that failed.") { $0.bulksFailed },
        counter("bulk", unit: .bytes, "Bytes of the bulk transfers started.") { $0.bulkBytes },
        counter("bulk_delayed", "Bulk transfers that waited for others to end.") {
            $0.bulksDelayed
        },
        gauge("bulk_transfers_active", "Bulk transfers under way, those that wait included.") {
            $0.transfers
        },
        gauge("bulk_transfers_waiting", "Bulk transfers that wait for others, or the fabric.") {
            $0.waitingTransfers
        },
        counter("exposures_made", "Times that memory was exposed to peers.") { $0.exposuresMade },
        counter("exposures_failed", "Times that memory could not be registered to be exposed.") {
            $0.exposuresFailed
        },
        gauge("exposures", "Pieces of memory that peers may reach.") { $0.exposures },
        gauge("quarantined", unit: .bytes, "Exposed memory that a silent peer may still use.") {
            $0.quarantinedBytes
        },
        gauge("replies_kept", unit: .bytes, "Memory of large replies that were not fetched yet.") {
            $0.keptReplyBytes
        },
        counter("registration_hits", "Uses of memory whose registration was kept.") {
            $0.registrationHits
        },
        counter("registration_misses", "Uses of memory that had to be registered.") {
            $0.registrationMisses
        },
        counter("registration_evictions", "Registrations given up to make room for others.") {
            $0.registrationEvictions
        },
        gauge("registered", unit: .bytes, "The user's own memory that is registered.") {
            $0.registeredBytes
        },
    ]

    private static let timings: [Entry] = [
        times("call_duration", "From the begin of a call to its reply.") { $0.call },
        times("call_delay", "How long calls waited that had to, for credits or a hello.") {
            $0.delay
        },
        times("request_wait", "From the arrival of a request to its handler; one in 16 is timed.") {
            $0.wait
        },
        times("handler_duration", "From the begin of a handler to its answer; one in 16 is timed.")
        { $0.handler },
    ]

    private static let collectives: [Entry] = [
        counter("collectives_started", "Collectives begun.") { $0.collectives.started },
        counter("collectives_failed", "Collectives begun in which a rank failed.") {
            $0.collectives.failed
        },
        counter("collectives_cancelled", "Collectives that ended because nobody waited for them.") {
            $0.collectives.cancelled
        },
        counter("collective_ranks_succeeded", "Ranks that replied to collectives begun here.") {
            $0.collectives.ranksSucceeded
        },
        counter("collective_ranks_failed", "Ranks that failed in collectives begun here.") {
            $0.collectives.ranksFailed
        },
        counter("collective_requests_received", "Requests of parents to take part in collectives.")
        { $0.collectives.requestsReceived },
        counter("collective_parts", "Collectives taken part in.") { $0.collectives.parts },
        counter("collectives_forwarded", "Requests of collectives sent to children.") {
            $0.collectives.forwarded
        },
        times("collective_duration", "From the begin of a collective to its result.") {
            $0.collective
        },
    ]

    private static let membership: [Entry] = [
        counter("swim_messages_sent", "SWIM: messages sent, answers included.") {
            $0.swim.messagesSent
        },
        counter("swim_messages_received", "SWIM: messages of others, answers included.") {
            $0.swim.messagesReceived
        },
        counter("swim_messages_dropped", "SWIM: answers for which nobody waited any more.") {
            $0.swim.messagesDropped
        },
        counter("swim_messages_unanswered", "SWIM: messages that got no answer.") {
            $0.swim.messagesUnanswered
        },
        counter("swim_pings_sent", "SWIM: pings sent.") { $0.swim.pingsSent },
        counter("swim_acks_received", "SWIM: acknowledgements that came.") {
            $0.swim.acksReceived
        },
        counter("swim_help_requests_sent", "SWIM: times others were asked to ping a member.") {
            $0.swim.helpRequestsSent
        },
        counter("swim_suspicions", "SWIM: members that became suspects.") { $0.swim.suspicions },
        counter("swim_deaths", "SWIM: members found, or heard, to be dead.") { $0.swim.deaths },
        counter("swim_recoveries", "SWIM: suspects and dead that are alive again.") {
            $0.swim.recoveries
        },
        counter("swim_exclusions", "SWIM: times that others did without this member.") {
            $0.swim.exclusions
        },
        counter("swim_doubts", "SWIM: times this member came to doubt its own health more.") {
            $0.swim.doubts
        },
        gauge("swim_doubt", "SWIM: how much this member doubts its own health, 0 to 8.") {
            $0.swim.doubt
        },
        times("swim_ping_duration", "SWIM: from a ping to its answer.") { $0.ping },
    ]

    private static let incast: [Entry] = [
        counter("incast_fetches", "Incast variables: fetches begun here.") { $0.incast.fetches },
        counter("incast_fetches_received", "Incast variables: fetches of other members.") {
            $0.incast.fetchesReceived
        },
        counter("incast_copies_used", "Incast variables: fetches answered from a copy.") {
            $0.incast.copiesUsed
        },
        counter("incast_fetches_merged", "Incast variables: fetches that joined others.") {
            $0.incast.fetchesMerged
        },
        counter("incast_fetches_sent", "Incast variables: fetches sent towards an owner.") {
            $0.incast.fetchesSent
        },
        counter("incast_updates", "Incast variables: updates and invalidations begun here.") {
            $0.incast.updates
        },
        counter("incast_invalidations", "Incast variables: invalidations begun here.") {
            $0.incast.invalidations
        },
        counter("incast_updates_received", "Incast variables: updates of other members.") {
            $0.incast.updatesReceived
        },
        counter("incast_updates_stored", "Incast variables: updates stored as the owner.") {
            $0.incast.updatesStored
        },
        counter("incast_updates_repeated", "Incast variables: updates that were there already.") {
            $0.incast.updatesRepeated
        },
        counter("incast_refreshes_received", "Incast variables: news from above.") {
            $0.incast.refreshesReceived
        },
        counter("incast_refreshes_sent", "Incast variables: news sent to members below.") {
            $0.incast.refreshesSent
        },
        counter("incast_retries", "Incast variables: attempts that failed and were repeated.") {
            $0.incast.retries
        },
        counter("incast_copies_forgotten", "Incast variables: copies given up with a group.") {
            $0.incast.copiesForgotten
        },
        counter("incast_sent", unit: .bytes, "Incast variables: bytes of values sent.") {
            $0.incast.valueBytesSent
        },
        counter("incast_received", unit: .bytes, "Incast variables: bytes of values received.") {
            $0.incast.valueBytesReceived
        },
    ]
}

extension Context {
    /// What is known now. Cheap.
    public var metrics: ContextMetrics { ContextMetrics(counters: counters, times: times) }

    /// Brings the metrics to the world's swift-metrics factory, under the labels `rank`, `tag` and
    /// `provider`. Whoever reads them there calls this before, or from time to time; until then
    /// they are plain integers of the context.
    ///
    /// - Parameter labels: further ones, where several contexts have the same rank, tag and
    ///   provider. Those of the first call count.
    public func publishMetrics(labels: [(String, String)] = []) {
        var publisher =
            publisher
            ?? MetricPublisher(
                ContextMetrics.set, factory: world.metrics,
                dimensions: [
                    ("rank", rank.map { "\($0)" } ?? "none"), ("tag", "\(options.tag)"),
                    ("provider", address.provider),
                ] + labels)
        publisher.publish(metrics)
        self.publisher = publisher
    }
}
