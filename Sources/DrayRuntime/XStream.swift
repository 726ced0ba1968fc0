internal import CDrayRuntime
internal import DequeModule
internal import Glibc
internal import Synchronization

/// An execution stream: one thread that runs jobs, then polls its sources, then sleeps.
///
/// It is a `TaskExecutor`: every task starts through `spawn`, so a task that suspends here resumes
/// here, through a local queue and without a thread switch. Actors that live here name
/// `asUnownedSerialExecutor()` as their `unownedExecutor`.
///
/// Objects that live on an xstream are not `Sendable`; the compiler keeps them here. The ways in
/// from other threads are an actor on this executor, `submit`, and `run`.
///
/// In a `Simulation` an xstream has no thread; the simulation runs its turns.
public final class XStream: TaskExecutor, @unchecked Sendable {
    // SAFETY of `@unchecked Sendable`: everything below `mailbox` is touched only by the thread
    // that runs the xstream (checked with `isCurrent`); the mailbox and the flags are
    // synchronised.
    /// The name, for threads, logs and metrics.
    public let name: String

    let driver: Driver

    enum Driver {
        case thread
        case simulation(Simulation, node: Int)
    }

    let stopping = Atomic<Bool>(false)
    let mailbox = Mailbox()

    @safe @exclusivity(unchecked) var mail: [Mailbox.Mail] = []
    @safe @exclusivity(unchecked) var ready = Deque<ReadyJob>()
    @safe @exclusivity(unchecked) var workers = WorkerPool()
    /// Tasks that yielded: they go on after the sources were polled.
    @safe @exclusivity(unchecked) var yielded: [SuspendedTask] = []
    @safe @exclusivity(unchecked) var resuming: [SuspendedTask] = []
    @safe @exclusivity(unchecked) var sources: [any PollSource] = []
    @safe @exclusivity(unchecked) var timers = TimerQueue()
    /// The timers that fire in this round; the memory is kept from round to round.
    @safe @exclusivity(unchecked) var due: [Timer] = []
    @safe @exclusivity(unchecked) var idle = IdlePolicy()
    @safe @exclusivity(unchecked) var lastRound = Instant(nanoseconds: 0)
    /// When the last look for work ended, if nothing has happened since.
    @safe @exclusivity(unchecked) var looked: Instant?
    /// A task polls the sources before it suspends.
    @safe @exclusivity(unchecked) var isSpinning = false
    /// A task did so until it was time to sleep, and the loop has not taken note of it.
    @safe @exclusivity(unchecked) var hasSpun = false
    @safe @exclusivity(unchecked) var descriptors = PollDescriptors()
    let wakeDescriptor: Int32
    @safe @exclusivity(unchecked) private(set) var serial: XStreamSerialExecutor!

    /// What the scheduler of a simulation knows about this xstream.
    @safe @exclusivity(unchecked) var turns = SimulatedTurns()

    /// Starts a thread that runs until `stop()`.
    init(name: String) {
        self.name = name
        driver = .thread
        wakeDescriptor = dray_make_wake_descriptor()
        precondition(wakeDescriptor >= 0, "no eventfd for xstream \(name)")
        serial = XStreamSerialExecutor(xstream: self)
        startThread()
    }

    init(name: String, simulation: Simulation, node: Int) {
        self.name = name
        driver = .simulation(simulation, node: node)
        wakeDescriptor = -1
        serial = XStreamSerialExecutor(xstream: self)
    }

    deinit {
        if wakeDescriptor >= 0 { close(wakeDescriptor) }
    }

    // MARK: - Executor

    /// Adds a job of a task at large. Called by the Swift runtime.
    public func enqueue(_ job: consuming ExecutorJob) {
        enqueue(ReadyJob(job: UnownedJob(job), isIsolated: false))
    }

    func enqueue(_ job: ReadyJob) {
        if isCurrent {
            ready.append(job)
            return
        }
        switch driver {
        case .thread:
            send(.job(job))
        case .simulation(let simulation, let node):
            simulation.checkThread()
            // A job of a crashed process never runs.
            guard !simulation.isDead(node) else { return }
            ready.append(job)
            simulation.markRunnable(self)
        }
    }

    /// The executor of actors that live on this xstream; valid as long as the xstream.
    ///
    /// It is another object than the task executor for speed: a task that runs as "isolated to the
    /// serial executor" would be enqueued once more at every return to a nonisolated function.
    public func asUnownedSerialExecutor() -> UnownedSerialExecutor {
        unsafe UnownedSerialExecutor(ordinary: serial)
    }

    /// Whether the caller runs on this xstream.
    public var isCurrent: Bool {
        unsafe dray_current_xstream() == Unmanaged.passUnretained(self).toOpaque()
    }

    /// Traps unless the caller runs on this xstream.
    public func checkIsolated() {
        precondition(isCurrent, "not on xstream \(name)")
    }

    // MARK: - Sources and timers

    /// Adds a poll source. Must be called on the xstream.
    public func addSource(_ source: any PollSource) {
        precondition(isCurrent)
        precondition(!sources.contains { $0 === source })
        sources.append(source)
    }

    /// Removes a poll source. Must be called on the xstream.
    public func removeSource(_ source: any PollSource) {
        precondition(isCurrent)
        sources.removeAll { $0 === source }
    }

    /// The monotonic time. About 25 ns.
    public var now: Instant {
        switch driver {
        case .thread: Instant(nanoseconds: dray_clock_nanoseconds(CLOCK_MONOTONIC))
        case .simulation(let simulation, _): simulation.now
        }
    }

    /// The monotonic time when the sources were last polled, or now where that is the same. Costs
    /// nothing: what a source does in `poll` need not read the clock.
    public var roundTime: Instant {
        switch driver {
        case .thread: lastRound
        case .simulation(let simulation, _): simulation.now
        }
    }

    /// Runs `body` on this xstream at `deadline` or soon after. Must be called on the xstream.
    /// O(log n) in the number of timers.
    @discardableResult
    public func schedule(at deadline: Instant, _ body: @escaping () -> Void) -> Timer {
        precondition(isCurrent)
        return timers.add(deadline: deadline, body)
    }

    /// Suspends the task until `deadline`. Not ended early by cancellation.
    @inline(__always) @inlinable
    public func sleep(until deadline: Instant) async {
        await SuspendedTask.suspend { task in
            schedule(at: deadline) { task.resume() }
        }
    }

    /// Suspends the task for `duration`.
    @inline(__always) @inlinable
    public func sleep(for duration: Duration) async {
        await sleep(until: now + duration)
    }

    /// Lets other jobs and the poll sources of this xstream run first. Must be called on it.
    @inline(__always) @inlinable
    public func yield() async {
        await SuspendedTask.suspend { resumeAfterSources($0) }
    }

    @usableFromInline
    func resumeAfterSources(_ task: SuspendedTask) {
        precondition(isCurrent)
        yielded.append(task)
    }

    /// In a simulation: makes the xstream poll its sources. Does nothing in the real world, where
    /// sources wake the xstream through their descriptors.
    package func signalSources() {
        guard case .simulation(let simulation, let node) = driver else { return }
        guard !simulation.isDead(node) else { return }
        turns.sourcesSignalled = true
        simulation.markRunnable(self)
    }

    /// The simulation this xstream belongs to, if any.
    package var simulation: Simulation? {
        if case .simulation(let simulation, _) = driver { simulation } else { nil }
    }

    /// The simulated process this xstream belongs to; 0 in the real world.
    package var node: Int {
        if case .simulation(_, let node) = driver { node } else { 0 }
    }

    /// Ends the thread after the current round. Jobs that are still queued, or sent later, do not
    /// run: end the tasks first. Safe from any thread.
    public func stop() {
        stopping.store(true, ordering: .sequentiallyConsistent)
        if case .thread = driver { writeWake() }
    }
}
