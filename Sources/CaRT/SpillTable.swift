internal import DequeModule
internal import DrayFabric
internal import DrayRuntime

/// Replies that wait in our memory for their callers to fetch them. What waits for too long, or for
/// a caller that is not known any more, goes into quarantine.
///
/// Plain data: what it forgets goes when the last reference to it goes.
struct SpillTable<Memory> {
    /// Which request a reply answers.
    struct Request: Hashable {
        var session: SessionID
        var number: UInt64
    }

    /// Who fetches a reply: which life of whoever is reached where.
    struct Caller: Hashable {
        var address: FabricAddress
        var instance: UInt64
    }

    struct Spill {
        var number: UInt64
        var request: Request
        var caller: Caller
        var memory: Memory
        /// Monotonic nanoseconds; from then on it is the quarantine's.
        var expires: UInt64
    }

    // Looked up, never iterated.
    private var spills: [UInt64: Spill] = [:]
    private var byRequest: [Request: UInt64] = [:]
    /// All of `spills`, and some that are gone, oldest first.
    private var order = Deque<UInt64>()
    /// The number of the next one.
    private(set) var next: UInt64 = 1

    var isEmpty: Bool { spills.isEmpty }
    var count: Int { spills.count }

    /// Keeps the next one.
    mutating func keep(
        _ memory: Memory, for request: Request, of caller: Caller, until expires: UInt64
    ) {
        spills[next] = Spill(
            number: next, request: request, caller: caller, memory: memory, expires: expires)
        byRequest[request] = next
        order.append(next)
        next += 1
    }

    /// Its caller says that it does not need it any more.
    mutating func release(_ number: UInt64, of session: SessionID) {
        guard let spill = spills[number], spill.request.session == session else { return }
        remove(spill)
    }

    /// A caller gave up before the reply came: it will not fetch it.
    mutating func release(_ request: Request) {
        guard let number = byRequest[request], let spill = spills[number] else { return }
        remove(spill)
    }

    private mutating func remove(_ spill: Spill) {
        spills[spill.number] = nil
        // A caller that uses a number twice has only the later one found by it.
        if byRequest[spill.request] == spill.number { byRequest[spill.request] = nil }
    }

    /// Offers what nobody fetched in time, and what is of sessions that have ended, to `take`, and
    /// forgets what that has taken. The rest is offered again the next time.
    mutating func sweep(
        now: UInt64, isOpen: (SessionID) -> Bool, take: (Spill) -> Bool
    ) {
        for _ in 0..<order.count {
            guard let number = order.popFirst(), let spill = spills[number] else { continue }
            let isOver = spill.expires < now || !isOpen(spill.request.session)
            if isOver, take(spill) { remove(spill) } else { order.append(number) }
        }
    }

    /// Forgets all.
    mutating func removeAll() {
        spills = [:]
        byRequest = [:]
        order.removeAll()
    }

    /// Checks the tables against each other. O(n).
    func checkInvariants() {
        precondition(byRequest.count <= spills.count)
        precondition(order.count >= spills.count)
        precondition(Set(order).count == order.count)
        for (request, number) in byRequest { precondition(spills[number]?.request == request) }
        for (number, spill) in spills { precondition(spill.number == number) }
        precondition(spills.keys.allSatisfy(Set(order).contains))
    }
}
