/// One key at a member that does not own it: what it knows of the value, and who waits for it.
///
/// A state machine: events in, actions out.
///
/// **Merged fetches.** At most one flight is under way, and at most one is boarding. Who wants no
/// more than the one under way has asked for joins it; all others board the next, which leaves when
/// the first is back. A fetch of the latest version never joins a flight that has left: the owner
/// may have read the value before that fetch began.
struct IncastKey<Value> {
    /// What a fetch needs of the value.
    enum Demand: Hashable, Comparable {
        case atLeast(UInt64)
        case latest

        static func < (left: Demand, right: Demand) -> Bool {
            switch (left, right) {
            case (.atLeast(let left), .atLeast(let right)): left < right
            case (.atLeast, .latest): true
            case (.latest, _): false
            }
        }
    }

    enum Event {
        /// A fetch that `waiter` waits for. Each has a number of its own.
        case fetch(waiter: UInt64, Demand, usesCopy: Bool)
        /// A flight came back, from the owner or a copy on the way. The value becomes the copy,
        /// or is only given out.
        case landed(flight: UInt64, IncastVersioned<Value>, keeps: Bool)
        case failed(flight: UInt64, RPCError)
        /// The owner's value, in the group as it is, that came without being asked for.
        case value(IncastVersioned<Value>)
        /// The owner has this version, in the group as it is.
        case notice(UInt64)
        /// A version that was given to a caller here: none before it may be given out after it.
        case given(UInt64)
        /// The waiter waits no more.
        case left(waiter: UInt64)
        /// The group has changed: all flights end, and what is known is forgotten unless it holds
        /// on.
        case groupChanged(forgets: Bool)
    }

    enum Action {
        case answer(waiter: UInt64, IncastVersioned<Value>)
        case fail(waiter: UInt64, RPCError)
        /// The owner has only this, which is older than what was asked for.
        case refuse(waiter: UInt64, IncastVersioned<Value>)
        /// Send a fetch towards the owner.
        case depart(flight: UInt64, Demand)
        /// Nobody waits for the flight any more.
        case cancel(flight: UInt64)
    }

    /// Until when only the owner's word counts.
    enum Doubt: Hashable {
        case none
        /// Until the owner has been heard of, by whatever way: the group has changed, and all that
        /// it has said since is newer.
        case untilHeard
        /// Until the owner has been asked: the key was forgotten, and old news may be on their way.
        case untilAsked
    }

    private struct Waiter {
        var number: UInt64
        /// The least version that may be given to it.
        var minimum: UInt64
        /// It came when the flight had left, which promises it nothing.
        var isLate = false
    }

    private struct Flight {
        /// That of the waiter who opened it.
        var number: UInt64
        var demand: Demand
        var waiters: [Waiter] = []
    }

    /// The highest version that is known to exist; 0: none. A copy is of this version.
    private(set) var known: UInt64 = 0
    /// The highest version that was given out here.
    private(set) var given: UInt64 = 0
    private var held: IncastVersioned<Value>?
    /// What was known and is forgotten may have been newer than what copies on the way have.
    private(set) var doubt: Doubt
    /// Under way, and boarding. There is no second without a first.
    private var current: Flight?
    private var next: Flight?

    init(wasForgotten: Bool = false) {
        doubt = wasForgotten ? .untilAsked : .none
    }

    /// What may be given out of itself.
    var copy: IncastVersioned<Value>? { doubt == .none ? held : nil }

    /// Whether nobody waits, so that the key may be forgotten.
    var isIdle: Bool { current == nil }

    /// Who waits for the flight that is under way.
    var passengers: [UInt64] { current?.waiters.map(\.number) ?? [] }

    mutating func on(_ event: Event) -> [Action] {
        defer { checkInvariants() }
        switch event {
        case .fetch(let waiter, let demand, let usesCopy):
            return fetch(waiter, demand, usesCopy: usesCopy)
        case .landed(let flight, let value, let keeps):
            return landed(flight, value, keeps: keeps)
        case .failed(let flight, let error):
            guard let ended = take(flight) else { return [] }
            return ended.waiters.map { .fail(waiter: $0.number, error) } + depart()
        case .value(let value):
            if doubt == .untilHeard { doubt = .none }
            install(value)
            return []
        case .notice(let version):
            if doubt == .untilHeard { doubt = .none }
            notice(version)
            return []
        case .given(let version):
            notice(version)
            given = max(given, version)
            return []
        case .left(let waiter): return left(waiter)
        case .groupChanged(let forgets): return groupChanged(forgets: forgets)
        }
    }

    // MARK: - Fetches

    private mutating func fetch(
        _ number: UInt64, _ demand: Demand, usesCopy: Bool
    ) -> [Action] {
        if usesCopy, let copy, case .atLeast(let version) = demand,
            version <= copy.version
        {
            given = max(given, copy.version)
            return [.answer(waiter: number, copy)]
        }
        let mayJoin = demand != .latest
        let (minimum, demand): (UInt64, Demand) =
            switch demand {
            case .latest: (known, .latest)
            case .atLeast(let version) where doubt != .none: (max(version, known), .latest)
            case .atLeast(let version): (max(version, known), .atLeast(max(version, known)))
            }
        var waiter = Waiter(number: number, minimum: minimum)
        if mayJoin, let flight = current, flight.demand >= demand {
            waiter.isLate = true
            current?.waiters.append(waiter)
            return []
        }
        board(waiter, demand)
        return current == nil ? depart() : []
    }

    private mutating func board(_ waiter: Waiter, _ demand: Demand) {
        var flight = next ?? Flight(number: waiter.number, demand: demand)
        flight.waiters.append(waiter)
        flight.demand = max(flight.demand, demand)
        next = flight
    }

    /// Lets the next flight leave, if anybody is on it.
    private mutating func depart() -> [Action] {
        guard current == nil, let flight = next else { return [] }
        (current, next) = (flight, nil)
        return [.depart(flight: flight.number, flight.demand)]
    }

    private mutating func take(_ flight: UInt64) -> Flight? {
        guard let ended = current, ended.number == flight else { return nil }
        current = nil
        return ended
    }

    private mutating func landed(
        _ flight: UInt64, _ value: IncastVersioned<Value>, keeps: Bool
    ) -> [Action] {
        guard let ended = take(flight) else { return [] }
        if ended.demand == .latest { doubt = .none }
        if keeps { install(value) } else { notice(value.version) }
        // Something newer may have come by another way.
        let best = held.map { $0.version > value.version ? $0 : value } ?? value
        var actions: [Action] = []
        var left: [Waiter] = []
        for waiter in ended.waiters {
            if best.version < waiter.minimum, !waiter.isLate {
                // On the way nobody answers with less than was asked for, so this was the owner.
                actions.append(.refuse(waiter: waiter.number, best))
            } else if best.version < max(waiter.minimum, given) {
                // The value was overtaken by a newer one.
                left.append(waiter)
            } else {
                given = max(given, best.version)
                actions.append(.answer(waiter: waiter.number, best))
            }
        }
        for var waiter in left {
            waiter.isLate = false
            board(waiter, .atLeast(max(waiter.minimum, known)))
        }
        return actions + depart()
    }

    private mutating func left(_ waiter: UInt64) -> [Action] {
        next?.waiters.removeAll { $0.number == waiter }
        if next?.waiters.isEmpty == true { next = nil }
        current?.waiters.removeAll { $0.number == waiter }
        guard let flight = current, flight.waiters.isEmpty else { return [] }
        current = nil
        return [.cancel(flight: flight.number)] + depart()
    }

    private mutating func groupChanged(forgets: Bool) -> [Action] {
        let waiters = (current?.waiters ?? []) + (next?.waiters ?? [])
        var actions = waiters.map { Action.fail(waiter: $0.number, .groupVersion) }
        if let flight = current { actions.append(.cancel(flight: flight.number)) }
        (current, next) = (nil, nil)
        if forgets { (known, given, held, doubt) = (0, 0, nil, .untilHeard) }
        return actions
    }

    // MARK: - Values

    private mutating func install(_ value: IncastVersioned<Value>) {
        guard value.version >= known else { return }
        known = value.version
        held = value
    }

    private mutating func notice(_ version: UInt64) {
        guard version > known else { return }
        known = version
        held = nil
    }

    private func checkInvariants() {
        precondition(given <= known, "a version was given out that nobody knows")
        precondition(held.map { $0.version == known } ?? true, "a copy is stale")
        precondition(current != nil || next == nil, "a flight waits although none is under way")
        precondition(current?.waiters.isEmpty != true && next?.waiters.isEmpty != true)
    }
}

extension IncastKey.Event: Equatable where Value: Equatable {}
extension IncastKey.Action: Equatable where Value: Equatable {}
extension IncastKey.Event: Sendable where Value: Sendable {}
extension IncastKey.Action: Sendable where Value: Sendable {}
