internal import DequeModule

/// Turns, by key: who comes while another one has the turn waits, first come first served.
struct OrderedQueue<Key: Hashable> {
    private var waiting: [Key: Deque<UInt64>] = [:]

    init() {}

    /// Keys of which somebody has the turn.
    var count: Int { waiting.count }

    /// Whether it is the caller's turn at once. Otherwise `leave` of another one names it.
    mutating func enter(_ number: UInt64, _ key: Key) -> Bool {
        guard waiting[key] != nil else {
            waiting[key] = []
            return true
        }
        waiting[key]?.append(number)
        return false
    }

    /// The turn is over.
    ///
    /// - Returns: whose turn it is.
    mutating func leave(_ key: Key) -> UInt64? {
        precondition(waiting[key] != nil, "a turn ended that nobody had")
        if let next = waiting[key]?.popFirst() { return next }
        waiting[key] = nil
        return nil
    }

    /// Who waits gives up.
    ///
    /// - Returns: false when it does not wait: then it has the turn.
    mutating func giveUp(_ number: UInt64, _ key: Key) -> Bool {
        guard let position = waiting[key]?.firstIndex(of: number) else { return false }
        waiting[key]?.remove(at: position)
        return true
    }
}
