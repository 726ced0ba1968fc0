public import DrayFabric
public import DrayRuntime

/// Where an xstream sends and answers requests: one endpoint, and all that is under way on it.
///
/// Confined to its xstream, whose poll source it is. Create, use and close it there.
public final class Context {
    public let xstream: XStream
    /// Where peers reach this context.
    public let address: FabricAddress
    /// Random; another one after each restart.
    public let instance: UInt64
    public let clock: HybridLogicalClock
    public let options: ContextOptions
    /// Whom `Destination.rank` means. Empty at first.
    public let group: GroupMap
    /// Our rank; engines may learn it after the context was made.
    public var rank: UInt32?

    /// Opens an endpoint at `address` (see `Fabric.makeEndpoint`) for the calling xstream, which
    /// must be `xstream`.
    public init(
        world: World, xstream: XStream, address: String, options: ContextOptions
    ) throws(RPCError) {
        preconditionFailure("to come")
    }

    /// What was done so far. Cheap.
    public var counters: ContextCounters { preconditionFailure("to come") }

    // MARK: - Serving

    /// Answers requests of `procedure` by a task for each.
    ///
    /// An error the handler throws reaches the caller as it is. Registering a procedure twice
    /// traps.
    public func register<Q, R>(
        _ procedure: Procedure<Q, R>,
        _ handler: @escaping (Q, RequestContext) async throws(RPCError) -> R
    ) { preconditionFailure("to come") }

    /// Answers requests of `procedure` in the progress loop: for handlers that are short and wait
    /// for nothing. No task is made.
    public func registerSynchronous<Q, R>(
        _ procedure: Procedure<Q, R>,
        _ handler: @escaping (Q, RequestContext) throws(RPCError) -> R
    ) { preconditionFailure("to come") }

    /// Answers requests of `procedure` later: the handler keeps the `DeferredReply` and uses it
    /// when the answer is known. Dropping it unused reaches the caller as `.noReply`.
    public func registerDeferred<Q, R>(
        _ procedure: Procedure<Q, R>, _ handler: @escaping (Q, DeferredReply<R>) -> Void
    ) { preconditionFailure("to come") }

    // MARK: - Calling

    /// Sends `request` and waits for the reply.
    ///
    /// - Parameters:
    ///   - payload: raw bytes that travel beside the encoded request. Must stay valid and
    ///     unchanged until the call returns (an `IOBuffer`'s or `RegisteredBuffer`'s bytes do).
    ///   - exposing: the memory that the request's descriptors name. When the call ends early (by
    ///     its deadline, cancellation, a lost peer), it returns only after the peer has said that
    ///     it uses the memory no more, or is gone; failing that, the handles are quarantined.
    ///   - deadline: travels with the request; the peer refuses it when it comes too late.
    ///   - onReplyPayload: gets the reply's raw bytes, valid during the call of the closure only.
    ///     Not called when there are none.
    /// - Throws: whatever the handler threw, or how the call failed.
    public func call<Q, R>(
        _ procedure: Procedure<Q, R>, _ request: Q, to destination: Destination,
        payload: UnsafeRawBufferPointer? = nil, exposing: [BulkHandle] = [],
        deadline: Deadline = .standard,
        onReplyPayload: ((UnsafeRawBufferPointer) -> Void)? = nil
    ) async throws(RPCError) -> R { preconditionFailure("to come") }

    /// Asks the peer at `address` where the tags of `rank` are: its own, or those of a member of
    /// its group.
    public func lookUp(
        rank: UInt32, at destination: Destination, deadline: Deadline = .standard
    ) async throws(RPCError) -> [FabricAddress] { preconditionFailure("to come") }

    /// The highest version of protocol `base` in `versions` that the peer answers, if any.
    public func negotiate(
        base: UInt8, versions: ClosedRange<UInt8>, with destination: Destination,
        deadline: Deadline = .standard
    ) async throws(RPCError) -> UInt8? { preconditionFailure("to come") }

    // MARK: - Bulk

    /// Memory for transfers, from a pool by size class. At least `count` bytes, page aligned, not
    /// zeroed. Goes back to the pool when the last reference goes.
    public func makeBuffer(count: Int) throws(RPCError) -> RegisteredBuffer {
        preconditionFailure("to come")
    }

    /// Lets peers read or write `range` of `buffer` under a fresh key until `withdraw`.
    /// The handle keeps the buffer.
    public func expose(
        _ buffer: RegisteredBuffer, range: Range<Int>? = nil, access: MemoryAccess
    ) throws(RPCError) -> BulkHandle { preconditionFailure("to come") }

    /// Lets peers read or write `range` of `buffer` under a fresh key until `withdraw`.
    /// The handle keeps the buffer.
    public func expose(
        _ buffer: IOBuffer, range: Range<Int>? = nil, access: MemoryAccess
    ) throws(RPCError) -> BulkHandle { preconditionFailure("to come") }

    /// Ends an exposure. Harmless when it has ended. Call it after the call that named the
    /// descriptor returned: the fabric does not stop a transfer that is under way.
    public func withdraw(_ handle: BulkHandle) { preconditionFailure("to come") }

    /// Copies from a peer's exposed memory, starting at `offset` of it, into `range` of `buffer`.
    public func bulkGet(
        _ descriptor: BulkDescriptor, offset: Int = 0, into buffer: RegisteredBuffer,
        range: Range<Int>
    ) async throws(RPCError) { preconditionFailure("to come") }

    /// Copies `range` of `buffer` to a peer's exposed memory, starting at `offset` of it.
    public func bulkPut(
        _ descriptor: BulkDescriptor, offset: Int = 0, from buffer: RegisteredBuffer,
        range: Range<Int>
    ) async throws(RPCError) { preconditionFailure("to come") }

    // MARK: - End

    /// Ends every call with `.closed`, cancels handlers, and closes the endpoint. Waits for
    /// handlers that still use the context.
    public func close() async { preconditionFailure("to come") }
}
