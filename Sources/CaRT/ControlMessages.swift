internal import DrayFabric
internal import DrayRuntime

/// First contact with a peer, and the probe of one that has not answered for a while.
struct HelloMessage: ByteCodable {
    /// Where the caller is reached.
    var address = FabricAddress()
    /// The caller's context instance.
    var instance: UInt64 = 0
    /// What the caller's receives hold of body and payload.
    var eagerLimit: UInt32 = 0
    /// The session the caller believes to have.
    var session = SessionID.none

    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&address)
        try coder.code(&instance)
        try coder.code(&eagerLimit)
        try coder.code(&session.index)
        try coder.code(&session.generation)
        guard !coder.isDecoding || eagerLimit >= UInt32(Context.eagerLimitMin)
        else { throw .invalidValue }
    }
}

/// The server's answer to a hello.
struct HelloReply: ByteCodable {
    /// The server's context instance.
    var instance: UInt64 = 0
    var session = SessionID.none
    /// Requests the caller may have in flight; 0 for any number.
    var credits: UInt32 = 0
    /// What the server's receives hold of body and payload.
    var eagerLimit: UInt32 = 0

    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&instance)
        try coder.code(&session.index)
        try coder.code(&session.generation)
        try coder.code(&credits)
        try coder.code(&eagerLimit)
        guard !coder.isDecoding || eagerLimit >= UInt32(Context.eagerLimitMin)
        else { throw .invalidValue }
    }
}

/// Names requests that are long under way.
struct InquiryMessage: ByteCodable {
    static let requestsMax = 64

    /// Their numbers, those that were sent first.
    var requests: [UInt64] = []

    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&requests, max: InquiryMessage.requestsMax)
    }
}

/// Stands for a body and payload that are too large for the receiver's buffers: it reads them
/// from the sender's memory.
struct SpillDescriptor: ByteCodable {
    var memory = BulkDescriptor()
    var bodyLength: UInt32 = 0
    var payloadLength: UInt32 = 0
    /// CRC32C of body and payload.
    var checksum: UInt32 = 0
    /// The sender's name for the memory, which a release of a reply repeats.
    var identifier: UInt64 = 0

    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&memory)
        try coder.code(&bodyLength)
        try coder.code(&payloadLength)
        try coder.code(&checksum)
        try coder.code(&identifier)
        guard coder.isDecoding else { return }
        guard UInt64(bodyLength) + UInt64(payloadLength) == memory.length, memory.length > 0
        else { throw .invalidValue }
    }
}

/// The body of a reply that is an error.
struct FailureMessage: ByteCodable {
    static let textMax = 1024

    var code: UInt32 = 0
    var detail: UInt32 = 0
    var text = ""

    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&code)
        try coder.code(&detail)
        try coder.code(&text, max: FailureMessage.textMax)
    }
}

/// An error as the number in a header.
enum StatusCode: UInt16 {
    case success = 0
    case timedOut, unreachable, cancelled, overloaded, noReply, unknownProcedure, protocolVersion
    case badMessage, wrongRank, wrongTag, staleGroup, clockSkew, peerRestarted, application
    case fabric, closed, messageTooLong, groupVersion
}

extension RPCError {
    /// The number in the header, and the body if the error says more.
    var wire: (StatusCode, FailureMessage?) {
        switch self {
        case .timedOut: (.timedOut, nil)
        case .unreachable: (.unreachable, nil)
        case .cancelled: (.cancelled, nil)
        case .overloaded: (.overloaded, nil)
        case .noReply: (.noReply, nil)
        case .unknownProcedure: (.unknownProcedure, nil)
        case .protocolVersion: (.protocolVersion, nil)
        case .badMessage: (.badMessage, nil)
        case .wrongRank: (.wrongRank, nil)
        case .wrongTag: (.wrongTag, nil)
        case .staleGroup: (.staleGroup, nil)
        case .clockSkew: (.clockSkew, nil)
        case .peerRestarted: (.peerRestarted, nil)
        case .application(let code, let message):
            (.application, FailureMessage(code: code, text: message.limited))
        case .fabric(let error): (.fabric, FailureMessage(error))
        case .closed: (.closed, nil)
        case .messageTooLong: (.messageTooLong, nil)
        case .groupVersion: (.groupVersion, nil)
        }
    }

    /// The error a reply carries; `.badMessage` when it makes no sense.
    init(status: UInt16, body: UnsafeRawBufferPointer) {
        guard let code = StatusCode(rawValue: status) else {
            self = .badMessage
            return
        }
        switch code {
        case .success: self = .badMessage
        case .timedOut: self = .timedOut
        case .unreachable: self = .unreachable
        case .cancelled: self = .cancelled
        case .overloaded: self = .overloaded
        case .noReply: self = .noReply
        case .unknownProcedure: self = .unknownProcedure
        case .protocolVersion: self = .protocolVersion
        case .badMessage: self = .badMessage
        case .wrongRank: self = .wrongRank
        case .wrongTag: self = .wrongTag
        case .staleGroup: self = .staleGroup
        case .clockSkew: self = .clockSkew
        case .peerRestarted: self = .peerRestarted
        case .closed: self = .closed
        case .messageTooLong: self = .messageTooLong
        case .groupVersion: self = .groupVersion
        case .application, .fabric:
            do throws(DecodingFailure) {
                let message = try unsafe FailureMessage(decoding: body)
                self =
                    code == .application
                    ? .application(code: message.code, message: message.text)
                    : .fabric(message.fabricError)
            } catch {
                self = .badMessage
            }
        }
    }

    /// How a fabric operation's failure ends a call.
    init(_ error: FabricError) {
        switch error {
        case .unreachable: self = .unreachable
        case .messageTooLong: self = .messageTooLong
        case .tryAgain: self = .overloaded
        case .badAddress, .addressInUse, .noProvider, .badKey, .cancelled, .provider:
            self = .fabric(error)
        }
    }
}

extension FailureMessage {
    fileprivate init(_ error: FabricError) {
        switch error {
        case .tryAgain: self.init(code: 0)
        case .unreachable(let code): self.init(code: 1, detail: UInt32(bitPattern: code))
        case .messageTooLong: self.init(code: 2)
        case .badAddress(let text): self.init(code: 3, text: text.limited)
        case .addressInUse(let text): self.init(code: 4, text: text.limited)
        case .noProvider(let text): self.init(code: 5, text: text.limited)
        case .badKey: self.init(code: 6)
        case .cancelled: self.init(code: 7)
        case .provider(let code, let text):
            self.init(code: 8, detail: UInt32(bitPattern: code), text: text.limited)
        }
    }

    fileprivate var fabricError: FabricError {
        switch code {
        case 0: .tryAgain
        case 1: .unreachable(code: Int32(bitPattern: detail))
        case 2: .messageTooLong
        case 3: .badAddress(text)
        case 4: .addressInUse(text)
        case 5: .noProvider(text)
        case 6: .badKey
        case 7: .cancelled
        default: .provider(code: Int32(bitPattern: detail), message: text)
        }
    }
}

extension String {
    /// The text, cut to what a failure message carries.
    fileprivate var limited: String {
        guard utf8.count > FailureMessage.textMax else { return self }
        var text = ""
        var length = 0
        for character in self {
            length += character.utf8.count
            guard length <= FailureMessage.textMax else { break }
            text.append(character)
        }
        return text
    }
}
