/// A point in time on the monotonic clock of a `World`, in nanoseconds since an arbitrary origin.
///
/// Instants of different processes cannot be compared; deadlines that cross the wire are
/// wall-clock stamps (`World.wallClock`).
public struct Instant: Hashable, Comparable, Sendable {
    public var nanoseconds: UInt64

    @inlinable
    public init(nanoseconds: UInt64) {
        self.nanoseconds = nanoseconds
    }

    /// The end of time: a deadline that never comes.
    @inlinable
    public static var never: Instant { Instant(nanoseconds: .max) }

    @inlinable
    public static func < (left: Instant, right: Instant) -> Bool {
        left.nanoseconds < right.nanoseconds
    }

    /// Adds `duration`, saturating at `never`; a negative duration counts as zero.
    @inlinable
    public static func + (instant: Instant, duration: Duration) -> Instant {
        let (sum, overflow) = instant.nanoseconds.addingReportingOverflow(
            duration.nanosecondsClamped)
        return overflow ? .never : Instant(nanoseconds: sum)
    }

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    @inlinable
    public func since(_ earlier: Instant) -> Duration {
        nanoseconds > earlier.nanoseconds
            ? .nanoseconds(Int64(clamping: nanoseconds - earlier.nanoseconds)) : .zero
    }
}

extension Duration {
    /// Whole nanoseconds, from 0 to `UInt64.max`.
    @inlinable
    public var nanosecondsClamped: UInt64 {
        let attoseconds = attoseconds
        guard attoseconds >= 0 else { return 0 }
        // One division of 64 bits: `components` makes two of 128.
        let divisor: UInt64 = 1_000_000_000
        let high = UInt64(truncatingIfNeeded: attoseconds >> 64)
        guard high < divisor else { return .max }
        return divisor.dividingFullWidth((high, UInt64(truncatingIfNeeded: attoseconds))).quotient
    }
}
