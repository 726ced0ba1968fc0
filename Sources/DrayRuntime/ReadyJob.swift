/// A job in the queue of an xstream.
struct ReadyJob {
    let job: UnownedJob
    /// Whether it belongs to an actor of the xstream, and not to a task at large.
    let isIsolated: Bool
}

/// The executor of the actors that live on one xstream: the same queue, told apart.
final class XStreamSerialExecutor: SerialExecutor {
    private unowned let xstream: XStream

    init(xstream: XStream) { self.xstream = xstream }

    func enqueue(_ job: consuming ExecutorJob) {
        xstream.enqueue(ReadyJob(job: UnownedJob(job), isIsolated: true))
    }

    func checkIsolated() {
        precondition(xstream.isCurrent, "not on xstream \(xstream.name)")
    }

    func isIsolatingCurrentContext() -> Bool? { xstream.isCurrent }
}
