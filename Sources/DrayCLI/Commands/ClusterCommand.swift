internal import ArgumentParser
internal import CaRT
internal import Dray
internal import DrayEngine
internal import DrayProtocol
internal import DrayRuntime
internal import Glibc

struct ClusterCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cluster", abstract: "Run a development cluster on this machine.",
        subcommands: [Start.self, Stop.self, Status.self])

    /// Where the cluster is, for the commands of this group.
    struct DirectoryOptions: ParsableArguments {
        @Option(
            name: [.long, .customLong("cluster")],
            help: "The cluster's directory (default: DRAY_CLUSTER, else as for other commands).",
            completion: .directory)
        var directory: ByteArgument?
        @Option(name: .long, help: "What to log: LEVEL, then FACILITY=LEVEL for exceptions.")
        var log: String = "error"

        func resolve() throws(CommandFailure) -> LocalPath {
            guard let given = directory?.bytes ?? Environment["DRAY_CLUSTER"] else {
                return try DefaultDirectory.cluster()
            }
            if let text = String(validating: given, as: UTF8.self), text.contains("://") {
                throw CommandFailure(
                    .usage, text, "is an address",
                    advice: "name the directory of a development cluster with --directory")
            }
            return LocalPath(given)
        }
    }

    struct Start: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Start a cluster; make it first if there is none.",
            discussion: """
                What is there is never formatted: a cluster that exists is started as it is, and \
                engines that run already go on running. Returns when every engine serves.
                """)

        @OptionGroup var place: DirectoryOptions
        @Option(name: .long, help: "Engines of a new cluster (default: 1).") var engines: Int?
        @Option(name: .long, help: "Targets of each engine of a new cluster (default: 2).")
        var targets: Int?
        @Option(name: .long, help: "Device files of each engine of a new cluster (default: 1).")
        var devices: Int?
        @Option(name: .long, help: "Size of each device file (default: 4GiB).")
        var deviceSize: Size?
        @Option(
            name: .long,
            help: """
                Network of a new cluster: ofi+tcp, ofi+tcp;ofi_rxm, ofi+verbs;ofi_rxm, shm, \
                ofi+shm (default: DRAY_PROVIDER, else ofi+tcp). Repeat for more: clients may use \
                any, engines call each other over the first.
                """,
            completion: .list(
                ["ofi+tcp", "ofi+tcp;ofi_rxm", "ofi+verbs;ofi_rxm", "shm", "ofi+shm"]))
        var provider: [String] = []
        @Option(
            name: .long,
            help: """
                IPv4 address of this machine that the engines of a new cluster listen at; with \
                ofi+verbs;ofi_rxm, that of an RDMA adapter (default: 127.0.0.1). Repeat for one \
                for each provider, or for several networks of one.
                """)
        var host: [String] = []
        @Option(
            name: .long,
            help: """
                For the engines started now: on for 'dray engine faults'; or faults to inject, \
                between semicolons.
                """)
        var faults: String?
        @Option(
            name: .long,
            help: """
                For the engines started now: NAME=VALUE in place of what their engine.yml says \
                (repeat for more). 'dray engine start --print-config' lists the names.
                """,
            completion: .list(EngineSettings.Key.choices.map { "\($0.rawValue)=" }))
        var setting: [String] = []
        @Option(name: .long, help: "How long to wait for the engines.")
        var timeout = HumanDuration(.seconds(30))
        @OptionGroup var output: OutputOptions

        private static let targetsDefault = 2

        func validate() throws {
            if let engines, !(1...DevelopmentCluster.enginesMax).contains(engines) {
                throw ValidationError(
                    "--engines must be 1 to \(DevelopmentCluster.enginesMax).")
            }
            if let targets, !(1...EngineConfiguration.targetsMax).contains(targets) {
                throw ValidationError(
                    "--targets must be 1 to \(EngineConfiguration.targetsMax).")
            }
            if let devices, !(1...(targets ?? Start.targetsDefault)).contains(devices) {
                throw ValidationError("--devices must be 1 to the number of targets.")
            }
            guard provider.count <= 1 || host.count <= 1 || provider.count == host.count,
                max(provider.count, host.count) <= EngineRecord.networksMax
            else {
                throw ValidationError(
                    "--host is given once, or once for each --provider, and neither more than "
                        + "\(EngineRecord.networksMax) times.")
            }
        }

        func run() async throws {
            let directory = try place.resolve()
            let world = try RealWorld.make(logMask: place.log)
            let settings = try EngineSettings.choices(setting)
            // The engines get it too: better to say here what is wrong with it.
            let fabric = try FabricOptions.ofEnvironment(world)
            let cluster = try DevelopmentCluster(directory: directory, world: world)
            let lock = try ClusterLock(cluster.directory)
            let file: ClusterFile
            let path = cluster.directory.appending(ClusterFile.name)
            if (try? LocalFiles.status(path)) != nil {
                file = try ClusterFile.read(cluster.directory)
                try check(file, cluster.directory)
            } else {
                file = try await cluster.make(
                    DevelopmentCluster.Plan(
                        engines: engines ?? 1, targets: targets ?? Start.targetsDefault,
                        devices: devices ?? 1,
                        deviceSize: deviceSize ?? Size(bytes: 4 << 30),
                        providers: provider.isEmpty ? fabric.providers : provider,
                        hosts: host.isEmpty ? ["127.0.0.1"] : host))
            }
            let started = try cluster.start(file, settings: settings, faults: faults)
            try await cluster.waitUntilServing(
                file, started: started, timeout: timeout.duration)
            lock.release()
            let state = try await ClusterState.read(cluster.directory, file, world: world)
            try output.print(
                state,
                text: "cluster in \(cluster.directory.text): "
                    + "\(file.engines.count) \(file.engines.count == 1 ? "engine" : "engines") "
                    + "serving, \(started.count) started now")
        }

        /// A cluster that exists keeps its shape: flags that say otherwise are a mistake.
        private func check(_ file: ClusterFile, _ directory: LocalPath) throws(CommandFailure) {
            var other: [String] = []
            if let engines, engines != file.engines.count {
                other.append("\(file.engines.count) engines")
            }
            if let targets, let one = file.engines.first(where: { $0.targets != targets }) {
                other.append("\(one.targets) targets")
            }
            if let devices, let one = file.engines.first(where: { $0.deviceCount != devices }) {
                let count = one.deviceCount
                other.append("\(count) \(count == 1 ? "device" : "devices") of each engine")
            }
            if let deviceSize,
                let one = file.engines.first(where: { $0.deviceSize != deviceSize.bytes })
            {
                other.append("devices of \(Size(bytes: one.deviceSize))")
            }
            let isThere = file.engines.allSatisfy { engine in
                host.allSatisfy { host in
                    engine.addresses.contains { $0.contains("://\(host):") }
                }
                    && provider.allSatisfy { provider in
                        engine.addresses.contains { $0.hasPrefix(provider + "://") }
                    }
            }
            if !isThere {
                other.append(
                    "addresses such as " + file.engines[0].addresses.joined(separator: ", "))
            }
            guard other.isEmpty else {
                throw CommandFailure(
                    .exists, directory.text,
                    "a cluster is there, with " + other.joined(separator: ", "),
                    advice: "leave these options out to start it, or choose another directory")
            }
        }
    }

    struct Stop: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Stop the engines of a cluster. Their data stays.")

        @OptionGroup var place: DirectoryOptions
        @Option(name: .long, help: "How long to wait before an engine is killed.")
        var timeout = HumanDuration(.seconds(10))

        func run() throws {
            let world = try RealWorld.make(logMask: place.log)
            let cluster = try DevelopmentCluster(directory: try place.resolve(), world: world)
            let file = try ClusterFile.read(cluster.directory)
            let count = try cluster.stop(file, timeout: timeout.duration)
            try Terminal.print("\(count) \(count == 1 ? "engine" : "engines") stopped")
        }
    }

    struct Status: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show the engines of a cluster.",
            discussion: "The exit status is 5 when an engine does not serve.")

        @OptionGroup var place: DirectoryOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let world = try RealWorld.make(logMask: place.log)
            let directory = try place.resolve().absolute()
            let file = try ClusterFile.read(directory)
            let state = try await ClusterState.read(directory, file, world: world)
            try output.print(state, text: state.text)
            try finish(state.engines.allSatisfy { $0.state == "serving" } ? .success : .unavailable)
        }
    }
}

/// Held while a cluster is being made or started, so that two starts do not mix.
struct ClusterLock {
    private let file: OpenFile

    init(_ directory: LocalPath) throws(CommandFailure) {
        do throws(Errno) {
            try LocalFiles.makeDirectories(directory, mode: 0o700)
            file = try OpenFile(
                directory.appending(Array("lock".utf8)), O_RDWR | O_CREAT, mode: 0o600)
        } catch {
            throw CommandFailure(directory.text, error.text)
        }
        guard flock(file.descriptor, LOCK_EX | LOCK_NB) == 0 else {
            throw CommandFailure(
                directory.text, "another 'dray cluster start' is at work there",
                advice: "wait until it has ended")
        }
    }

    func release() { _ = flock(file.descriptor, LOCK_UN) }
}

/// What `cluster status` prints.
struct ClusterState: Codable, Hashable, Sendable {
    var directory: String
    var id: String
    var engines: [Engine]

    struct Engine: Codable, Hashable, Sendable {
        var rank: UInt32
        var address: String
        /// Those on its further networks.
        var secondary: [String]?
        /// `serving`; `starting` when the process runs but does not answer; `down`.
        var state: String
        /// What the other engines that answer hold it for: `alive`, `suspect` or `dead`, the
        /// worst of it when they differ; nil when none says anything.
        var membership: String?
        /// How the engines seem to this one; nil when it does not answer.
        var members: [Member]?
        /// Nil when no process of ours runs.
        var pid: Int32?
        var uptimeSeconds: Double?
        var targets: Int
        var capacity: UInt64?
        var used: UInt64?
    }

    /// An engine as another one sees it.
    struct Member: Codable, Hashable, Sendable {
        var rank: UInt32
        var state: String
        var incarnation: UInt64
    }

    static func read(
        _ directory: LocalPath, _ file: ClusterFile, world: World
    ) async throws(CommandFailure) -> ClusterState {
        var answers: [UInt32: EngineStatus] = [:]
        let description = ClusterDescription(addresses: file.addresses)
        do throws(DrayError) {
            let cluster = try await Cluster.connect(
                to: description, world: world, timeout: .seconds(1))
            for (engine, status) in await cluster.status(timeout: .seconds(1)) {
                guard let status else { continue }
                answers[engine.rank] = EngineStatus(
                    uptime: Double(status.uptimeNanoseconds) / 1e9,
                    capacity: status.targets.reduce(0) { $0 + $1.capacity },
                    used: status.targets.reduce(0) { $0 + $1.used }, members: status.members)
            }
            await cluster.close()
        } catch {
            // No engine answers: the states below say so.
            answers = [:]
        }
        let engines = file.engines.map { engine in
            let home = EngineDirectory(cluster: directory, rank: engine.rank)
            let process = EngineProcess.read(home.process).flatMap { $0.isAlive ? $0 : nil }
            let answer = answers[engine.rank]
            return Engine(
                rank: engine.rank, address: engine.address, secondary: engine.secondary,
                state: answer != nil ? "serving" : process != nil ? "starting" : "down",
                membership: membership(of: engine.rank, answers),
                members: answer?.members.map {
                    Member(rank: $0.rank, state: "\($0.state)", incarnation: $0.incarnation)
                },
                pid: process?.pid, uptimeSeconds: answer?.uptime, targets: engine.targets,
                capacity: answer?.capacity, used: answer?.used)
        }
        return ClusterState(directory: directory.text, id: file.id, engines: engines)
    }

    private struct EngineStatus {
        var uptime: Double
        var capacity: UInt64
        var used: UInt64
        var members: [EngineMember]
    }

    /// The worst that the others say.
    private static func membership(
        of rank: UInt32, _ answers: [UInt32: EngineStatus]
    ) -> String? {
        answers.filter { $0.key != rank }
            .compactMap { $0.value.members.first { $0.rank == rank }?.state }
            .max { $0.rawValue < $1.rawValue }
            .map { "\($0)" }
    }

    var text: String {
        var table = Table([
            ("ENGINE", .right), ("STATE", .left), ("MEMBER", .left), ("PID", .right),
            ("UPTIME", .right),
            ("TARGETS", .right), ("CAPACITY", .right), ("USED", .right), ("ADDRESS", .left),
        ])
        for engine in engines {
            table.add([
                "\(engine.rank)", engine.state, engine.membership ?? "-",
                engine.pid.map { "\($0)" } ?? "-",
                engine.uptimeSeconds.map {
                    HumanDuration(.nanoseconds(Int64($0 * 1e9))).description
                } ?? "-",
                "\(engine.targets)", engine.capacity.map { "\(Size(bytes: $0))" } ?? "-",
                engine.used.map { "\(Size(bytes: $0))" } ?? "-", engine.address,
            ])
        }
        return "cluster in \(directory)\n" + table.text
    }
}
