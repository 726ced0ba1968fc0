/// What a context holds at a moment: nothing of it may be left once all is quiet.
package struct ContextUsage: Hashable, Sendable {
    /// Calls that have not ended.
    package var calls = 0
    /// Requests that handlers work on.
    package var requests = 0
    /// Memory that peers may reach, without what is kept because a lost peer may still use it.
    package var exposures = 0
    /// Bulk transfers.
    package var transfers = 0
    /// Callers that are known.
    package var sessions = 0

    package init() {}

    /// Whether nothing is under way. Sessions may stay.
    package var isIdle: Bool { calls + requests + exposures + transfers == 0 }
}

extension Context {
    /// What the context holds now. For tests and simulations.
    package var usage: ContextUsage {
        let counters = counters
        var usage = ContextUsage()
        usage.calls = counters.inFlight + counters.waiting
        usage.requests = counters.active
        // Several calls may have given up the same memory.
        let quarantined = Set(quarantine.map { $0.handle.descriptor.key })
        usage.exposures = exposures.count - quarantined.count
        usage.transfers = bulks.count
        usage.sessions = counters.sessions
        return usage
    }
}
