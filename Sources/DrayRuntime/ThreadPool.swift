internal import CDrayRuntime
internal import DequeModule
internal import Glibc
internal import Synchronization

/// A few threads for system calls that block, where nothing better is allowed.
///
/// Bodies run in the order of submission, on any of the threads. The threads end when the pool is
/// dropped, after what was submitted has run.
public final class ThreadPool: Sendable {
    private let shared: Shared
    private let threadCount: Int

    /// Starts `threadCount` threads, at least 1.
    public init(name: String, threadCount: Int) {
        precondition(threadCount > 0, "a pool needs threads")
        shared = Shared(name: name)
        self.threadCount = threadCount
        for _ in 0..<threadCount { shared.startThread() }
    }

    deinit {
        for _ in 0..<threadCount { shared.add(nil) }
    }

    /// Runs `body` on one of the threads. Safe from any thread.
    public func submit(_ body: @escaping @Sendable () -> Void) {
        shared.add(body)
    }

    @safe private final class Shared: @unchecked Sendable {
        // SAFETY of `@unchecked Sendable`: the queue is behind a mutex, and a semaphore is made to
        // be used by several threads; its memory lives as long as this object, which every thread
        // retains.
        private let name: String
        private let queue = Mutex(Deque<(@Sendable () -> Void)?>())
        private let filled: UnsafeMutablePointer<sem_t>

        init(name: String) {
            self.name = name
            unsafe filled = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
            unsafe sem_init(filled, 0, 0)
        }

        deinit {
            unsafe sem_destroy(filled)
            unsafe filled.deallocate()
        }

        /// Nil ends one thread.
        func add(_ body: (@Sendable () -> Void)?) {
            queue.withLock { $0.append(body) }
            unsafe sem_post(filled)
        }

        func startThread() {
            let context = unsafe Unmanaged.passRetained(self).toOpaque()
            var thread = pthread_t()
            let result = unsafe pthread_create(
                &thread, nil,
                { context in
                    // SAFETY: the retained object passed below, consumed once here.
                    unsafe Unmanaged<Shared>.fromOpaque(context!).takeRetainedValue().work()
                    return nil
                }, context)
            precondition(result == 0, "no thread for pool \(name)")
            pthread_detach(thread)
        }

        private func work() {
            unsafe name.withCString { unsafe dray_name_thread($0) }
            while true {
                // A signal may end the wait early: then there is nothing in the queue yet.
                guard unsafe sem_wait(filled) == 0 else { continue }
                guard let body = queue.withLock({ $0.removeFirst() }) else { return }
                body()
            }
        }
    }
}
