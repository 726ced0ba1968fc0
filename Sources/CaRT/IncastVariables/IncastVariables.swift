internal import DequeModule
internal import DrayRuntime

/// The variables of one class of a namespace: to be fetched, updated and invalidated.
///
/// Confined to the context's xstream.
public final class IncastVariables<Class: IncastClass> {
    /// Names a variable.
    public typealias Key = Class.Key
    /// What a variable has.
    public typealias Value = Class.Value

    /// What the class does at this member.
    public let kind: Class
    /// Where the class is registered.
    public let namespace: IncastNamespace

    /// A key of which we know something, or wait for it, and do not own it.
    struct KeyState {
        var machine: IncastKey<Value>
        /// Who owned it when the machine learnt what it knows.
        var owner: UInt32
        /// The newest version that the class was told of.
        var told: UInt64 = 0
    }

    /// How a fetch ends for one that waits.
    struct Fetched {
        var value: IncastVersioned<Value>
        /// It is older than what was asked for, but the owner has no other.
        var isRefused = false
    }

    struct FetchWaiter {
        var wait: IncastWait<Fetched>
        var operation: IncastOperation
    }

    /// By key; `order` has the same keys, the oldest first.
    var keys: [Key: KeyState] = [:]
    private(set) var order = Deque<Key>()
    /// Whether keys were forgotten although their copies were good.
    private(set) var hasForgotten = false
    var fetchWaiters: [UInt64: FetchWaiter] = [:]
    var flights: [UInt64: IncastOperation] = [:]

    /// The updates that are stored here.
    var updates = UpdateTable<UInt64>(entriesMax: IncastNamespace.updatesMax)
    var expiry: Timer?
    var updateWaits: [UInt64: IncastWait<UInt64>] = [:]
    var nextUpdate: UInt64 = 1

    /// What is done to a key one after another.
    enum TurnRow: Hashable {
        /// Updates that begin here.
        case calls
        /// Updates that are stored here.
        case stores
        /// News that are spread from here.
        case spreads
        /// News that come here.
        case news
    }

    struct TurnPlace: Hashable {
        var row: TurnRow
        var key: Key
    }

    struct Turn {
        var number: UInt64
        var place: TurnPlace
    }

    var turns = OrderedQueue<TurnPlace>()
    var turnWaits: [UInt64: IncastWait<Void>] = [:]
    /// News that are spread after the answer.
    var lazyCount = 0

    init(_ kind: Class, namespace: IncastNamespace) {
        self.kind = kind
        self.namespace = namespace
    }

    deinit { expiry?.cancel() }

    var context: Context { namespace.context }
    var xstream: XStream { namespace.context.xstream }

    // MARK: - What can be done

    /// The value of a variable.
    ///
    /// - Parameters:
    ///   - key: the variable.
    ///   - version: how new it must be.
    ///   - shortcut: which way to take to the owner.
    ///   - deadline: `.standard` is the context's; at most an hour.
    ///   - trace: follows the fetch through every process; 0 begins a new one.
    /// - Throws: what the owner's class threw, or why no answer came.
    public func fetch(
        _ key: Key, version: IncastVersion = .any, shortcut: IncastShortcut = .none,
        deadline: Deadline = .standard, trace: UInt64 = 0
    ) async throws(IncastError) -> IncastVersioned<Value> {
        namespace.count { $0.fetches += 1 }
        let demand: IncastKey<Value>.Demand =
            switch version {
            case .any: .atLeast(0)
            case .atLeast(let version): .atLeast(version)
            case .latest: .latest
            }
        let fetched = try await attempts(key, shortcut, deadline, trace) {
            [self] (operation, place) throws(RPCError) in
            try await fetch(key, demand, operation, place)
        }
        if fetched.isRefused { throw .olderVersion(fetched.value.version) }
        if case .atLeast(let least) = demand, fetched.value.version < least {
            throw .olderVersion(fetched.value.version)
        }
        return fetched.value
    }

    /// Gives a variable a new value.
    ///
    /// When the class is ordered, updates that begin here for the same key go to the owner one
    /// after another, in the order of their calls.
    ///
    /// - Parameters:
    ///   - key: the variable.
    ///   - value: what it shall be; the classes on the way, and the owner's, may change it.
    ///   - sync: how the other members hear of it.
    ///   - isBidirectional: whether the ranks on the way, this one included, get the value that the
    ///     owner stored.
    ///   - shortcut: which way to take to the owner.
    ///   - requiresAll: whether an eager update that misses a member fails. (DAOS: errors fatal)
    ///   - deadline: `.standard` is the context's; at most an hour.
    ///   - trace: follows the update through every process; 0 begins a new one.
    /// - Throws: what a class threw, or why no answer came. After `.timedOut`, `.cancelled` and
    ///   `.incomplete` the update may be, or was, stored.
    @discardableResult
    public func update(
        _ key: Key, _ value: Value, sync: IncastSync = .none, isBidirectional: Bool = false,
        shortcut: IncastShortcut = .none, requiresAll: Bool = false,
        deadline: Deadline = .standard, trace: UInt64 = 0
    ) async throws(IncastError) -> IncastOutcome {
        try await change(
            key, value, sync, isBidirectional: isBidirectional, shortcut,
            requiresAll: requiresAll, deadline, trace)
    }

    /// Makes copies of a variable stale: the owner's class gives it a new version.
    ///
    /// - Parameters:
    ///   - key: the variable.
    ///   - sync: when those that are not on the way hear of it. It goes without values.
    ///   - shortcut: which way to take to the owner.
    ///   - requiresAll: whether an eager invalidation that misses a member fails.
    ///   - deadline: `.standard` is the context's; at most an hour.
    ///   - trace: follows the invalidation through every process; 0 begins a new one.
    /// - Throws: as `update` does.
    @discardableResult
    public func invalidate(
        _ key: Key, sync: IncastInvalidation = .eager, shortcut: IncastShortcut = .none,
        requiresAll: Bool = false, deadline: Deadline = .standard, trace: UInt64 = 0
    ) async throws(IncastError) -> IncastOutcome {
        try await change(
            key, nil, sync.sync, isBidirectional: false, shortcut, requiresAll: requiresAll,
            deadline, trace)
    }

    /// The ranks right below this one in the key's tree. (DAOS: crt_iv_get_nchildren)
    ///
    /// - Throws: `.notAMember` and `.noOwner`.
    public func childCount(of key: Key) throws(IncastError) -> Int {
        let place = try place(of: key, trace: 0)
        guard let branch = try? namespace.branch(place) else { throw .notAMember }
        return branch.children(of: branch.position).count
    }

    /// What this member keeps of a variable that it does not own.
    public func copy(of key: Key) -> IncastVersioned<Value>? { keys[key]?.machine.copy }

    // MARK: - Attempts

    /// Tries until it succeeds, fails for good, or the time is over.
    func attempts<Result>(
        _ key: Key, _ shortcut: IncastShortcut, _ deadline: Deadline, _ trace: UInt64,
        _ body: (IncastOperation, IncastPlace) async throws(RPCError) -> Result
    ) async throws(IncastError) -> Result {
        let limit = namespace.limit(of: deadline)
        let trace = trace == 0 ? namespace.makeTrace() : trace
        var attempt = 0
        var reason: RPCError?
        while true {
            let place = try place(of: key, trace: trace)
            // Every other time straight to the owner: whoever is between may be the trouble. The
            // first time leaves time for that.
            let operation = IncastOperation(
                limit: attempt == 0 ? limit.eighths(4, from: xstream.now) : limit, trace: trace,
                source: nil, isDirect: shortcut == .toOwner || attempt % 2 == 1)
            let failure: RPCError
            do throws(RPCError) {
                return try await body(operation, place)
            } catch {
                failure = error
            }
            if Task.isCancelled { throw .cancelled }
            if namespace.isOver { throw .call(.closed) }
            guard failure.isTransient else { throw .call(failure) }
            // That there was no more time for the last attempt says less than why it was made.
            let last = failure == .timedOut ? reason ?? failure : failure
            guard xstream.now < limit.end else { throw .timedOut(last: last) }
            reason = last
            namespace.count { $0.retries += 1 }
            await namespace.pause(attempt: attempt, place: place, limit: limit)
            if Task.isCancelled { throw .cancelled }
            guard xstream.now < limit.end else { throw .timedOut(last: last) }
            attempt += 1
        }
    }

    /// Where an operation of ours begins.
    func place(of key: Key, trace: UInt64) throws(IncastError) -> IncastPlace {
        let group = namespace.group
        guard !namespace.isOver else { throw .call(.closed) }
        guard let rank = context.rank, group.member(rank) != nil else { throw .notAMember }
        guard let owner = kind.owner(of: key, in: group), group.member(owner) != nil else {
            throw .noOwner
        }
        return IncastPlace(
            rank: rank, owner: owner, groupVersion: group.version, source: nil, trace: trace)
    }

    /// Where a request of another member came to, if it means what we mean.
    func place(
        of address: IncastProtocol.Address, _ operation: IncastOperation
    ) throws(RPCError) -> (Key, IncastPlace) {
        let group = namespace.group
        guard address.groupVersion == group.version else { throw .groupVersion }
        guard let rank = context.rank, group.member(rank) != nil else { throw .staleGroup }
        let key: Key = try decoded(address.key)
        guard group.member(address.owner) != nil, kind.owner(of: key, in: group) == address.owner
        else { throw .wrongRank }
        guard operation.limit.end > xstream.now else { throw .timedOut }
        let place = IncastPlace(
            rank: rank, owner: address.owner, groupVersion: group.version,
            source: operation.source, trace: operation.trace)
        return (key, place)
    }

    func address(_ key: Key, _ place: IncastPlace) throws(RPCError) -> IncastProtocol.Address {
        let bytes = key.encoded()
        guard bytes.count <= IncastProtocol.keyBytesMax else { throw .messageTooLong }
        return IncastProtocol.Address(
            namespace: namespace.number, number: kind.number, groupVersion: place.groupVersion,
            owner: place.owner, key: bytes)
    }

    /// Whom an operation goes to from here.
    func next(_ place: IncastPlace, _ operation: IncastOperation) throws(RPCError) -> UInt32 {
        if operation.isDirect { return place.owner }
        guard let parent = try namespace.branch(place).parent else { throw .staleGroup }
        return parent
    }

    func decoded<Content: Message>(_ bytes: [UInt8]) throws(RPCError) -> Content {
        do throws(DecodingFailure) {
            return try Content(decoding: bytes)
        } catch {
            throw .badMessage
        }
    }

    /// A value that another member sent.
    func received(_ bytes: [UInt8]) throws(RPCError) -> Value {
        namespace.count { $0.valueBytesReceived += bytes.count }
        return try decoded(bytes)
    }

    /// A value, to be sent to another member.
    func sent(_ value: Value) -> [UInt8] {
        let bytes = value.encoded()
        namespace.count { $0.valueBytesSent += bytes.count }
        return bytes
    }

    // MARK: - Keys

    /// Lets the key's machine take an event, and does what it decides.
    func on(_ event: IncastKey<Value>.Event, _ key: Key, _ place: IncastPlace) {
        precondition(!place.isOwner, "an owner keeps no copies")
        if keys[key] == nil {
            keys[key] = KeyState(
                machine: IncastKey(wasForgotten: hasForgotten), owner: place.owner)
            order.append(key)
        }
        guard let actions = keys[key]?.machine.on(event) else { return }
        for action in actions { perform(action, key, place) }
        forgetOldest()
    }

    /// Keys that are too many go, unless somebody waits for them.
    private func forgetOldest() {
        var looked = 0
        while keys.count > kind.keysMax, looked < 8, let key = order.popFirst() {
            looked += 1
            if keys[key]?.machine.isIdle == true {
                keys[key] = nil
                hasForgotten = true
            } else {
                order.append(key)
            }
        }
    }

    private func perform(_ action: IncastKey<Value>.Action, _ key: Key, _ place: IncastPlace) {
        switch action {
        case .answer(let waiter, let value):
            fetchWaiters.removeValue(forKey: waiter)?.wait.finish(.success(Fetched(value: value)))
        case .refuse(let waiter, let value):
            fetchWaiters.removeValue(forKey: waiter)?.wait.finish(
                .success(Fetched(value: value, isRefused: true)))
        case .fail(let waiter, let error):
            fetchWaiters.removeValue(forKey: waiter)?.wait.finish(.failure(error))
        case .depart(let flight, let demand):
            depart(flight, demand, key, place)
        case .cancel(let flight):
            flights.removeValue(forKey: flight)?.giveUp()
        }
    }
}

extension IncastVariables: IncastServer {
    var isIdle: Bool {
        fetchWaiters.isEmpty && flights.isEmpty && updateWaits.isEmpty && turnWaits.isEmpty
            && turns.count == 0 && lazyCount == 0 && keys.values.allSatisfy(\.machine.isIdle)
    }

    func groupChanged(_ event: Group.Event, wasAbsent: Bool) {
        for key in Array(order) {
            guard let state = keys[key] else { continue }
            let owner = kind.owner(of: key, in: namespace.group)
            let isNew =
                owner != state.owner || owner == nil || event.restarted.contains(state.owner)
                || event.added.contains(state.owner)
            let forgets = isNew || wasAbsent || kind.discardsCopies
            if forgets, state.machine.copy != nil { namespace.count { $0.copiesForgotten += 1 } }
            let place = IncastPlace(
                rank: context.rank ?? state.owner, owner: state.owner,
                groupVersion: namespace.group.version, source: nil, trace: 0)
            for action in keys[key]?.machine.on(.groupChanged(forgets: forgets)) ?? [] {
                perform(action, key, place)
            }
            if let owner { keys[key]?.owner = owner }
        }
        interrupt(.groupVersion)
    }

    func interrupt(_ error: RPCError) {
        for (_, wait) in updateWaits.sorted(by: { $0.key < $1.key }) {
            wait.finish(.failure(error))
        }
        if error == .closed {
            for (_, wait) in turnWaits.sorted(by: { $0.key < $1.key }) {
                wait.finish(.failure(error))
            }
        }
        for (_, waiter) in fetchWaiters.sorted(by: { $0.key < $1.key }) {
            waiter.wait.finish(.failure(error))
        }
    }
}

/// How an invalidation reaches the members that are not on its way.
public enum IncastInvalidation: Hashable, Sendable {
    /// Not at all.
    case none
    /// After the invalidation has returned.
    case lazy
    /// Before it returns.
    case eager

    var sync: IncastSync {
        switch self {
        case .none: .none
        case .lazy: .lazy(.notify)
        case .eager: .eager(.notify)
        }
    }
}
