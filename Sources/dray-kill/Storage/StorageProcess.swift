internal import DrayRuntime
internal import Glibc

/// A child process with a store in a file, and what it reports.
final class StorageProcess {
    private let xstream: XStream
    private let child: ChildProcess
    private let pipe: Int32
    private let log: String
    /// Bytes of events that have come, some perhaps not whole.
    private(set) var reported: [UInt8] = []
    private(set) var isVerified = false
    private var examined = 0

    /// F_SETPIPE_SZ (Linux 2.6.35), which the headers show only to GNU sources.
    private static let setPipeSize: Int32 = 1031
    private static let pipeSize: Int32 = 1 << 20

    /// `known`: a file of events.
    init(
        _ setting: StorageSetting, device: String, known: String, log: String, seed: UInt64,
        options: [String], xstream: XStream
    ) throws(Failure) {
        self.xstream = xstream
        self.log = log
        var ends: [Int32] = [0, 0]
        guard unsafe Glibc.pipe(&ends) == 0 else { throw Failure("no pipe") }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        // The process must not wait for us when it tells something.
        _ = fcntl(ends[0], StorageProcess.setPipeSize, StorageProcess.pipeSize)
        _ = fcntl(ends[0], F_SETFL, O_NONBLOCK)
        pipe = ends[0]
        defer { close(ends[1]) }
        child = try ChildProcess(
            try Files.ownProgram(),
            [
                "storage-node", "--path", device, "--events", known, "--lanes",
                "\(setting.lanes)", "--seed", "\(seed)",
            ] + (setting.hasMetadata ? ["--metadata"] : []) + options,
            report: ends[1], log: log, endsWithUs: true)
    }

    deinit { close(pipe) }

    var isRunning: Bool { child.ending == nil }

    /// Takes what has come.
    func pump() {
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = unsafe read(pipe, &buffer, buffer.count)
            guard count > 0 else { break }
            reported += buffer[0..<count]
        }
        while (examined + 1) * StorageEvent.byteCount <= reported.count {
            if StorageEvent(reported, at: examined)?.kind == .verified { isVerified = true }
            examined += 1
        }
    }

    /// Waits until `time` from now, or until it ends by itself, and takes what comes meanwhile.
    func run(for time: Duration) async {
        let limit = xstream.now + time
        while xstream.now < limit, isRunning {
            pump()
            await xstream.sleep(for: .milliseconds(1))
        }
        pump()
    }

    /// Waits until everything was verified. Throws when that fails.
    func waitUntilVerified() async throws(Failure) {
        let limit = xstream.now + StorageSetting.verificationMax
        while !isVerified {
            await run(for: .milliseconds(2))
            guard isRunning || isVerified else { throw failure("ended by itself") }
            guard xstream.now < limit else { throw failure("does not verify in time") }
        }
    }

    /// Waits until it has ended well.
    func waitUntilEnded() async throws(Failure) {
        let limit = xstream.now + StorageSetting.verificationMax
        while isRunning {
            await run(for: .milliseconds(2))
            guard xstream.now < limit else { throw failure("does not end in time") }
        }
        pump()
        guard child.ending == 0, isVerified else { throw failure("ended by itself") }
    }

    /// Throws when it has ended by itself.
    func check() throws(Failure) { if !isRunning { throw failure("ended by itself") } }

    /// Nothing of it runs until `resume`. Returns when that is so.
    func stop() async throws(Failure) {
        child.signal(SIGSTOP)
        let limit = xstream.now + .seconds(10)
        while !isStopped {
            try check()
            guard xstream.now < limit else { throw failure("does not stop") }
            await xstream.sleep(for: .milliseconds(1))
        }
        pump()
    }

    private var isStopped: Bool {
        guard let text = try? Files.read("/proc/\(child.pid)/stat") else { return false }
        // After the name of the program, which is in parentheses.
        return text.split(separator: ")").last?.hasPrefix(" T") ?? false
    }

    func resume() { child.signal(SIGCONT) }

    /// Sends SIGKILL, waits until it is gone, and takes what it had told.
    func kill() async {
        child.signal(SIGKILL)
        while isRunning { await xstream.sleep(for: .microseconds(500)) }
        pump()
    }

    private func failure(_ what: String) -> Failure {
        let ending = child.ending.map(ChildProcess.describe) ?? "running"
        let text = (try? Files.read(log)) ?? ""
        return Failure(
            "a process \(what) (\(ending)): "
                + text.split(separator: "\n").suffix(20).joined(separator: "\n    "))
    }
}
