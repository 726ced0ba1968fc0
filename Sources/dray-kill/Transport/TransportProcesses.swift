internal import DrayRuntime
internal import Glibc

/// Processes whose transport is tested. Confined to the xstream of the harness.
final class TransportProcesses {
    let count: Int
    private let options: TransportSetting
    private let xstream: XStream
    private let directory: String
    private let program: String
    private let ports: [Int]
    private var children: [Child?]
    private var incarnations: [UInt32]
    private(set) var statuses: [TransportStatus] = []
    private(set) var kills = 0
    private(set) var stops = 0

    private struct Child {
        var process: ChildProcess
        /// Its standard input.
        var input: Int32
        var isStopped = false
    }

    /// How long a process may take to open its contexts.
    private static let openMax: Duration = .seconds(20)
    /// Ports that the system does not give to others by itself.
    private static let portRange = 20_000..<32_000

    init(_ options: TransportSetting, provider: String, xstream: XStream) throws(Failure) {
        self.options = options
        self.xstream = xstream
        count = options.processes
        directory = try Files.makeDirectory(options.directory + "/dray-kill-transport")
        program = try Files.ownProgram()
        var entropy = Entropy(seed: options.seed ^ UInt64(getpid())).fork("ports")
        var ports: [Int] = []
        while ports.count < options.processes * options.contexts {
            let range = TransportProcesses.portRange
            let port = range.lowerBound + Int(entropy.below(UInt64(range.count)))
            if !ports.contains(port), TransportProcesses.isFree(port) { ports.append(port) }
        }
        self.ports = ports
        self.provider = provider
        children = Array(repeating: nil, count: count)
        incarnations = Array(repeating: 0, count: count)
        for index in 0..<count {
            statuses.append(
                try TransportStatus(
                    path: statusPath(index), contexts: options.contexts, processes: count))
        }
    }

    private let provider: String

    private func statusPath(_ index: Int) -> String { "\(directory)/status-\(index)" }

    private func logPath(_ index: Int) -> String { "\(directory)/log-\(index)" }

    private static func isFree(_ port: Int) -> Bool {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = UInt16(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        return unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
            }
        }
    }

    // MARK: - Life

    /// Starts a process, again if it was killed.
    func start(_ index: Int) throws(Failure) {
        precondition(children[index] == nil)
        incarnations[index] += 1
        statuses[index].clear()
        var ends: [Int32] = [0, 0]
        guard unsafe pipe(&ends) == 0 else { throw Failure("no pipe") }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        defer { close(ends[0]) }
        let process = try ChildProcess(
            program,
            [
                "transport-node", "--provider", provider, "--ports",
                ports.map(String.init).joined(separator: ","), "--contexts",
                "\(options.contexts)", "--index", "\(index)", "--incarnation",
                "\(incarnations[index])", "--lanes", "\(options.lanes)", "--status",
                statusPath(index), "--seed", "\(options.seed)",
            ], input: ends[0], log: logPath(index), endsWithUs: true)
        children[index] = Child(process: process, input: ends[1])
    }

    /// Waits until all contexts are open.
    func waitUntilOpen() async throws(Failure) {
        let limit = xstream.now + TransportProcesses.openMax
        while !statuses.allSatisfy({ $0[.isOpen] }) {
            for index in 0..<count { try check(index) }
            guard xstream.now < limit else {
                throw Failure("processes do not open: \(allLastWords)")
            }
            await xstream.sleep(for: .milliseconds(2))
        }
    }

    /// Sends SIGKILL, and waits until it is gone.
    func kill(_ index: Int) async throws(Failure) {
        try check(index)
        guard let child = children[index] else { return }
        child.process.signal(SIGKILL)
        while child.process.ending == nil { await xstream.sleep(for: .microseconds(500)) }
        close(child.input)
        children[index] = nil
        kills += 1
    }

    func stop(_ index: Int) throws(Failure) {
        try check(index)
        children[index]?.process.signal(SIGSTOP)
        children[index]?.isStopped = true
        stops += 1
    }

    func resume(_ index: Int) {
        guard children[index]?.isStopped == true else { return }
        children[index]?.process.signal(SIGCONT)
        children[index]?.isStopped = false
    }

    /// Throws when a process has ended by itself.
    private func check(_ index: Int) throws(Failure) {
        guard let child = children[index], let ending = child.process.ending else { return }
        throw Failure(
            "process \(index) ended by itself, \(ChildProcess.describe(ending)): "
                + lastWords(index))
    }

    private func lastWords(_ index: Int) -> String {
        guard let text = try? Files.read(logPath(index)) else { return "no log" }
        return text.split(separator: "\n").suffix(30).joined(separator: "\n    ")
    }

    private var allLastWords: String {
        (0..<count).map { "process \($0): \(lastWords($0))" }.joined(separator: "; ")
    }

    // MARK: - End

    private func tell(_ line: String) {
        let bytes = Array((line + "\n").utf8)
        for child in children {
            if let child { _ = unsafe write(child.input, bytes, bytes.count) }
        }
    }

    /// Lets all end by themselves, and gives what they have to say: a line each, and what went
    /// wrong.
    func end() async throws(Failure) -> (lines: [String], violations: [String]) {
        tell("stop")
        var limit = xstream.now + TransportSetting.endMax + .seconds(40)
        while !statuses.allSatisfy({ $0[.isDone] }) {
            for index in 0..<count { try check(index) }
            guard xstream.now < limit else { throw Failure("processes hang: \(allLastWords)") }
            await xstream.sleep(for: .milliseconds(5))
        }
        tell("check")
        limit = xstream.now + TransportSetting.completionMax * 2 + .seconds(30)
        var lines: [String] = []
        var violations: [String] = []
        for index in 0..<count {
            guard let child = children[index] else { continue }
            while child.process.ending == nil {
                guard xstream.now < limit else {
                    throw Failure("process \(index) does not end: \(lastWords(index))")
                }
                await xstream.sleep(for: .milliseconds(5))
            }
            let words = (try? Files.read(logPath(index)))?.split(separator: "\n") ?? []
            lines += words.filter { $0.contains(" calls, ") }.suffix(1).map(String.init)
            violations += words.filter { $0.hasPrefix("VIOLATION") }.map {
                "process \(index): \($0.dropFirst(10))"
            }
            if child.process.ending != 0, violations.isEmpty {
                violations.append(
                    "process \(index): "
                        + "\(ChildProcess.describe(child.process.ending ?? 0)): "
                        + lastWords(index))
            }
        }
        return (lines, violations)
    }

    /// Ends what is left, and removes the files.
    func remove(keeping: Bool) async {
        for index in 0..<count {
            guard let child = children[index] else { continue }
            child.process.signal(SIGKILL)
            while child.process.ending == nil { await xstream.sleep(for: .milliseconds(1)) }
            close(child.input)
            children[index] = nil
        }
        guard !keeping else { return }
        for index in 0..<count {
            _ = unsafe unlink(statusPath(index))
            _ = unsafe unlink(logPath(index))
        }
        _ = unsafe rmdir(directory)
    }
}
