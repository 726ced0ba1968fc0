public import DrayRuntime

/// One end of the fabric: where messages arrive and from where they are sent.
///
/// An endpoint belongs to one xstream and is used only there. All operations are asynchronous:
/// they are posted here and reported by `poll` under the token they were given. This base class is
/// the seam; `LibfabricEndpoint` and `SimulatedEndpoint` are its two kinds.
///
/// The rules are those of the strictest provider: local buffers must lie in memory registered with
/// this endpoint, nothing is ordered, and a posted operation that fails reports its error.
open class Endpoint {
    /// Where others reach this endpoint.
    public let address: FabricAddress

    /// The largest message in bytes.
    public let messageSizeMax: Int

    /// The most bytes that one read or write moves.
    public let transferSizeMax: Int

    /// Whoever gathers messages to one peer sends when he has as many, so that the peer begins with
    /// them while others are prepared. `.max` where a send costs more than that gains: a system
    /// call.
    public let gatheredMax: Int

    public init(
        address: FabricAddress, messageSizeMax: Int, transferSizeMax: Int = .max,
        gatheredMax: Int = .max
    ) {
        self.address = address
        self.messageSizeMax = messageSizeMax
        self.transferSizeMax = transferSizeMax
        self.gatheredMax = gatheredMax
    }

    /// Makes `address` known and returns the handle to send to. Inserting an address twice gives
    /// two handles, or the same: remove as often as you insert.
    open func insert(_ address: FabricAddress) throws(FabricError) -> Peer { abstract() }

    /// Forgets a peer. Operations in flight to it may still complete, with or without an error.
    open func remove(_ peer: Peer) { abstract() }

    /// Ends the connection to a peer that is silent or gone, where the provider can: what was under
    /// way with it fails, and the next operation makes another connection. What has arrived from
    /// the peer is taken in any case.
    ///
    /// - Returns: whether nothing that the peer has begun reaches memory any more that is
    ///   deregistered before the next call of the endpoint.
    open func disconnect(_ peer: Peer) -> Bool { false }

    /// Registers `memory`, which must stay mapped until the region is deregistered.
    open func register(
        _ memory: UnsafeMutableRawBufferPointer, access: MemoryAccess
    ) throws(FabricError) -> MemoryRegion { abstract() }

    /// Ends a registration. Does not wait for transfers under way, and may not stop them: a
    /// provider goes on reading and writing what it has begun with.
    open func deregister(_ region: consuming MemoryRegion) { abstract() }

    /// Offers `buffer` for one incoming message of any peer. Reported as `.received` with its
    /// length.
    open func postReceive(
        _ buffer: UnsafeMutableRawBufferPointer, in region: borrowing MemoryRegion, token: UInt64
    ) throws(FabricError) { abstract() }

    /// Sends `buffer`, which must stay unchanged until `.sent` is reported.
    /// Throws `.tryAgain` when the provider's queue is full: poll, then repeat.
    open func send(
        _ buffer: UnsafeRawBufferPointer, in region: borrowing MemoryRegion, to peer: Peer,
        token: UInt64
    ) throws(FabricError) { abstract() }

    /// Reads `buffer.count` bytes, at most `transferSizeMax`, of a peer's exposed memory into
    /// `buffer`. Reported as `.read`.
    open func read(
        into buffer: UnsafeMutableRawBufferPointer, in region: borrowing MemoryRegion,
        from peer: Peer, remote: RemoteMemory, token: UInt64
    ) throws(FabricError) { abstract() }

    /// Writes `buffer`, at most `transferSizeMax` bytes, to a peer's exposed memory. Reported as
    /// `.written`, when the bytes are visible to the peer's processor.
    open func write(
        _ buffer: UnsafeRawBufferPointer, in region: borrowing MemoryRegion, to peer: Peer,
        remote: RemoteMemory, token: UInt64
    ) throws(FabricError) { abstract() }

    /// Moves completions into `completions`, whose elements must be initialised, and returns how
    /// many; makes progress as a side effect.
    open func poll(into completions: UnsafeMutableBufferPointer<Completion>) -> Int { abstract() }

    /// What the owning xstream must do before it blocks; called after `poll` found nothing.
    open func prepareToBlock() -> BlockReadiness { abstract() }

    /// Whether anybody listens at `address`, for a provider that does not say so when it sends: its
    /// `.tryAgain` lasts for as long as nobody does. Never blocks; the answer may take a few calls.
    open func listening(at address: FabricAddress) -> Listening { .unknown }

    /// Closes the endpoint. Nothing may be posted afterwards; what was posted is not reported.
    open func close() { abstract() }

    private func abstract() -> Never {
        preconditionFailure("Endpoint is abstract")
    }
}

/// Whether anybody listens at an address.
public enum Listening: Sendable {
    /// Somebody does.
    case accepted
    /// Nobody does: the process that did is gone.
    case refused
    /// Nothing is known, or not yet.
    case unknown
}

/// A peer that an endpoint can send to: an index into its address vector.
public struct Peer: Hashable, Sendable {
    public let index: UInt64

    public init(index: UInt64) { self.index = index }
}

/// What a completion reports.
public enum CompletionKind: UInt8, Sendable {
    case sent, received, read, written
}

/// One finished operation of an endpoint.
public struct Completion: Sendable {
    /// The token given when the operation was posted.
    public var token: UInt64
    public var kind: CompletionKind
    /// Bytes received; 0 for the other kinds.
    public var length: Int
    /// Nil when the operation succeeded.
    public var error: FabricError?

    public init(token: UInt64, kind: CompletionKind, length: Int = 0, error: FabricError? = nil) {
        self.token = token
        self.kind = kind
        self.length = length
        self.error = error
    }
}

/// Which remote operations registered memory allows. Local use is always allowed.
public struct MemoryAccess: OptionSet, Hashable, Sendable {
    public let rawValue: UInt8

    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// Peers may read the memory.
    public static let remoteRead = MemoryAccess(rawValue: 1)
    /// Peers may write the memory.
    public static let remoteWrite = MemoryAccess(rawValue: 2)
}

/// Names memory of a peer in a remote operation: where, and the key that allows it.
public struct RemoteMemory: Hashable, Sendable {
    /// A virtual address of the peer (every provider is driven with virtual addressing on the
    /// wire; offset-based ones are translated when the region is registered).
    public var address: UInt64
    public var key: UInt64

    public init(address: UInt64, key: UInt64) {
        self.address = address
        self.key = key
    }
}

/// A registration of memory with one endpoint. Ends by `Endpoint.deregister`; traps when dropped.
public struct MemoryRegion: ~Copyable {
    /// The start of the memory as peers name it in `RemoteMemory.address`.
    public let remoteAddress: UInt64
    /// The key that peers need. Unguessable where the provider lets us choose.
    public let key: UInt64
    /// What the provider wants beside local buffers (0 when nothing).
    public let descriptor: UInt
    /// The provider's handle, for `deregister`.
    public let handle: UInt

    public init(remoteAddress: UInt64, key: UInt64, descriptor: UInt, handle: UInt) {
        self.remoteAddress = remoteAddress
        self.key = key
        self.descriptor = descriptor
        self.handle = handle
    }

    deinit {
        let finished = false
        precondition(finished, "a memory region was dropped without Endpoint.deregister")
    }

    /// Ends the handle; for implementations of `Endpoint.deregister`.
    public consuming func take() -> UInt {
        let handle = handle
        discard self
        return handle
    }
}
