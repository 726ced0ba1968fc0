internal import DrayFabric
internal import DrayRuntime

/// The incast variables of a context's group that share a tree.
///
/// Every member makes one with the same number and tree, and registers the same classes with it.
/// Ends with `close`, or when nobody holds it or variables of it. Confined to the context's
/// xstream.
/// (DAOS: crt_iv_namespace_create)
///
/// Requests go to the same tag of other members as the context has.
public final class IncastNamespace {
    /// Whose group's members have the variables.
    public let context: Context
    /// Tells the namespaces of a group apart.
    public let number: UInt32
    /// How requests travel between the owner of a key and the others.
    public let tree: TreeTopology
    /// That of the requests of the namespace.
    public var priority = RequestPriority.normal

    /// Decides on which task, and when, requests and responses are worked on: it runs each job, or
    /// has it run. Nil: each in a task of its own, at once.
    public var inbound: ((IncastJob) -> Void)?

    /// What has been done.
    public internal(set) var counters = IncastCounters()

    /// Updates that an owner remembers, for each class; further ones are refused with
    /// `.overloaded` until older ones have expired.
    public static let updatesMax = 65_536

    /// No update may take longer.
    static let timeoutMax = Duration.seconds(3600)

    private struct Entry {
        let number: UInt32
        weak var server: (any IncastServer)?
    }

    /// Not kept: they keep us.
    private var entries: [Entry] = []
    private var observation: Group.Observation?
    private var entropy: Entropy
    private var isClosed = false
    private var nextNumber: UInt64 = 1
    /// Requests to other members that are under way, and pauses: what a change of the group ends.
    /// In the order in which they began.
    private var interruptible: [(number: UInt64, interrupt: () -> Void)] = []
    /// The last version of the group that was seen, and whether we belonged to it.
    private var seenVersion: UInt32
    private var wasMember: Bool

    /// Makes the namespace known to the context; one of a number at a time.
    public init(on context: Context, number: UInt32, tree: TreeTopology = .kNomial(4)) {
        precondition(context.xstream.isCurrent, "a namespace is made on its context's xstream")
        self.context = context
        self.number = number
        self.tree = tree
        entropy = context.world.entropy.fork("incast \(context.address) \(number)")
        seenVersion = context.group.version
        wasMember = context.rank.map { context.group.member($0) != nil } ?? false
        context.incast.add(self)
        observation = context.group.observe { [weak self] event in self?.groupChanged(event) }
    }

    deinit {
        if let observation { context.group.remove(observation) }
    }

    /// Takes a class in. Each number once.
    ///
    /// - Returns: the variables of the class. It is served as long as somebody holds them.
    public func register<Class: IncastClass>(_ kind: Class) -> IncastVariables<Class> {
        precondition(server(kind.number) == nil, "a class of a namespace is registered once")
        let variables = IncastVariables(kind, namespace: self)
        adopt(variables, number: kind.number)
        return variables
    }

    /// Serves a class from now on.
    func adopt(_ server: any IncastServer, number: UInt32) {
        entries.removeAll { $0.server == nil }
        entries.append(Entry(number: number, server: server))
    }

    /// Ends all that is under way here with `.closed`; others are told that there is nothing here
    /// any more.
    public func close() {
        guard !isClosed else { return }
        isClosed = true
        if let observation { context.group.remove(observation) }
        observation = nil
        context.incast.remove(self)
        for server in servers { server.interrupt(.closed) }
        interruptAll()
        entries = []
    }

    /// Whether nothing is under way here. Copies, and updates that are remembered, may stay.
    package var isIdle: Bool {
        interruptible.isEmpty && servers.allSatisfy { $0.isIdle }
    }

    private var servers: [any IncastServer] { entries.compactMap(\.server) }

    func server(_ number: UInt32) -> (any IncastServer)? {
        entries.first { $0.number == number }?.server
    }

    // MARK: - For its variables

    /// Counts something, for the namespace and for its context.
    @inline(__always) func count(_ change: (inout IncastCounters) -> Void) {
        change(&counters)
        change(&context.counts.incast)
    }

    var xstream: XStream { context.xstream }
    var group: Group { context.group }

    /// Why nothing more can be done here.
    var isOver: Bool { isClosed || context.isClosing }

    /// A number that was not given before.
    func makeNumber() -> UInt64 {
        defer { nextNumber += 1 }
        return nextNumber
    }

    func makeTrace() -> UInt64 { entropy.next() | 1 }

    func limit(of deadline: Deadline) -> IncastLimit {
        let now = xstream.now.nanoseconds
        let (end, wall) = context.times(of: deadline, now: now)
        let longest = IncastNamespace.timeoutMax.nanosecondsClamped
        let cut = end > now &+ longest ? end - now - longest : 0
        return IncastLimit(end: Instant(nanoseconds: end - cut), wall: wall &- cut)
    }

    /// The tree of a key, as we are placed in it.
    ///
    /// - Throws: `.staleGroup` when we or the owner are not in the group.
    func branch(_ place: IncastPlace) throws(RPCError) -> IncastBranch {
        guard let position = group.position(place.rank), let root = group.position(place.owner)
        else { throw .staleGroup }
        return IncastBranch(tree: tree, members: group.members, position: position, root: root)
    }

    /// Whether the group is still the one that an operation acts upon.
    func check(_ place: IncastPlace) throws(RPCError) {
        guard !isOver else { throw .closed }
        guard group.version == place.groupVersion else { throw .groupVersion }
    }

    // MARK: - Requests to others

    /// Asks a member, until the operation's limit or a change of the group.
    func ask<Q, R>(
        _ procedure: Procedure<Q, R>, _ request: Q, to rank: UInt32, place: IncastPlace,
        limit: IncastLimit, for operation: IncastOperation?
    ) async -> Result<R, RPCError> {
        if context.faults.isArmed {
            do throws(RPCError) {
                try await context.pass(.incastSend)
            } catch {
                return .failure(error)
            }
        }
        guard !isOver else { return .failure(.closed) }
        let wait = IncastWait<R>()
        let trace = place.trace
        let task = xstream.spawnCancellable { [context, priority] in
            do throws(RPCError) {
                wait.finish(
                    .success(
                        try await context.call(
                            procedure, request, to: .rank(rank, tag: context.options.tag),
                            deadline: .at(limit.wall), trace: trace,
                            options: CallOptions(
                                priority: priority, groupVersion: place.groupVersion))))
            } catch {
                wait.finish(.failure(error))
            }
        }
        let number = makeNumber()
        interruptible.append((number, { wait.finish(.failure(.groupVersion)) }))
        // The call may go on for a while after its deadline, for the sake of exposed memory.
        let result =
            if let operation {
                await operation.result(of: wait, on: xstream)
            } else {
                await wait.result(until: limit.end, on: xstream)
            }
        interruptible.removeAll { $0.number == number }
        task.cancel()
        return result
    }

    /// Waits before the next attempt: until the group changes, but not long.
    func pause(attempt: Int, place: IncastPlace, limit: IncastLimit) async {
        guard group.version == place.groupVersion else { return }
        let longest: UInt64 = 2_000_000 << UInt64(min(attempt, 8))
        let time = longest / 2 + entropy.below(longest / 2)
        let wait = IncastWait<Void>()
        let number = makeNumber()
        interruptible.append((number, { wait.finish(.success(())) }))
        let end = min(limit.end, xstream.now + .nanoseconds(Int64(time)))
        _ = await wait.result(until: end, on: xstream)
        interruptible.removeAll { $0.number == number }
    }

    // MARK: - The inbound hook

    /// Works on a request.
    func admit(
        _ kind: IncastJob.Kind, number: UInt32, request: RequestContext,
        _ body: @escaping () async -> Void
    ) {
        // What answers the request is part of the body: dropping that tells the sender.
        let job = IncastJob(
            kind, number: number, source: request.sourceRank, priority: request.priority,
            xstream: xstream, dropped: {}, body: body)
        if let inbound { inbound(job) } else { xstream.spawn { await job.run() } }
    }

    /// Works on a response.
    ///
    /// - Throws: `.noReply` when the hook dropped it.
    func respond(
        number: UInt32, source: UInt32, _ body: @escaping () async -> Void
    ) async throws(RPCError) {
        guard let inbound else { return await body() }
        let wait = IncastWait<Void>()
        inbound(
            IncastJob(
                .response, number: number, source: source, priority: priority, xstream: xstream,
                dropped: { wait.finish(.failure(.noReply)) },
                body: {
                    await body()
                    wait.finish(.success(()))
                }))
        // The hook runs the job or drops it: it needs no time-out.
        try await wait.result(until: .never, on: xstream).get()
    }

    // MARK: - Changes of the group

    private func groupChanged(_ event: Group.Event) {
        guard !isClosed else { return }
        let isMember = context.rank.map { group.member($0) != nil } ?? false
        // Who was not there for a while may have missed news that all others got.
        let isNew =
            context.rank.map { event.added.contains($0) || event.restarted.contains($0) } ?? true
        let wasAbsent = !isMember || !wasMember || isNew || event.version != seenVersion &+ 1
        seenVersion = event.version
        wasMember = isMember
        for server in servers { server.groupChanged(event, wasAbsent: wasAbsent) }
        interruptAll()
    }

    private func interruptAll() {
        for (_, interrupt) in interruptible { interrupt() }
    }
}

/// What a namespace has done at a member.
public struct IncastCounters: Hashable, Sendable {
    /// Fetches that began here.
    public var fetches = 0
    /// Fetches that came from other members.
    public var fetchesReceived = 0
    /// Fetches that were answered from a copy, here or for others.
    public var copiesUsed = 0
    /// Fetches that joined others that were under way.
    public var fetchesMerged = 0
    /// Fetches sent towards an owner.
    public var fetchesSent = 0
    /// Updates and invalidations that began here.
    public var updates = 0
    /// The invalidations among them.
    public var invalidations = 0
    /// Those that came from other members.
    public var updatesReceived = 0
    /// Those that were stored here, as the owner.
    public var updatesStored = 0
    /// Attempts of an update that was stored already, or was being stored.
    public var updatesRepeated = 0
    /// News that came from above.
    public var refreshesReceived = 0
    /// Members that news were sent to.
    public var refreshesSent = 0
    /// Attempts that failed and were made again.
    public var retries = 0
    /// Copies that were forgotten because the group changed.
    public var copiesForgotten = 0
    /// Bytes of encoded values sent to other members.
    public var valueBytesSent = 0
    /// Bytes of encoded values that came from other members.
    public var valueBytesReceived = 0
}

/// Where a member stands in the tree of a key.
struct IncastBranch {
    let tree: TreeTopology
    /// As they are in the version of the group that the operation acts upon.
    let members: [Group.Member]
    let position: Int
    let root: Int

    private var count: Int { members.count }

    /// Who is asked on the way to the owner; nil for the owner.
    var parent: UInt32? {
        tree.parent(of: position, count: count, root: root).map { members[$0].rank }
    }

    /// Positions.
    func children(of position: Int) -> [Int] {
        tree.children(of: position, count: count, root: root)
    }

    func rank(_ position: Int) -> UInt32 { members[position].rank }

    /// The ranks of a position and of all below it.
    func ranks(below position: Int) -> [UInt32] {
        tree.subtree(of: position, count: count, root: root).flatMap { range in
            members[range].map(\.rank)
        }
    }

    func size(of position: Int) -> Int {
        tree.subtree(of: position, count: count, root: root).reduce(0) { $0 + $1.count }
    }
}
