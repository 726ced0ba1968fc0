internal import DrayRuntime

/// What one pass of the scrubber over a store has come to.
package struct ScrubPass: Hashable, Sendable {
    /// The most findings that a pass keeps; it goes on counting.
    package static let findingsMax = 64

    /// When it began, by the wall clock, in nanoseconds.
    package var started: UInt64
    /// When it ended; nil while it is under way.
    package var ended: UInt64?
    /// Whether it came to the end of the store.
    package var isComplete = false
    /// Bytes that were verified: of values, tables, the manifest and the block map.
    package var bytes: UInt64 = 0
    /// About how many there were when it began.
    package var bytesTotal: UInt64 = 0
    package var tables: UInt64 = 0
    package var values: UInt64 = 0
    /// How much is not as it was written.
    package var errors: UInt64 = 0
    /// The first of it; and, where the pass was ended early, what the one before had found.
    package var findings: [StoreFinding] = []

    package init(started: UInt64) { self.started = started }
}

/// What the scrubber of a store does, and has found since the store was opened.
package struct ScrubStatus: Hashable, Sendable {
    /// The pass under way.
    package var current: ScrubPass?
    /// The one before.
    package var last: ScrubPass?
    /// Passes that came to the end.
    package var passes: UInt64 = 0
    /// Bytes that were verified, in all passes.
    package var bytes: UInt64 = 0
    /// What was found, in all passes: the same damage once in each.
    package var errors: UInt64 = 0

    package init() {}

    /// What is known to be damaged: the findings of the pass under way, and those of the last one
    /// that it has not come to yet.
    package var findings: [StoreFinding] {
        let new = current?.findings ?? []
        return new + (last?.findings ?? []).filter { !new.contains($0) }
    }
}

/// The scrubber of a store.
@safe final class ScrubState {
    @safe @exclusivity(unchecked) private(set) var status = ScrubStatus()
    /// Somebody has asked for the end of the pass under way.
    var isStopping = false
    /// It is reading, and keeps the tables as they are for that.
    var isReading = false
    /// When the next pass begins by itself.
    var next = Instant.never

    func begin(at time: UInt64, bytesTotal: UInt64) {
        precondition(status.current == nil, "one pass at a time")
        isStopping = false
        status.current = ScrubPass(started: time)
        status.current?.bytesTotal = bytesTotal
    }

    func end(at time: UInt64, isComplete: Bool) {
        guard var pass = status.current else { preconditionFailure("no pass is under way") }
        pass.ended = time
        pass.isComplete = isComplete
        if isComplete {
            status.passes += 1
        } else {
            // It has not come to all that the last one found.
            let old = (status.last?.findings ?? []).filter { !pass.findings.contains($0) }
            pass.findings += old.prefix(ScrubPass.findingsMax - pass.findings.count)
        }
        status.last = pass
        status.current = nil
    }

    func count(bytes: Int, tables: Int, values: Int) {
        status.bytes += UInt64(bytes)
        status.current?.bytes += UInt64(bytes)
        status.current?.tables += UInt64(tables)
        status.current?.values += UInt64(values)
    }

    /// Returns how many there are in this pass.
    func add(_ finding: StoreFinding) -> UInt64 {
        status.errors += 1
        guard var pass = status.current else { preconditionFailure("no pass is under way") }
        // Not in two places at once, which would copy the findings.
        status.current = nil
        pass.errors += 1
        if pass.findings.count < ScrubPass.findingsMax { pass.findings.append(finding) }
        status.current = pass
        return pass.errors
    }
}
