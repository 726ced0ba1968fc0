internal import DrayRuntime

/// When work in the background may be tried again that has failed: after a pause that grows with
/// each failure, and begins anew when the work is done. What cannot be read now may be read later,
/// but not every quarter of a second.
struct RetryPause {
    /// The pause after the first failure, and the longest one.
    static let shortest = Duration.seconds(5)
    static let longest = Duration.seconds(320)

    /// How long the next pause is.
    private(set) var next = RetryPause.shortest
    private var end: Instant?

    /// Whether the work may be tried.
    func isOver(at now: Instant) -> Bool { end.map { $0 <= now } ?? true }

    /// The work has failed. Space may be there at any time: for want of it alone pauses stay as
    /// they are.
    mutating func begin(at now: Instant, after error: VOSError) {
        end = now + next
        if case .noSpace = error { return }
        next = min(next + next, RetryPause.longest)
    }

    /// The work is done.
    mutating func reset() { self = RetryPause() }
}
