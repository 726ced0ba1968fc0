import DrayRuntime
import Glibc
import Testing

/// What makes tasks on an xstream cheap, counted rather than timed.
@Suite(.serialized) struct ExecutionCostTests {
    /// Why tasks start through an xstream: a suspension stays within the thread. In the global pool
    /// each one costs a switch or two.
    @Test func suspensionCostsNoThreadSwitch() async {
        let xstream = World.real().makeXStream(name: "costs")
        let switches = await unattached(xstream) { () -> Int in
            func threadSwitches() -> Int {
                // 1 is RUSAGE_THREAD, a GNU extension that is not imported.
                var usage = rusage()
                getrusage(1, &usage)
                return usage.ru_nvcsw
            }
            let before = threadSwitches()
            for _ in 0..<10_000 {
                // Resumed by a job of the same xstream.
                await SuspendedTask.suspend { task in
                    xstream.spawn { task.resume() }
                }
            }
            return threadSwitches() - before
        }
        #expect(switches < 100)
        xstream.stop()
    }

    /// What makes spawning cheap: bodies that do not suspend share a task, and tasks are used
    /// again. Each suspended body keeps its own.
    @Test(arguments: [(false, 1), (true, 100)])
    func bodiesShareTasks(suspending: Bool, expected: Int) async {
        let xstream = World.real().makeXStream(name: "batch")
        let tasks = await unattached(xstream) { () -> [Int] in
            var tasks: [Int] = []
            var suspended: [SuspendedTask] = []
            for _ in 0..<3 {
                var left = 100
                await SuspendedTask.suspend { done in
                    for _ in 0..<100 {
                        xstream.spawn {
                            tasks.append(withUnsafeCurrentTask { $0!.hashValue })
                            if suspending {
                                // Until all have begun.
                                await SuspendedTask.suspend { task in
                                    suspended.append(task)
                                    guard suspended.count == 100 else { return }
                                    for task in suspended { task.resume() }
                                    suspended = []
                                }
                            }
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
