/// How long an xstream spins before it blocks, and how long it pauses between polls of sources
/// that have nothing to wait on.
///
/// Spinning pays when the next event comes within the time that a block and a wake-up cost.
/// The policy looks at how long recent idle periods were: short ones make it spin longer, long
/// ones make it give up sooner. An idle engine therefore does not spin at all. It also looks at
/// how long giving way to other threads takes: where somebody else wants the processor, it
/// blocks at once.
struct IdlePolicy {
    /// Longest spin: a round trip of a network with a durable write at its other end.
    static let spinMaximum: Duration = .microseconds(200)
    static let spinMinimum: Duration = .microseconds(1)
    /// An idle period up to this was short. More than the longest spin: a block that was not worth
    /// it adds its own cost, some 50 to 100 µs on a virtual machine, and must not look like rest.
    static let shortMaximum: Duration = .microseconds(400)
    static let pauseMinimum: Duration = .microseconds(20)
    static let pauseMaximum: Duration = .microseconds(800)

    /// Between two looks for work that follow each other, this long is what another thread takes
    /// that needs the processor.
    static let crowdedAfter: Duration = .microseconds(200)

    /// A look that takes this long and finds nothing that is complete has moved something: a
    /// provider copies transfers while it is asked for completions. What it waits for goes on, so
    /// the spin begins anew.
    static let movesAfter: Duration = .microseconds(5)
    /// For so long at most: where looks are slow by themselves, spins end all the same.
    static let movesMaximum: Duration = .milliseconds(2)

    /// So long a spin keeps the processor: what comes at once is worth most, and offering the
    /// processor to others is a system call. After that each round offers it: several threads
    /// that wait for one another share a processor as if they slept, without the wake-ups.
    static let keepsProcessor: Duration = .microseconds(5)

    private var idleSince: Instant?
    /// When something moved last in this idle period, or else its start.
    private var movedAt = Instant(nanoseconds: 0)
    /// When the last look ended.
    private var lookedAt = Instant(nanoseconds: 0)
    // In nanoseconds, as each round of a spin needs them: durations have 128 bits.
    private var spin: UInt64 = 20_000
    private let spinMinimum = IdlePolicy.spinMinimum.nanosecondsClamped
    private let keepsProcessor = IdlePolicy.keepsProcessor.nanosecondsClamped
    private let crowdedAfter = IdlePolicy.crowdedAfter.nanosecondsClamped
    private let movesAfter = IdlePolicy.movesAfter.nanosecondsClamped
    private let movesMaximum = IdlePolicy.movesMaximum.nanosecondsClamped
    private var pause: Duration = IdlePolicy.pauseMinimum

    /// Whether an idle period has begun, so that `worked` needs to know the time.
    var isIdle: Bool { idleSince != nil }

    /// Something was done at `time`.
    mutating func worked(at time: Instant) {
        guard idleSince != nil else { return }
        idleSince = nil
        // What came during the very first pause may have come at once: nobody looked. Its length
        // says nothing, and spinning would have paid.
        learn(idle: pause == IdlePolicy.pauseMinimum * 2 ? .zero : time.since(movedAt))
        pause = IdlePolicy.pauseMinimum
    }

    /// Whether a round of a spin, at `time`, offers the processor to others.
    func shouldYield(at time: Instant) -> Bool {
        guard idleSince != nil else { return false }
        return time.nanoseconds &- movedAt.nanoseconds > keepsProcessor
    }

    /// Whether to go on spinning after a look for work that lasted from `start` to `end` and found
    /// nothing.
    mutating func shouldSpin(from start: Instant, to end: Instant) -> Bool {
        defer { lookedAt = end }
        guard let idleSince else {
            idleSince = end
            movedAt = end
            return true
        }
        if start.nanoseconds >= lookedAt.nanoseconds &+ crowdedAfter {
            // Either a block has just ended with nothing to do, or the processor is shared.
            spin = spinMinimum
        } else if end.nanoseconds &- start.nanoseconds >= movesAfter,
            end.nanoseconds &- idleSince.nanoseconds < movesMaximum
        {
            movedAt = end
        }
        return end.nanoseconds &- movedAt.nanoseconds < spin
    }

    /// The next pause; doubles while nothing happens.
    mutating func nextPause() -> Duration {
        defer { pause = min(pause * 2, IdlePolicy.pauseMaximum) }
        return pause
    }

    private mutating func learn(idle: Duration) {
        if idle <= IdlePolicy.shortMaximum {
            spin = min(IdlePolicy.spinMaximum.nanosecondsClamped, spin * 2 + 1_000)
        } else {
            spin = max(spinMinimum, spin / 2)
        }
    }
}
