internal import DrayRuntime
internal import Logging

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
    /// Somebody who waits; hears at most once that there is something to see.
    final class Waiter {
        private var wake: (() -> Void)?

        init(_ wake: @escaping () -> Void) { self.wake = wake }

        func resume() {
            let waiting = wake
            wake = nil
            waiting?()
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

    /// Gatherings that are remembered while we wait at a barrier, the latest of them; a leader that
    /// has to try again makes more than one.
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

    /// Why we do not wait any more, if that is so.
    func failure(_ number: UInt64) -> RPCError? {
        guard case .failed(let error) = outcome(number) else { return nil }
        return error
    }

    /// We leave, for whatever reason.
    mutating func leave(_ number: UInt64) { entries[number] = nil }

    /// The context closes: nobody waits any more.
    mutating func close() { fail(.closed) { _ in true } }

    /// These members will not come any more, or not as those that they were.
    mutating func lose(_ lost: [UInt32], _ error: RPCError) {
        fail(error) { ranks in lost.contains { ranks.contains($0) } }
    }

    private mutating func fail(_ error: RPCError, _ isLost: (RankSet) -> Bool) {
        // In order, as it reaches the scheduler.
        for number in entries.keys.sorted() {
            guard let entry = entries[number], entry.outcome == .waiting, isLost(entry.ranks)
            else { continue }
            entries[number]?.outcome = .failed(error)
            entry.waiter?.resume()
        }
    }

    // MARK: - The leader's messages

    /// A gathering asks whether we are here.
    mutating func gather(_ gathering: BarrierProtocol.Gathering, _ ranks: RankSet) -> Presence {
        guard let entry = entries[gathering.number] else { return .absent }
        guard entry.ranks == ranks else { return .elsewhere }
        if entry.attempts.count == BarrierTable.attemptsMax {
            entries[gathering.number]?.attempts.removeFirst()
        }
        entries[gathering.number]?.attempts.append(gathering.attempt)
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
    /// A barrier is over as soon as one of its members is known to be gone, be it the one that
    /// leads it: by `evict`, or by a change of the group that takes it away or restarts it. All
    /// fail then, each when it hears of that, and may wait again over the group as it is now. Other
    /// changes of the group do not matter; who does not know of one yet is waited for.
    ///
    /// - Parameters:
    ///   - number: names the barrier among those that may be waited at, at a time; may be used
    ///     again afterwards. Waiting twice at a time at the same one traps.
    ///   - members: the same for all of them, with ourselves among them.
    ///   - deadline: until when all must be there.
    /// - Throws: `.timedOut` when not all were there by the deadline (or in its last eighth, which
    ///   it may take to tell all of them), or how a member failed (`.unreachable`,
    ///   `.peerRestarted`, …; `.cancelled` when it was the leader that gave up). Others may have
    ///   passed all the same if this member had arrived and nobody could tell it.
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
                let waiter = BarrierTable.Waiter { task.resume() }
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

    /// How long the leader waits before it gathers members again that knew another version of the
    /// group.
    private static let gatherPauses = (
        first: Duration.milliseconds(2), max: Duration.milliseconds(50)
    )

    private func leadBarrier(
        _ gathering: BarrierProtocol.Gathering, _ ranks: RankSet, _ end: UInt64
    ) async throws(RPCError) {
        let now = xstream.now.nanoseconds
        let reserve = min(Context.releaseTimeMax, end > now ? (end - now) / 8 : 0)
        let members = CollectiveMembers.including(ranks.ranks)
        var gathering = gathering
        var pause = Context.gatherPauses.first
        var failure: RPCError?
        while true {
            failure = await gather(gathering, members, until: end - reserve)
            guard failure == .groupVersion, !Task.isCancelled,
                xstream.now + pause
                    < Instant(nanoseconds: end - reserve)
            else { break }
            await xstream.sleep(for: pause)
            pause = min(pause * 2, Context.gatherPauses.max)
            gathering.attempt = clock.now()
        }
        await release(gathering, ranks, failure, until: end)
        if let failure { throw failure }
    }

    /// Waits until all others are there. Why they are not.
    private func gather(
        _ gathering: BarrierProtocol.Gathering, _ members: CollectiveMembers, until end: UInt64
    ) async -> RPCError? {
        guard case .waiting = barriers.outcome(gathering.number) else {
            return barriers.failure(gathering.number)
        }
        var options = CollectiveOptions()
        options.tag = self.options.tag
        options.isFailFast = true
        let deadline = Deadline.at(end &+ wallOffset)
        let collective = options
        var failure: RPCError?
        let isOver = EndSignal()
        let task = xstream.spawnCancellable { [self] in
            do throws(RPCError) {
                let gathered = try await broadcast(
                    BarrierProtocol.gather, gathering, to: members, deadline: deadline,
                    options: collective)
                failure = gathered.failures.first?.error
            } catch {
                failure = error
            }
            isOver.give()
        }
        barriers.wait(gathering.number, BarrierTable.Waiter { task.cancel() })
        await withTaskCancellationHandler {
            await isOver.wait()
        } onCancel: {
            task.cancel()
        }
        return barriers.failure(gathering.number) ?? failure
    }

    /// Tells all members how it went, in a task of its own: they hear of it, too, if ours is
    /// cancelled. Who cannot be reached any more finds out by its own deadline.
    private func release(
        _ gathering: BarrierProtocol.Gathering, _ ranks: RankSet, _ failure: RPCError?,
        until end: UInt64
    ) async {
        // Who has left the group hears of that elsewhere.
        let members = CollectiveMembers.including(
            ranks.ranks.filter { group.member($0) != nil })
        var options = CollectiveOptions()
        options.tag = self.options.tag
        options.isForAnyVersion = true
        let collective = options
        var message = BarrierProtocol.Release()
        message.number = gathering.number
        message.attempt = gathering.attempt
        message.failure = failure.map { .init(position: 0, error: $0) }
        let release = message
        let isOver = EndSignal()
        xstream.spawn { [self] in
            do throws(RPCError) {
                _ = try await broadcast(
                    BarrierProtocol.release, release, to: members,
                    deadline: .at(end &+ wallOffset), options: collective)
            } catch {
                logger.debug("the members of a barrier do not hear how it went: \(error)")
            }
            isOver.give()
        }
        await isOver.wait()
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
                    let waiter = BarrierTable.Waiter { task.resume() }
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
