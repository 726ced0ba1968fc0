import Glibc

@testable import DrayCLI

/// A program that gets SIGKILL when `kill` says so, and when this process ends, however it does.
///
/// A shell stands between the two. It waits for the end of a pipe that only this process can
/// write to, so that the kernel itself tells it when this process is gone: no program is left
/// over when a test fails, is interrupted, or is killed.
final class GuardedProcess {
    /// The shell.
    let pid: Int32
    private var pipe: OpenFile?
    private var status: Int32?

    private static let script = """
        exec 3<&0 </dev/null
        "$@" 3<&- &
        child=$!
        (read -r line; kill -KILL $child) <&3 2>/dev/null &
        guard=$!
        wait $child
        status=$?
        kill -KILL $guard
        exit $status
        """

    /// Starts `program`. What it prints is added to the file `log`.
    init(_ program: LocalPath, _ arguments: [[UInt8]], log: LocalPath) throws {
        // A pipe with a name: its ends are never inherited by what other threads start meanwhile.
        let name = LocalPath(log.bytes + Array(".guard".utf8))
        guard name.withCString({ mkfifo($0, 0o600) }) == 0 else { throw Errno.last }
        defer { try? LocalFiles.remove(name) }
        pipe = try OpenFile(name, O_RDWR)
        let end = try OpenFile(name, O_RDONLY)
        let words = ["-c", GuardedProcess.script, "guard"].map { Array($0.utf8) }
        pid = try ChildProcess.spawn(
            LocalPath("/bin/sh"), words + [program.bytes] + arguments,
            input: .descriptor(end.descriptor), output: .append(log), error: .append(log),
            detached: true)
    }

    deinit { _ = try? kill() }

    /// The exit status, as the shell tells it: 128 and the number for a signal. Nil while the
    /// program runs.
    var exitStatus: Int32? {
        if status == nil { status = ChildProcess.reap(pid).map { $0 >> 8 & 0xff } }
        return status
    }

    /// Waits at most `seconds` for the program to end. Its exit status.
    func wait(seconds: Int) throws -> Int32 {
        for _ in 0..<seconds * 500 {
            if let exitStatus { return exitStatus }
            usleep(2000)
        }
        throw CommandFailure("process \(pid)", "does not end within \(seconds) s")
    }

    /// Ends the program with SIGKILL, unless it has ended. Its exit status.
    @discardableResult
    func kill() throws -> Int32 {
        release()
        return try wait(seconds: 20)
    }

    /// Has the program killed, without waiting for its end.
    func release() { pipe = nil }

    /// The exit status of a program that was killed.
    static let killed = 128 + SIGKILL
}
