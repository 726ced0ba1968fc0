package import DrayRuntime

/// The failure detector of one member, as a state machine: SWIM (Das, Gupta, Motivala 2002) with
/// suspicion, and Lifeguard's doubts about the observer itself (Dadgar, Phillips, Currey 2018).
///
/// Every period the member pings another one, in an order that is random and comes to everybody in
/// each round. Who does not answer in time is pinged again, by helpers too, and its port is tried:
/// if nobody listens there, it is dead. If nobody gets an answer within the period, it becomes a
/// suspect, and dead after the suspicion time, unless it contradicts with a new incarnation. What
/// members hear of each other goes with their pings and answers; deaths and returns are told at
/// once.
///
/// Time is monotonic nanoseconds and never goes back. Nothing that a peer sends makes it trap.
package struct SwimMachine: Sendable {
    /// What has happened.
    package enum Event: Sendable, Hashable {
        /// It is `nextDeadline`, or any other time.
        case time
        case received(SwimMessage, from: UInt32)
        /// Nobody listens at the port of a member that was to be probed.
        case refused(rank: UInt32, incarnation: UInt64)
        /// Somebody does.
        case accepted(rank: UInt32)
        /// The member answered, but not in a way that can be understood.
        case answered(rank: UInt32)
        /// The group has changed: who is in it from this version on. A newer incarnation than is
        /// known is taken over.
        case group(version: UInt32, members: [SwimMember])
    }

    /// What is to be done about it, in this order.
    package enum Action: Sendable, Hashable {
        case send(SwimMessage, to: UInt32)
        /// Find out whether anybody listens at the port of a member. The answer, if there is one,
        /// is `refused` with the same incarnation, or `accepted`.
        case probe(rank: UInt32, incarnation: UInt64)
        /// A member is in another state.
        case changed(SwimMember)
        /// Others took us for dead, or are in a group without us.
        case excluded(SwimExclusion)
    }

    package let rank: UInt32
    /// Ours. Grows when we contradict.
    package internal(set) var incarnation: UInt64
    /// Ascending by rank; we are not among them.
    package internal(set) var members: [SwimMember] = []
    /// The version of the group.
    package internal(set) var version: UInt32 = 0
    /// Whether we are in the group.
    package internal(set) var isMember = false
    /// How much reason we have to doubt ourselves: 0 for none. What we wait for may take so many
    /// times longer.
    package internal(set) var doubt: UInt64 = 0
    /// When `on(.time)` is due.
    package private(set) var nextDeadline: UInt64 = .max

    let options: SwimOptions
    let times: SwimTimes
    var entropy: Entropy

    /// The time of the event that is handled.
    var now: UInt64 = 0
    var actions: [Action] = []
    var gossip = SwimGossip()
    /// When others last gave a sign of life.
    var lastContact: UInt64

    // Pinging.
    var nextPeriod: UInt64 = .max
    var periods: UInt64 = 0
    var sequence: UInt32 = 0
    var probe: Probe?
    var relays: [Relay] = []
    /// Ranks in the order they are pinged, and the next one.
    var order: [UInt32] = []
    var position = 0

    // Suspicion and death.
    var suspicions: [Suspicion] = []
    /// Ranks that are not alive, ascending.
    var unwell: [UInt32] = []
    var unwellTold = 0
    var obituaries: [Obituary] = []
    var deadPinged = 0
    /// Of which of our incarnations on a death has not been reported. None of earlier lives is.
    var deathToReport: UInt64
    var hasNews = false
    var newsAllowed: UInt64 = 0

    /// A ping under way.
    struct Probe: Sendable {
        let target: UInt32
        let sequence: UInt32
        /// When helpers are asked; `.max` once they are.
        var helpAt: UInt64
        var helpers: [UInt32] = []
        /// Helpers that have said no.
        var nacks = 0
        /// The target's port answers: our network works.
        var isListening = false
    }

    /// A ping for somebody else.
    struct Relay: Sendable {
        let requester: UInt32
        let requesterSequence: UInt32
        let target: UInt32
        let sequence: UInt32
        var deadline: UInt64
    }

    /// Somebody who will be dead.
    struct Suspicion: Sendable {
        let rank: UInt32
        let since: UInt64
        var deadline: UInt64
        /// We had doubts whether it is us, and have waited once more.
        var isExtended = false
    }

    /// A member that was dead, and is back: it is told, more than once, as messages get lost.
    struct Obituary: Sendable {
        let member: SwimMember
        var tellings = 0

        static let tellingsMax = 3
    }

    /// The most doubt.
    static let doubtMax: UInt64 = 8
    /// Pings for others under way at a time; more are not made.
    static let relaysMax = 64
    /// So many periods after the start the first ping is sent: the others may be starting, too.
    static let quietPeriods: UInt64 = 3
    /// One in so many periods, a dead member is pinged: it may be back, or never have been dead.
    static let deadPingPeriods: UInt64 = 5
    /// How often an update is told, per bit of the group's size.
    static let tellingsPerBit = 3

    /// - Parameters:
    ///   - incarnation: larger than that of any earlier life, such as the wall clock's time.
    ///   - entropy: of this member alone.
    package init(
        rank: UInt32, incarnation: UInt64, options: SwimOptions, entropy: Entropy, now: UInt64
    ) {
        precondition(options.problem == nil, "SWIM options that cannot work")
        self.rank = rank
        self.incarnation = min(incarnation, SwimMember.incarnationMax - 1)
        deathToReport = self.incarnation
        self.options = options
        self.entropy = entropy
        self.now = now
        times = SwimTimes(options)
        lastContact = now
    }

    /// The member `rank`; nil when it is not in the group, or us. O(log members).
    package func member(_ rank: UInt32) -> SwimMember? {
        index(of: rank).map { members[$0] }
    }

    /// Takes note of what happened at `now`. Returns what is to be done about it.
    package mutating func on(_ event: Event, at now: UInt64) -> [Action] {
        self.now = max(now, self.now)
        noticeStall()
        switch event {
        case .time: break
        case .received(let message, let sender): received(message, from: sender)
        case .refused(let rank, let incarnation): refused(rank, incarnation)
        case .accepted(let rank):
            guard let probe, probe.target == rank else { break }
            self.probe?.isListening = true
            lastContact = self.now
        case .answered(let rank):
            guard index(of: rank) != nil else { break }
            lastContact = self.now
            if probe?.target == rank { succeed() }
        case .group(let version, let members): changeGroup(version, members)
        }
        advance()
        defer { actions = [] }
        return actions
    }

    // MARK: - Time

    /// Does what is due.
    private mutating func advance() {
        if isMember {
            if let probe, probe.helpAt <= now { askHelpers() }
            endRelays()
            endSuspicions()
            if nextPeriod <= now { beginPeriod() }
            if hasNews, newsAllowed <= now { tellNews() }
        }
        nextDeadline = findDeadline()
    }

    private func findDeadline() -> UInt64 {
        guard isMember else { return .max }
        var next = nextPeriod
        if let probe { next = min(next, probe.helpAt) }
        for relay in relays { next = min(next, relay.deadline) }
        for suspicion in suspicions { next = min(next, suspicion.deadline) }
        if hasNews { next = min(next, newsAllowed) }
        return next
    }

    /// When we should have been called long ago, we were stopped or starved. What others have sent
    /// meanwhile still waits for us, so nobody is late who looks late: all they have is put off.
    private mutating func noticeStall() {
        guard nextDeadline != .max, now > nextDeadline, now - nextDeadline >= times.stallMin
        else { return }
        let lost = now - nextDeadline
        raiseDoubt()
        lastContact += lost
        nextPeriod += lost
        if let probe, probe.helpAt != .max { self.probe?.helpAt += lost }
        for index in relays.indices { relays[index].deadline += lost }
        for index in suspicions.indices { suspicions[index].deadline += lost }
    }

    mutating func raiseDoubt() { doubt = min(doubt + 1, SwimMachine.doubtMax) }

    /// A time that is longer while we have reason to doubt ourselves.
    func doubted(_ time: UInt64) -> UInt64 { time * (doubt + 1) }

    // MARK: - Group

    func index(of rank: UInt32) -> Int? {
        var low = 0
        var high = members.count
        while low < high {
            let middle = (low + high) / 2
            if members[middle].rank < rank { low = middle + 1 } else { high = middle }
        }
        return low < members.count && members[low].rank == rank ? low : nil
    }

    private mutating func changeGroup(_ version: UInt32, _ group: [SwimMember]) {
        guard version > self.version else { return }
        self.version = version
        let wasMember = isMember
        isMember = group.contains { $0.rank == rank }
        let sorted = group.filter { $0.rank != rank }.sorted { $0.rank < $1.rank }
        var kept: [SwimMember] = []
        var added: [UInt32] = []
        for member in sorted where kept.last?.rank != member.rank {
            let fresh = SwimMember(
                rank: member.rank,
                incarnation: min(member.incarnation, SwimMember.incarnationMax - 1))
            if let old = self.member(member.rank) {
                kept.append(fresh.incarnation > old.incarnation ? fresh : old)
            } else {
                kept.append(fresh)
                added.append(member.rank)
            }
        }
        replaceMembers(kept)
        order = order.filter { index(of: $0) != nil }
        if position > order.count { position = order.count }
        if order.isEmpty {
            order = added.shuffled(using: &entropy)
        } else {
            // At random places, as they would be had they been there before.
            for rank in added {
                order.insert(rank, at: Int(entropy.below(UInt64(order.count + 1))))
            }
        }
        if !isMember {
            stop()
            if wasMember { actions.append(.excluded(.removed(version: version))) }
        } else if !wasMember {
            start()
        }
    }

    /// Forgets what is of those who have left.
    private mutating func replaceMembers(_ new: [SwimMember]) {
        let old = members
        members = new
        for member in old {
            guard let current = self.member(member.rank) else {
                gossip.remove(rank: member.rank)
                continue
            }
            if current != member, current.state != member.state {
                actions.append(.changed(current))
            }
        }
        obituaries = obituaries.filter { index(of: $0.member.rank) != nil }
        suspicions = suspicions.filter { member($0.rank)?.state == .suspect }
        relays = relays.filter { index(of: $0.target) != nil && index(of: $0.requester) != nil }
        unwell = members.filter { $0.state != .alive }.map(\.rank)
        if let probe, index(of: probe.target) == nil { self.probe = nil }
    }

    private mutating func start() {
        lastContact = now
        // Members that start together do not ping together.
        nextPeriod =
            now + times.period * SwimMachine.quietPeriods + entropy.below(times.period)
        // Who knew an earlier life learns of this one.
        hasNews = true
    }

    private mutating func stop() {
        nextPeriod = .max
        probe = nil
        relays = []
        hasNews = false
    }
}

extension SwimMachine {
    /// Traps unless all that is kept fits together. For tests.
    package func checkInvariants() {
        for (left, right) in zip(members, members.dropFirst()) {
            precondition(left.rank < right.rank, "members are out of order")
        }
        precondition(members.allSatisfy { $0.rank != rank }, "a member watches itself")
        precondition(members.allSatisfy { $0.incarnation < SwimMember.incarnationMax })
        precondition(incarnation < SwimMember.incarnationMax)
        precondition(unwell == members.filter { $0.state != .alive }.map(\.rank))
        precondition(
            suspicions.map(\.rank).sorted()
                == members.filter { $0.state == .suspect }.map(\.rank),
            "suspects and suspicions differ")
        precondition(order.sorted() == members.map(\.rank), "not everybody has a turn")
        precondition(position <= order.count)
        precondition(gossip.count <= members.count, "gossip about nobody")
        precondition(obituaries.count <= members.count, "obituaries of nobody")
        precondition(relays.count <= SwimMachine.relaysMax)
        precondition(doubt <= SwimMachine.doubtMax)
        if let probe { precondition(member(probe.target) != nil, "a stranger is pinged") }
        if !isMember { precondition(nextDeadline == .max && probe == nil && relays.isEmpty) }
    }
}

/// How a member learns that the others do without it.
public enum SwimExclusion: Sendable, Hashable {
    /// They took it for dead. It is back with another incarnation.
    case declaredDead
    /// The group of this version is without it.
    case removed(version: UInt32)
}
