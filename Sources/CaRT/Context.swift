internal import BasicContainers
internal import DequeModule
public import DrayFabric
public import DrayRuntime
internal import Logging

/// Where an xstream sends and answers requests: one endpoint, and all that is under way on it.
///
/// Confined to its xstream, whose poll source it is. Create, use and close it there.
///
/// ```swift
/// let context = try Context(
///     world: world, xstream: xstream, address: "ofi+tcp://127.0.0.1:0", options: options)
/// context.register(Greeting.hello) { name, request in Answer(text: "hello \(name.text)") }
/// let answer = try await context.call(Greeting.hello, Name(text: "you"), to: .address(peer))
/// await context.close()
/// ```
///
/// `Context.run` makes one with an xstream of its own, and closes both.
@safe public final class Context {
    /// Where everything of this context happens.
    public let xstream: XStream
    /// Where peers reach this context.
    public let address: FabricAddress
    /// Random; another one after each restart.
    public let instance: UInt64
    /// Stamps every message, and moves ahead of the stamps of those that come.
    public let clock: HybridLogicalClock
    /// What the context was made with.
    public let options: ContextOptions
    /// Whom `Destination.rank` means. Empty at first.
    public let group: Group
    var observation: Group.Observation?
    /// Collects where the time of this context's calls goes; nil: nobody asks.
    @safe @exclusivity(unchecked) public var tracer: CallTracer?
    /// What came with the replies to traced calls, by the slot of the call.
    @safe @exclusivity(unchecked) var replyTimings: [Int32: ReplyTimings] = [:]
    /// Our rank; engines may learn it after the context was made.
    @safe @exclusivity(unchecked) public var rank: UInt32?

    /// Every context can receive this much inline.
    static let eagerLimitMin = 1024
    /// Completions that one poll handles.
    static let completionsMax = 256
    /// Messages to one caller that the fabric has not sent yet; at so many, replies are dropped.
    static let unsentMax = 1024
    /// Memory that requests being pulled may take at a time.
    static let pulledBytesMax = 512 << 20

    let endpoint: Endpoint
    let world: World
    let faults: FaultTable
    /// The time of a call that does not say how long it may take. At first that of the options.
    @safe @exclusivity(unchecked) public var timeout: Duration
    let logger: Logger
    @safe @exclusivity(unchecked) var entropy: Entropy
    @safe @exclusivity(unchecked) var isClosing = false
    @safe @exclusivity(unchecked) var isClosed = false
    let end = EndSignal()

    // SAFETY: allocated in `init`, freed in `deinit`, used only on the xstream.
    let state: UnsafeMutablePointer<ContextState>
    let cancelMailbox = CancelMailbox()

    // Peers that we call.
    @safe @exclusivity(unchecked) var peersByAddress: [FabricAddress: Int32] = [:]
    @safe @exclusivity(unchecked) var peersByRank: [UInt64: Int32] = [:]
    @safe @exclusivity(unchecked) var groupGeneration: UInt32 = 0
    @safe @exclusivity(unchecked) var knownVersions: [ProtocolKey: KnownVersions] = [:]
    @safe @exclusivity(unchecked) var selfPeer: Int32 = 0
    /// Requests of calls that are over and whose large replies are being fetched.
    @safe @exclusivity(unchecked) var fetching: Set<UInt64> = []

    // Callers and what we do for them.
    @safe @exclusivity(unchecked) var procedures = ProcedureTable()
    /// Nil unless requests are limited or somebody wants to see them first.
    @safe @exclusivity(unchecked) var gate: RequestGate?
    @safe @exclusivity(unchecked) var spills = SpillTable<BulkHandle>()
    @safe @exclusivity(unchecked) var pulledBytes = 0

    // Collectives.
    @safe @exclusivity(unchecked) var collectives = CollectiveTable()
    /// Bulk data that ranks below us fetch, by the key of its memory.
    @safe @exclusivity(unchecked) var relays: [UInt64: ChunkRelay] = [:]
    @safe @exclusivity(unchecked) var barriers = BarrierTable()
    /// When this context was made: it takes part in nothing that began before.
    let openedStamp: UInt64

    // Incast variables.
    @safe @exclusivity(unchecked) var incast = IncastTable()

    // Memory.
    let pool: BufferPool
    let exposures: ExposureTable
    let registrations: RegistrationCache
    let replyAccount: ReplyAccount
    @safe @exclusivity(unchecked) var quarantine = QuarantineTable<BulkHandle>()
    // SAFETY: allocated in `init`, freed in `deinit`, used only by `poll`.
    let completions: UnsafeMutableBufferPointer<Completion>

    /// Where the counters go when somebody asks; made by the first who does.
    var publisher: MetricPublisher<ContextMetrics>?

    /// The one timer.
    @safe @exclusivity(unchecked) var timer: Timer?

    /// Opens an endpoint at `address` (see `Fabric.makeEndpoint`) for the calling xstream, which
    /// must be `xstream`.
    ///
    /// - Parameters:
    ///   - world: where the fabric, time, randomness and logs come from.
    ///   - xstream: where all of the context happens. It may have several contexts.
    ///   - address: what to listen on, such as `ofi+tcp://127.0.0.1:31416`; without a port, or with
    ///     0, on a free one.
    ///   - options: fixed for the life of the context, but for `timeout`.
    ///   - group: one that other contexts of the xstream use, too; nil for a new one.
    /// - Throws: `.fabric` when the address cannot be used.
    public init(
        world: World, xstream: XStream, address: String, options: ContextOptions,
        group: Group? = nil
    ) throws(RPCError) {
        precondition(xstream.isCurrent, "a context is made on its xstream")
        precondition(options.eagerLimit >= Context.eagerLimitMin)
        precondition(options.receiveCount > options.heldReceivesMax)
        precondition(options.bulksMax > 0)
        precondition(options.handlersMax >= 0)
        precondition(options.messageSizeMax <= Int(Int32.max))
        self.world = world
        faults = world.faults
        self.xstream = xstream
        timeout = options.timeout
        self.group = group ?? Group(name: options.groupName)
        clock = options.clock
        openedStamp = options.clock.now()
        rank = options.rank
        logger = world.log.logger(.cart)
        do throws(FabricError) {
            endpoint = try world.fabric.makeEndpoint(address, on: xstream)
        } catch {
            throw .fabric(error)
        }
        self.address = endpoint.address
        // The time tells apart the contexts that have one address after another.
        entropy = world.entropy.fork(
            "context \(endpoint.address) \(options.tag) \(xstream.now.nanoseconds)")
        instance = entropy.next()
        // What the fabric does not take as one message spills.
        let room = (endpoint.messageSizeMax & ~63) - WireHeader.size
        precondition(room >= Context.eagerLimitMin, "the fabric's messages are too small")
        var options = options
        options.eagerLimit = min(options.eagerLimit, room)
        self.options = options
        let slotSize = (WireHeader.size + options.eagerLimit + 63) & ~63
        pool = BufferPool(endpoint: endpoint, freeBytesMax: options.pooledBytesMax)
        exposures = ExposureTable(endpoint: endpoint)
        registrations = RegistrationCache(
            endpoint: endpoint, bytesMax: options.cachedRegistrationBytesMax)
        replyAccount = ReplyAccount(bytesMax: options.replyBytesMax)
        unsafe completions = .allocate(capacity: min(Context.completionsMax, options.receiveCount))
        unsafe completions.initialize(repeating: Completion(token: 0, kind: .sent))
        unsafe state = .allocate(capacity: 1)
        unsafe state.initialize(
            to: ContextState(
                tracker: CallTracker(
                    entropy: Entropy(seed: entropy.next()), waitingMax: options.waitingMax),
                sessions: SessionTable(
                    entropy: Entropy(seed: entropy.next()), sessionsMax: options.sessionsMax),
                sends: SendPool(endpoint: endpoint, slotSize: slotSize),
                receives: ReceivePool(
                    endpoint: endpoint, slotSize: slotSize, countMax: options.receiveCount)))
        if options.handlersMax > 0 { gate = RequestGate(handlersMax: options.handlersMax) }
        refreshTime(xstream.now)
        addSelf()
        watchGroup()
        registerInternals()
        do throws(FabricError) {
            try receives.open()
        } catch {
            shutDown()
            throw .fabric(error)
        }
        xstream.addSource(self)
    }

    deinit {
        // Only the remains of a simulated process that was killed are dropped elsewhere.
        if xstream.isCurrent { shutDown() }
        forgetGroup()
        timer?.cancel()
        unsafe completions.deinitialize()
        unsafe completions.deallocate()
        unsafe state.deinitialize(count: 1)
        unsafe state.deallocate()
    }

    /// What was done so far. Cheap.
    public var counters: ContextCounters {
        var counters = counts
        counters.inFlight = tracker.openCount - tracker.waitingCount
        counters.waiting = tracker.waitingCount
        counters.active = activeRequests.count - freeActive.count
        counters.receivesHeld = receives.heldCount
        counters.requestsWaiting = gate?.waitingCount ?? 0
        counters.sessions = sessions.count - 1
        counters.transfers = bulks.count
        counters.waitingTransfers = bulks.queued.count + bulks.refused.count
        counters.exposures = exposures.count
        counters.keptReplyBytes = replyAccount.bytes
        counters.registrationHits = registrations.hits
        counters.registrationMisses = registrations.misses
        counters.registrationEvictions = registrations.evictions
        counters.registeredBytes = registrations.bytes
        return counters
    }

    // MARK: - Time

    /// Makes sure that `maintain` runs at `time`.
    func arm(at time: UInt64) {
        guard time < timerAt, !isClosed else { return }
        timer?.cancel()
        timerAt = time
        // Unowned, as `deinit` cancels the timer: a weak reference would move the reference count
        // of the context out of line, and make each retain and release of it dearer for good.
        timer = xstream.schedule(at: Instant(nanoseconds: time)) { [unowned self] in
            maintain()
        }
    }

    /// Makes sure that peers and spills are looked after soon.
    func armMaintenance(now: UInt64) {
        let time = now + CallTracker.probeAfter
        guard time < maintenanceAt else { return }
        maintenanceAt = time
        arm(at: maintenanceAt)
    }

    /// What time brings: deadlines, probes, sessions that are idle.
    func maintain() {
        guard !isClosed else { return }
        timerAt = .max
        timer = nil
        refreshTime(xstream.roundTime)
        var actions: [CallAction] = []
        attend()
        tracker.expire(now: pollTime, into: &actions)
        expireBulks()
        if retryAt <= pollTime {
            retryAt = .max
            retryRefused()
            if hasRefused { armRetry() }
        }
        if maintenanceAt <= pollTime {
            tracker.probe(now: pollTime, into: &actions)
            spills.sweep(
                now: pollTime, isOpen: { sessions.find($0) != nil }, take: { isolate($0) })
            sweepSessions()
        }
        perform(actions)
        scheduleMaintenance()
    }

    private func scheduleMaintenance() {
        if maintenanceAt <= pollTime {
            if tracker.needsProbes || !spills.isEmpty {
                maintenanceAt = pollTime + CallTracker.probeAfter / 2
            } else if sessions.count > 1 {
                maintenanceAt = pollTime + options.sessionIdle.nanosecondsClamped / 8
            } else {
                maintenanceAt = .max
            }
        }
        let next = min(
            maintenanceAt, tracker.nextDeadline, bulks.nextDeadline, retryAt,
            watched.isEmpty ? .max : watched[0].time)
        if next != .max { arm(at: next) }
    }

    // MARK: - End

    /// Ends every call with `.closed`, and closes the endpoint. Handlers that still work on
    /// requests hear of it (`RequestContext.onCancel`), and have up to five seconds until their
    /// tasks are cancelled. A second call waits for the first.
    public func close() async {
        guard !isClosing else { return await end.wait() }
        isClosing = true
        endCalls()
        barriers.close()
        // Before others make room for them.
        for position in activeRequests.indices {
            guard let request = activeRequests[position], request.isAtGate else { continue }
            fail(.closed, request)
        }
        for position in activeRequests.indices { activeRequests[position]?.tellCancelled() }
        let limit = xstream.now + .seconds(5)
        // Callers are resumed and handlers answer; what they send goes out before the end.
        while xstream.now < limit {
            await xstream.sleep(for: .milliseconds(1))
            endCalls()
            let idle = tracker.openCount == 0 && freeActive.count == activeRequests.count
            if idle, sends.busyCount == 0 { break }
            if idle, xstream.now + .seconds(4) > limit { break }
        }
        for position in activeRequests.indices { activeRequests[position]?.cancelTask() }
        shutDown()
    }

    private func forgetGroup() {
        if let observation { group.remove(observation) }
        observation = nil
    }

    private func endCalls() {
        var actions: [CallAction] = []
        tracker.closeAll(into: &actions)
        perform(actions)
    }

    /// The endpoint and all memory go. Nothing is reported afterwards.
    func shutDown() {
        guard !isClosed else { return }
        isClosed = true
        isClosing = true
        endCalls()
        barriers.close()
        timer?.cancel()
        if xstream.isCurrent { xstream.removeSource(self) }
        forgetGroup()
        exposures.close()
        // The provider must be done with the memory before it is deregistered for good.
        pool.close()
        registrations.close()
        sends.close()
        receives.close()
        endpoint.close()
        spills.removeAll()
        endQuarantine()
        failBulks(.closed)
        procedures = ProcedureTable()
        gate = nil
        end.give()
    }
}

/// How a call stands, for the task that made it.
enum CallOutcome {
    case pending
    case failed(RPCError)
    /// As `failed`, but the peer may still use memory that the call exposed.
    case abandoned(RPCError)
    /// A request without reply is with the fabric.
    case sent
    case reply(HeldMessage, status: UInt16, MessageFlags)
}

/// How a peer is reached.
struct PeerLink {
    var address: FabricAddress
    /// Nil for ourselves.
    var handle: Peer?
    /// Counts connections, so that the error of an old one does not end the new one.
    var epoch: UInt32 = 0
    /// The most that may travel inline.
    var eagerLimit: Int
    /// The send slot that further messages to it may be added to.
    var openSend: UInt32?
    /// When the fabric is asked whether the peer still listens; only matters while it refuses
    /// messages to it. 0: it has not lately. Monotonic nanoseconds.
    var askAt: UInt64 = 0
}
