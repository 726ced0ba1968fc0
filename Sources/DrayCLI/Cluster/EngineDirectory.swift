internal import Glibc

/// The directory of one engine of a development cluster: `DIR/engine-RANK`.
struct EngineDirectory: Hashable, Sendable {
    let path: LocalPath

    init(cluster: LocalPath, rank: UInt32) {
        path = cluster.appending(Array("engine-\(rank)".utf8))
    }

    var configuration: LocalPath { path.appending(Array("engine.yml".utf8)) }
    /// The first device file.
    var device: LocalPath { devicePath(0) }
    /// A device file, by its number.
    func devicePath(_ index: Int) -> LocalPath {
        path.appending(Array((index == 0 ? "device" : "device-\(index)").utf8))
    }

    var log: LocalPath { path.appending(Array("log".utf8)) }
    var process: LocalPath { path.appending(Array("process.json".utf8)) }

    /// The last lines of the log, for an error message.
    func lastLogLine() -> String? {
        guard let bytes = try? LocalFiles.read(log) else { return nil }
        let text = String(decoding: bytes.suffix(4096), as: UTF8.self)
        return text.split(whereSeparator: \.isNewline).last.map(String.init)
    }
}

/// `process.json`: which process an engine runs as. A process id alone may have been given to
/// another program since; with its start time it is unique.
struct EngineProcess: Codable, Hashable, Sendable {
    var pid: Int32
    /// When it started, in clock ticks since the machine did.
    var startTicks: UInt64

    /// Reads the file of an engine. Nil when there is none, or nothing that can be understood:
    /// then no process of ours can be named.
    static func read(_ path: LocalPath) -> EngineProcess? {
        guard let bytes = try? LocalFiles.read(path) else { return nil }
        return try? JSON.decode(EngineProcess.self, from: bytes, file: path.text)
    }

    /// This very process.
    static func current() throws(CommandFailure) -> EngineProcess {
        let pid = getpid()
        guard let status = ProcessStatus(pid: pid) else {
            throw CommandFailure("engine", "/proc does not tell when this process started")
        }
        return EngineProcess(pid: pid, startTicks: status.startTicks)
    }

    /// Whether this process still runs. A zombie does not.
    var isAlive: Bool {
        guard pid > 1, let status = ProcessStatus(pid: pid) else { return false }
        return status.startTicks == startTicks && !status.isZombie
    }

    /// Sends a signal, unless the process is gone. The start time is looked at just before.
    func signal(_ number: Int32) throws(Errno) {
        guard isAlive else { return }
        guard kill(pid, number) == 0 || errno == ESRCH else { throw .last }
    }
}

/// What `/proc/PID/stat` says.
struct ProcessStatus: Hashable, Sendable {
    var isZombie: Bool
    var startTicks: UInt64

    /// Nil when there is no such process.
    init?(pid: Int32) {
        let path = LocalPath("/proc/\(pid)/stat")
        guard let bytes = try? LocalFiles.read(path) else { return nil }
        self.init(parsing: String(decoding: bytes, as: UTF8.self))
    }

    /// Reads the line. The name in brackets may contain anything, brackets and spaces included.
    init?(parsing line: String) {
        guard let bracket = line.lastIndex(of: ")") else { return nil }
        let fields = line[line.index(after: bracket)...].split(separator: " ")
        // The state is field 3 of the line and the start time field 22.
        guard fields.count > 19, let ticks = UInt64(fields[19]) else { return nil }
        isZombie = fields[0] == "Z" || fields[0] == "X"
        startTicks = ticks
    }
}
