internal import Synchronization

/// A hybrid logical clock (Kulkarni et al. 2014): physical time that never goes back and moves
/// ahead of every stamp it has seen.
///
/// A stamp is nanoseconds since 1970 in 64 bits (enough until 2554). Where physical time stands
/// still, or behind a stamp that was seen, the clock counts up by one. Stamps order the epochs of
/// objects. Safe from any thread.
public final class HybridLogicalClock: Sendable {
    private let clock: WorldClock
    // Ordering: relaxed. The stamp is a single word and publishes nothing but itself.
    private let last = Atomic<UInt64>(0)

    /// A received stamp further ahead of our wall clock than this is refused.
    public static let uncertaintyMax: Duration = .seconds(1)

    private let uncertainty = HybridLogicalClock.uncertaintyMax.nanosecondsClamped

    public init(clock: WorldClock) {
        self.clock = clock
    }

    /// A stamp larger than every stamp given or observed before.
    public func now() -> UInt64 { now(physical: clock.wallNanoseconds) }

    /// The same for who has read the wall clock a moment ago: `physical` is what it said.
    public func now(physical: UInt64) -> UInt64 {
        var seen = last.load(ordering: .relaxed)
        while true {
            let next = max(physical, seen + 1)
            let (exchanged, original) = last.weakCompareExchange(
                expected: seen, desired: next, ordering: .relaxed)
            if exchanged { return next }
            seen = original
        }
    }

    /// Moves ahead of `stamp`, which came from another process. Returns false, and changes
    /// nothing, when it is more than `uncertaintyMax` ahead of our wall clock.
    public func observe(_ stamp: UInt64) -> Bool {
        observe(stamp, physical: clock.wallNanoseconds)
    }

    /// The same for who has read the wall clock a moment ago: `physical` is what it said.
    public func observe(_ stamp: UInt64, physical: UInt64) -> Bool {
        guard stamp > last.load(ordering: .relaxed) else { return true }
        guard stamp <= physical &+ uncertainty else { return false }
        advance(past: stamp)
        return true
    }

    /// Moves ahead of `stamp`, which is our own: read from our disk after a restart.
    public func advance(past stamp: UInt64) {
        var seen = last.load(ordering: .relaxed)
        while seen < stamp {
            let (exchanged, original) = last.weakCompareExchange(
                expected: seen, desired: stamp, ordering: .relaxed)
            if exchanged { break }
            seen = original
        }
    }
}
