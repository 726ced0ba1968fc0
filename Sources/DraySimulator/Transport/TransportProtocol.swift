internal import CaRT
internal import DrayFabric
internal import DrayRuntime

/// The procedures of a transport under test.
enum TransportProtocol {
    static let id = ProtocolID(base: 0x71, version: 1)
    static let echo = Procedure<TransportRequest, TransportReply>(
        id, index: 1, name: "transport.echo")
    /// Answered in the progress loop.
    static let synchronous = Procedure<TransportRequest, TransportReply>(
        id, index: 2, name: "transport.synchronous")
    /// With raw bytes beside request and reply.
    static let payload = Procedure<TransportRequest, TransportReply>(
        id, index: 3, name: "transport.payload")
    /// Answered later, or never.
    static let deferred = Procedure<TransportRequest, TransportReply>(
        id, index: 4, name: "transport.deferred")
    /// Takes its time, unless the caller gives up.
    static let slow = Procedure<TransportRequest, TransportReply>(
        id, index: 5, name: "transport.slow")
    static let fail = Procedure<TransportRequest, TransportReply>(
        id, index: 6, name: "transport.fail")
    /// The handler reads the caller's memory.
    static let get = Procedure<TransportRequest, TransportReply>(
        id, index: 7, name: "transport.get")
    /// The handler writes to the caller's memory.
    static let put = Procedure<TransportRequest, TransportReply>(
        id, index: 8, name: "transport.put")
    /// The handler calls somebody else first.
    static let forward = Procedure<TransportRequest, TransportReply>(
        id, index: 9, name: "transport.forward")
    /// Sent without a reply.
    static let note = Procedure<TransportRequest, TransportReply>(
        id, index: 10, name: "transport.note")
    /// Nobody answers it.
    static let unknown = Procedure<TransportRequest, TransportReply>(
        id, index: 99, name: "transport.unknown")

    /// What `fail` answers.
    static func failure(_ number: UInt64) -> RPCError {
        .application(code: UInt32(truncatingIfNeeded: number), message: "failure \(number)")
    }

    /// What a handler answers whose transfer or call failed.
    static func unable(_ number: UInt64, _ error: RPCError) -> RPCError {
        .application(code: UInt32(truncatingIfNeeded: number), message: "unable: \(error)")
    }
}

/// A request of a transport under test. What it carries follows from its number.
struct TransportRequest: Message {
    /// No other request has it.
    var number: UInt64 = 0
    /// Bytes of the reply.
    var replySize: UInt32 = 0
    /// How long the handler takes, in microseconds.
    var delay: UInt32 = 0
    /// The handler gives up without an answer.
    var isDropped = false
    var bytes: [UInt8] = []
    /// Memory of the caller.
    var memory: BulkVector?
    /// Whom the handler calls.
    var next: FabricAddress?

    static let bytesMax = 4 << 20

    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&number)
        try coder.code(&replySize)
        try coder.code(&delay)
        try coder.code(&isDropped)
        try coder.code(&bytes, max: TransportRequest.bytesMax)
        try coder.code(&memory)
        try coder.code(&next)
    }
}

/// The reply to the request with the same number.
struct TransportReply: Message {
    var number: UInt64 = 0
    var bytes: [UInt8] = []

    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&number)
        try coder.code(&bytes, max: TransportRequest.bytesMax)
    }
}

/// Bytes that belong to a number: whoever knows it can tell whether they are right.
struct NumberedBytes {
    /// Where the bytes travel, so that none passes for another.
    enum Place: UInt64 {
        case request, reply, requestPayload, replyPayload, memory
    }

    private let seed: UInt64

    init(_ number: UInt64, _ place: Place) {
        let mixed = (number &+ place.rawValue &* 0xd6e8_feb8_6659_fd93) &* 0x9e37_79b9_7f4a_7c15
        seed = mixed ^ (mixed >> 29)
    }

    private subscript(position: Int) -> UInt8 {
        UInt8(truncatingIfNeeded: (seed &+ UInt64(position) &* 0xbf58_476d_1ce4_e5b9) >> 40)
    }

    func make(_ count: Int) -> [UInt8] { (0..<count).map { self[$0] } }

    /// Writes the bytes from `start` on.
    func fill(_ memory: UnsafeMutableRawBufferPointer, from start: Int = 0) {
        for index in memory.indices { unsafe memory[index] = self[start + index] }
    }

    /// Whether these are the bytes from `start` on.
    func match(_ bytes: UnsafeRawBufferPointer, from start: Int = 0) -> Bool {
        for index in bytes.indices where unsafe bytes[index] != self[start + index] {
            return false
        }
        return true
    }

    func match(_ bytes: [UInt8]) -> Bool { unsafe bytes.withUnsafeBytes { unsafe match($0) } }
}
