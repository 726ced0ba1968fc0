import DrayRuntime
import Testing

/// Costs on an xstream, as ratios within one run: nothing here depends on the machine's speed.
@Suite(.serialized) struct ExecutionCostTests {
    /// Why tasks wait through an xstream and not through the global pool: a plain task pays a
    /// thread switch or two for each suspension.
    @Test func suspensionHereIsCheaperThanInTheGlobalPool() async {
        let xstream = World.real().makeXStream(name: "costs")
        let rounds = 5_000
        let here = await unattached(xstream) { () -> Duration in
            let start = xstream.now
            for _ in 0..<rounds {
                // Resumed by a job of the same xstream.
                await SuspendedTask.suspend { task in
                    xstream.spawn { task.resume() }
                }
            }
            return xstream.now.since(start)
        }
        let elsewhere = await unattached(xstream) { () -> Duration in
            let start = xstream.now
            for _ in 0..<rounds {
                await withUnsafeContinuation { (done: UnsafeContinuation<Void, Never>) in
                    Task.detached { done.resume() }
                }
            }
            return xstream.now.since(start)
        }
        #expect(here * 2 < elsewhere, "\(here) here, \(elsewhere) elsewhere")
        xstream.stop()
    }

    /// Bodies that do not suspend share a task.
    @Test func spawningABatchIsCheaperThanATaskEach() async {
        let xstream = World.real().makeXStream(name: "batch")
        let (shared, each) = await unattached(xstream) { () -> (Duration, Duration) in
            func measure(_ start: (@escaping () async -> Void) -> Void) async -> Duration {
                let begin = xstream.now
                for _ in 0..<2_000 {
                    var left = 16
                    await SuspendedTask.suspend { done in
                        for _ in 0..<16 {
                            start {
                                left -= 1
                                if left == 0 { done.resume() }
                            }
                        }
                    }
                }
                return xstream.now.since(begin)
            }
            let shared = await measure { xstream.spawn($0) }
            let each = await measure { _ = xstream.spawnCancellable($0) }
            return (shared, each)
        }
        #expect(shared < each, "\(shared) shared, \(each) each")
        xstream.stop()
    }
}

/// Runs `body` as a task without the task-local values of the test library, as engines do.
func unattached<Value: Sendable>(
    _ xstream: XStream, _ body: @escaping @Sendable () async -> Value
) async -> Value {
    await withCheckedContinuation { done in
        xstream.submit { xstream.spawn { done.resume(returning: await body()) } }
    }
}
