internal import DequeModule
internal import DrayRuntime

/// Replies that wait in our memory for their callers to fetch them.
///
/// Plain data: what it forgets goes when the last reference to it goes.
struct SpillTable<Memory> {
    /// Which request a reply answers.
    struct Request: Hashable {
        var session: SessionID
        var number: UInt64
    }

    private struct Spill {
        var request: Request
        var memory: Memory
        /// Monotonic nanoseconds; then the memory goes even without the caller's word.
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
    mutating func keep(_ memory: Memory, for request: Request, until expires: UInt64) {
        spills[next] = Spill(request: request, memory: memory, expires: expires)
        byRequest[request] = next
        order.append(next)
        next += 1
    }

    /// Its caller says that it does not need it any more.
    mutating func release(_ number: UInt64, of session: SessionID) {
        guard let spill = spills[number], spill.request.session == session else { return }
        remove(number, spill)
    }

    /// A caller gave up before the reply came: it will not fetch it.
    mutating func release(_ request: Request) {
        guard let number = byRequest[request], let spill = spills[number] else { return }
        remove(number, spill)
    }

    private mutating func remove(_ number: UInt64, _ spill: Spill) {
        spills[number] = nil
        // A caller that uses a number twice has only the later one found by it.
        if byRequest[spill.request] == number { byRequest[spill.request] = nil }
    }

    /// Forgets what nobody fetched in time, and what is of sessions that have ended.
    mutating func sweep(now: UInt64, isOpen: (SessionID) -> Bool) {
        for _ in 0..<order.count {
            guard let number = order.popFirst(), let spill = spills[number] else { continue }
            if spill.expires < now || !isOpen(spill.request.session) {
                remove(number, spill)
            } else {
                order.append(number)
            }
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
        precondition(spills.keys.allSatisfy(Set(order).contains))
    }
}
