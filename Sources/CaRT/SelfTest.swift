internal import DrayFabric
internal import DrayRuntime

/// Measures calls and bulk transfers between two processes.
///
/// The server side is `register(on:)`; every engine does that. The client side is `run`.
public enum SelfTest {
    /// What travels in one direction.
    public enum Load: Hashable, Sendable {
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
    public struct Options: Sendable {
        public var request = Load.empty
        public var reply = Load.empty
        public var inFlight = 1
        public var repetitions = 10_000
        /// Calls that are made before and not counted.
        public var warmUp = 1_000
        /// How long each call may take.
        public var timeout = Duration.seconds(60)

        public init() {}
    }

    /// What was measured.
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

    /// The largest load in one direction.
    public static let sizeMax = 64 << 20
    /// Calls at a time.
    public static let inFlightMax = 4096

    static let id = ProtocolID(reserved: 0xf2, version: 1)
    static let echo = Procedure<Echo, Answer>(id, index: 1, name: "selfTest.echo")

    struct Echo: Message {
        /// Raw bytes that the reply shall carry.
        var replySize: UInt32 = 0
        /// Memory to read.
        var get: BulkDescriptor?
        /// Memory to fill.
        var put: BulkDescriptor?

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&replySize)
            try coder.code(&get)
            try coder.code(&put)
        }
    }

    /// What the server saw.
    struct Answer: Message {
        /// CRC32C of what it read by bulk transfer.
        var checksum: UInt32 = 0

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&checksum)
        }
    }

    // MARK: - Server

    /// Registers the server's procedure.
    public static func register(on context: Context) {
        // One buffer for every reply: nobody looks at what is in it.
        let bytes = ReplyBytes()
        context.register(echo) { echo, request throws(RPCError) in
            if echo.get == nil, echo.put == nil {
                return try answer(echo, request, bytes)
            }
            let checksum = try await transfer(echo, request)
            var answer = try answer(echo, request, bytes)
            answer.checksum = checksum
            return answer
        }
    }

    /// Answers a request, but for its bulk transfers.
    private static func answer(
        _ echo: Echo, _ request: RequestContext, _ bytes: ReplyBytes
    ) throws(RPCError) -> Answer {
        let size = Int(echo.replySize)
        guard size <= sizeMax else { throw .messageTooLong }
        if size > 0 {
            let buffer = bytes.buffer(size)
            unsafe request.setReplyPayload(
                UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<size]), keeping: buffer)
        }
        return Answer()
    }

    /// Makes the bulk transfers, and returns the checksum of what was read.
    private static func transfer(
        _ echo: Echo, _ request: RequestContext
    ) async throws(RPCError) -> UInt32 {
        let context = request.context
        request.releasePayload()
        var checksum: UInt32 = 0
        if let source = echo.get {
            guard source.length <= UInt64(sizeMax) else { throw .messageTooLong }
            let buffer = try context.makeBuffer(count: Int(source.length))
            try await context.bulkGet(
                source, into: buffer, range: 0..<buffer.count, deadline: .at(request.deadline))
            checksum = unsafe sample(UnsafeRawBufferPointer(buffer.bytes))
        }
        if let target = echo.put {
            guard target.length <= UInt64(sizeMax) else { throw .messageTooLong }
            let buffer = try context.makeBuffer(count: Int(target.length))
            try await context.bulkPut(
                target, from: buffer, range: 0..<buffer.count, deadline: .at(request.deadline))
        }
        return checksum
    }

    /// The checksum of a part at each end: enough to notice that nothing arrived, and cheap.
    private static func sample(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        let head = unsafe UnsafeRawBufferPointer(rebasing: bytes.prefix(64))
        let tail = unsafe UnsafeRawBufferPointer(rebasing: bytes.suffix(64))
        return unsafe CRC32C.checksum(of: tail, continuing: CRC32C.checksum(of: head))
    }

    /// A buffer that grows to the largest reply asked for.
    private final class ReplyBytes {
        private var current = IOBuffer(count: 4096)

        func buffer(_ size: Int) -> IOBuffer {
            if current.count < size { current = IOBuffer(count: size) }
            return current
        }
    }

    // MARK: - Client

    /// Makes `options.repetitions` calls, `options.inFlight` at a time, and measures them.
    ///
    /// - Throws: the first error of a call; `.badMessage` when the server saw other bytes.
    public static func run(
        on context: Context, to destination: Destination, options: Options
    ) async throws(RPCError) -> Result {
        precondition(options.repetitions > 0)
        precondition((1...inFlightMax).contains(options.inFlight))
        precondition(options.request.size <= sizeMax && options.reply.size <= sizeMax)
        let run = SelfTestRun(context: context, destination: destination, options: options)
        if options.warmUp > 0 { try await run.go(options.warmUp) }
        run.latencies.removeAll(keepingCapacity: true)
        let start = context.xstream.now
        try await run.go(options.repetitions)
        return run.result(elapsed: context.xstream.now.since(start))
    }

    static func check(_ answer: Answer, _ bytes: UnsafeRawBufferPointer) throws(RPCError) {
        guard unsafe answer.checksum == sample(bytes) else { throw .badMessage }
    }
}
