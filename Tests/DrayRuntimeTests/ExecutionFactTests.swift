import DrayRuntime
import Glibc
import Testing

/// What Dray relies on in Swift's executors. A new toolchain that changes any of it fails here.
@Suite struct ExecutionFactTests {
    let xstream = World.real().makeXStream(name: "facts")

    @Test func aTaskComesBackFromAContinuationThatAForeignThreadResumes() async {
        let xstream = xstream
        let stayed = await xstream.run {
            for _ in 0..<20 {
                await withCheckedContinuation { done in startThread { done.resume() } }
                guard xstream.isCurrent else { return false }
            }
            return true
        }
        #expect(stayed)
        xstream.stop()
    }

    actor Resident {
        private let xstream: XStream
        private var calls = 0

        init(_ xstream: XStream) { self.xstream = xstream }

        nonisolated var unownedExecutor: UnownedSerialExecutor {
            xstream.asUnownedSerialExecutor()
        }

        func call() async -> (Int, Bool) {
            var stayed = xstream.isCurrent
            await withCheckedContinuation { done in startThread { done.resume() } }
            calls += 1
            stayed = stayed && xstream.isCurrent
            return (calls, stayed)
        }

        /// A plain task inherits the isolation: it returns here, through the global pool.
        func callFromPlainTask() async -> Bool {
            await Task { await call().1 && xstream.isCurrent }.value
        }
    }

    @Test func anActorOnTheExecutorLivesOnTheXStream() async {
        let resident = Resident(xstream)
        for count in 1...20 {
            let (calls, stayed) = await resident.call()
            #expect(calls == count)
            #expect(stayed)
        }
        #expect(await resident.callFromPlainTask())
        // From a task of the xstream, too: to the actor and back.
        let xstream = xstream
        let (inside, back) = await xstream.run {
            let (_, inside) = await resident.call()
            return (inside, xstream.isCurrent)
        }
        #expect(inside)
        #expect(back)
        xstream.stop()
    }

    @Test func childTasksStay() async {
        let xstream = xstream
        let stayed = await xstream.run {
            async let first = xstream.isCurrent
            let group = await withTaskGroup(of: Bool.self) { group in
                for _ in 0..<8 {
                    group.addTask {
                        await withCheckedContinuation { done in startThread { done.resume() } }
                        return xstream.isCurrent
                    }
                }
                return await group.reduce(true) { $0 && $1 }
            }
            return await first && group && xstream.isCurrent
        }
        #expect(stayed)
        xstream.stop()
    }

    /// The reason why a lint forbids them.
    @Test func plainAndDetachedTasksEscape() async {
        let xstream = xstream
        let (plain, detached) = await xstream.run {
            let plain = await Task { xstream.isCurrent }.value
            let detached = await Task.detached { xstream.isCurrent }.value
            return (plain, detached)
        }
        #expect(!plain)
        #expect(!detached)
        xstream.stop()
    }

    /// `Task.sleep` waits in a clock that no simulation governs: its wake-up comes from a foreign
    /// thread, which the tripwire notices.
    @Test func sleepEscapesFromASimulation() async {
        await #expect(processExitsWith: .failure) {
            let simulation = Simulation(seed: 1)
            let xstream = simulation.world(node: 1).makeXStream(name: "x")
            // Long enough to have suspended before it ends, on a busy machine too.
            xstream.simulate { try? await Task.sleep(nanoseconds: 500_000_000) }
            simulation.run(for: .seconds(1))
            waitForTrap()
        }
        xstream.stop()
    }
}
