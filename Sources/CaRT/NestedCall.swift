public import DrayRuntime

/// A call that a handler made for the request it works on, and where its time went.
public struct NestedCall: Hashable, Sendable {
    /// The procedure's opcode.
    public var opcode: UInt32 = 0
    /// The procedure's name.
    public var name = ""
    /// How deep it stands below the request that is traced: 1 for a call of its own handler.
    public var depth: UInt8 = 1
    /// Where its time went, as its caller saw it.
    public var trace = CallTrace()

    /// The most of them that a reply tells of; later ones are not told.
    static let countMax = 32
    /// Bytes of a name; of a longer one so many letters are told as fit in any case.
    static let nameMax = 256

    public init() {}

    init(opcode: UInt32, name: StaticString, trace: CallTrace) {
        self.opcode = opcode
        self.name = String("\(name)".unicodeScalars.prefix(NestedCall.nameMax / 4))
        self.trace = trace
    }
}

extension NestedCall: ByteCodable {
    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&opcode)
        try coder.code(&name, max: NestedCall.nameMax)
        try coder.code(&depth)
        try coder.code(&trace)
        guard depth > 0 else { throw .invalidValue }
    }
}

extension CallTrace: ByteCodable {
    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&queued)
        try coder.code(&sending)
        try coder.code(&waiting)
        try coder.code(&handling)
        try coder.code(&bulk)
        try coder.code(&replying)
        // A time of years: their sum is one, too.
        for part in [queued, sending, waiting, handling, bulk, replying] {
            guard part < CallTrace.partMax else { throw .invalidValue }
        }
    }

    private static let partMax: UInt64 = 1 << 60
}

/// The body of a traced reply whose handler made calls of its own.
struct NestedReply<Reply: Message>: Message {
    var calls: [NestedCall] = []
    var reply = Reply()

    init() {}

    init(_ calls: [NestedCall], _ reply: Reply) {
        self.calls = calls
        self.reply = reply
    }

    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&calls, max: NestedCall.countMax)
        try coder.code(&reply)
    }
}
