/// How long an xstream spins before it blocks, and how long it pauses between polls of sources
/// that have nothing to wait on.
///
/// Spinning pays when the next event comes within the time that a block and a wake-up cost.
/// The policy looks at how long recent idle periods were: short ones make it spin longer, long
/// ones make it give up sooner. An idle engine therefore does not spin at all. It also looks at
/// how long giving way to other threads takes: where somebody else wants the processor, it
/// blocks at once.
struct IdlePolicy {
    /// Longest spin: several round trips of a local network.
    static let spinMaximum: Duration = .microseconds(50)
    static let spinMinimum: Duration = .microseconds(1)
    /// An idle period up to this was short. More than the longest spin: a block that was not worth
    /// it adds its own cost, some 50 to 100 µs on a virtual machine, and must not look like rest.
    static let shortMaximum: Duration = .microseconds(150)
    static let pauseMinimum: Duration = .microseconds(20)
    static let pauseMaximum: Duration = .microseconds(800)

    /// A spinning round that takes this long was interrupted by a thread that needs the processor.
    static let crowdedAfter: Duration = .microseconds(200)

    /// Every so many rounds of a spin the processor is offered to others: often enough for them,
    /// and seldom enough for us, as it is a system call.
    static let roundsPerYield = 32

    private var idleSince: Instant?
    private var lastRound = Instant(nanoseconds: 0)
    private var rounds = 0
    // In nanoseconds, as each round of a spin needs them: durations have 128 bits.
    private var spin: UInt64 = 20_000
    private let spinMinimum = IdlePolicy.spinMinimum.nanosecondsClamped
    private let crowdedAfter = IdlePolicy.crowdedAfter.nanosecondsClamped
    private var pause: Duration = IdlePolicy.pauseMinimum

    /// Whether an idle period has begun, so that `worked` needs to know the time.
    var isIdle: Bool { idleSince != nil }

    /// Something was done at `time`.
    mutating func worked(at time: Instant) {
        guard let start = idleSince else { return }
        idleSince = nil
        // What came during the very first pause may have come at once: nobody looked. Its length
        // says nothing, and spinning would have paid.
        learn(idle: pause == IdlePolicy.pauseMinimum * 2 ? .zero : time.since(start))
        pause = IdlePolicy.pauseMinimum
    }

    /// Whether the round that just ended should offer the processor to others.
    mutating func shouldYield() -> Bool {
        rounds += 1
        return rounds % IdlePolicy.roundsPerYield == 0
    }

    /// Whether to go on spinning at `time`.
    mutating func shouldSpin(at time: Instant) -> Bool {
        defer { lastRound = time }
        guard let start = idleSince else {
            idleSince = time
            rounds = 0
            return true
        }
        if time.nanoseconds >= lastRound.nanoseconds &+ crowdedAfter {
            // Either a block has just ended with nothing to do, or the processor is shared.
            spin = spinMinimum
        }
        return time.nanoseconds &- start.nanoseconds < spin
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
