internal import CDrayRuntime
internal import DequeModule
internal import Glibc
internal import Synchronization

extension XStream {
    /// The most jobs that run before the sources are polled again.
    static let jobsPerRoundMax = 256
    /// The clock is read once for so many of them.
    private static let jobsPerLook = 16
    /// Jobs begin for so long, and then the sources are polled: what the jobs sent has to leave,
    /// and what came meanwhile waits. Short jobs share the cost of the polls, long ones do not
    /// hold up others.
    private static let jobNanosecondsPerRound: UInt64 = 50_000

    func startThread() {
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
        dray_set_precise_timers()
        lastRound = now
        while !stopping.load(ordering: .relaxed) {
            var progress = takeMailbox() + runRoundOfJobs()
            // A task that has spun in vain on its way into suspension has done nothing.
            if hasSpun {
                hasSpun = false
                progress -= 1
            }
            if !poll(progress: progress) { block() }
        }
        dismissWorkers()
        _ = runReadyJobs(max: WorkerPool.waitingMax)
        // What a timer captured may refer to the xstream, which would never go.
        var dropped = TimerQueue()
        swap(&timers, &dropped)
        dray_set_current_xstream(nil)
    }

    /// Has the sources and timers do what there is to do, after a round in which `progress` was
    /// made before. Returns false when it is time to sleep.
    private func poll(progress: Int) -> Bool {
        var progress = progress
        // One look at the clock does for all of the round.
        let time = progress == 0 ? looked ?? now : now
        looked = nil
        lastRound = time
        // A source may be added or removed meanwhile.
        var index = 0
        while index < sources.count {
            progress += sources[index].poll()
            index += 1
        }
        if timers.earliest <= time { progress += fireTimers(at: time) }
        progress += resumeYielded()
        if progress > 0 || hasReadyJobs {
            if idle.isIdle { idle.worked(at: time) }
            return true
        }
        let end = now
        guard idle.shouldSpin(from: time, to: end) else { return false }
        // Who else wants the processor gets it, and is noticed by the time it takes.
        if idle.shouldYield(at: end) {
            dray_yield_processor()
        } else {
            dray_cpu_relax()
            looked = end
        }
        return true
    }

    /// Polls the sources for a task that is about to wait for one of them, until its wait is over
    /// or something else is to be done. What happens meanwhile is what happens between two jobs.
    ///
    /// A suspension and a resumption cost some 400 ns, which is a part of the latency of whatever
    /// comes back in a few microseconds. In a simulation tasks always suspend.
    ///
    /// - Parameters:
    ///   - start: about now, if the task has read the clock a moment ago.
    ///   - wait: whether the task has to wait; asked after each look.
    /// - Returns: whether the wait is over; the task must suspend if not.
    public func spin(from start: Instant, while wait: () -> Bool) -> Bool {
        guard case .thread = driver else { return !wait() }
        isSpinning = true
        defer { isSpinning = false }
        let start = max(start, lastRound)
        // Whoever runs works.
        if idle.isIdle { idle.worked(at: start) }
        looked = start
        while wait() {
            guard !hasReadyJobs, !stopping.load(ordering: .relaxed) else { return false }
            guard poll(progress: takeMailbox()) || !wait() else {
                hasSpun = true
                return false
            }
        }
        return true
    }

    /// The jobs of one round of the loop.
    private func runRoundOfJobs() -> Int {
        // A few need no clock, which would be a part of each call's latency.
        guard ready.count + workers.bodies.count > XStream.jobsPerLook else {
            return runReadyJobs(max: XStream.jobsPerLook)
        }
        let end = now.nanoseconds &+ XStream.jobNanosecondsPerRound
        var count = 0
        repeat {
            count += runReadyJobs(max: XStream.jobsPerLook)
        } while hasReadyJobs && count < XStream.jobsPerRoundMax && now.nanoseconds < end
        return count
    }

    private var hasReadyJobs: Bool { !ready.isEmpty || !workers.bodies.isEmpty }

    func runReadyJobs(max: Int) -> Int {
        guard hasReadyJobs else { return 0 }
        workers.allowance = max
        if workers.needsWorker { startWorker() }
        let serial = unsafe asUnownedSerialExecutor()
        let task = unsafe asUnownedTaskExecutor()
        var count = 0
        while count < max, let next = ready.popFirst() {
            if next.isIsolated {
                unsafe next.job.runSynchronously(isolatedTo: serial, taskExecutor: task)
            } else {
                unsafe next.job.runSynchronously(on: task)
            }
            count += 1
            // A worker whose body has suspended leaves the rest of the bodies to another one.
            workers.isTaking = false
            if workers.needsWorker, workers.allowance > 0 { startWorker() }
        }
        return count
    }

    func fireTimers(at time: Instant) -> Int {
        timers.takeDue(at: time, into: &due)
        var count = 0
        for timer in due where timer.fire() { count += 1 }
        due.removeAll(keepingCapacity: true)
        return count
    }

    func resumeYielded() -> Int {
        guard !yielded.isEmpty else { return 0 }
        // Two arrays take turns, so that nothing is allocated.
        swap(&yielded, &resuming)
        for task in resuming { task.resume() }
        defer { resuming.removeAll(keepingCapacity: true) }
        return resuming.count
    }

    // MARK: - Mail

    func send(_ item: sending Mailbox.Mail) {
        if mailbox.put(item) { writeWake() }
    }

    func takeMailbox() -> Int {
        guard !mailbox.isEmpty else { return 0 }
        mailbox.take(into: &mail)
        for item in mail {
            switch item {
            case .job(let job): ready.append(job)
            case .body(let body): body()
            }
        }
        defer { mail.removeAll(keepingCapacity: true) }
        return mail.count
    }

    func writeWake() {
        var one: UInt64 = 1
        // A full counter means that a wake-up is pending already.
        _ = unsafe write(wakeDescriptor, &one, 8)
    }

    // MARK: - Sleep

    /// Sleeps until a descriptor is ready, the next timer is due, or something is sent.
    private func block() {
        var limit = timers.next ?? .never
        descriptors.reset(to: wakeDescriptor)
        for source in sources {
            switch source.prepareToBlock() {
            case .busy: return
            case .descriptor(let descriptor): descriptors.add(descriptor)
            case .pause: limit = min(limit, now + idle.nextPause())
            case .idle: break
            }
        }
        guard mailbox.fallAsleep() else { return }
        defer { mailbox.wakeUp() }
        // `stop` writes to the wake descriptor after it has set the flag, so it cannot be missed.
        let timeout: Int64 =
            limit == .never ? -1 : Int64(clamping: limit.since(now).nanosecondsClamped)
        if descriptors.wait(nanoseconds: timeout) {
            var count: UInt64 = 0
            _ = unsafe read(wakeDescriptor, &count, 8)
        }
    }
}

/// The descriptors that an xstream sleeps on; the memory is kept from sleep to sleep.
struct PollDescriptors {
    private var entries: [pollfd] = []

    /// Forgets all but the descriptor of wake-ups.
    mutating func reset(to wake: Int32) {
        entries.removeAll(keepingCapacity: true)
        add(wake)
    }

    mutating func add(_ descriptor: Int32) {
        entries.append(pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0))
    }

    /// Waits; negative is without limit. Returns whether there was a wake-up.
    mutating func wait(nanoseconds: Int64) -> Bool {
        let count = UInt(entries.count)
        let events = unsafe entries.withUnsafeMutableBufferPointer { buffer in
            unsafe dray_poll(buffer.baseAddress, count, nanoseconds)
        }
        return events > 0 && entries[0].revents != 0
    }
}
