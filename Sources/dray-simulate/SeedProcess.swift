internal import ArgumentParser
internal import DraySimulator
internal import Glibc

/// Runs of simulated clusters in processes of their own: one that traps or hangs ends with its
/// process, and leaves word of how.
struct SeedProcess {
    /// Seconds of real time after which a run counts as one that hangs.
    let limit: UInt32

    /// What became of a run.
    struct Outcome {
        /// Everything that the process has printed, by lines.
        var lines: [String]
        /// What is wrong; nothing for a run that only did too little.
        var findings: [Finding]
        var isGood: Bool
    }

    /// Runs `seed` with `options`, and waits for it.
    func run(_ seed: UInt64, _ options: ClusterSimulation.Options) throws -> Outcome {
        let arguments = options.arguments(seed: seed) + ["--quiet", "--limit", "\(limit)"]
        let (output, status) = try SeedProcess.run(["clusters"] + arguments)
        let lines = output.split(separator: "\n").map(String.init)
        return Outcome(
            lines: lines, findings: findings(lines, status: status), isGood: status == 0)
    }

    private func findings(_ lines: [String], status: Int32) -> [Finding] {
        let signal = status & 0x7f
        if signal == SIGALRM {
            return [Finding(.hang, "it takes longer than \(limit) s")]
        }
        guard signal == 0 else {
            let last = lines.first { $0.contains("Fatal error") } ?? "signal \(signal)"
            let words = signal == SIGKILL ? "signal \(signal)" : last
            return [Finding(.trap(words.filter { !$0.isNumber }), words)]
        }
        return lines.compactMap { line in
            guard line.hasPrefix(SeedOptions.violationMark) else { return nil }
            return Violation(line.dropFirst(SeedOptions.violationMark.count)).map(Finding.init)
        }
    }

    /// Runs this program with other arguments. Returns what it has printed, and how it has ended,
    /// as `waitpid` tells it.
    private static func run(_ arguments: [String]) throws -> (output: String, status: Int32) {
        var ends: (read: Int32, write: Int32) = (-1, -1)
        let isMade = unsafe withUnsafeMutableBytes(of: &ends) { bytes in
            unsafe pipe(bytes.baseAddress?.assumingMemoryBound(to: Int32.self)) == 0
        }
        guard isMade else { throw ValidationError("a pipe cannot be made") }
        defer { close(ends.read) }
        let pid: pid_t
        do {
            // Ours are not for the child: the end of what it prints is that of the pipe.
            defer { close(ends.write) }
            pid = try start(arguments, output: ends.write, notFor: ends.read)
        }
        var bytes: [UInt8] = []
        var part = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = unsafe part.withUnsafeMutableBytes { buffer in
                unsafe read(ends.read, buffer.baseAddress, buffer.count)
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { break }
            bytes += part[0..<count]
        }
        var status: Int32 = 0
        while unsafe waitpid(pid, &status, 0) < 0 {
            guard errno == EINTR else { throw ValidationError("a run cannot be waited for") }
        }
        return (String(decoding: bytes, as: UTF8.self), status)
    }

    private static func start(
        _ arguments: [String], output: Int32, notFor other: Int32
    ) throws -> pid_t {
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        unsafe posix_spawn_file_actions_adddup2(&actions, output, 1)
        unsafe posix_spawn_file_actions_adddup2(&actions, output, 2)
        unsafe posix_spawn_file_actions_addclose(&actions, output)
        unsafe posix_spawn_file_actions_addclose(&actions, other)
        // SAFETY: the strings live until `free` below, after the child was made.
        var strings = unsafe (["dray-simulate"] + arguments).map { unsafe strdup($0) }
        defer { for index in unsafe strings.indices { unsafe free(strings[index]) } }
        unsafe strings.append(nil)
        var pid: pid_t = 0
        let result = unsafe posix_spawn(&pid, "/proc/self/exe", &actions, nil, strings, environ)
        guard result == 0 else {
            throw ValidationError(
                "a run cannot be started: \(unsafe String(cString: strerror(result)))")
        }
        return pid
    }
}
