internal import DequeModule

/// The tasks that run what is spawned on an xstream.
///
/// Creating a task costs two to four times as much as resuming one. So a task that has run one
/// spawned body takes the next, and waits in this pool when there is none. Bodies that never
/// suspend share a task; each suspended body keeps the task it runs in. A task that was cancelled
/// runs no other body.
struct WorkerPool {
    /// More waiting tasks than this end instead.
    static let waitingMax = 256

    /// Bodies that nobody has begun, in the order they were spawned in.
    var bodies = Deque<WorkerBody>()

    /// Tasks that wait for a body. The last one to come is the first to go: it is warm.
    var waiting: [SuspendedTask] = []

    /// A task that will take the next body is in the ready queue.
    var isStarting = false

    /// A task is taking bodies at this moment, further up the stack.
    var isTaking = false

    /// Bodies that may still begin in this round of the loop.
    var allowance = XStream.jobsPerRoundMax

    /// Whether somebody has to be started to take the next body.
    var needsWorker: Bool { !isStarting && !isTaking && !bodies.isEmpty }
}
