internal import Dray
internal import DrayFabric
internal import DrayRuntime
internal import Glibc
internal import Logging

/// Engines in processes of their own, on device files of a real disk, that are killed, stopped and
/// started again. Confined to the xstream of the harness.
final class RealCluster {
    let directory: String
    let engineCount: Int
    private let program: String
    private let xstream: XStream
    private var engines: [ChildProcess?]
    /// The engines that are stopped by a signal.
    private var stopped: Set<Int> = []
    private var cleanUp: CleanUp?
    private(set) var addresses: [String] = []
    /// A client that asks the engines how they are.
    private var observer: Cluster?

    private(set) var kills = 0
    private(set) var stops = 0

    static let deviceSize = "2GiB"
    /// Of each engine's device, for the pool.
    static let poolShare: UInt64 = 3 << 29
    /// How long engines may take to serve after their start.
    static let startMax: Duration = .seconds(30)

    init(
        program: String, parent: String, engines: Int, targets: Int, devices: Int,
        xstream: XStream
    ) async throws(Failure) {
        self.program = program
        self.xstream = xstream
        engineCount = engines
        self.engines = Array(repeating: nil, count: engines)
        directory = try Files.makeDirectory(parent + "/dray-kill")
        cleanUp = try CleanUp(program: program, cluster: cluster, directory: directory)
        try await run([
            "cluster", "start", "--directory", cluster, "--engines", "\(engines)", "--targets",
            "\(targets)", "--devices", "\(devices)", "--device-size", RealCluster.deviceSize,
        ])
        try await run(["cluster", "stop", "--directory", cluster])
        addresses = try readAddresses()
        for rank in 0..<engines { try start(rank) }
        let observer = try await connect(timeout: .seconds(30))
        self.observer = observer
        _ = try await waitUntilServing()
    }

    private var cluster: String { directory + "/cluster" }

    private func home(_ rank: Int) -> String { cluster + "/engine-\(rank)" }

    /// Ends everything. `keeping`: the files stay.
    func end(keeping: Bool) async {
        for rank in 0..<engineCount {
            resume(rank)
            engines[rank]?.signal(SIGKILL)
            while let engine = engines[rank], engine.ending == nil {
                await xstream.sleep(for: .milliseconds(1))
            }
        }
        cleanUp?.run(keeping: keeping)
    }

    // MARK: - Making

    /// Runs a command of the program to its end.
    private func run(_ arguments: [String]) async throws(Failure) {
        let log = directory + "/log"
        let process = try ChildProcess(program, arguments, log: log)
        while process.ending == nil { await xstream.sleep(for: .milliseconds(5)) }
        guard process.ending == 0 else {
            throw Failure("dray \(arguments.joined(separator: " ")): \(try Files.read(log))")
        }
    }

    /// The addresses that the cluster's file has, in the order of the ranks.
    private func readAddresses() throws(Failure) -> [String] {
        let text = try Files.read(cluster + "/cluster.json")
        // A list of quoted words: what follows "address" is one.
        let words = text.split(separator: "\"", omittingEmptySubsequences: false)
        let found = words.indices.dropLast(2).filter { words[$0] == "address" }
            // The file writes slashes with a backslash before them.
            .map { String(words[$0 + 2].filter { $0 != "\\" }) }
        guard found.count == engineCount else {
            throw Failure("\(cluster)/cluster.json names \(found.count) addresses")
        }
        return found
    }

    // MARK: - Engines

    func start(_ rank: Int) throws(Failure) {
        guard engines[rank] == nil else { return }
        engines[rank] = try ChildProcess(
            program, ["engine", "start", "--config", home(rank) + "/engine.yml"],
            log: home(rank) + "/log")
    }

    /// Sends SIGKILL to all of `ranks` at once, and waits until they are gone.
    func kill(_ ranks: [Int]) async throws(Failure) {
        for rank in ranks { try check(rank) }
        for rank in ranks { engines[rank]?.signal(SIGKILL) }
        for rank in ranks {
            stopped.remove(rank)
            guard let engine = engines[rank] else { continue }
            while engine.ending == nil { await xstream.sleep(for: .microseconds(500)) }
            engines[rank] = nil
            kills += 1
        }
    }

    /// Sends SIGSTOP.
    func stop(_ rank: Int) throws(Failure) {
        try check(rank)
        engines[rank]?.signal(SIGSTOP)
        stopped.insert(rank)
        stops += 1
    }

    /// Sends SIGCONT to an engine that is stopped.
    func resume(_ rank: Int) {
        guard stopped.remove(rank) != nil else { return }
        engines[rank]?.signal(SIGCONT)
    }

    /// Throws when an engine has ended by itself.
    private func check(_ rank: Int) throws(Failure) {
        guard let engine = engines[rank], let ending = engine.ending else { return }
        throw Failure(
            "engine \(rank) ended by itself, \(ChildProcess.describe(ending)): \(lastWords(rank))")
    }

    private func lastWords(_ rank: Int) -> String {
        guard let text = try? Files.read(home(rank) + "/log") else { return "no log" }
        return text.split(separator: "\n").suffix(6).joined(separator: "\n    ")
    }

    /// Waits until every engine answers. Returns how long that took.
    func waitUntilServing() async throws(Failure) -> Duration {
        let begin = xstream.now
        while xstream.now.since(begin) < RealCluster.startMax {
            for rank in 0..<engineCount { try check(rank) }
            let answers = await observer?.status(timeout: .milliseconds(100)) ?? []
            if answers.count == engineCount, answers.allSatisfy({ $0.status != nil }) {
                return xstream.now.since(begin)
            }
            await xstream.sleep(for: .milliseconds(5))
        }
        throw Failure(
            "the engines do not serve within \(RealCluster.startMax): "
                + (0..<engineCount).map { "engine \($0): \(lastWords($0))" }.joined(separator: "; ")
        )
    }

    // MARK: - Clients

    /// Connects a client, as a process of its own would: nothing is shared with another one.
    func connect(timeout: Duration) async throws(Failure) -> Cluster {
        let world = World.libfabric(log: LogFacilities(level: .error))
        do throws(DrayError) {
            return try await Cluster.connect(
                to: ClusterDescription(addresses: addresses, operationTimeout: timeout),
                world: world, timeout: .seconds(30))
        } catch {
            throw Failure("cannot connect: \(error)")
        }
    }
}
