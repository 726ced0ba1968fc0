internal import DequeModule

/// Mutual exclusion between tasks of one xstream, first come first served.
///
/// Confined to its xstream; costs nothing when free.
@safe public final class AsyncLock {
    private var held = false
    private var waiting = unsafe Deque<UnsafeContinuation<Void, Never>>()

    public init() {}

    /// Runs `body` while no other task does.
    public func withLock<Value, Failure: Error>(
        _ body: () async throws(Failure) -> Value
    ) async throws(Failure) -> Value {
        await lock()
        defer { unlock() }
        return try await body()
    }

    private func lock() async {
        guard held else {
            held = true
            return
        }
        // SAFETY: resumed exactly once, by `unlock`, which hands the lock over.
        unsafe await withUnsafeContinuation { unsafe waiting.append($0) }
    }

    private func unlock() {
        precondition(held, "unlock without lock")
        if let next = unsafe waiting.popFirst() {
            unsafe next.resume()
        } else {
            held = false
        }
    }
}
