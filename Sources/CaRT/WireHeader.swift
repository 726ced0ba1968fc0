internal import DrayRuntime

/// What a message is for.
enum MessageKind: UInt8 {
    /// A caller presents itself: `HelloMessage`.
    case hello = 1
    /// The answer to a hello: `HelloReply`.
    case helloReply = 2
    case request = 3
    case reply = 4
    /// The caller of a request gave up.
    case cancel = 5
    /// Nothing of the cancelled request is under way.
    case cancelled = 6
    /// The caller has fetched a spilled reply.
    case release = 7
    /// The session named was ended by the server.
    case goodbye = 8
    /// Whether the server has requests that are long under way: `InquiryMessage`.
    case inquiry = 9
    /// Those of them that it does not have: `InquiryMessage`.
    case absent = 10
    /// Whether a caller may still fetch the spilled replies to requests of it: `InquiryMessage`.
    case recall = 11
    /// Those of them that it does not fetch, now or later: `InquiryMessage`.
    case recalled = 12
}

/// Bits of a header.
struct MessageFlags: OptionSet {
    var rawValue: UInt16

    /// Body and payload stay in the sender's memory; what follows is a `SpillDescriptor`.
    static let spilled = MessageFlags(rawValue: 1)
    /// Nobody waits for a reply.
    static let oneWay = MessageFlags(rawValue: 2)
    /// The caller wants to know where the time went; in a reply: here it says so.
    static let traced = MessageFlags(rawValue: 16)
    /// Of a traced reply: the body is a `NestedReply`.
    static let nested = MessageFlags(rawValue: 32)

    /// Of a request: bits 2 and 3.
    var priority: RequestPriority {
        get { RequestPriority(rawValue: UInt8(rawValue >> 2 & 3)) ?? .normal }
        set { self = MessageFlags(rawValue: rawValue & ~12 | UInt16(newValue.rawValue) << 2) }
    }
}

/// The fixed part at the start of every message, 96 bytes, little endian. See the README.
///
/// Several messages may travel together, each from a multiple of eight bytes on.
struct WireHeader {
    static let size = 96
    static let magic: UInt16 = 0xd7a7
    static let version: UInt8 = 5
    /// Stands for "none" or "any" as a rank or tag.
    static let anyRank: UInt32 = .max

    var kind = MessageKind.request
    var flags: MessageFlags = []
    /// How a request ended; a `StatusCode`. 0 in other kinds.
    var status: UInt16 = 0
    var opcode: UInt32 = 0
    var bodyLength: UInt32 = 0
    var payloadLength: UInt32 = 0
    var sourceRank = WireHeader.anyRank
    var destinationRank = WireHeader.anyRank
    var destinationTag = WireHeader.anyRank
    var session = SessionID.none
    /// The caller's request slot (of a hello: its peer slot) and the slot's generation.
    var slot: UInt32 = 0
    var slotGeneration: UInt32 = 0
    /// The sender's hybrid logical clock.
    var stamp: UInt64 = 0
    /// The caller's number of the request, random at first; answers repeat it.
    var requestID: UInt64 = 0
    /// Wall clock, nanoseconds since 1970.
    var deadline: UInt64 = 0
    var trace: UInt64 = 0
    /// CRC32C of body and payload.
    var bodyChecksum: UInt32 = 0
    /// Of a request: the version of the group that it is meant for; 0 for any.
    var groupVersion: UInt32 = 0

    /// Writes the header to `target`, which has room for it.
    func encode(to target: UnsafeMutableRawPointer) {
        func store<Value: FixedWidthInteger & BitwiseCopyable>(_ value: Value, _ offset: Int) {
            unsafe target.storeBytes(of: value.littleEndian, toByteOffset: offset, as: Value.self)
        }
        store(WireHeader.magic, 0)
        store(WireHeader.version, 2)
        store(kind.rawValue, 3)
        store(flags.rawValue, 4)
        store(status, 6)
        store(opcode, 8)
        store(bodyLength, 12)
        store(payloadLength, 16)
        store(sourceRank, 20)
        store(destinationRank, 24)
        store(destinationTag, 28)
        store(session.index, 32)
        store(session.generation, 36)
        store(slot, 40)
        store(slotGeneration, 44)
        store(stamp, 48)
        store(requestID, 56)
        store(deadline, 64)
        store(trace, 72)
        store(bodyChecksum, 80)
        store(groupVersion, 84)
        store(UInt32(0), 88)
        let covered = unsafe UnsafeRawBufferPointer(start: target, count: 92)
        store(unsafe CRC32C.checksum(of: covered), 92)
    }

    init() {}

    /// Reads the header at the start of `message`; nil when there is none, or the message is longer
    /// than that.
    init?(decoding message: UnsafeRawBufferPointer) {
        guard message.count >= WireHeader.size, let start = message.baseAddress else { return nil }
        func load<Value: FixedWidthInteger & BitwiseCopyable>(_ offset: Int) -> Value {
            // SAFETY: every offset below lies within `size` bytes, checked above.
            Value(littleEndian: unsafe start.loadUnaligned(fromByteOffset: offset, as: Value.self))
        }
        guard load(0) == WireHeader.magic, load(2) == WireHeader.version else { return nil }
        let covered = unsafe UnsafeRawBufferPointer(start: start, count: 92)
        guard unsafe load(92) == CRC32C.checksum(of: covered) else { return nil }
        guard let kind = MessageKind(rawValue: load(3)) else { return nil }
        self.kind = kind
        flags = MessageFlags(rawValue: load(4))
        status = load(6)
        opcode = load(8)
        bodyLength = load(12)
        payloadLength = load(16)
        sourceRank = load(20)
        destinationRank = load(24)
        destinationTag = load(28)
        session = SessionID(index: load(32), generation: load(36))
        slot = load(40)
        slotGeneration = load(44)
        stamp = load(48)
        requestID = load(56)
        deadline = load(64)
        trace = load(72)
        bodyChecksum = load(80)
        groupVersion = load(84)
        guard messageLength <= message.count else { return nil }
    }

    /// The bytes of the whole message.
    var messageLength: Int { WireHeader.size + Int(bodyLength) + Int(payloadLength) }

    /// Where the next message may begin.
    static func aligned(_ length: Int) -> Int { (length + 7) & ~7 }
}

/// A server's name for a caller: which entry of its session table, and which use of that entry.
struct SessionID: Hashable {
    var index: UInt32
    var generation: UInt32

    static let none = SessionID(index: .max, generation: 0)
}
