
/// Measures calls and bulk transfers between two processes.
///
/// The server side is `register(on:)`; every engine does that. The client side is `run`.
public enum SelfTest {
    /// What travels in one direction.
    public enum Load: Hashable, Sendable {
        case empty
        /// Bytes inside the message.
        case inline(Int)
        /// Bytes by bulk transfer: a request's are pulled by the server, a reply's are pushed.
        case bulk(Int)
    }

    public struct Options: Sendable {
        public var request = Load.empty
        public var reply = Load.empty
        public var inFlight = 1
        public var repetitions = 10_000
        /// Calls that are made before and not counted.
        public var warmUp = 1_000

        public init() {}
    }

    public struct Result: Sendable {
        public var repetitions: Int
        public var elapsed: Duration
        /// Calls per second.
        public var rate: Double
        /// Round trips: least, median, 99th and 99.9th percentile, greatest.
        public var minimum: Duration
        public var median: Duration
        public var percentile99: Duration
        public var percentile999: Duration
        public var maximum: Duration
        /// Request bytes per second, and reply bytes per second.
        public var requestBandwidth: Double
        public var replyBandwidth: Double
    }

    /// Registers the server's procedures.
    public static func register(on context: Context) { preconditionFailure("to come") }

    /// Makes `options.repetitions` calls, `options.inFlight` at a time, and measures them.
    public static func run(
        on context: Context, to destination: Destination, options: Options
    ) async throws(RPCError) -> Result { preconditionFailure("to come") }
}
