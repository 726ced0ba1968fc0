internal import Synchronization

/// Carries cancellations of tasks, which may come from any thread, to the context.
final class CancelMailbox: Sendable {
    private let tokens = Mutex<[UInt64]>([])
    // Ordering: a cheap hint for the poll loop. Released after the token is in, acquired before
    // the tokens are taken; the mutex orders the tokens themselves.
    private let filled = Atomic<Bool>(false)

    /// Leaves word that the call named by `token` was cancelled.
    func post(_ token: UInt64) {
        tokens.withLock { $0.append(token) }
        filled.store(true, ordering: .releasing)
    }

    var isFilled: Bool { filled.load(ordering: .acquiring) }

    /// Takes everything left so far.
    func take() -> [UInt64] {
        filled.store(false, ordering: .sequentiallyConsistent)
        return tokens.withLock { tokens in
            let taken = tokens
            tokens = []
            return taken
        }
    }
}
