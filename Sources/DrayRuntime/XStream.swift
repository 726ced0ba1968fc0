internal import CDrayRuntime
internal import DequeModule
internal import Glibc
internal import Synchronization

/// An execution stream: one thread that runs jobs, then polls its sources, then sleeps.
///
/// It is both a `SerialExecutor` (actors name it as their `unownedExecutor`) and a `TaskExecutor`
/// (every task starts through `spawn`), so a task that suspends here resumes here, through a local
/// queue and without a thread switch.
///
/// Objects that live on an xstream are not `Sendable`; the compiler keeps them here. The ways in
/// from other threads are an actor on this executor, `submit`, and `run`.
///
/// In a `Simulation` an xstream has no thread; the simulation runs its turns.
public final class XStream: SerialExecutor, TaskExecutor, @unchecked Sendable {
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

    private let mailbox = Mutex(Mailbox())

    private struct Mailbox {
        var jobs: [UnownedJob] = []
        var bodies: [() -> Void] = []
    }

    /// Something is in the mailbox. Sequentially consistent with `sleeping`: a sender first fills
    /// the mailbox, then looks at `sleeping`; the xstream first sets `sleeping`, then looks here.
    private let mailboxFilled = Atomic<Bool>(false)
    private let sleeping = Atomic<Bool>(false)
    private let stopping = Atomic<Bool>(false)

    private var ready = Deque<UnownedJob>()
    private var sources: [any PollSource] = []
    private(set) var timers = TimerQueue()
    private var wakeDescriptor: Int32 = -1
    private var idle = IdlePolicy()
    private(set) var stopped = false
    /// In a simulation: a source has something to report. Real sources say so when polled.
    private var sourcesSignalled = false

    /// The most jobs that run before the sources are polled again.
    static let jobsPerRoundMax = 256

    /// Starts a thread that runs until `stop()`.
    init(name: String) {
        self.name = name
        driver = .thread
        wakeDescriptor = dray_make_wake_descriptor()
        precondition(wakeDescriptor >= 0, "no eventfd for xstream \(name)")
        startThread()
    }

    init(name: String, simulation: Simulation, node: Int) {
        self.name = name
        driver = .simulation(simulation, node: node)
    }

    deinit {
        if wakeDescriptor >= 0 { close(wakeDescriptor) }
    }

    // MARK: - Executor

    public func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        if isCurrent {
            ready.append(job)
            return
        }
        switch driver {
        case .thread:
            mailbox.withLock { $0.jobs.append(job) }
            wakeFromMailbox()
        case .simulation(let simulation, let node):
            simulation.checkThread()
            // A job of a crashed process never runs.
            guard !simulation.isDead(node) else { return }
            ready.append(job)
            simulation.markRunnable(self)
        }
    }

    public func asUnownedSerialExecutor() -> UnownedSerialExecutor {
        unsafe UnownedSerialExecutor(complexEquality: self)
    }

    public func isSameExclusiveExecutionContext(other: XStream) -> Bool {
        self === other
    }

    public func checkIsolated() {
        precondition(isCurrent, "not on xstream \(name)")
    }

    /// Whether the caller runs on this xstream.
    public var isCurrent: Bool {
        unsafe dray_current_xstream() == Unmanaged.passUnretained(self).toOpaque()
    }

    /// Starts a task that stays on this xstream. Must be called on it: that is what makes it safe
    /// to capture objects that are confined to it.
    ///
    /// About 240 ns to create and run.
    public func spawn(_ body: @escaping () async -> Void) {
        precondition(isCurrent, "spawn on xstream \(name) from outside: use submit or run")
        _ = spawnCancellable(body)
    }

    /// Like `spawn`, and gives a handle that can cancel the task.
    public func spawnCancellable(_ body: @escaping () async -> Void) -> Task<Void, Never> {
        precondition(isCurrent, "spawn on xstream \(name) from outside: use submit or run")
        let confined = Confined(body)
        return Task(executorPreference: self) { await confined.value() }
    }

    /// Runs `body` on this xstream, soon, in the order of submission. Safe from any thread.
    public func submit(_ body: sending @escaping () -> Void) {
        let confined = Confined(body)
        switch driver {
        case .thread:
            mailbox.withLock { $0.bodies.append { confined.value() } }
            wakeFromMailbox()
        case .simulation(let simulation, let node):
            simulation.checkThread()
            guard !simulation.isDead(node) else { return }
            mailbox.withLock { $0.bodies.append { confined.value() } }
            mailboxFilled.store(true, ordering: .relaxed)
            simulation.markRunnable(self)
        }
    }

    /// Starts a task on this xstream of a simulation, from the simulation's own thread: that is
    /// what makes it safe to capture anything.
    public func simulate(_ body: @escaping () async -> Void) {
        guard case .simulation(let simulation, _) = driver else {
            preconditionFailure("xstream \(name) is not simulated")
        }
        simulation.checkThread()
        let confined = Confined(body)
        submit { self.spawn(confined.value) }
    }

    /// Runs an asynchronous `body` as a task of this xstream and returns its result. Safe from
    /// any thread; costs a thread switch each way.
    public func run<Value: Sendable, Failure: Error>(
        _ body: sending @escaping () async throws(Failure) -> Value
    ) async throws(Failure) -> Value {
        let confined = Confined(body)
        let task = Task(executorPreference: self) { () async -> Result<Value, Failure> in
            do throws(Failure) {
                return .success(try await confined.value())
            } catch {
                return .failure(error)
            }
        }
        let result = await withTaskCancellationHandler {
            await task.value
        } onCancel: {
            task.cancel()
        }
        return try result.get()
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

    /// The monotonic time.
    public var now: Instant {
        switch driver {
        case .thread: Instant(nanoseconds: dray_clock_nanoseconds(CLOCK_MONOTONIC))
        case .simulation(let simulation, _): simulation.now
        }
    }

    /// Runs `body` on this xstream at `deadline` or soon after. Must be called on the xstream.
    /// O(log n) in the number of timers.
    @discardableResult
    public func schedule(at deadline: Instant, _ body: @escaping () -> Void) -> Timer {
        precondition(isCurrent)
        let timer = timers.add(deadline: deadline, body)
        if case .simulation(let simulation, _) = driver {
            simulation.wake(self, at: deadline)
        }
        return timer
    }

    /// Suspends the task until `deadline`. Not ended early by cancellation.
    public func sleep(until deadline: Instant) async {
        precondition(isCurrent)
        unsafe await withUnsafeContinuation { (continuation: UnsafeContinuation<Void, Never>) in
            _ = schedule(at: deadline) { unsafe continuation.resume() }
        }
    }

    /// Suspends the task for `duration`.
    public func sleep(for duration: Duration) async {
        await sleep(until: now + duration)
    }

    /// Lets other jobs and the poll sources of this xstream run first.
    public func yield() async {
        await Task.yield()
    }

    /// In a simulation: makes the xstream poll its sources. Does nothing in the real world, where
    /// sources wake the xstream through their descriptors.
    package func signalSources() {
        guard case .simulation(let simulation, let node) = driver else { return }
        guard !simulation.isDead(node) else { return }
        sourcesSignalled = true
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

    /// Ends the thread after the current round. Jobs that are still queued do not run. Safe from
    /// any thread.
    public func stop() {
        stopping.store(true, ordering: .sequentiallyConsistent)
        switch driver {
        case .thread: writeWake()
        case .simulation: stopped = true
        }
    }

    // MARK: - The loop

    private func startThread() {
        let context = unsafe Unmanaged.passRetained(self).toOpaque()
        var thread = pthread_t()
        let result = unsafe pthread_create(
            &thread, nil,
            { context in
                // SAFETY: `context` is the retained xstream passed above, consumed once here.
                let xstream = unsafe Unmanaged<XStream>.fromOpaque(context!).takeRetainedValue()
                xstream.runLoop()
                return nil
            }, context)
        precondition(result == 0, "no thread for xstream \(name)")
        pthread_detach(thread)
    }

    private func runLoop() {
        unsafe dray_set_current_xstream(Unmanaged.passUnretained(self).toOpaque())
        unsafe name.withCString { unsafe dray_name_thread($0) }
        while !stopping.load(ordering: .relaxed) {
            var progress = takeMailbox()
            progress += runReadyJobs(max: XStream.jobsPerRoundMax)
            for source in sources { progress += source.poll() }
            let time = now
            progress += timers.fire(until: time)
            if progress > 0 || !ready.isEmpty {
                idle.worked(at: time)
                continue
            }
            if idle.shouldSpin(at: time) {
                dray_cpu_relax()
                continue
            }
            block()
        }
        stopped = true
        dray_set_current_xstream(nil)
    }

    private func runReadyJobs(max: Int) -> Int {
        var count = 0
        let serial = unsafe asUnownedSerialExecutor()
        let task = unsafe asUnownedTaskExecutor()
        while count < max, let job = ready.popFirst() {
            unsafe job.runSynchronously(isolatedTo: serial, taskExecutor: task)
            count += 1
        }
        return count
    }

    private func takeMailbox() -> Int {
        guard mailboxFilled.load(ordering: .sequentiallyConsistent) else { return 0 }
        mailboxFilled.store(false, ordering: .sequentiallyConsistent)
        let mail = mailbox.withLock { mailbox in
            let mail = mailbox
            mailbox = Mailbox()
            return mail
        }
        for job in mail.jobs { ready.append(job) }
        for body in mail.bodies { body() }
        return mail.jobs.count + mail.bodies.count
    }

    private func wakeFromMailbox() {
        mailboxFilled.store(true, ordering: .sequentiallyConsistent)
        if sleeping.load(ordering: .sequentiallyConsistent) { writeWake() }
    }

    private func writeWake() {
        var one: UInt64 = 1
        // A full counter means that a wake-up is pending already.
        _ = unsafe write(wakeDescriptor, &one, 8)
    }

    /// Sleeps until a descriptor is ready, the next timer is due, or something is sent.
    private func block() {
        var descriptors = [pollfd(fd: wakeDescriptor, events: Int16(POLLIN), revents: 0)]
        var limit = timers.next ?? .never
        for source in sources {
            switch source.prepareToBlock() {
            case .busy: return
            case .descriptor(let descriptor):
                descriptors.append(pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0))
            case .pause: limit = min(limit, now + idle.nextPause())
            case .idle: break
            }
        }
        sleeping.store(true, ordering: .sequentiallyConsistent)
        defer { sleeping.store(false, ordering: .relaxed) }
        guard !mailboxFilled.load(ordering: .sequentiallyConsistent),
            !stopping.load(ordering: .sequentiallyConsistent)
        else { return }
        let timeout: Int64 =
            limit == .never ? -1 : Int64(clamping: limit.since(now).nanosecondsClamped)
        let count = UInt(descriptors.count)
        let events = unsafe descriptors.withUnsafeMutableBufferPointer { buffer in
            unsafe dray_poll(buffer.baseAddress, count, timeout)
        }
        if events > 0, descriptors[0].revents != 0 {
            var count: UInt64 = 0
            _ = unsafe read(wakeDescriptor, &count, 8)
        }
        idle.woke(at: now)
    }

    // MARK: - Simulation

    /// One turn under a simulation: one job, or else the mailbox, timers and sources. Returns
    /// whether there is more to do now.
    func simulationTurn() -> Bool {
        unsafe dray_set_current_xstream(Unmanaged.passUnretained(self).toOpaque())
        defer { dray_set_current_xstream(nil) }
        if stopped { return false }
        _ = takeMailbox()
        if runReadyJobs(max: 1) == 0 {
            _ = timers.fire(until: now)
            sourcesSignalled = false
            for source in sources where source.poll() > 0 { sourcesSignalled = true }
        } else {
            // Timers and sources have their say only when the ready jobs are done.
            return true
        }
        return !ready.isEmpty || sourcesSignalled || mailboxFilled.load(ordering: .relaxed)
    }
}

/// Carries a value of one xstream across a `Sendable` boundary, back to that same xstream.
struct Confined<Value>: @unchecked Sendable {
    // SAFETY: only `XStream` makes these, and unwraps them on the xstream they belong to.
    let value: Value

    init(_ value: Value) { self.value = value }
}
