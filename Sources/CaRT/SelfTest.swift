public import DrayRuntime

/// Measures calls and bulk transfers between any number of processes.
///
/// The server side is `register(on:)`; every context of an engine has it. The client side is
/// `run`, which measures from the own context, and `measure`, which asks a context of another
/// process to measure from there, so that engines can be measured among themselves.
public enum SelfTest {
    /// What travels in one direction.
    public enum Load: Hashable, Sendable {
        /// Nothing but the message.
        case empty
        /// Bytes beside the message: inline up to the eager limit, above it as any large message.
        case inline(Int)
        /// Bytes by bulk transfer: a request's are pulled by the server, a reply's are pushed.
        case bulk(Int)

        /// Bytes of either kind.
        public var size: Int {
            switch self {
            case .empty: 0
            case .inline(let size), .bulk(let size): size
            }
        }
    }

    /// What is sent, how often, and how much of it at a time.
    public struct Options: Hashable, Sendable {
        /// What travels with each request.
        public var request = Load.empty
        /// What travels with each reply.
        public var reply = Load.empty
        /// Calls at a time, over all destinations together.
        public var inFlight = 1
        /// Calls that are counted, over all destinations together.
        public var repetitions = 10_000
        /// Calls that are made before and not counted.
        public var warmUp = 1_000
        /// How many bytes behind the beginning of a page every buffer begins, at both ends.
        public var alignment = 0
        /// Whether each call has bytes of its own, and both ends compare every byte. Costs time
        /// that is measured too.
        public var verify = false
        /// How long each call may take.
        public var timeout = Duration.seconds(60)

        /// Calls with nothing but their messages, one at a time.
        public init() {}
    }

    /// A context of the group of whoever measures.
    public struct Member: Hashable, Sendable {
        /// The member.
        public var rank: UInt32
        /// Which of its contexts.
        public var tag: UInt32

        /// A context of a member.
        public init(rank: UInt32, tag: UInt32) {
            self.rank = rank
            self.tag = tag
        }
    }

    /// What was measured.
    public struct Result: Hashable, Sendable {
        /// How long each call took, round trip.
        public var latencies = LatencyHistogram()
        /// From the begin of the first counted call to the end of the last.
        public var elapsed = Duration.zero
        /// Bytes that travelled with requests.
        public var requestBytes: UInt64 = 0
        /// Bytes that travelled with replies.
        public var replyBytes: UInt64 = 0
        /// The part of each destination, in the order in which they were given.
        public var endpoints: [EndpointResult] = []

        /// Nothing measured yet.
        public init() {}

        /// Calls that were counted.
        public var repetitions: Int { Int(clamping: latencies.count) }
        /// The time that `share` (0 to 1) of the calls did not exceed.
        public func percentile(_ share: Double) -> Duration {
            .nanoseconds(Int64(clamping: latencies.percentile(share)))
        }
        /// The shortest time of a call.
        public var minimum: Duration { percentile(0) }
        /// The time that half of the calls did not exceed.
        public var median: Duration { percentile(0.5) }
        /// The longest time of a call.
        public var maximum: Duration { percentile(1) }

        private var seconds: Double { max(Double(elapsed.nanosecondsClamped) / 1e9, 1e-9) }
        /// Calls per second.
        public var rate: Double { Double(latencies.count) / seconds }
        /// Request bytes per second.
        public var requestBandwidth: Double { Double(requestBytes) / seconds }
        /// Reply bytes per second.
        public var replyBandwidth: Double { Double(replyBytes) / seconds }

        /// Adds what was measured at the same time elsewhere: calls and bytes add up, the time is
        /// the longest.
        public mutating func merge(_ other: Result) {
            latencies.merge(other.latencies)
            elapsed = max(elapsed, other.elapsed)
            requestBytes &+= other.requestBytes
            replyBytes &+= other.replyBytes
            endpoints += other.endpoints
        }
    }

    /// What one destination had of a measurement.
    public struct EndpointResult: Hashable, Sendable {
        /// Calls that were counted.
        public var calls: UInt64 = 0
        /// The sum of the calls' times, in nanoseconds.
        public var nanoseconds: UInt64 = 0
        /// The longest of the calls' times, in nanoseconds.
        public var maximum: UInt64 = 0

        /// No calls yet.
        public init() {}

        /// The mean time of a call; zero when there was none.
        public var mean: Duration {
            calls == 0 ? .zero : .nanoseconds(Int64(clamping: nanoseconds / calls))
        }
    }

    /// Why a measurement ended early.
    public struct Failure: Error, Hashable, Sendable, CustomStringConvertible {
        /// Whom the call that failed was for; nil when there was none yet.
        public var destination: Destination?
        /// How it failed.
        public var error: RPCError

        public var description: String {
            switch destination {
            case .rank(let rank, let tag), .member(let rank, let tag, _):
                "rank \(rank) tag \(tag): \(error)"
            case .address(let address): "\(address): \(error)"
            case nil: "\(error)"
            }
        }
    }

    // MARK: - Limits

    /// The largest load in one direction by bulk transfer.
    public static let bulkSizeMax = 64 << 20
    /// The largest load in one direction beside a message.
    public static let inlineSizeMax = 32 << 20
    /// Calls at a time.
    public static let inFlightMax = 4096
    /// Memory that the loads of all calls at a time may have.
    public static let memoryMax = 1 << 30
    /// Counted calls of one measurement.
    public static let repetitionsMax = 1_000_000_000
    /// Calls before.
    public static let warmUpMax = 1_000_000
    /// Buffers begin within the first page.
    public static let alignments = 0..<4096
    /// The longest time for one call.
    public static let timeoutMax = Duration.seconds(3600)
    /// Destinations of one measurement.
    public static let destinationsMax = 4096

    /// The codes of `RPCError.application` that a self-test answers with.
    public enum ErrorCode {
        /// The options are out of their limits.
        public static let badOptions: UInt32 = 0xf200_0001
        /// A byte differs from what was sent.
        public static let badContent: UInt32 = 0xf200_0002
        /// A call of a measurement by another process failed.
        public static let callFailed: UInt32 = 0xf200_0003
    }

    // MARK: - Measuring

    /// Makes `options.repetitions` calls, `options.inFlight` at a time, to the destinations in
    /// turn, and measures them.
    ///
    /// - Throws: the first error of a call; `.application` with a code of `ErrorCode` for options
    ///   out of their limits, and for bytes that differ from what was sent.
    public static func run(
        on context: Context, to destinations: [Destination], options: Options
    ) async throws(Failure) -> Result {
        try await SelfTestRun(
            context: context, destinations: destinations, options: options, deadline: .max
        ).measure()
    }

    /// Has `master`, a context of another process, measure from there to members of its group.
    ///
    /// - Parameters:
    ///   - master: who measures.
    ///   - members: whom it calls.
    ///   - options: of the measurement.
    ///   - context: asks the master.
    ///   - deadline: how long the whole measurement may take; it is over then, here and there.
    /// - Throws: `.overloaded` when the master measures for too many already; `.application` as
    ///   `run`, or when a call of the measurement failed.
    public static func measure(
        from master: Destination, to members: [Member], options: Options, on context: Context,
        deadline: Deadline
    ) async throws(RPCError) -> Result {
        if let problem = options.problem ?? problem(ofCount: members.count) {
            throw .application(code: ErrorCode.badOptions, message: problem)
        }
        return try await context.call(
            measureProcedure, MeasureRequest(options: options, members: members), to: master,
            deadline: deadline)
    }

    static func problem(ofCount destinations: Int) -> String? {
        (1...destinationsMax).contains(destinations)
            ? nil : "there must be 1 to \(destinationsMax) destinations, not \(destinations)"
    }
}

extension SelfTest.Options {
    /// What cannot be measured, in words; nil when all can.
    public var problem: String? {
        for (load, name) in [(request, "request"), (reply, "reply")] {
            let limit: Int
            switch load {
            case .empty: continue
            case .inline: limit = SelfTest.inlineSizeMax
            case .bulk: limit = SelfTest.bulkSizeMax
            }
            guard (0...limit).contains(load.size) else {
                return "a \(name) of this kind has 0 to \(limit) bytes, not \(load.size)"
            }
        }
        guard (1...SelfTest.inFlightMax).contains(inFlight) else {
            return "1 to \(SelfTest.inFlightMax) calls can be in flight, not \(inFlight)"
        }
        guard inFlight * (request.size + reply.size) <= SelfTest.memoryMax else {
            return "calls in flight may have \(SelfTest.memoryMax) bytes together, not "
                + "\(inFlight * (request.size + reply.size))"
        }
        guard (1...SelfTest.repetitionsMax).contains(repetitions) else {
            return "there are 1 to \(SelfTest.repetitionsMax) repetitions, not \(repetitions)"
        }
        guard (0...SelfTest.warmUpMax).contains(warmUp) else {
            return "0 to \(SelfTest.warmUpMax) calls warm up, not \(warmUp)"
        }
        guard SelfTest.alignments.contains(alignment) else {
            return "a buffer begins 0 to \(SelfTest.alignments.upperBound - 1) bytes behind a page,"
                + " not \(alignment)"
        }
        guard timeout > .zero, timeout <= SelfTest.timeoutMax else {
            return "a call may take up to \(SelfTest.timeoutMax), not \(timeout)"
        }
        return nil
    }
}
