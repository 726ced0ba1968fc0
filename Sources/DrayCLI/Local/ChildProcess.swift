internal import CaRT
internal import Glibc

/// Programs that are started from here.
enum ChildProcess {
    /// Where a child's standard streams go.
    enum Stream {
        /// `/dev/null`.
        case null
        /// The end of a file, made if need be.
        case append(LocalPath)
        case descriptor(Int32)
    }

    /// The path of this very program.
    static func ownPath() throws(CommandFailure) -> LocalPath {
        do throws(Errno) {
            return LocalPath(try LocalFiles.target(of: LocalPath("/proc/self/exe")))
        } catch {
            throw CommandFailure("/proc/self/exe", error.text, advice: "is /proc mounted?")
        }
    }

    /// Starts a program and returns its process id.
    ///
    /// - Parameter detached: whether it gets a session of its own, so that it outlives this one.
    static func spawn(
        _ program: LocalPath, _ arguments: [[UInt8]], input: Stream, output: Stream,
        error: Stream, detached: Bool
    ) throws(Errno) -> Int32 {
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        for (descriptor, stream) in [(Int32(0), input), (1, output), (2, error)] {
            unsafe ChildProcess.add(stream, as: descriptor, to: &actions)
        }
        closeOnExecution()
        var attributes = posix_spawnattr_t()
        unsafe posix_spawnattr_init(&attributes)
        defer { unsafe posix_spawnattr_destroy(&attributes) }
        // The threads of a task pool block signals, which a program must not begin with.
        var mask = sigset_t()
        unsafe sigemptyset(&mask)
        unsafe posix_spawnattr_setsigmask(&attributes, &mask)
        // POSIX_SPAWN_SETSID (glibc 2.26), which the headers show only to GNU sources.
        let session: Int16 = detached ? 0x80 : 0
        unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK) | session)
        // SAFETY: the strings live until `free` below, after the child was made.
        var strings = unsafe ([program.bytes] + arguments).map { bytes in
            unsafe strdup(LocalPath(bytes).terminated)
        }
        defer { for index in unsafe strings.indices { unsafe free(strings[index]) } }
        unsafe strings.append(nil)
        let variables = unsafe environment()
        var pid: pid_t = 0
        let result = unsafe program.withCString { path in
            unsafe posix_spawn(&pid, path, &actions, &attributes, strings, variables)
        }
        guard result == 0 else { throw Errno(code: result) }
        return pid
    }

    /// Keeps children from inheriting our descriptors. Sockets of the network's library are not
    /// closed by themselves when a program starts: a child that kept them would keep connections
    /// of ours open after our end.
    private static func closeOnExecution() {
        for name in (try? LocalFiles.names(in: LocalPath("/proc/self/fd"))) ?? [] {
            guard let descriptor = Int32(String(decoding: name, as: UTF8.self)), descriptor > 2
            else { continue }
            _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        }
    }

    /// The variables of ours that a child gets: those about the network, but for what its own
    /// configuration says.
    private static let passedOn = Set(FabricConfiguration.Key.allCases.map(\.variable))
        .subtracting(EngineSettings.Key.allCases.filter { $0.ofFabric == nil }.map(\.variable))

    /// The environment for a child, without what would override its configuration.
    private static func environment() -> [UnsafeMutablePointer<CChar>?] {
        var variables: [UnsafeMutablePointer<CChar>?] = unsafe []
        var next = unsafe environ
        // SAFETY: `environ` is an array of strings that ends with NULL, and nothing in this
        // process changes it.
        while let variable = unsafe next.pointee {
            let name = unsafe String(cString: variable).prefix { $0 != "=" }
            if !name.hasPrefix("DRAY_") || passedOn.contains(String(name)) {
                unsafe variables.append(variable)
            }
            unsafe next = next.successor()
        }
        unsafe variables.append(nil)
        return unsafe variables
    }

    private static func add(
        _ stream: Stream, as descriptor: Int32, to actions: inout posix_spawn_file_actions_t
    ) {
        switch stream {
        case .null:
            unsafe posix_spawn_file_actions_addopen(
                &actions, descriptor, "/dev/null", descriptor == 0 ? O_RDONLY : O_WRONLY, 0)
        case .append(let path):
            _ = unsafe path.withCString { pointer in
                unsafe posix_spawn_file_actions_addopen(
                    &actions, descriptor, pointer, O_WRONLY | O_CREAT | O_APPEND, 0o644)
            }
        case .descriptor(let source):
            unsafe posix_spawn_file_actions_adddup2(&actions, source, descriptor)
        }
    }

    /// Takes a child's exit status, so that it leaves no zombie. Nil while it runs.
    static func reap(_ pid: Int32) -> Int32? {
        var status: Int32 = 0
        let result = unsafe waitpid(pid, &status, WNOHANG)
        return result == pid ? status : nil
    }
}

extension LocalPath {
    /// The bytes with a terminating zero.
    var terminated: [CChar] { bytes.map { CChar(bitPattern: $0) } + [0] }
}
