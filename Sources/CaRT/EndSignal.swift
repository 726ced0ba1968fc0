internal import DrayRuntime

/// Resumes whoever waits for the end of a context. Confined to its xstream.
final class EndSignal {
    private var isGiven = false
    private var waiters: [(number: UInt64, task: SuspendedTask)] = []
    private var nextNumber: UInt64 = 1

    /// Waits for `give`.
    func wait() async {
        if !isGiven { await SuspendedTask.suspend { add($0) } }
    }

    /// Waits for `give`, or until the task is cancelled.
    func waitOrCancel(on xstream: XStream) async {
        guard !isGiven else { return }
        let number = nextNumber
        let bound = XStreamBound(self, to: xstream)
        await withTaskCancellationHandler {
            // A cancellation until here is heard of in the next round, when the task waits.
            await SuspendedTask.suspend { add($0) }
        } onCancel: {
            xstream.submit { bound.value.resume(number) }
        }
    }

    /// The context has ended.
    func give() {
        isGiven = true
        let all = waiters
        waiters = []
        for waiter in all { waiter.task.resume() }
    }

    private func add(_ task: SuspendedTask) {
        waiters.append((nextNumber, task))
        nextNumber += 1
    }

    private func resume(_ number: UInt64) {
        guard let index = waiters.firstIndex(where: { $0.number == number }) else { return }
        waiters.remove(at: index).task.resume()
    }
}
