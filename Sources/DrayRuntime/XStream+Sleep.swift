extension XStream {
    /// Suspends the task until `deadline`, or until it is cancelled: then it throws. Dearer than
    /// `sleep`, which waits for the deadline in any case.
    public func sleepOrCancel(until deadline: Instant) async throws(CancellationError) {
        let sleeper = XStreamBound(Sleeper(), to: self)
        await withTaskCancellationHandler {
            // A cancellation until here is heard of in the next round, when the task waits.
            await SuspendedTask.suspend { task in
                let timer = schedule(at: deadline) { sleeper.value.wake() }
                sleeper.value.begin(task, timer)
            }
        } onCancel: {
            submit { sleeper.value.wake() }
        }
        if Task.isCancelled { throw CancellationError() }
    }

    /// Suspends the task for `duration`, or until it is cancelled: then it throws.
    public func sleepOrCancel(for duration: Duration) async throws(CancellationError) {
        try await sleepOrCancel(until: now + duration)
    }
}

/// A task that sleeps, and the timer that wakes it.
private final class Sleeper {
    private var task: SuspendedTask?
    private var timer: Timer?

    func begin(_ task: SuspendedTask, _ timer: Timer) {
        self.task = task
        self.timer = timer
    }

    /// Whatever comes first, the timer or the cancellation.
    func wake() {
        timer?.cancel()
        timer = nil
        let task = task
        self.task = nil
        task?.resume()
    }
}
