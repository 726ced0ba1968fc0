internal import Glibc

/// A program that this one has started.
final class ChildProcess {
    let pid: pid_t
    private var status: Int32?

    /// Starts a program in a session of its own. What it prints is added to the file `log`.
    ///
    /// - Parameters:
    ///   - input: the descriptor that becomes its standard input; `/dev/null` if there is none.
    ///   - report: the descriptor that becomes its descriptor 3.
    ///   - endsWithUs: it stays in our session, in a process group of its own: the kernel hangs up
    ///     on it when we end while it is stopped.
    init(
        _ program: String, _ arguments: [String], input: Int32? = nil, report: Int32? = nil,
        log: String, endsWithUs: Bool = false
    ) throws(Failure) {
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        if let input {
            unsafe posix_spawn_file_actions_adddup2(&actions, input, 0)
        } else {
            unsafe posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        }
        unsafe posix_spawn_file_actions_addopen(
            &actions, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0o644)
        unsafe posix_spawn_file_actions_adddup2(&actions, 1, 2)
        if let report { unsafe posix_spawn_file_actions_adddup2(&actions, report, 3) }
        ChildProcess.closeOnExecution()
        var attributes = posix_spawnattr_t()
        unsafe posix_spawnattr_init(&attributes)
        defer { unsafe posix_spawnattr_destroy(&attributes) }
        // The threads of a task pool block signals, which a program must not begin with.
        var mask = sigset_t()
        unsafe sigemptyset(&mask)
        unsafe posix_spawnattr_setsigmask(&attributes, &mask)
        // POSIX_SPAWN_SETSID (glibc 2.26), which the headers show only to GNU sources.
        let setsid: Int16 = 0x80
        unsafe posix_spawnattr_setflags(
            &attributes,
            Int16(POSIX_SPAWN_SETSIGMASK) | (endsWithUs ? Int16(POSIX_SPAWN_SETPGROUP) : setsid))
        // SAFETY: the strings live until `free` below, after the child was made.
        var strings = unsafe ([program] + arguments).map { unsafe strdup($0) }
        defer { for index in unsafe strings.indices { unsafe free(strings[index]) } }
        unsafe strings.append(nil)
        let variables = unsafe ChildProcess.environment()
        var pid: pid_t = 0
        let result = unsafe posix_spawn(
            &pid, program, &actions, &attributes, strings, variables)
        guard result == 0 else {
            throw Failure("\(program): \(unsafe String(cString: strerror(result)))")
        }
        self.pid = pid
    }

    /// Keeps children from inheriting our descriptors: sockets of the clients here, whose
    /// connections they would keep open.
    private static func closeOnExecution() {
        for descriptor in Int32(3)..<descriptorsMax { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
    }

    /// More than this process ever has open.
    private static let descriptorsMax: Int32 = 4_096

    /// Small, so that values travel by bulk transfers, too. Never freed.
    nonisolated(unsafe) private static let eagerLimit = unsafe strdup("DRAY_EAGER_LIMIT=20KiB")

    /// The environment for a child, without what would override its configuration.
    private static func environment() -> [UnsafeMutablePointer<CChar>?] {
        var variables: [UnsafeMutablePointer<CChar>?] = unsafe []
        var next = unsafe environ
        // SAFETY: `environ` is an array of strings that ends with NULL, and nothing in this
        // process changes it.
        while let variable = unsafe next.pointee {
            if unsafe strncmp(variable, "DRAY_", 5) != 0 { unsafe variables.append(variable) }
            unsafe next = next.successor()
        }
        unsafe variables.append(eagerLimit)
        unsafe variables.append(nil)
        return unsafe variables
    }

    /// How it ended, as `waitpid` tells it. Nil while it runs.
    var ending: Int32? {
        guard status == nil else { return status }
        var status: Int32 = 0
        if unsafe waitpid(pid, &status, WNOHANG) == pid { self.status = status }
        return self.status
    }

    /// Sends a signal, unless it has ended: until its ending is taken nobody else gets its number.
    func signal(_ number: Int32) {
        guard ending == nil else { return }
        _ = Glibc.kill(pid, number)
    }

    /// What an ending means, in words.
    static func describe(_ status: Int32) -> String {
        let signal = status & 0x7f
        return signal == 0 ? "exit status \(status >> 8 & 0xff)" : "signal \(signal)"
    }
}
