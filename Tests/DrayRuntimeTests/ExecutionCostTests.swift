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

    /// What makes spawning cheap: bodies that do not suspend share a task, and tasks are used
    /// again. Each suspended body keeps its own.
    @Test(arguments: [(false, 1), (true, 100)])
    func bodiesShareTasks(suspending: Bool, expected: Int) async {
        let xstream = World.real().makeXStream(name: "batch")
        let tasks = await unattached(xstream) { () -> [Int] in
            var tasks: [Int] = []
            for _ in 0..<3 {
                var left = 100
                await SuspendedTask.suspend { done in
                    for _ in 0..<100 {
                        xstream.spawn {
                            tasks.append(withUnsafeCurrentTask { $0!.hashValue })
                            if suspending { await xstream.yield() }
                            left -= 1
                            if left == 0 { done.resume() }
                        }
                    }
                }
            }
            return tasks
        }
        #expect(tasks.count == 300)
        #expect(Set(tasks).count <= expected + 1)
        #expect(Set(tasks.suffix(100)).count >= expected)
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
