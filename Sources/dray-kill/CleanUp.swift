internal import Glibc

/// Stops the engines and removes the directory when this process ends, however it does.
///
/// A shell waits for a line from a pipe, or for its end, of which the kernel tells when this
/// process is gone.
struct CleanUp {
    private let process: ChildProcess
    private let pipe: Int32

    private static let script = """
        read -r word
        "$1" cluster stop --directory "$2" --timeout 2s >/dev/null 2>&1
        [ "$word" = keep ] || rm -rf "$2" "$3"
        """

    init(program: String, cluster: String, directory: String) throws(Failure) {
        var ends: [Int32] = [0, 0]
        guard unsafe Glibc.pipe(&ends) == 0 else { throw Failure("no pipe") }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        pipe = ends[1]
        defer { close(ends[0]) }
        process = try ChildProcess(
            "/bin/sh", ["-c", CleanUp.script, "clean-up", program, cluster, directory],
            input: ends[0], log: "/dev/null")
    }

    /// Cleans up now, and waits for it. `keeping`: the files stay.
    func run(keeping: Bool) {
        let word = Array((keeping ? "keep\n" : "remove\n").utf8)
        _ = unsafe write(pipe, word, word.count)
        close(pipe)
        while process.ending == nil { usleep(1_000) }
    }
}
