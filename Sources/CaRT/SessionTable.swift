internal import BasicContainers
internal import DequeModule
internal import DrayFabric
internal import DrayRuntime

/// The callers of a context: who said hello, and where they are answered.
///
/// A caller's instance has at most one session; an address too, so that a restarted caller takes
/// the place of the old one. When the table is full, the caller that has been idle longest goes.
struct SessionTable: ~Copyable {
    struct Session {
        var generation: UInt32 = 0
        var instance: UInt64 = 0
        var address = FabricAddress()
        /// Nil for the context itself, and for a free entry.
        var handle: Peer?
        var isOpen = false
        var isSelf = false
        var eagerLimit = 0
        /// Requests of this caller that handlers work on.
        var active = 0
        /// The send slot that further messages to it may be added to.
        var openSend: UInt32?
        /// Messages to it that the fabric has not sent yet; each may hold several replies.
        var unsent = 0
        /// Monotonic nanoseconds.
        var lastUsed: UInt64 = 0
        /// Requests that were not there when their caller cancelled them, the latest last. It has
        /// been told that nothing of them is under way, and nothing is ordered: they may yet come.
        var cancelled: Deque<UInt64> = []
    }

    /// How many such requests of one caller are known: far more than come so late.
    static let cancelledMax = 256

    private(set) var sessions = UniqueArray<Session>()
    private var free = UniqueArray<UInt32>()
    private var byInstance: [UInt64: UInt32] = [:]
    private var byAddress: [FabricAddress: UInt32] = [:]
    private(set) var count = 0
    private var entropy: Entropy
    let sessionsMax: Int

    init(entropy: Entropy, sessionsMax: Int) {
        self.entropy = entropy
        self.sessionsMax = sessionsMax
    }

    /// The entry of an open session; nil when it was ended or never was.
    func find(_ id: SessionID) -> Int? {
        guard id.index < UInt32(sessions.count) else { return nil }
        let index = Int(id.index)
        guard sessions[index].isOpen, sessions[index].generation == id.generation else {
            return nil
        }
        return index
    }

    /// A caller is told that nothing is under way for a request.
    mutating func cancel(_ request: UInt64, of index: Int) {
        guard !isCancelled(request, of: index) else { return }
        sessions[index].cancelled.append(request)
        if sessions[index].cancelled.count > SessionTable.cancelledMax {
            sessions[index].cancelled.removeFirst()
        }
    }

    /// Whether its caller was told that nothing is under way for a request.
    func isCancelled(_ request: UInt64, of index: Int) -> Bool {
        !sessions[index].cancelled.isEmpty && sessions[index].cancelled.contains(request)
    }

    /// The session of a caller's instance.
    func find(instance: UInt64) -> SessionID? {
        guard let index = byInstance[instance] else { return nil }
        return SessionID(index: index, generation: sessions[Int(index)].generation)
    }

    /// The session that must end before `address` can have one, if any.
    func find(address: FabricAddress) -> SessionID? {
        guard let index = byAddress[address] else { return nil }
        return SessionID(index: index, generation: sessions[Int(index)].generation)
    }

    /// The session to end for making room; nil when there is room, or all are busy.
    func victim() -> SessionID? {
        guard count >= sessionsMax else { return nil }
        return idle(before: .max)
    }

    /// The longest idle session last used before `time`.
    func idle(before time: UInt64) -> SessionID? {
        var oldest: Int?
        for index in sessions.indices
        where sessions[index].isOpen && !sessions[index].isSelf && sessions[index].active == 0
            && sessions[index].lastUsed < time
        {
            if let oldest, sessions[oldest].lastUsed <= sessions[index].lastUsed { continue }
            oldest = index
        }
        guard let oldest else { return nil }
        return SessionID(index: UInt32(oldest), generation: sessions[oldest].generation)
    }

    mutating func setOpenSend(_ slot: UInt32, of index: Int) {
        sessions[index].openSend = slot
    }

    /// Opens a session. Neither the instance nor the address may have one. Nil when full.
    mutating func open(
        instance: UInt64, address: FabricAddress, handle: Peer?, eagerLimit: Int, now: UInt64
    ) -> SessionID? {
        precondition(byInstance[instance] == nil)
        precondition(byAddress[address] == nil)
        guard count < sessionsMax else { return nil }
        let index = free.popLast() ?? UInt32(sessions.count)
        if index == UInt32(sessions.count) { sessions.append(Session()) }
        // Random, so that the session of a process that ran before us is not taken for one of ours.
        var generation = UInt32(truncatingIfNeeded: entropy.next())
        if generation == sessions[Int(index)].generation { generation &+= 1 }
        sessions[Int(index)] = Session(
            generation: generation, instance: instance, address: address, handle: handle,
            isOpen: true, isSelf: handle == nil, eagerLimit: eagerLimit, lastUsed: now)
        byInstance[instance] = index
        byAddress[address] = index
        count += 1
        return SessionID(index: index, generation: generation)
    }

    /// Ends a session and returns where its caller was answered.
    mutating func close(_ id: SessionID) -> Peer? {
        guard let index = find(id) else { return nil }
        let session = sessions[index]
        byInstance[session.instance] = nil
        byAddress[session.address] = nil
        sessions[index] = Session(generation: session.generation)
        free.append(UInt32(index))
        count -= 1
        return session.handle
    }

    /// A request of the session arrived.
    mutating func touch(_ index: Int, now: UInt64) {
        sessions[index].lastUsed = now
        sessions[index].active += 1
    }

    /// A handler is done with a request.
    mutating func finished(_ id: SessionID) {
        guard let index = find(id) else { return }
        sessions[index].active -= 1
    }

    /// Counts messages that wait for the fabric.
    mutating func countUnsent(_ id: SessionID, by change: Int) {
        guard let index = find(id) else { return }
        sessions[index].unsent += change
    }

    /// Checks the maps against the entries. O(n).
    func checkInvariants() {
        let open = sessions.indices.filter { sessions[$0].isOpen }
        precondition(open.count == count)
        precondition(byInstance.count == count)
        precondition(byAddress.count == count)
        precondition(free.count == sessions.count - count)
        for index in open {
            precondition(byInstance[sessions[index].instance] == UInt32(index))
            precondition(byAddress[sessions[index].address] == UInt32(index))
        }
    }
}
