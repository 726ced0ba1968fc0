internal import BasicContainers
internal import DequeModule
internal import DrayRuntime

/// What the context must do after an event of the tracker.
enum CallAction: Equatable {
    /// The call has its credit: send the request.
    case grant(slot: Int32)
    /// The call ends this way.
    case end(slot: Int32, RPCError)
    /// The deadline of a call whose end needs the peer's word first has passed, or its task was
    /// cancelled: tell the peer.
    case sendCancel(slot: Int32)
    /// The call ends this way, and its peer has not answered for the memory that it exposes.
    case quarantine(slot: Int32, RPCError)
    /// Send a hello under this number.
    case hello(peer: Int32, nonce: UInt64, reconnect: Bool)
}

/// Every call of a context from its begin to its end, and what is known of each peer: whether it
/// was greeted, its session, its credits, who waits.
///
/// A state machine: events in, actions out, no input or output of its own. Times are nanoseconds
/// of the monotonic clock.
struct CallTracker: ~Copyable {
    /// A request in flight for longer makes us ask whether its peer is the one it was sent to.
    static let probeAfter: UInt64 = 100_000_000
    static let probeIntervalMax: UInt64 = 1_000_000_000
    /// After so many hellos without an answer the connection is made anew.
    static let probesBeforeReconnect = 3
    /// So many times must a peer say that it has nothing of a request: its answer may pass the
    /// request, or the reply, on the way.
    static let absencesMax = 2
    /// How long an ended call waits for the peer's word about exposed memory.
    static let graceMax: UInt64 = 5_000_000_000
    /// How rarely a peer that is silent, or cannot be reached, is asked when nobody waits for it,
    /// and it only has to answer for memory.
    static let owedIntervalMax: UInt64 = 10_000_000_000
    /// Calls at a time.
    static let callsMax = 1 << 20

    enum Phase: UInt8 {
        /// No call.
        case free
        /// Waits for a hello's answer or for credits.
        case waiting
        /// Has a credit and will be sent.
        case granted
        /// The request is with the peer.
        case inFlight
        /// Gave up; waits for the peer's word about exposed memory.
        case ending
        /// Over; the caller has not looked yet.
        case ended
    }

    struct Slot {
        var phase = Phase.free
        var exposes = false
        /// Does not wait for the peer's word about exposed memory.
        var leavesMemory = false
        var generation: UInt32 = 1
        var peer: Int32 = -1
        /// Neighbours among the peer's requests in flight, oldest first; `next` also links free
        /// slots.
        var previous: Int32 = -1
        var next: Int32 = -1
        var requestID: UInt64 = 0
        /// The life of the peer that the request was sent to.
        var instance: UInt64 = 0
        var sentAt: UInt64 = 0
        /// How often the peer has said that it has nothing of the request.
        var absences = 0
        /// What an ending call ends with.
        var error: RPCError?
    }

    enum PeerPhase: UInt8 {
        case unknown, greeting, ready
    }

    struct Peer {
        var phase = PeerPhase.unknown
        var instance: UInt64 = 0
        var session = SessionID.none
        var credits = 1
        /// Credits in use: granted, in flight and ending calls.
        var used = 0
        var waiting = WaitQueue()
        var waitingCount = 0
        var first: Int32 = -1
        var last: Int32 = -1
        var nonce: UInt64 = 0
        /// When the next hello is due: the first, a repetition, or a probe.
        var nextHello: UInt64 = 0
        var unansweredHellos = 0
        var helloInterval = CallTracker.probeAfter
        /// When the first call was sent that has run out of time since the last hello's answer.
        var silentSince = UInt64.max
        /// Has not answered for the memory of requests that are over here.
        var isOwing = false
    }

    struct Waiter {
        var slot: Int32
        var generation: UInt32
    }

    /// Calls that wait for one peer, those of the highest priority first; many of them are over.
    struct WaitQueue {
        private var high = Deque<Waiter>()
        private var normal = Deque<Waiter>()
        private var low = Deque<Waiter>()

        mutating func insert(_ waiter: Waiter, _ priority: RequestPriority, isFirst: Bool) {
            func insert(into queue: inout Deque<Waiter>) {
                if isFirst { queue.prepend(waiter) } else { queue.append(waiter) }
            }
            switch priority {
            case .high: insert(into: &high)
            case .normal: insert(into: &normal)
            case .low: insert(into: &low)
            }
        }

        mutating func popFirst() -> Waiter? {
            high.popFirst() ?? normal.popFirst() ?? low.popFirst()
        }

        mutating func removeAll() { self = WaitQueue() }

        var all: [Waiter] { Array(high) + Array(normal) + Array(low) }
    }

    private(set) var slots = UniqueArray<Slot>()
    private(set) var peers = UniqueArray<Peer>()
    private var freeSlot: Int32 = -1
    private var deadlines = DeadlineHeap()
    private(set) var openCount = 0
    private(set) var waitingCount = 0
    private var nextRequestID: UInt64
    private var entropy: Entropy
    let waitingMax: Int

    init(entropy: Entropy, waitingMax: Int) {
        self.entropy = entropy
        self.waitingMax = waitingMax
        nextRequestID = self.entropy.next()
    }

    /// The earliest time at which a call's deadline passes.
    var nextDeadline: UInt64 { deadlines.first?.deadline ?? .max }

    // MARK: - Calls

    /// What a new call may do.
    enum Admission: Equatable {
        case send(slot: Int32)
        case wait(slot: Int32)
        /// Wait, and send this peer a hello.
        case greet(slot: Int32, nonce: UInt64)
        case overloaded
    }

    /// Begins a call.
    mutating func open(
        peer: Int32, deadline: UInt64, exposes: Bool, leavesMemory: Bool = false, now: UInt64,
        priority: RequestPriority = .normal, isFirst: Bool = false
    ) -> Admission {
        let index = Int(peer)
        let ready = peers[index].phase == .ready
        let sends =
            ready && peers[index].used < peers[index].credits
            && peers[index].waitingCount == 0
        guard sends || peers[index].waitingCount < waitingMax else { return .overloaded }
        guard let slot = allocateSlot() else { return .overloaded }
        slots[Int(slot)].peer = peer
        slots[Int(slot)].exposes = exposes
        slots[Int(slot)].leavesMemory = leavesMemory
        slots[Int(slot)].requestID = nextRequestID
        nextRequestID &+= 1
        deadlines.insert(slot: slot, deadline: deadline)
        openCount += 1
        if peers[index].phase == .unknown
            || peers[index].helloInterval > CallTracker.probeIntervalMax
        {
            hurry(peer, now: now)
        }
        if sends {
            peers[index].used += 1
            slots[Int(slot)].phase = .granted
            return .send(slot: slot)
        }
        slots[Int(slot)].phase = .waiting
        peers[index].waiting.insert(
            Waiter(slot: slot, generation: slots[Int(slot)].generation), priority, isFirst: isFirst)
        peers[index].waitingCount += 1
        waitingCount += 1
        if peers[index].phase == .unknown {
            return .greet(slot: slot, nonce: greet(peer, now: now))
        }
        return .wait(slot: slot)
    }

    private mutating func allocateSlot() -> Int32? {
        if freeSlot >= 0 {
            let slot = freeSlot
            freeSlot = slots[Int(slot)].next
            slots[Int(slot)].next = -1
            return slot
        }
        guard slots.count < CallTracker.callsMax else { return nil }
        slots.append(Slot())
        return Int32(slots.count - 1)
    }

    /// The request of a granted call is with the fabric.
    mutating func sent(_ slot: Int32, now: UInt64) {
        let index = Int(slot)
        precondition(slots[index].phase == .granted, "only a granted call is sent")
        slots[index].phase = .inFlight
        slots[index].sentAt = now
        slots[index].absences = 0
        let peer = Int(slots[index].peer)
        slots[index].instance = peers[peer].instance
        slots[index].previous = peers[peer].last
        slots[index].next = -1
        if peers[peer].last >= 0 {
            slots[Int(peers[peer].last)].next = slot
        } else {
            peers[peer].first = slot
        }
        peers[peer].last = slot
        if peers[peer].unansweredHellos == 0 {
            peers[peer].nextHello = max(
                peers[peer].nextHello, slots[Int(peers[peer].first)].sentAt + CallTracker.probeAfter
            )
        }
    }

    /// Whether an answer that names `slot` belongs to a call that waits for one.
    func matches(slot: UInt32, generation: UInt32, requestID: UInt64) -> Bool {
        guard slot < UInt32(slots.count) else { return false }
        let index = Int(slot)
        return slots[index].generation == generation && slots[index].requestID == requestID
            && (slots[index].phase == .inFlight || slots[index].phase == .ending)
    }

    /// Whether the call is neither over nor free.
    func isOpen(_ slot: Int32) -> Bool {
        slots[Int(slot)].phase != .free && slots[Int(slot)].phase != .ended
    }

    /// The request of a call that is about to be sent lies in memory that the peer reads.
    mutating func exposes(_ slot: Int32) {
        slots[Int(slot)].exposes = true
    }

    /// Ends a call: its slot keeps its result until `close`. Returns the call that got the freed
    /// credit, or -1.
    mutating func end(_ slot: Int32) -> Int32 {
        let index = Int(slot)
        let peer = Int(slots[index].peer)
        let phase = slots[index].phase
        slots[index].phase = .ended
        slots[index].error = nil
        deadlines.remove(slot: slot)
        switch phase {
        case .free, .ended:
            preconditionFailure("a call ends once")
        case .waiting:
            peers[peer].waitingCount -= 1
            waitingCount -= 1
            return -1
        case .granted:
            break
        case .inFlight, .ending:
            unlink(slot)
        }
        peers[peer].used -= 1
        return grantNext(peer)
    }

    private mutating func unlink(_ slot: Int32) {
        let index = Int(slot)
        let peer = Int(slots[index].peer)
        let (previous, next) = (slots[index].previous, slots[index].next)
        if previous >= 0 { slots[Int(previous)].next = next } else { peers[peer].first = next }
        if next >= 0 { slots[Int(next)].previous = previous } else { peers[peer].last = previous }
        slots[index].previous = -1
        slots[index].next = -1
    }

    /// Gives a free credit to the longest waiting call of the highest priority; -1 when there is no
    /// credit or no call.
    private mutating func grantNext(_ peer: Int) -> Int32 {
        guard peers[peer].phase == .ready, peers[peer].used < peers[peer].credits else { return -1 }
        while let waiter = peers[peer].waiting.popFirst() {
            let index = Int(waiter.slot)
            guard slots[index].generation == waiter.generation, slots[index].phase == .waiting
            else { continue }
            slots[index].phase = .granted
            peers[peer].used += 1
            peers[peer].waitingCount -= 1
            waitingCount -= 1
            return waiter.slot
        }
        return -1
    }

    /// The caller has taken the result: the slot is free for another call.
    mutating func close(_ slot: Int32) {
        let index = Int(slot)
        precondition(slots[index].phase == .ended, "only an ended call is closed")
        slots[index].phase = .free
        slots[index].generation &+= 1
        slots[index].peer = -1
        slots[index].next = freeSlot
        freeSlot = slot
        openCount -= 1
    }

    /// The caller gives up (`error` says why). The call ends now, or, when the peer may still use
    /// memory that it exposed, after the peer's word.
    mutating func giveUp(
        _ slot: Int32, _ error: RPCError, now: UInt64, into actions: inout [CallAction]
    ) {
        let index = Int(slot)
        switch slots[index].phase {
        case .free, .ended:
            return
        case .waiting, .granted:
            actions.append(.end(slot: slot, error))
        case .inFlight:
            actions.append(.sendCancel(slot: slot))
            guard slots[index].exposes, !slots[index].leavesMemory else {
                actions.append(ended(slot, error))
                return
            }
            slots[index].phase = .ending
            slots[index].error = error
            deadlines.remove(slot: slot)
            deadlines.insert(slot: slot, deadline: now + CallTracker.graceMax)
        case .ending:
            break
        }
    }

    /// A call ends, and not by an answer: the peer may still use what it exposes.
    private func ended(_ slot: Int32, _ error: RPCError) -> CallAction {
        let index = Int(slot)
        let isWithPeer = slots[index].phase == .inFlight || slots[index].phase == .ending
        return slots[index].exposes && isWithPeer
            ? .quarantine(slot: slot, error) : .end(slot: slot, error)
    }

    /// Every deadline that has passed at `now`.
    mutating func expire(now: UInt64, into actions: inout [CallAction]) {
        while let first = deadlines.first, first.deadline <= now {
            deadlines.remove(slot: first.slot)
            if slots[Int(first.slot)].phase == .ending {
                actions.append(ended(first.slot, slots[Int(first.slot)].error ?? .timedOut))
            } else {
                let slot = slots[Int(first.slot)]
                giveUp(first.slot, .timedOut, now: now, into: &actions)
                if slot.phase == .inFlight {
                    wasSilent(slot.peer, since: slot.sentAt, now: now, into: &actions)
                }
            }
        }
    }

    /// A call had no answer in its time. Where no call has long enough for a probe, that must do to
    /// ask: a peer that has started again does not answer who it does not know.
    private mutating func wasSilent(
        _ peer: Int32, since time: UInt64, now: UInt64, into actions: inout [CallAction]
    ) {
        let index = Int(peer)
        guard peers[index].phase == .ready, peers[index].nextHello != .max else { return }
        peers[index].silentSince = min(peers[index].silentSince, time)
        let isDue =
            peers[index].unansweredHellos > 0
            ? peers[index].nextHello <= now
            : peers[index].silentSince + CallTracker.probeAfter <= now
        if isDue { ask(peer, now: now, into: &actions) }
    }

    // MARK: - Peers

    /// Adds a peer that nothing is known of.
    mutating func addPeer() -> Int32 {
        peers.append(Peer())
        return Int32(peers.count - 1)
    }

    /// The peer is this context itself: no hello, any number in flight.
    mutating func addSelf(instance: UInt64, session: SessionID) -> Int32 {
        let peer = addPeer()
        peers[Int(peer)].phase = .ready
        peers[Int(peer)].instance = instance
        peers[Int(peer)].session = session
        peers[Int(peer)].credits = .max
        peers[Int(peer)].nextHello = .max
        return peer
    }

    /// Notes a hello to `peer` and returns its number.
    private mutating func greet(_ peer: Int32, now: UInt64) -> UInt64 {
        let index = Int(peer)
        if peers[index].phase == .unknown {
            peers[index].phase = .greeting
            peers[index].unansweredHellos = 0
        }
        peers[index].unansweredHellos += 1
        let interval = peers[index].helloInterval
        // Jitter: up to a quarter more, so that the callers of a slow peer do not ask in step.
        peers[index].nextHello = now + interval + entropy.below(interval / 4)
        let isAwaited = peers[index].waitingCount > 0 || peers[index].first >= 0
        peers[index].helloInterval = min(
            interval * 2, isAwaited ? CallTracker.probeIntervalMax : CallTracker.owedIntervalMax)
        // One number for all hellos of a greeting: a late answer is as good as the last one.
        if peers[index].unansweredHellos == 1 { peers[index].nonce = entropy.next() }
        return peers[index].nonce
    }

    /// Hellos that are due, first ones again and probes.
    mutating func probe(now: UInt64, into actions: inout [CallAction]) {
        for index in peers.indices where peers[index].nextHello <= now {
            let isOwing = peers[index].isOwing
            switch peers[index].phase {
            case .unknown:
                guard isOwing else { continue }
            case .greeting:
                guard isOwing || peers[index].waitingCount > 0 else {
                    peers[index].phase = .unknown
                    continue
                }
            case .ready:
                let first = peers[index].first
                let isOverdue =
                    first >= 0 && slots[Int(first)].sentAt + CallTracker.probeAfter <= now
                guard isOwing || isOverdue else { continue }
            }
            ask(Int32(index), now: now, into: &actions)
        }
    }

    /// Sends a peer another hello, from time to time over a new connection.
    private mutating func ask(_ peer: Int32, now: UInt64, into actions: inout [CallAction]) {
        let tries = peers[Int(peer)].unansweredHellos
        let nonce = greet(peer, now: now)
        actions.append(
            .hello(
                peer: peer, nonce: nonce,
                reconnect: tries > 0 && tries % CallTracker.probesBeforeReconnect == 0))
    }

    /// Whether some peer may need a hello soon.
    var needsProbes: Bool {
        peers.indices.contains {
            peers[$0].phase == .greeting
                || ((peers[$0].first >= 0 || peers[$0].isOwing) && peers[$0].nextHello != .max)
        }
    }

    /// Whether requests to a peer are over without its word about their memory: it is asked until
    /// there are none.
    mutating func owes(_ peer: Int32, _ isOwing: Bool, now: UInt64) {
        let index = Int(peer)
        if isOwing, !peers[index].isOwing { hurry(peer, now: now) }
        peers[index].isOwing = isOwing
    }

    /// A peer that was only asked about memory, ever more rarely, has said hello: it is there.
    mutating func heard(_ peer: Int32, now: UInt64) {
        guard peers[Int(peer)].helloInterval > CallTracker.probeIntervalMax else { return }
        hurry(peer, now: now)
    }

    /// Answers to the hellos that are on their way to a peer do not count: they may be those of an
    /// earlier life of it.
    mutating func disregardHellos(of peer: Int32) {
        guard peers[Int(peer)].unansweredHellos > 0 else { return }
        peers[Int(peer)].nonce = entropy.next()
    }

    /// There is news of a peer that is asked ever more rarely, or somebody begins to wait for it.
    private mutating func hurry(_ peer: Int32, now: UInt64) {
        guard peers[Int(peer)].nextHello != .max else { return }
        peers[Int(peer)].helloInterval = CallTracker.probeAfter
        peers[Int(peer)].nextHello = min(
            peers[Int(peer)].nextHello, now + CallTracker.probeAfter)
    }

    /// A hello was answered.
    mutating func answered(
        peer: UInt32, nonce: UInt64, instance: UInt64, session: SessionID, credits: UInt32,
        now: UInt64, into actions: inout [CallAction]
    ) -> Bool {
        guard peer < UInt32(peers.count), peers[Int(peer)].phase != .unknown,
            peers[Int(peer)].unansweredHellos > 0, peers[Int(peer)].nonce == nonce
        else { return false }
        let index = Int(peer)
        let old = peers[index]
        peers[index].unansweredHellos = 0
        peers[index].silentSince = .max
        peers[index].helloInterval = min(
            peers[index].helloInterval, CallTracker.probeIntervalMax)
        peers[index].nextHello = now + peers[index].helloInterval
        if old.phase == .greeting { peers[index].helloInterval = CallTracker.probeAfter }
        peers[index].phase = .ready
        peers[index].instance = instance
        peers[index].session = session
        peers[index].credits = credits == 0 ? .max : Int(credits)
        if old.session != session {
            // What was sent in another session will not be answered in this one.
            failInFlight(
                index, old.instance == instance ? .unreachable : .peerRestarted, into: &actions)
        }
        grantAll(index, into: &actions)
        return true
    }

    /// The requests that have been with a peer for long, the oldest first: it may be asked whether
    /// it has them. A broken connection loses messages without a word.
    func overdue(_ peer: UInt32, now: UInt64) -> [UInt64] {
        var requests: [UInt64] = []
        var slot = peers[Int(peer)].first
        while slot >= 0, requests.count < InquiryMessage.requestsMax,
            slots[Int(slot)].sentAt + CallTracker.probeAfter <= now
        {
            requests.append(slots[Int(slot)].requestID)
            slot = slots[Int(slot)].next
        }
        return requests
    }

    /// A peer neither works on these requests nor has an answer to them on its way. When it has
    /// said so twice, the caller gives up: a request that was only late must not begin any more.
    mutating func absent(
        _ requests: [UInt64], peer: UInt32, session: SessionID, now: UInt64,
        into actions: inout [CallAction]
    ) {
        guard peer < UInt32(peers.count), peers[Int(peer)].phase == .ready,
            peers[Int(peer)].session == session
        else { return }
        let requests = Set(requests)
        var slot = peers[Int(peer)].first
        var left = requests.count
        while slot >= 0, left > 0 {
            let index = Int(slot)
            if requests.contains(slots[index].requestID) {
                left -= 1
                slots[index].absences += 1
                if slots[index].absences == CallTracker.absencesMax {
                    slots[index].absences = 0
                    if slots[index].phase == .ending {
                        // The cancellation may have been lost with it.
                        actions.append(.sendCancel(slot: slot))
                    } else {
                        giveUp(slot, .unreachable, now: now, into: &actions)
                    }
                }
            }
            slot = slots[index].next
        }
    }

    /// Those of these requests that are with their peers, and whose replies are wanted. O(calls).
    func inFlight(_ requests: Set<UInt64>) -> Set<UInt64> {
        var found: Set<UInt64> = []
        for index in slots.indices
        where slots[index].phase == .inFlight && requests.contains(slots[index].requestID) {
            found.insert(slots[index].requestID)
        }
        return found
    }

    /// Gives every free credit to a waiting call. The actions say `grant`.
    private mutating func grantAll(_ peer: Int, into actions: inout [CallAction]) {
        while true {
            let slot = grantNext(peer)
            guard slot >= 0 else { return }
            actions.append(.grant(slot: slot))
        }
    }

    /// The connection to `peer` is gone. What was under way ends with `.unreachable`; when it was
    /// the hello that failed, or the peer is gone for good, so does what waited.
    mutating func lost(
        _ peer: Int32, isGone: Bool = false, now: UInt64, into actions: inout [CallAction]
    ) {
        let index = Int(peer)
        let phase = peers[index].phase
        peers[index].phase = .unknown
        peers[index].unansweredHellos = 0
        peers[index].silentSince = .max
        // That a hello does not get there is no news: the next one is as late as after silence.
        if phase == .ready { hurry(peer, now: now) }
        failInFlight(index, .unreachable, into: &actions)
        switch phase {
        case .unknown:
            break
        case _ where isGone, .greeting:
            for waiter in peers[index].waiting.all
            where slots[Int(waiter.slot)].generation == waiter.generation
                && slots[Int(waiter.slot)].phase == .waiting
            {
                actions.append(.end(slot: waiter.slot, .unreachable))
            }
            peers[index].waiting.removeAll()
        case .ready:
            guard peers[index].waitingCount > 0 else { break }
            let nonce = greet(peer, now: now)
            actions.append(.hello(peer: peer, nonce: nonce, reconnect: false))
        }
    }

    /// The caller gives up every call to these peers.
    mutating func abort(_ peers: Set<Int32>, now: UInt64, into actions: inout [CallAction]) {
        for index in slots.indices where peers.contains(slots[index].peer) {
            giveUp(Int32(index), .cancelled, now: now, into: &actions)
        }
    }

    /// The server ended our session (it forgot idle callers).
    mutating func dismissed(
        session: SessionID, instance: UInt64, now: UInt64, into actions: inout [CallAction]
    ) {
        for index in peers.indices
        where peers[index].phase == .ready && peers[index].session == session
            && peers[index].instance == instance
        {
            lost(Int32(index), now: now, into: &actions)
        }
    }

    /// Every request in flight to the peer ends with `error`.
    private mutating func failInFlight(
        _ peer: Int, _ error: RPCError, into actions: inout [CallAction]
    ) {
        var slot = peers[peer].first
        while slot >= 0 {
            actions.append(ended(slot, slots[Int(slot)].error ?? error))
            slot = slots[Int(slot)].next
        }
    }

    /// Ends every call: the context closes.
    mutating func closeAll(into actions: inout [CallAction]) {
        for index in slots.indices
        where slots[index].phase != .free && slots[index].phase != .ended {
            actions.append(ended(Int32(index), .closed))
        }
    }

    // MARK: - Verification

    /// Checks counts and lists against each other. O(calls + peers).
    func checkInvariants() {
        deadlines.checkInvariants()
        var open = 0
        for index in slots.indices where slots[index].phase != .free { open += 1 }
        precondition(open == openCount)
        var waiting = 0
        for index in peers.indices {
            let peer = peers[index]
            let own = slots.indices.filter { slots[$0].peer == Int32(index) }.map { slots[$0] }
            let used = own.count {
                $0.phase == .granted || $0.phase == .inFlight || $0.phase == .ending
            }
            precondition(used == peer.used)
            precondition(own.count { $0.phase == .waiting } == peer.waitingCount)
            waiting += peer.waitingCount
            var linked = 0
            var slot = peer.first
            while slot >= 0 {
                precondition(slots[Int(slot)].peer == Int32(index))
                linked += 1
                slot = slots[Int(slot)].next
            }
            precondition(
                linked == own.count { $0.phase == .inFlight || $0.phase == .ending })
            if peer.phase == .ready, peer.used < peer.credits {
                precondition(peer.waitingCount == 0, "a call waits although there is a credit")
            }
        }
        precondition(waiting == waitingCount)
    }
}
