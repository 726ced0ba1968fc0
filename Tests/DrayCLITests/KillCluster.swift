import Dray
import DrayRuntime
import Glibc
import Synchronization

@testable import DrayCLI

/// Engines, two of them unless a test wants more, in processes of their own, on device files of a
/// real disk, that a test may kill.
final class KillCluster {
    let directory: LocalPath
    let world = RealWorld.make(log: LogFacilities())
    let program: LocalPath
    private let development: DevelopmentCluster
    private let file: ClusterFile
    private var engines: [GuardedProcess?]
    /// Where this test's own tasks run.
    private let xstream: XStream

    static let engineCount = 2

    init(engines count: Int = KillCluster.engineCount, deviceSize: Size = Size(bytes: 1 << 30))
        throws
    {
        directory = try KillCluster.makeDirectory()
        program = try Program.path()
        xstream = world.makeXStream(name: "kill-test")
        engines = Array(repeating: nil, count: count)
        let development = try DevelopmentCluster(
            directory: directory.appending(Array("cluster".utf8)), world: world)
        self.development = development
        let plan = DevelopmentCluster.Plan(
            engines: count, targets: 2, deviceSize: deviceSize, providers: ["ofi+tcp"])
        file = try KillCluster.blocking(on: xstream, world, seconds: 60, "format") {
            try await development.make(plan)
        }
    }

    /// Stops everything and removes the files.
    func end() throws {
        for rank in engines.indices { try kill(rank) }
        Program.remove(directory)
    }

    /// A new directory that is not in memory only.
    private static func makeDirectory() throws -> LocalPath {
        let build = LocalPath(Array(try Program.path().bytes.dropLast("/dray".utf8.count)))
        for place in [LocalPath("/var/tmp"), build] where try isOnDisk(place) {
            var template = place.appending(Array("dray-kill.XXXXXX".utf8)).terminated
            if mkdtemp(&template) != nil {
                return LocalPath(template.dropLast().map { UInt8(bitPattern: $0) })
            }
        }
        throw CommandFailure("/var/tmp", "is no place for device files")
    }

    /// Whether the file system that a directory is in, the last one mounted above it, has a disk.
    private static func isOnDisk(_ directory: LocalPath) throws -> Bool {
        let mounts = try LocalFiles.read(LocalPath("/proc/self/mounts"))
        var type: [UInt8] = []
        var length = 0
        for line in mounts.split(separator: UInt8(ascii: "\n")) {
            let fields = line.split(separator: UInt8(ascii: " "))
            guard fields.count > 2, fields[1].count >= length else { continue }
            let root = fields[1].count == 1
            let inside =
                directory.bytes.starts(with: fields[1])
                && (root || directory.bytes.count == fields[1].count
                    || directory.bytes[fields[1].count] == UInt8(ascii: "/"))
            if inside { (type, length) = (Array(fields[2]), fields[1].count) }
        }
        return !type.isEmpty && !["tmpfs", "ramfs"].contains { type == Array($0.utf8) }
    }

    // MARK: - Engines

    func start(_ rank: Int) throws {
        precondition(engines[rank] == nil)
        let engine = file.engines[rank]
        let home = EngineDirectory(cluster: development.directory, rank: engine.rank)
        let text = try development.settings(of: engine, in: file).yaml
        try LocalFiles.replace(home.configuration, Array((text + "\n").utf8))
        engines[rank] = try GuardedProcess(
            program,
            ["engine", "start", "--config"].map { Array($0.utf8) }
                + [home.configuration.bytes], log: home.log)
    }

    func waitUntilServing() throws {
        let (development, file) = (development, file)
        let started = engines.enumerated().compactMap { rank, engine in
            engine.map { DevelopmentCluster.Started(rank: UInt32(rank), pid: $0.pid) }
        }
        try blocking(seconds: 60, "start of the engines") {
            try await development.waitUntilServing(file, started: started, timeout: .seconds(30))
        }
    }

    /// Sends SIGKILL. Throws when the engine had ended by itself.
    func kill(_ rank: Int) throws {
        guard let engine = engines[rank] else { return }
        engines[rank] = nil
        let status = try engine.kill()
        guard status == GuardedProcess.killed else {
            let home = EngineDirectory(cluster: development.directory, rank: UInt32(rank))
            throw CommandFailure(
                "engine \(rank)",
                "ended by itself with status \(status): \(home.lastLogLine() ?? "")")
        }
    }

    /// Sends a signal to an engine that runs, and not to the shell that guards it.
    func signal(_ rank: Int, _ number: Int32) throws {
        let home = EngineDirectory(cluster: development.directory, rank: UInt32(rank))
        guard let process = EngineProcess.read(home.process), process.isAlive else {
            throw CommandFailure("engine \(rank)", "does not run")
        }
        try process.signal(number)
    }

    /// The engines as 'dray cluster status' shows them.
    func status() throws -> ClusterState {
        let (world, development, file) = (world, development, file)
        return try blocking(seconds: 30, "status") {
            try await ClusterState.read(development.directory, file, world: world)
        }
    }

    /// Kills all at the same moment.
    func killAll() throws {
        for engine in engines { engine?.release() }
        for rank in engines.indices { try kill(rank) }
    }

    // MARK: - Clients

    var addresses: [String] { file.engines.map(\.address) }

    /// Connects a client whose calls end within `timeout`.
    func connect(timeout: Duration) throws -> Cluster {
        let (world, addresses) = (world, addresses)
        return try blocking(seconds: 30, "connection") {
            try await Cluster.connect(
                to: ClusterDescription(addresses: addresses, operationTimeout: timeout),
                world: world)
        }
    }

    /// A command of the program on this cluster, as a process that can be killed.
    func dray(_ arguments: [[UInt8]], log: LocalPath) throws -> GuardedProcess {
        let cluster = addresses.joined(separator: ",")
        return try GuardedProcess(
            program, arguments + ["--cluster", cluster].map { Array($0.utf8) }, log: log)
    }

    // MARK: - Tasks

    /// Runs `body` as a task and blocks until it has ended: at most so long.
    func blocking<Value: Sendable>(
        seconds: Int, _ what: String, _ body: @escaping @Sendable () async throws -> Value
    ) throws -> Value {
        try KillCluster.blocking(on: xstream, world, seconds: seconds, what, body)
    }

    private final class Outcome<Value: Sendable>: Sendable {
        let result = Mutex<Result<Value, any Error>?>(nil)
    }

    private static func blocking<Value: Sendable>(
        on xstream: XStream, _ world: World, seconds: Int, _ what: String,
        _ body: @escaping @Sendable () async throws -> Value
    ) throws -> Value {
        let outcome = Outcome<Value>()
        xstream.submit {
            xstream.spawn {
                let result: Result<Value, any Error>
                do {
                    result = .success(try await body())
                } catch {
                    result = .failure(error)
                }
                outcome.result.withLock { $0 = result }
            }
        }
        let end = world.clock.now + .seconds(seconds)
        while world.clock.now < end {
            if let result = outcome.result.withLock({ $0 }) { return try result.get() }
            usleep(1000)
        }
        throw CommandFailure(what, "does not end within \(seconds) s")
    }
}

/// Writers that go on while engines are killed, on the xstream of one client.
final class KillLoad: Sendable {
    private let cluster: Cluster
    private let map: KeyValue
    private let writers: XStreamBound<[KillWriter]>
    private let stopping = Atomic(false)
    private let running = Atomic(0)

    init(_ cluster: Cluster, _ container: Container, writers count: Int, entropy: Entropy) async {
        self.cluster = cluster
        map = KeyValue(container: container)
        let xstream = cluster.xstream
        writers = await cluster.run {
            let writers = (0..<count).map {
                KillWriter(
                    index: $0, container: container, entropy: entropy.fork("writer \($0)"))
            }
            return XStreamBound(writers, to: xstream)
        }
    }

    /// Starts the writers.
    func begin() {
        stopping.store(false, ordering: .relaxed)
        running.store(1, ordering: .releasing)
        cluster.xstream.submit {
            self.cluster.xstream.spawn {
                let counter = TaskCounter()
                for writer in self.writers.value {
                    counter.spawn(on: self.cluster.xstream) {
                        while !self.stopping.load(ordering: .relaxed) { await writer.step() }
                    }
                }
                await counter.wait()
                self.running.store(0, ordering: .releasing)
            }
        }
    }

    /// Lets the writers end after the call that they are in.
    func finish(seconds: Int) throws {
        stopping.store(true, ordering: .relaxed)
        for _ in 0..<seconds * 1000 {
            if running.load(ordering: .acquiring) == 0 { return }
            usleep(1000)
        }
        throw CommandFailure("writers", "do not end within \(seconds) s")
    }

    /// Reads everything back. The figures since the last check.
    func check() async throws -> KillWriter.Tally {
        try await cluster.run {
            let counter = TaskCounter()
            let writers = self.writers.value
            for writer in writers {
                counter.spawn(on: self.cluster.xstream) { await writer.checkAll() }
            }
            await counter.wait()
            var tally = KillWriter.Tally()
            for writer in writers {
                tally += writer.tally
                writer.tally = KillWriter.Tally()
            }
            let expected = writers.flatMap(\.listed).sorted { $0.lexicographicallyPrecedes($1) }
            let listed = try await self.map.list(limit: 1000)
            if listed.keys != expected || listed.more {
                tally.problems.append("\(listed.keys.count) keys listed, not \(expected.count)")
            }
            return tally
        }
    }
}
