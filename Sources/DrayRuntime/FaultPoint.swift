/// A place in the code where a fault can be injected: what is struck, and how.
public enum FaultPoint: String, CaseIterable, Hashable, Sendable {
    /// The fabric refuses a message for now, as with a full queue, or loses the connection.
    case fabricSend = "fabric.send"
    /// The fabric cannot register memory.
    case fabricRegister = "fabric.register"
    /// A hello, which opens a session or asks whether a peer is still there, is lost.
    case peerHello = "peer.hello"
    /// A message leaves and never arrives.
    case cartSend = "cart.send"
    /// A message that has arrived is lost.
    case cartReceive = "cart.receive"
    /// A request is answered with an error, or late, before its handler sees it. Those of high
    /// priority are spared: so are the requests that end the faults.
    case cartHandler = "cart.handler"
    /// A bulk transfer, of a vector too, fails, or begins late.
    case cartBulk = "cart.bulk"
    /// A rank takes no part in a collective, or is late.
    case collectivePart = "collective.part"
    /// Asking a member where its contexts are fails, or takes longer.
    case groupLookUp = "group.lookup"
    /// A message of the failure detector is lost.
    case swimSend = "swim.send"
    /// A request of incast variables to another member fails, or leaves late.
    case incastSend = "incast.send"
    /// A request to the object service of a target is answered with an error, or late, before
    /// anything is done for it.
    case engineObject = "engine.object"
    /// A member of a transaction does not prepare its part, or is late.
    case enginePrepare = "engine.prepare"
    /// An engine cannot store new metadata of pools and containers, or takes longer.
    case metadataStore = "metadata.store"
    /// An operation of the object store finds no space.
    case vosSpace = "vos.space"
    /// A read of the device fails, or takes longer.
    case bioRead = "bio.read"
    /// A write of data to the device fails, which takes the device out of service, or takes longer.
    case bioWrite = "bio.write"

    /// What it can answer with; the first unless a rule says otherwise.
    public var errors: [FaultError] {
        switch self {
        case .fabricSend: [.tryAgain, .unreachable]
        case .fabricRegister: [.noMemory]
        case .peerHello, .cartSend, .cartReceive, .swimSend: [.lost]
        case .cartHandler:
            [.overloaded, .unreachable, .timedOut, .noReply, .staleGroup, .groupVersion]
        case .cartBulk: [.unreachable, .overloaded, .timedOut, .badKey]
        case .collectivePart: [.overloaded, .unreachable, .timedOut, .noReply, .groupVersion]
        case .groupLookUp: [.unreachable, .overloaded, .timedOut, .staleGroup]
        case .incastSend: [.unreachable, .overloaded, .timedOut, .noReply, .groupVersion]
        case .engineObject: [.busy, .staleMap, .noSpace, .inputOutput]
        case .enginePrepare: [.aborted, .busy, .staleMap, .noSpace, .inputOutput]
        case .metadataStore: [.inputOutput, .noSpace]
        case .vosSpace: [.noSpace]
        case .bioRead: [.inputOutput, .timedOut]
        case .bioWrite: [.inputOutput, .timedOut, .noSpace]
        }
    }
}

/// What a struck point answers with. Each layer has its own error for it.
public enum FaultError: String, CaseIterable, Hashable, Sendable {
    /// A message is gone, without a word.
    case lost
    /// Not now: the layer itself tries again.
    case tryAgain = "try-again"
    case unreachable
    case overloaded
    case timedOut = "timed-out"
    case noReply = "no-reply"
    case staleGroup = "stale-group"
    case groupVersion = "group-version"
    case badKey = "bad-key"
    case noMemory = "no-memory"
    case busy
    /// The pool has changed.
    case staleMap = "stale-map"
    case aborted
    case noSpace = "no-space"
    /// The device cannot (EIO).
    case inputOutput = "io"
}
