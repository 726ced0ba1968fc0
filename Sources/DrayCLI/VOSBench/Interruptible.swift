internal import DrayRuntime
internal import Glibc
internal import Synchronization

/// Runs work on an xstream while the main thread waits for signals, so that files that are only
/// needed meanwhile go whatever ends the work.
struct Interruptible {
    /// Removed at the end. They need not be there.
    let temporary: [LocalPath]

    private static let signals = [SIGINT, SIGTERM, SIGHUP]

    private final class Outcome<Value: Sendable>: Sendable {
        let result = Mutex<Result<Value, CommandFailure>?>(nil)
    }

    /// Returns what `body` returns, or ends the program as the signal that came would have done.
    /// Call it on the main thread, before others are made that could take the signal.
    func run<Value: Sendable>(
        _ world: World,
        _ body: sending @escaping (XStream) async throws(CommandFailure) -> Value
    ) throws(CommandFailure) -> Value {
        var set = sigset_t()
        unsafe sigemptyset(&set)
        for number in Interruptible.signals { unsafe sigaddset(&set, number) }
        unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
        let outcome = Outcome<Value>()
        let xstream = world.makeXStream(name: "work")
        xstream.submit {
            xstream.spawn {
                do throws(CommandFailure) {
                    let value = try await body(xstream)
                    outcome.result.withLock { $0 = .success(value) }
                } catch {
                    outcome.result.withLock { $0 = .failure(error) }
                }
                kill(getpid(), SIGTERM)
            }
        }
        var number: Int32 = 0
        while unsafe sigwait(&set, &number) != 0 {}
        for path in temporary { try? LocalFiles.remove(path) }
        guard let result = outcome.result.withLock({ $0 }) else {
            signal(number, SIG_DFL)
            unsafe pthread_sigmask(SIG_UNBLOCK, &set, nil)
            raise(number)
            _exit(128 + number)
        }
        unsafe pthread_sigmask(SIG_UNBLOCK, &set, nil)
        xstream.stop()
        return try result.get()
    }
}
