/// How long an xstream spins before it blocks, and how long it pauses between polls of sources
/// that have nothing to wait on.
///
/// Spinning pays when the next event comes within the time that a block and a wake-up cost.
/// The policy looks at how long recent idle periods were: short ones make it spin longer, long
/// ones make it give up sooner. An idle engine therefore does not spin at all.
struct IdlePolicy {
    /// Longest spin: several round trips of a local network.
    static let spinMaximum: Duration = .microseconds(50)
    static let spinMinimum: Duration = .microseconds(1)
    static let pauseMinimum: Duration = .microseconds(20)
    static let pauseMaximum: Duration = .microseconds(800)

    private var idleSince: Instant?
    private var spin: Duration = .microseconds(20)
    private var pause: Duration = IdlePolicy.pauseMinimum

    /// Something was done at `time`.
    mutating func worked(at time: Instant) {
        if let start = idleSince {
            learn(idle: time.since(start))
            idleSince = nil
        }
        pause = IdlePolicy.pauseMinimum
    }

    /// Whether to go on spinning at `time`.
    mutating func shouldSpin(at time: Instant) -> Bool {
        guard let start = idleSince else {
            idleSince = time
            return true
        }
        return time.since(start) < spin
    }

    /// A block ended at `time`.
    mutating func woke(at time: Instant) {}

    /// The next pause; doubles while nothing happens.
    mutating func nextPause() -> Duration {
        defer { pause = min(pause * 2, IdlePolicy.pauseMaximum) }
        return pause
    }

    private mutating func learn(idle: Duration) {
        if idle <= IdlePolicy.spinMaximum {
            spin = min(IdlePolicy.spinMaximum, spin * 2 + .microseconds(1))
        } else {
            spin = max(IdlePolicy.spinMinimum, spin / 2)
        }
    }
}
