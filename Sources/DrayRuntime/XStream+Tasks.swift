internal import DequeModule
internal import Synchronization

extension XStream {
    /// Starts a task that stays on this xstream. Must be called on it: that is what makes it safe
    /// to capture objects that are confined to it.
    ///
    /// The body begins after the jobs that are ready now. Task-local values are not inherited.
    /// Many bodies that never suspend cost some 50 ns each, one that suspends about as much as
    /// two resumptions.
    public func spawn(_ body: @escaping () async -> Void) {
        precondition(isCurrent, "spawn on xstream \(name) from outside: use submit or run")
        guard case .thread = driver else {
            // One task each: a simulation picks among bodies, and tests see their task locals.
            _ = spawnCancellable(body)
            return
        }
        workers.bodies.append(.plain(body))
        if workers.needsWorker { startWorker() }
    }

    /// Like `spawn`; the body gets the task that it runs in, which somebody may cancel while it
    /// does. Costs what `spawn` does: only a body that is cancelled takes its task with it.
    public func spawnWithTask(_ body: @escaping (SpawnedTask) async -> Void) {
        precondition(isCurrent, "spawn on xstream \(name) from outside: use submit or run")
        guard case .thread = driver else {
            let task = SpawnedTask()
            task.begin(
                spawnCancellable {
                    await body(task)
                    task.end()
                })
            return
        }
        workers.bodies.append(.told(body))
        if workers.needsWorker { startWorker() }
    }

    /// Like `spawn`, and gives a handle that can cancel the task. Inherits task-local values.
    /// Costs a task: some 500 ns.
    public func spawnCancellable(_ body: @escaping () async -> Void) -> Task<Void, Never> {
        precondition(isCurrent, "spawn on xstream \(name) from outside: use submit or run")
        let body = TaskBody(run: body)
        // The task that spins has nothing to do with what a source begins.
        if isSpinning { return Task.detached(executorPreference: self) { await body.run() } }
        return Task(executorPreference: self) { await body.run() }
    }

    /// Runs `body` on this xstream, soon, in the order of submission. Safe from any thread.
    public func submit(_ body: sending @escaping () -> Void) {
        switch driver {
        case .thread:
            send(.body(body))
        case .simulation(let simulation, let node):
            simulation.checkThread()
            guard !simulation.isDead(node) else { return }
            send(.body(body))
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
        let body = TaskBody(run: body)
        submit { self.spawn(body.run) }
    }

    /// Runs an asynchronous `body` as a task of this xstream and returns its result. Safe from
    /// any thread; costs a thread switch each way. Cancelling the caller cancels the task.
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

    // MARK: - Workers

    /// Makes a task ready that will take the next body.
    func startWorker() {
        workers.isStarting = true
        if let waiting = workers.waiting.popLast() {
            waiting.resume()
            return
        }
        // Detached: a worker outlives the task that happens to start it, and must not keep its
        // task-local values or its priority.
        let worker = SpawnedTask()
        worker.begin(Task.detached(executorPreference: self) { await self.work(in: worker) })
    }

    /// The life of a worker.
    private func work(in worker: SpawnedTask) async {
        defer { worker.end() }
        while true {
            workers.isStarting = false
            workers.isTaking = true
            while workers.allowance > 0, !worker.isCancelled, let body = workers.bodies.popFirst() {
                workers.allowance -= 1
                switch body {
                case .plain(let run): await run()
                case .told(let run): await run(worker)
                }
                // Here after a suspension, other bodies may have been left to other workers.
                workers.isTaking = true
            }
            workers.isTaking = false
            guard !worker.isCancelled, workers.waiting.count < WorkerPool.waitingMax,
                !stopping.load(ordering: .relaxed)
            else { return }
            await SuspendedTask.suspend { workers.waiting.append($0) }
        }
    }

    /// Lets all waiting workers end, when the loop has ended.
    func dismissWorkers() {
        while let waiting = workers.waiting.popLast() { waiting.resume() }
    }
}
