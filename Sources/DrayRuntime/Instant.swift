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
        let (seconds, attoseconds) = components
        guard seconds >= 0, attoseconds >= 0 else { return 0 }
        let (product, overflow) = UInt64(seconds).multipliedReportingOverflow(by: 1_000_000_000)
        guard !overflow else { return .max }
        let (sum, carry) = product.addingReportingOverflow(UInt64(attoseconds / 1_000_000_000))
        return carry ? .max : sum
    }
}
