internal import Glibc

/// This test program once more, as a process of its own that can be stopped and killed. It runs the
/// suite `main` only.
package final class PeerProcess {
    package let identifier: Int32
    private var isRunning = true

    /// Why there is no process.
    package struct Failure: Error {
        package let code: Int32
    }

    /// - Parameters:
    ///   - main: the suite to run.
    ///   - variable: NAME=VALUE, by which that suite knows that it is meant.
    package init(main: String, variable: String) throws(Failure) {
        let arguments = [
            "/proc/self/exe", "--testing-library", "swift-testing", "--filter", main,
        ]
        var environment: [String] = [variable]
        let kept = [
            "PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "HOME", "FI_LOG_LEVEL", FabricKind.variable,
            "ASAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS",
        ]
        for name in kept {
            guard let value = getenv(name) else { continue }
            environment.append("\(name)=\(String(cString: value))")
        }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0)
        if getenv("FI_LOG_LEVEL") == nil {
            posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)
        }
        var argumentPointers = arguments.map { strdup($0) } + [nil]
        var environmentPointers = environment.map { strdup($0) } + [nil]
        defer {
            for pointer in argumentPointers + environmentPointers { free(pointer) }
        }
        var child: pid_t = 0
        let result = posix_spawn(
            &child, "/proc/self/exe", &actions, nil, &argumentPointers, &environmentPointers)
        guard result == 0 else { throw Failure(code: result) }
        identifier = child
    }

    /// Stops the process as it is.
    package func stop() { Glibc.kill(identifier, SIGSTOP) }

    /// Lets it go on.
    package func resume() { Glibc.kill(identifier, SIGCONT) }

    /// Ends the process as a crash does.
    package func kill() {
        guard isRunning else { return }
        isRunning = false
        Glibc.kill(identifier, SIGKILL)
        var status: Int32 = 0
        waitpid(identifier, &status, 0)
    }

    /// The exit status, if the process has ended by itself.
    package func poll() -> Int32? {
        var status: Int32 = 0
        guard isRunning, waitpid(identifier, &status, WNOHANG) == identifier else {
            return nil
        }
        isRunning = false
        return status
    }

    deinit { kill() }
}
