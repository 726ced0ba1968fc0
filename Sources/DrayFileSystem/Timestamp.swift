/// A time of a file: whole seconds since 1970-01-01 UTC, and nanoseconds on top.
///
/// As in `struct timespec`, so that every time a POSIX system can have comes back unchanged.
public struct Timestamp: Hashable, Comparable, Sendable {
    /// May be negative.
    public var seconds: Int64
    /// 0 to 999,999,999.
    public var nanoseconds: UInt32

    /// `nanoseconds` must be below 1,000,000,000.
    public init(seconds: Int64, nanoseconds: UInt32) {
        precondition(nanoseconds < 1_000_000_000, "a timestamp's nanoseconds are below a second")
        self.seconds = seconds
        self.nanoseconds = nanoseconds
    }

    /// The time `wallNanoseconds` after 1970.
    public init(wallNanoseconds: UInt64) {
        seconds = Int64(wallNanoseconds / 1_000_000_000)
        nanoseconds = UInt32(wallNanoseconds % 1_000_000_000)
    }

    public static func < (left: Timestamp, right: Timestamp) -> Bool {
        (left.seconds, left.nanoseconds) < (right.seconds, right.nanoseconds)
    }
}
