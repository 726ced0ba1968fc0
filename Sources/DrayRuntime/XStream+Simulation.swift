internal import CDrayRuntime
internal import DequeModule
internal import Synchronization

/// What the scheduler of a simulation keeps in each xstream.
struct SimulatedTurns {
    /// It is in the list of those that can run.
    var isQueued = false
    /// A source has something to report. Real sources say so when polled.
    var sourcesSignalled = false
    /// When an event will wake it for its timers.
    var wakeTime = Instant.never
    /// Jobs since the timers and the sources had their say.
    var jobsInARow = 0
}

extension XStream {
    /// One turn under a simulation: one job, or else the mailbox, timers and sources. Returns
    /// whether there is more to do now.
    func simulationTurn() -> Bool {
        unsafe dray_set_current_xstream(Unmanaged.passUnretained(self).toOpaque())
        defer { dray_set_current_xstream(nil) }
        if stopping.load(ordering: .relaxed) { return false }
        defer { scheduleWake() }
        _ = takeMailbox()
        if turns.jobsInARow < XStream.jobsPerRoundMax, runReadyJobs(max: 1) > 0 {
            // Timers and sources have their say only when the ready jobs are done.
            turns.jobsInARow += 1
            return true
        }
        turns.jobsInARow = 0
        _ = fireTimers(at: now)
        turns.sourcesSignalled = false
        for source in sources where source.poll() > 0 { turns.sourcesSignalled = true }
        _ = resumeYielded()
        return !ready.isEmpty || turns.sourcesSignalled || !mailbox.isEmpty
    }

    /// Has the simulation wake this xstream for its next timer. One event is outstanding for
    /// many timers; one that comes too early does nothing but ask again.
    private func scheduleWake() {
        guard let simulation, let next = timers.next, next < turns.wakeTime else { return }
        turns.wakeTime = next
        simulation.schedule(at: next) { [unowned simulation] in
            if self.turns.wakeTime == next { self.turns.wakeTime = .never }
            simulation.markRunnable(self)
        }
    }
}
