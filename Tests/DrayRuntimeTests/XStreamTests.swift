import DrayRuntime
import Glibc
import Synchronization
import Testing

@Suite struct XStreamTests {
    @Test func tasksStayOnTheirXStream() async {
        let xstream = World.real().makeXStream(name: "stay")
        let stayed = await xstream.run {
            var stayed = xstream.isCurrent
            for _ in 0..<10 {
                await xstream.yield()
                stayed = stayed && xstream.isCurrent
            }
            await xstream.sleep(for: .milliseconds(2))
            return stayed && xstream.isCurrent
        }
        #expect(stayed)
        xstream.stop()
    }

    /// Nor do its descriptor and what its timers captured stay.
    @Test func aStoppedXStreamIsNotKeptByItsTimers() async {
        weak var kept: XStream?
        do {
            let xstream = World.real().makeXStream(name: "stopped")
            kept = xstream
            await xstream.run {
                _ = xstream.schedule(at: xstream.now + .seconds(3_600)) { xstream.checkIsolated() }
            }
            xstream.stop()
        }
        for _ in 0..<1_000 where kept != nil { usleep(10_000) }
        #expect(kept == nil)
    }

    @Test func bodiesBeginInTheOrderTheyWereSpawnedIn() async {
        let xstream = World.real().makeXStream(name: "order")
        let order = await xstream.run { () -> [Int] in
            var order: [Int] = []
            await SuspendedTask.suspend { done in
                for index in 0..<1_000 {
                    xstream.spawn {
                        order.append(index)
                        // Some keep their task, so that the next needs another one.
                        if index % 3 == 0 { await xstream.yield() }
                        if index % 7 == 0 { await xstream.sleep(for: .microseconds(100)) }
                        if index == 999 { done.resume() }
                    }
                }
            }
            return order
        }
        #expect(order == Array(0..<1_000))
        xstream.stop()
    }

    /// A body that spawns its successor for ever must not keep timers and sources from running.
    @Test func endlessSpawningLeavesRoomForTimers() async {
        let xstream = World.real().makeXStream(name: "endless")
        let (fired, spawned) = await xstream.run { () -> (Bool, Int) in
            var stop = false
            var spawned = 0
            func again() {
                spawned += 1
                if !stop { xstream.spawn { again() } }
            }
            again()
            await xstream.sleep(for: .milliseconds(5))
            stop = true
            return (true, spawned)
        }
        #expect(fired)
        #expect(spawned > 100)
        xstream.stop()
    }

    private final class CountingSource: PollSource {
        private(set) var polls = 0
        func poll() -> Int {
            polls += 1
            return 0
        }
        func prepareToBlock() -> BlockReadiness { .idle }
    }

    @Test func yieldLetsSourcesRunFirst() async {
        let xstream = World.real().makeXStream(name: "yield")
        let polls = await xstream.run { () -> [Int] in
            let source = CountingSource()
            xstream.addSource(source)
            var polls: [Int] = []
            for _ in 0..<10 {
                polls.append(source.polls)
                await xstream.yield()
            }
            xstream.removeSource(source)
            return polls
        }
        for (before, after) in zip(polls, polls.dropFirst()) { #expect(before < after) }
        xstream.stop()
    }

    /// All are ready at once. However slow the machine is, jobs only get longer.
    @Test func sourcesAreNotHeldUpByLongJobs() async {
        let xstream = World.real().makeXStream(name: "long-jobs")
        let polls = await xstream.run { () -> Int in
            let source = CountingSource()
            xstream.addSource(source)
            var left = 200
            await SuspendedTask.suspend { done in
                for _ in 0..<left {
                    xstream.spawn {
                        let end = xstream.now + .microseconds(50)
                        while xstream.now < end {}
                        left -= 1
                        if left == 0 { done.resume() }
                    }
                }
            }
            xstream.removeSource(source)
            return source.polls
        }
        #expect(polls >= 10)
        xstream.stop()
    }

    /// Does something at its third poll.
    private final class ThirdTime: PollSource {
        private let body: () -> Void
        private(set) var polls = 0

        init(_ body: @escaping () -> Void) { self.body = body }

        func poll() -> Int {
            polls += 1
            guard polls == 3 else { return 0 }
            body()
            return 1
        }

        func prepareToBlock() -> BlockReadiness { .idle }
    }

    @TaskLocal private static var color = "none"

    /// Spins beside a source that does `body` at its third poll, until that has ended the wait. A
    /// busy machine may end a spin before: then it is tried again.
    private static func spin(
        on xstream: XStream, _ body: @escaping (_ end: @escaping () -> Void) -> Void
    ) -> (isOver: Bool, polls: Int) {
        for _ in 0..<1_000 {
            var isWaiting = true
            let source = ThirdTime { body { isWaiting = false } }
            xstream.addSource(source)
            defer { xstream.removeSource(source) }
            let isOver = xstream.spin(from: xstream.now) { isWaiting }
            if source.polls >= 3 || xstream.simulation != nil { return (isOver, source.polls) }
        }
        return (false, 0)
    }

    @Test func aTaskWhoseWaitEndsWhileItSpinsNeedNotSuspend() async {
        let xstream = World.real().makeXStream(name: "spin")
        let (isOver, polls) = await xstream.run { Self.spin(on: xstream) { end in end() } }
        #expect(isOver)
        #expect(polls == 3)
        xstream.stop()
    }

    @Test func spinningMakesWayForOtherTasks() async {
        let xstream = World.real().makeXStream(name: "way")
        let (spun, hasRun) = await xstream.run {
            var hasRun = [false, false]
            let spun = Self.spin(on: xstream) { end in xstream.spawn { hasRun[0] = true } }
            hasRun[1] = hasRun[0]
            await xstream.yield()
            return (spun, hasRun)
        }
        #expect(!spun.isOver)
        #expect(spun.polls == 3)
        #expect(hasRun == [true, false])
        xstream.stop()
    }

    /// The limit is that of the loop itself, which does not spin a second time.
    @Test func spinningInVainEnds() async {
        let xstream = World.real().makeXStream(name: "vain")
        let (isOver, fired) = await xstream.run {
            var fired = false
            xstream.schedule(at: xstream.now) { fired = true }
            let isOver = xstream.spin(from: xstream.now) { true }
            return (isOver, fired)
        }
        #expect(!isOver)
        #expect(fired)
        xstream.stop()
    }

    /// The last look of a spin may end the wait, without a word of any event.
    @Test func theEndOfASpinIsNotMissed() async {
        final class Quiet: PollSource {
            let xstream: XStream
            var polls = 0

            init(_ xstream: XStream) { self.xstream = xstream }

            func poll() -> Int {
                polls += 1
                // So long that no policy spins on.
                let end = xstream.now + .milliseconds(polls == 2 ? 5 : 0)
                while xstream.now < end {}
                return 0
            }

            func prepareToBlock() -> BlockReadiness { .idle }
        }
        let xstream = World.real().makeXStream(name: "quiet")
        let (isOver, polls) = await xstream.run {
            let source = Quiet(xstream)
            xstream.addSource(source)
            defer { xstream.removeSource(source) }
            let isOver = xstream.spin(from: xstream.now) { source.polls < 2 }
            return (isOver, source.polls)
        }
        #expect(isOver)
        #expect(polls == 2)
        xstream.stop()
    }

    /// The source's business is not that of the task that happens to spin.
    @Test func whatASourceStartsInheritsNothingFromASpinningTask() async {
        let xstream = World.real().makeXStream(name: "locals")
        let colors = await xstream.run {
            var colors: [String] = []
            await Self.$color.withValue("red") {
                _ = Self.spin(on: xstream) { end in
                    _ = xstream.spawnCancellable { colors.append(Self.color) }
                }
                await xstream.yield()
                await xstream.spawnCancellable { colors.append(Self.color) }.value
            }
            return colors
        }
        #expect(colors == ["none", "red"])
        xstream.stop()
    }

    @Test func simulatedTasksDoNotSpin() {
        let simulation = Simulation(seed: 1)
        let xstream = simulation.world(node: 1).makeXStream(name: "simulated")
        var result: (isOver: Bool, polls: Int)?
        xstream.simulate { result = Self.spin(on: xstream) { end in end() } }
        simulation.run(for: .seconds(1))
        #expect(result?.isOver == false)
        #expect(result?.polls == 0)
        simulation.finish()
    }

    @Test func cancellingTheCallerOfRunCancelsTheTask() async {
        let xstream = World.real().makeXStream(name: "cancel")
        let caller = Task {
            await xstream.run {
                while !Task.isCancelled { await xstream.yield() }
                return true
            }
        }
        caller.cancel()
        #expect(await caller.value)
        xstream.stop()
    }

    /// The task of a body that was cancelled runs no other body.
    @Test func aCancelledBodyTakesItsTaskWithIt() async {
        let xstream = World.real().makeXStream(name: "cancelled")
        let (cancelled, others) = await xstream.run { () -> (Int, Int) in
            var (cancelled, others, left) = (0, 0, 40)
            await SuspendedTask.suspend { done in
                for index in 0..<40 {
                    xstream.spawnWithTask { task in
                        if index % 2 == 0 {
                            xstream.schedule(at: xstream.now + .milliseconds(1)) { task.cancel() }
                        }
                        do throws(CancellationError) {
                            try await xstream.sleepOrCancel(for: .milliseconds(50))
                        } catch {
                            if Task.isCancelled { cancelled += 1 }
                        }
                        left -= 1
                        if left == 0 { done.resume() }
                    }
                }
            }
            await xstream.yield()
            left = 100
            await SuspendedTask.suspend { done in
                for _ in 0..<100 {
                    xstream.spawn {
                        await xstream.yield()
                        if Task.isCancelled { others += 1 }
                        left -= 1
                        if left == 0 { done.resume() }
                    }
                }
            }
            return (cancelled, others)
        }
        #expect(cancelled == 20)
        #expect(others == 0)
        xstream.stop()
    }

    @Test func sleepEndsWithTheCancellation() async {
        let xstream = World.real().makeXStream(name: "sleep")
        let ends = await xstream.run { () -> [Bool] in
            var ends: [Bool] = []
            let sleeper = xstream.spawnCancellable {
                for time in [Duration.milliseconds(1), .seconds(3_600), .seconds(3_600)] {
                    do throws(CancellationError) {
                        try await xstream.sleepOrCancel(for: time)
                        ends.append(true)
                    } catch {
                        ends.append(false)
                    }
                }
            }
            while ends.isEmpty { await xstream.sleep(for: .milliseconds(1)) }
            sleeper.cancel()
            await sleeper.value
            return ends
        }
        #expect(ends == [true, false, false])
        xstream.stop()
    }

    @Test func errorsOfRunAreTyped() async {
        struct Refused: Error, Equatable { let number: Int }
        let xstream = World.real().makeXStream(name: "errors")
        do throws(Refused) {
            try await xstream.run { () async throws(Refused) in throw Refused(number: 7) }
            Issue.record("nothing was thrown")
        } catch {
            #expect(error == Refused(number: 7))
        }
        xstream.stop()
    }

    /// Many threads send while the xstream falls asleep as often as it can: nothing is lost, and
    /// what one thread sends arrives in its order.
    @Test(arguments: [1, 4, 8]) func noWakeUpIsLost(threadCount: Int) async {
        let count = 100_000 / threadCount
        let xstream = World.real().makeXStream(name: "wake")
        final class Received {
            var last: [Int]
            var inOrder = true
            var left: Int
            init(threads: Int, count: Int) {
                last = Array(repeating: -1, count: threads)
                left = threads * count
            }
        }
        let inOrder = await withCheckedContinuation { done in
            nonisolated(unsafe) let received = Received(threads: threadCount, count: count)
            for thread in 0..<threadCount {
                startThread {
                    for index in 0..<count {
                        xstream.submit {
                            if received.last[thread] != index - 1 { received.inOrder = false }
                            received.last[thread] = index
                            received.left -= 1
                            if received.left == 0 { done.resume(returning: received.inOrder) }
                        }
                        // Now and then the xstream gets time to block.
                        if index % 1_000 == 0 { usleep(200) }
                    }
                }
            }
        }
        #expect(inOrder)
        xstream.stop()
    }

    /// One thing at a time, each sent when the one before was received: a wake-up that is lost
    /// would stop this for good.
    @Test func pingPongBetweenTwoXStreams() async {
        let world = World.real()
        let (left, right) = (world.makeXStream(name: "left"), world.makeXStream(name: "right"))
        let rounds = await left.run {
            var rounds = 0
            for _ in 0..<2_000 {
                rounds += await right.run { right.isCurrent ? 1 : 0 }
                if !left.isCurrent { return -1 }
            }
            return rounds
        }
        #expect(rounds == 2_000)
        left.stop()
        right.stop()
    }
}

/// Runs `body` on a thread of its own.
func startThread(_ body: @escaping @Sendable () -> Void) {
    final class Box: Sendable {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    var thread = pthread_t()
    let result = pthread_create(
        &thread, nil,
        { box in
            Unmanaged<Box>.fromOpaque(box!).takeRetainedValue().body()
            return nil
        }, Unmanaged.passRetained(Box(body)).toOpaque())
    precondition(result == 0)
    pthread_detach(thread)
}

/// Blocks the calling thread, so that another one has to serve what is about to happen, until that
/// ends the process. In many short naps: a signal that belongs to the trap ends one of them early.
func waitForTrap() {
    for _ in 0..<300 { usleep(100_000) }
}
