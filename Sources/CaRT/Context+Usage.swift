internal import BasicContainers
internal import DrayFabric

/// What a context holds at a moment: nothing of it may be left once all is quiet.
package struct ContextUsage: Hashable, Sendable {
    /// Calls that have not ended.
    package var calls = 0
    /// Requests that handlers work on.
    package var requests = 0
    /// Memory that peers may reach, without what is quarantined.
    package var exposures = 0
    /// Bulk transfers.
    package var transfers = 0
    /// Callers that are known.
    package var sessions = 0
    /// Credits of peers that calls have.
    package var credits = 0
    /// Send slots in use.
    package var sends = 0
    /// Receives that are not posted.
    package var receives = 0
    /// Registered buffers that somebody has, without what is quarantined.
    package var buffers = 0
    /// Memory whose calls are over, and which their peers may still use.
    package var quarantined = 0

    package init() {}

    /// Whether nothing is under way. Sessions may stay.
    package var isIdle: Bool { calls + requests + exposures + transfers == 0 }

    /// Whether everything is back where it belongs, too. A user of the context has buffers only
    /// while it works.
    package var isComplete: Bool {
        isIdle && credits + sends + receives + buffers + quarantined == 0
    }
}

extension Context {
    /// What the context holds now. For tests and simulations.
    package var usage: ContextUsage {
        let counters = counters
        var usage = ContextUsage()
        usage.calls = counters.inFlight + counters.waiting
        usage.requests = counters.active
        // Several calls may have given up the same memory.
        let kept = Set(quarantine.entries.map { $0.memory.descriptor.key })
        let keptBuffers = Set(
            quarantine.entries.compactMap {
                ($0.memory.owner as? RegisteredBuffer).map(ObjectIdentifier.init)
            })
        usage.quarantined = kept.count
        usage.exposures = exposures.count - kept.count
        usage.transfers = bulks.count
        usage.sessions = counters.sessions
        for index in tracker.peers.indices { usage.credits += tracker.peers[index].used }
        usage.sends = sends.busyCount
        usage.receives = receives.count - receives.postedCount
        usage.buffers = pool.lentCount + registrations.usersCount - keptBuffers.count
        return usage
    }

    /// Checks the tables against each other; traps when they disagree. O(calls + sessions).
    package func checkInvariants() {
        tracker.checkInvariants()
        sessions.checkInvariants()
        spills.checkInvariants()
    }
}
