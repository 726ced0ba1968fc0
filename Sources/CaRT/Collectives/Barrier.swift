internal import DrayRuntime

/// The messages of barriers: the member with the lowest rank, once it has arrived, gathers all
/// others by one collective, and releases them by another.
enum BarrierProtocol {
    static let gather = CollectiveProcedure<Gathering, EmptyMessage>(
        CollectiveProtocol.id, index: 2, name: "cart.barrier.gather")
    static let release = CollectiveProcedure<Release, EmptyMessage>(
        CollectiveProtocol.id, index: 3, name: "cart.barrier.release")

    struct Gathering: Message {
        var number: UInt64 = 0
        /// When the gathering began, by the leader's hybrid logical clock; its name, too.
        var attempt: UInt64 = 0

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&number)
            try coder.code(&attempt)
        }
    }

    struct Release: Message {
        var number: UInt64 = 0
        var attempt: UInt64 = 0
        /// Why not all have arrived; nil when they have.
        var failure: CollectiveFailures.Failure?

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&number)
            try coder.code(&attempt)
            try coder.code(&failure, default: .init(position: 0, error: .noReply)) {
                (coder, failure) throws(DecodingFailure) in
                try failure.code(with: &coder)
            }
        }
    }
}

/// The barriers that a context waits at, and gatherings that wait for it to arrive.
///
/// Confined to the context's xstream.
struct BarrierTable {
    /// Somebody who waits; resumed at most once.
    final class Waiter {
        private var task: SuspendedTask?

        init(_ task: SuspendedTask) { self.task = task }

        func resume() {
            let waiting = task
            task = nil
            waiting?.resume()
        }
    }

    enum Outcome: Equatable {
        case waiting
        case released
        case failed(RPCError)
    }

    private struct Entry {
        var ranks: RankSet
        /// When we arrived, by our hybrid logical clock.
        var stamp: UInt64
        /// The gatherings that were told that we are here.
        var attempts: [UInt64] = []
        var outcome = Outcome.waiting
        var waiter: Waiter?
    }

    enum Presence: Equatable {
        case here
        case absent
        /// We wait at a barrier of that number, but for others.
        case elsewhere
    }

    // Looked up, never iterated.
    private var entries: [UInt64: Entry] = [:]
    private var gatherings: [UInt64: [Waiter]] = [:]

    /// Gatherings that one barrier may be told of while we wait at it; only a leader that tries
    /// again and again makes more than one.
    private static let attemptsMax = 64

    var isEmpty: Bool { entries.isEmpty && gatherings.isEmpty }

    // MARK: - Members

    /// We arrive.
    mutating func arrive(_ number: UInt64, _ ranks: RankSet, stamp: UInt64) {
        precondition(entries[number] == nil, "barrier \(number) is waited at already")
        entries[number] = Entry(ranks: ranks, stamp: stamp)
        for waiter in gatherings.removeValue(forKey: number) ?? [] { waiter.resume() }
    }

    mutating func wait(_ number: UInt64, _ waiter: Waiter) { entries[number]?.waiter = waiter }

    func outcome(_ number: UInt64) -> Outcome { entries[number]?.outcome ?? .waiting }

    /// We leave, for whatever reason.
    mutating func leave(_ number: UInt64) { entries[number] = nil }

    /// The context closes: nobody waits any more.
    mutating func close() {
        // In order, as it reaches the scheduler.
        for number in entries.keys.sorted() where entries[number]?.outcome == .waiting {
            entries[number]?.outcome = .failed(.closed)
            entries[number]?.waiter?.resume()
        }
    }

    // MARK: - The leader's messages

    /// A gathering asks whether we are here.
    mutating func gather(_ gathering: BarrierProtocol.Gathering, _ ranks: RankSet) -> Presence {
        guard let entry = entries[gathering.number] else { return .absent }
        guard entry.ranks == ranks else { return .elsewhere }
        if entry.attempts.count < BarrierTable.attemptsMax {
            entries[gathering.number]?.attempts.append(gathering.attempt)
        }
        return .here
    }

    /// A gathering waits for us.
    mutating func await(_ number: UInt64, _ waiter: Waiter) {
        gatherings[number, default: []].append(waiter)
    }

    /// A gathering waits no more.
    mutating func giveUp(_ number: UInt64, _ waiter: Waiter) {
        gatherings[number]?.removeAll { $0 === waiter }
        if gatherings[number]?.isEmpty == true { gatherings[number] = nil }
        waiter.resume()
    }

    /// A gathering has ended. That of an earlier barrier with the same number does not matter: we
    /// leave by one that knows us, or give up by one that began after we arrived.
    mutating func release(_ release: BarrierProtocol.Release) {
        guard let entry = entries[release.number], entry.outcome == .waiting else { return }
        let isKnown = entry.attempts.contains(release.attempt)
        let outcome: Outcome
        if let failure = release.failure {
            guard isKnown || release.attempt > entry.stamp else { return }
            outcome = .failed(failure.error)
        } else {
            guard isKnown else { return }
            outcome = .released
        }
        entries[release.number]?.outcome = outcome
        entry.waiter?.resume()
    }
}

extension Context {
    /// Waits until every member of a set waits at the same barrier. Nobody returns before all have
    /// called this.
    ///
    /// ```swift
    /// try await context.barrier(7)        // of the whole group
    /// ```
    ///
    /// - Parameters:
    ///   - number: names the barrier among those that may be waited at, at a time; may be used
    ///     again afterwards. Waiting twice at a time at the same one traps.
    ///   - members: the same for all of them, with ourselves among them.
    ///   - deadline: until when all must be there.
    /// - Throws: `.timedOut` when not all were there by the deadline (or in its last quarter, which
    ///   it may take to tell all of them), or how a member failed
    ///   (`.unreachable`, `.groupVersion`, …). Others may have passed all the same if this member
    ///   had arrived and nobody could tell it.
    public func barrier(
        _ number: UInt64, of members: CollectiveMembers = .all, deadline: Deadline = .standard
    ) async throws(RPCError) {
        guard !isClosing else { throw .closed }
        let ranks = try ranks(of: members)
        guard let rank, ranks.contains(rank) else { throw .wrongRank }
        let (end, _) = times(of: deadline, now: xstream.now.nanoseconds)
        let stamp = clock.now()
        barriers.arrive(number, ranks, stamp: stamp)
        defer { barriers.leave(number) }
        if ranks.rank(at: 0) == rank {
            try await leadBarrier(.init(number: number, attempt: stamp), ranks, end)
        } else {
            try await waitAtBarrier(number, until: end)
        }
    }

    private func waitAtBarrier(_ number: UInt64, until end: UInt64) async throws(RPCError) {
        guard barriers.outcome(number) == .waiting else {
            try passBarrier(number)
            return
        }
        var timer: Timer?
        let xstream = xstream
        let box = BarrierBox()
        let bound = XStreamBound(box, to: xstream)
        await withTaskCancellationHandler {
            await SuspendedTask.suspend { task in
                let waiter = BarrierTable.Waiter(task)
                box.waiter = waiter
                barriers.wait(number, waiter)
                timer = xstream.schedule(at: Instant(nanoseconds: end)) { waiter.resume() }
                if box.isCancelled { waiter.resume() }
            }
        } onCancel: {
            xstream.submit {
                bound.value.isCancelled = true
                bound.value.waiter?.resume()
            }
        }
        timer?.cancel()
        if box.isCancelled, barriers.outcome(number) == .waiting { throw .cancelled }
        try passBarrier(number)
    }

    private func passBarrier(_ number: UInt64) throws(RPCError) {
        switch barriers.outcome(number) {
        case .released: return
        case .waiting: throw .timedOut
        case .failed(let error): throw error
        }
    }

    /// The most, in nanoseconds, that is left for telling the members that not all have come.
    private static let releaseTimeMax: UInt64 = 100_000_000

    private func leadBarrier(
        _ gathering: BarrierProtocol.Gathering, _ ranks: RankSet, _ end: UInt64
    ) async throws(RPCError) {
        let now = xstream.now.nanoseconds
        let reserve = min(Context.releaseTimeMax, end > now ? (end - now) / 8 : 0)
        var options = CollectiveOptions()
        options.tag = self.options.tag
        options.isFailFast = true
        let members = CollectiveMembers.including(ranks.ranks)
        let gathered = try await broadcast(
            BarrierProtocol.gather, gathering, to: members,
            deadline: .at(end - reserve &+ wallOffset), options: options)
        var release = BarrierProtocol.Release()
        release.number = gathering.number
        release.attempt = gathering.attempt
        if let failure = gathered.failures.first {
            release.failure = .init(position: 0, error: failure.error)
        }
        // Who cannot be reached any more finds out by its own deadline.
        options.isFailFast = false
        _ = try await broadcast(
            BarrierProtocol.release, release, to: members, deadline: .at(end &+ wallOffset),
            options: options)
        if let failure = gathered.failures.first { throw failure.error }
    }

    /// Takes part in the barriers that others lead.
    func registerBarriers() {
        register(BarrierProtocol.gather) { gathering, request throws(RPCError) in
            let context = request.context
            while true {
                switch context.barriers.gather(gathering, request.ranks) {
                case .here: return EmptyMessage()
                case .elsewhere: throw .badMessage
                case .absent: break
                }
                guard !request.isCancelled else { throw .cancelled }
                await SuspendedTask.suspend { task in
                    let waiter = BarrierTable.Waiter(task)
                    context.barriers.await(gathering.number, waiter)
                    request.onCancel { context.barriers.giveUp(gathering.number, waiter) }
                }
            }
        }
        register(BarrierProtocol.release) { release, request throws(RPCError) in
            request.context.barriers.release(release)
            return EmptyMessage()
        }
    }
}

/// Carries the cancellation of a task that waits at a barrier to its xstream.
private final class BarrierBox {
    var waiter: BarrierTable.Waiter?
    var isCancelled = false
}
