/// A suspended task of this xstream that waits for a value; resumed exactly once.
@safe struct Waiter<Value: Sendable>: Sendable {
    // SAFETY: whoever keeps a waiter takes it out of where it is kept before resuming it, so that
    // it is resumed once. A checked continuation would cost an allocation per transfer.
    private let continuation: UnsafeContinuation<Value, Never>

    init(_ continuation: UnsafeContinuation<Value, Never>) {
        unsafe self.continuation = unsafe continuation
    }

    func resume(returning value: Value) {
        unsafe continuation.resume(returning: value)
    }

    /// Suspends the task until the waiter given to `body` is resumed.
    static func suspend(_ body: (Waiter<Value>) -> Void) async -> Value {
        unsafe await withUnsafeContinuation { continuation in
            unsafe body(Waiter(continuation))
        }
    }
}

extension Waiter where Value == Void {
    func resume() { resume(returning: ()) }
}
