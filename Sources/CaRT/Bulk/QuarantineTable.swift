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

    /// By peer, those of each in the order in which they came. None is empty.
    private var byPeer: [Int32: [Entry]] = [:]

    var isEmpty: Bool { byPeer.isEmpty }

    /// All of them. O(entries).
    var entries: [Entry] { byPeer.keys.sorted().flatMap { entries(of: $0) } }

    private func entries(of peer: Int32) -> [Entry] { byPeer[peer] ?? [] }

    mutating func hold(
        _ memory: Memory, request: UInt64, reply: UInt64? = nil, peer: Int32, instance: UInt64
    ) {
        byPeer[peer, default: []].append(
            Entry(request: request, reply: reply, peer: peer, instance: instance, memory: memory))
    }

    /// Whether a peer owes an answer.
    func holds(_ peer: Int32) -> Bool { byPeer[peer] != nil }

    /// Whether this life of it does.
    func holds(_ peer: Int32, as instance: UInt64) -> Bool {
        entries(of: peer).contains { $0.instance == instance }
    }

    /// Requests that a peer owes an answer for, those that ended first.
    func requests(of peer: Int32, max: Int) -> [UInt64] {
        var requests: [UInt64] = []
        // What one request exposed stands together.
        for entry in entries(of: peer) where entry.reply == nil && requests.last != entry.request {
            guard requests.count < max else { break }
            requests.append(entry.request)
        }
        return requests
    }

    /// Requests of a peer whose replies it may still fetch, those that were given up first.
    func replied(to peer: Int32, max: Int) -> [UInt64] {
        entries(of: peer).lazy.filter { $0.reply != nil }.prefix(max).map(\.request)
    }

    /// A peer has nothing of a request under way. O(entries).
    mutating func answered(_ request: UInt64) -> [Entry] {
        func isOver(_ entry: Entry) -> Bool { entry.reply == nil && entry.request == request }
        // No two peers have the same request.
        guard let peer = byPeer.first(where: { $0.value.contains(where: isOver) })?.key else {
            return []
        }
        return remove(of: peer, where: isOver)
    }

    /// A caller has fetched a reply, or says that it does not want it. Anybody can claim to be an
    /// instance, so it must also be reached where that one is.
    mutating func released(_ reply: UInt64, by peer: Int32, _ instance: UInt64) -> [Entry] {
        remove(of: peer) { $0.instance == instance && $0.reply == reply }
    }

    /// A caller neither fetches the replies to these requests nor ever will.
    mutating func unwanted(
        _ requests: Set<UInt64>, by peer: Int32, _ instance: UInt64
    ) -> [Entry] {
        remove(of: peer) {
            $0.instance == instance && $0.reply != nil && requests.contains($0.request)
        }
    }

    /// A peer lives as `instance`: what an earlier life of it had under way is over.
    mutating func lives(_ peer: Int32, as instance: UInt64) -> [Entry] {
        remove(of: peer) { $0.instance != instance }
    }

    /// A peer is gone.
    mutating func isGone(_ peer: Int32) -> [Entry] {
        remove(of: peer) { _ in true }
    }

    /// Nothing of a peer reaches memory any more that is deregistered now. Memory that `isFree`
    /// does not name stays.
    mutating func isCutOff(_ peer: Int32, isFree: (Memory) -> Bool) -> [Entry] {
        remove(of: peer) { isFree($0.memory) }
    }

    /// No peer reaches anything any more.
    mutating func removeAll() -> [Entry] {
        defer { byPeer = [:] }
        return entries
    }

    private mutating func remove(of peer: Int32, where isOver: (Entry) -> Bool) -> [Entry] {
        let removed = entries(of: peer).filter(isOver)
        guard !removed.isEmpty else { return [] }
        byPeer[peer]?.removeAll(where: isOver)
        if byPeer[peer]?.isEmpty == true { byPeer[peer] = nil }
        return removed
    }
}
