internal import HeapModule

/// The updates that an owner has stored or is storing, so that none is stored twice.
///
/// Each is remembered, with its result, until no attempt of it can come any more. One that was
/// refused is not: it may come again.
struct UpdateTable<Result> {
    enum Admission {
        /// It is new: store it, then tell `ended`.
        case store
        /// It is being stored: `waiter` hears of the end.
        case wait
        /// It was stored before.
        case answer(Result)
        /// Too many are remembered.
        case full
    }

    private enum State {
        case running(waiters: [UInt64])
        case ended(Result)
    }

    private struct Expiry: Comparable {
        var time: UInt64
        var order: UInt64
        var id: IncastUpdateID

        static func < (left: Expiry, right: Expiry) -> Bool {
            (left.time, left.order) < (right.time, right.order)
        }
    }

    /// The most updates that are remembered.
    let entriesMax: Int

    private var states: [IncastUpdateID: State] = [:]
    private var expiries = Heap<Expiry>()
    private var order: UInt64 = 0

    init(entriesMax: Int) {
        self.entriesMax = entriesMax
    }

    var count: Int { states.count }

    /// When the next one may be forgotten.
    var nextExpiry: UInt64? { expiries.min?.time }

    /// An attempt of an update has come.
    ///
    /// - Parameter forgetAt: by then, no attempt of it comes any more.
    mutating func begin(
        _ id: IncastUpdateID, waiter: UInt64, forgetAt: UInt64, now: UInt64
    ) -> Admission {
        expire(now: now)
        switch states[id] {
        case .running(var waiters):
            waiters.append(waiter)
            states[id] = .running(waiters: waiters)
            return .wait
        case .ended(let result): return .answer(result)
        case nil:
            guard states.count < entriesMax else { return .full }
            states[id] = .running(waiters: [])
            expiries.insert(Expiry(time: forgetAt, order: order, id: id))
            order += 1
            return .store
        }
    }

    /// The update was stored, or refused (nil).
    ///
    /// - Returns: who waits for the result.
    mutating func ended(_ id: IncastUpdateID, _ result: Result?) -> [UInt64] {
        guard case .running(let waiters) = states[id] else {
            preconditionFailure("an update ended that is not under way")
        }
        states[id] = result.map { .ended($0) }
        return waiters
    }

    /// Forgets what no attempt comes of any more. What is still being stored stays for another
    /// while.
    mutating func expire(now: UInt64) {
        while let first = expiries.min, first.time <= now {
            expiries.removeMin()
            if case .running = states[first.id] {
                expiries.insert(
                    Expiry(time: now &+ UpdateTable.delay, order: order, id: first.id))
                order += 1
            } else {
                states[first.id] = nil
            }
        }
    }

    private static var delay: UInt64 { 1_000_000_000 }
}
