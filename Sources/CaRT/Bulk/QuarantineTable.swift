/// Memory that outlives the calls that exposed it, because their peers may still use it; and large
/// replies that their callers may still fetch.
///
/// Plain data: what it lets go goes when the last reference to it goes.
struct QuarantineTable<Memory> {
    struct Entry {
        /// The number of the call's request: ours, or, of a reply, the peer's.
        var request: UInt64
        /// The number of a large reply; nil: the memory is that of a call of ours.
        var reply: UInt64?
        var peer: Int32
        /// The life of the peer that the request was sent to, or that sent it.
        var instance: UInt64
        var memory: Memory
    }

    private(set) var entries: [Entry] = []

    var isEmpty: Bool { entries.isEmpty }

    mutating func hold(
        _ memory: Memory, request: UInt64, reply: UInt64? = nil, peer: Int32, instance: UInt64
    ) {
        entries.append(
            Entry(request: request, reply: reply, peer: peer, instance: instance, memory: memory))
    }

    /// Whether a peer owes an answer.
    func holds(_ peer: Int32) -> Bool { entries.contains { $0.peer == peer } }

    /// Requests that a peer owes an answer for, those that ended first.
    func requests(of peer: Int32, max: Int) -> [UInt64] {
        var requests: [UInt64] = []
        // What one request exposed stands together.
        for entry in entries
        where entry.peer == peer && entry.reply == nil && requests.last != entry.request {
            guard requests.count < max else { break }
            requests.append(entry.request)
        }
        return requests
    }

    /// Requests of a peer whose replies it may still fetch, those that were given up first.
    func replied(to peer: Int32, max: Int) -> [UInt64] {
        entries.lazy.filter { $0.peer == peer && $0.reply != nil }.prefix(max).map(\.request)
    }

    /// A peer has nothing of a request under way.
    mutating func answered(_ request: UInt64) -> [Entry] {
        remove { $0.reply == nil && $0.request == request }
    }

    /// A caller has fetched a reply, or says that it does not want it. Anybody can claim to be an
    /// instance, so it must also be reached where that one is.
    mutating func released(_ reply: UInt64, by peer: Int32, _ instance: UInt64) -> [Entry] {
        remove { $0.peer == peer && $0.instance == instance && $0.reply == reply }
    }

    /// A caller neither fetches the replies to these requests nor ever will.
    mutating func unwanted(
        _ requests: Set<UInt64>, by peer: Int32, _ instance: UInt64
    ) -> [Entry] {
        remove {
            $0.peer == peer && $0.instance == instance && $0.reply != nil
                && requests.contains($0.request)
        }
    }

    /// A peer lives as `instance`: what an earlier life of it had under way is over.
    mutating func lives(_ peer: Int32, as instance: UInt64) -> [Entry] {
        remove { $0.peer == peer && $0.instance != instance }
    }

    /// A peer is gone.
    mutating func isGone(_ peer: Int32) -> [Entry] {
        remove { $0.peer == peer }
    }

    /// Nothing of a peer reaches memory any more that is deregistered now. Memory that `isFree`
    /// does not name stays.
    mutating func isCutOff(_ peer: Int32, isFree: (Memory) -> Bool) -> [Entry] {
        remove { $0.peer == peer && isFree($0.memory) }
    }

    /// No peer reaches anything any more.
    mutating func removeAll() -> [Entry] {
        remove { _ in true }
    }

    private mutating func remove(where isOver: (Entry) -> Bool) -> [Entry] {
        let removed = entries.filter(isOver)
        if !removed.isEmpty { entries.removeAll(where: isOver) }
        return removed
    }
}
