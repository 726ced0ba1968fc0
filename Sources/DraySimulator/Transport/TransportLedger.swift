internal import CaRT

/// What callers and handlers of a transport under test have seen, and what of it must not be.
///
/// All contexts of a simulation share one; in a real process each thread has its own.
package final class TransportLedger {
    /// What was done, added up.
    package struct Counts: Sendable {
        package var calls = 0
        package var replies = 0
        /// Requests that were too large to travel inline, or had such replies.
        package var spills = 0
        /// Calls whose handlers have read or written the caller's memory.
        package var transfers = 0
        package var notesSent = 0
        package var notesReceived = 0
        package var cancelled = 0
        /// Handlers that have run.
        package var handled = 0
        /// Errors that calls have ended with.
        package var errors = 0

        package init() {}

        package static func += (left: inout Counts, right: Counts) {
            left.calls += right.calls
            left.replies += right.replies
            left.spills += right.spills
            left.transfers += right.transfers
            left.notesSent += right.notesSent
            left.notesReceived += right.notesReceived
            left.cancelled += right.cancelled
            left.handled += right.handled
            left.errors += right.errors
        }
    }

    package var counts = Counts()
    /// Everything that must not be.
    package private(set) var violations: [String] = []
    /// The numbers of all requests that a handler has begun with.
    private var ran: Set<UInt64> = []
    /// Requests that no handler has seen, as their callers were told.
    private var refused: [(number: UInt64, error: RPCError)] = []

    /// More of them say nothing new.
    private static let violationsMax = 20

    package init() {}

    package func violation(_ text: String) {
        if violations.count < TransportLedger.violationsMax { violations.append(text) }
    }

    /// A handler begins with a request.
    func begin(_ request: TransportRequest) {
        counts.handled += 1
        if !ran.insert(request.number).inserted {
            violation("request \(name(request.number)) was handled twice")
        }
        if !NumberedBytes(request.number, .request).match(request.bytes) {
            violation("request \(name(request.number)) arrived with other bytes")
        }
    }

    /// A call has ended with a reply.
    func replied(_ number: UInt64) { counts.replies += 1 }

    /// A call has ended with an error after which no handler may have run.
    func refuse(_ number: UInt64, _ error: RPCError) { refused.append((number, error)) }

    /// Whether callers were told the truth about their handlers. Only where all share this ledger.
    package func checkRefusals() {
        for (number, error) in refused where ran.contains(number) {
            violation("request \(name(number)) ended with '\(error)', and was handled")
        }
    }

    /// Whether a handler has seen the request.
    func hasRun(_ number: UInt64) -> Bool { ran.contains(number) }

    func name(_ number: UInt64) -> String { String(number, radix: 16) }
}
