/// A protocol at one of its versions: a set of procedures that belong together.
public struct ProtocolID: Hashable, Sendable {
    /// Which protocol. 0xF0 and above are CaRT's own.
    public let base: UInt8
    /// Another one when the messages of a procedure change.
    public let version: UInt8

    /// Bases from here up belong to CaRT itself.
    public static let reservedBase: UInt8 = 0xf0

    /// A protocol of the user's own.
    ///
    /// - Parameters:
    ///   - base: tells protocols apart; below `reservedBase`.
    ///   - version: a server may answer several; `Context.negotiate` finds the one to use.
    public init(base: UInt8, version: UInt8) {
        precondition(base < ProtocolID.reservedBase, "bases from 0xF0 up are CaRT's own")
        self.base = base
        self.version = version
    }

    /// One of CaRT's own protocols.
    init(reserved base: UInt8, version: UInt8) {
        precondition(base >= ProtocolID.reservedBase)
        self.base = base
        self.version = version
    }
}

extension ProtocolID {
    init(opcode: UInt32) {
        base = UInt8(opcode >> 24)
        version = UInt8(truncatingIfNeeded: opcode >> 16)
    }
}

/// A procedure and its types, so that the compiler checks both callers and handlers.
///
/// ```swift
/// enum Greeting {
///     static let id = ProtocolID(base: 0x10, version: 1)
///     static let hello = Procedure<Name, Answer>(id, index: 1, name: "greeting.hello")
/// }
/// ```
public struct Procedure<Request: Message, Reply: Message>: Sendable {
    /// 32 bits: base (8) · version (8) · index (16).
    public let opcode: UInt32

    /// For logs and metrics.
    public let name: StaticString

    /// A procedure of the protocol `id`.
    ///
    /// - Parameters:
    ///   - id: the protocol and version that it belongs to.
    ///   - index: which of the protocol's procedures it is: below 4,096.
    ///   - name: for logs and metrics.
    public init(_ id: ProtocolID, index: UInt16, name: StaticString) {
        opcode = UInt32(id.base) << 24 | UInt32(id.version) << 16 | UInt32(index)
        self.name = name
    }

    /// The protocol and version that it belongs to.
    public var protocolID: ProtocolID {
        ProtocolID(opcode: opcode)
    }
}
