/// A task of an xstream that waits to be resumed, exactly once.
///
/// The cheapest way to wait on an xstream. Every further asynchronous function between the caller
/// and the suspension costs about as much again: each switches executors twice, which takes a
/// lock of the task. Hence `suspend` is always inlined.
@safe public struct SuspendedTask {
    // SAFETY: whoever holds the value resumes it once; the runtime takes each one out of its list
    // to do so.
    @usableFromInline let continuation: UnsafeContinuation<Void, Never>

    @usableFromInline init(continuation: UnsafeContinuation<Void, Never>) {
        unsafe self.continuation = continuation
    }

    /// Suspends the calling task, and hands it to `body`, which keeps it.
    @inline(__always) @inlinable
    public static func suspend(_ body: (SuspendedTask) -> Void) async {
        unsafe await withUnsafeContinuation { continuation in
            unsafe body(SuspendedTask(continuation: continuation))
        }
    }

    /// Makes the task ready to run.
    @inlinable
    public func resume() { unsafe continuation.resume() }
}
