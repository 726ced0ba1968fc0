public import DrayRuntime

extension SelfTest {
    static let id = ProtocolID(reserved: 0xf2, version: 3)
    /// Answered in the server's progress loop.
    static let echo = Procedure<EchoRequest, EmptyMessage>(id, index: 1, name: "selfTest.echo")
    /// Calls with bulk transfers, and those whose bytes are compared: a task for each.
    static let transfer = Procedure<TransferRequest, TransferReply>(
        id, index: 3, name: "selfTest.transfer")
    static let measureProcedure = Procedure<MeasureRequest, Result>(
        id, index: 2, name: "selfTest.measure")

    /// One call of a measurement whose bytes go inline.
    struct EchoRequest: Message {
        /// Raw bytes that the reply shall carry.
        var replySize: UInt32 = 0
        /// How many bytes behind a page the server's buffers shall begin.
        var alignment: UInt16 = 0

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&replySize)
            try coder.code(&alignment)
        }
    }

    /// One call of a measurement with more than that.
    struct TransferRequest: Message {
        /// Raw bytes that the reply shall carry.
        var replySize: UInt32 = 0
        /// How many bytes behind a page the server's buffers shall begin.
        var alignment: UInt16 = 0
        /// What the bytes of this call are made from; nil when nobody looks at all of them.
        var seed: UInt64?
        /// Memory to read.
        var get: BulkDescriptor?
        /// Memory to fill.
        var put: BulkDescriptor?

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&replySize)
            try coder.code(&alignment)
            try coder.code(&seed)
            try coder.code(&get)
            try coder.code(&put)
        }
    }

    /// What the server saw.
    struct TransferReply: Message {
        /// CRC32C of a sample of what it read by bulk transfer; of nothing else.
        var checksum: UInt32 = 0

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&checksum)
        }
    }

    /// Asks a process to measure.
    struct MeasureRequest: Message {
        var options = Options()
        var members: [Member] = []

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&options)
            try coder.code(&members, max: SelfTest.destinationsMax)
        }
    }
}

extension SelfTest.Load: ByteCodable {
    /// Nothing, for decoding into.
    public init() { self = .empty }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        var kind: UInt8 =
            switch self {
            case .empty: 0
            case .inline: 1
            case .bulk: 2
            }
        var size = UInt64(clamping: size)
        try coder.code(&kind)
        try coder.code(&size)
        guard coder.isDecoding else { return }
        guard let size = Int(exactly: size) else { throw .invalidValue }
        switch kind {
        case 0:
            guard size == 0 else { throw .invalidValue }
            self = .empty
        case 1: self = .inline(size)
        case 2: self = .bulk(size)
        default: throw .invalidValue
        }
    }
}

extension SelfTest.Options: Message {
    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&request)
        try coder.code(&reply)
        var values = [inFlight, repetitions, warmUp, alignment].map { UInt64(clamping: $0) }
        for index in values.indices { try coder.code(&values[index]) }
        try coder.code(&verify)
        var nanoseconds = timeout.nanosecondsClamped
        try coder.code(&nanoseconds)
        guard coder.isDecoding else { return }
        // Whatever it is: `problem` knows the limits.
        let numbers = values.map { Int(clamping: $0) }
        (inFlight, repetitions, warmUp, alignment) = (
            numbers[0], numbers[1], numbers[2], numbers[3]
        )
        timeout = .nanoseconds(Int64(clamping: nanoseconds))
        guard request.size <= Int(UInt32.max), reply.size <= Int(UInt32.max), inFlight <= 1 << 30
        else { throw .invalidValue }
    }
}

extension SelfTest.Member: Message {
    /// Rank and tag 0, for decoding into.
    public init() { self.init(rank: 0, tag: 0) }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&rank)
        try coder.code(&tag)
    }
}

extension SelfTest.EndpointResult: Message {
    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&calls)
        try coder.code(&nanoseconds)
        try coder.code(&maximum)
    }
}

extension SelfTest.Result: Message {
    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&latencies)
        var nanoseconds = elapsed.nanosecondsClamped
        try coder.code(&nanoseconds)
        if coder.isDecoding { elapsed = .nanoseconds(Int64(clamping: nanoseconds)) }
        try coder.code(&requestBytes)
        try coder.code(&replyBytes)
        try coder.code(&endpoints, max: SelfTest.destinationsMax)
    }
}
