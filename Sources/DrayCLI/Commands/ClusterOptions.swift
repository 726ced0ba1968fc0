internal import ArgumentParser
internal import BIO
internal import Dray
internal import DrayFabric
internal import DrayProtocol
internal import DrayRuntime

/// Which cluster a command talks to.
struct ClusterOptions: ParsableArguments {
    @Option(
        name: .long,
        help: ArgumentHelp(
            """
            Directory of the cluster, or addresses of engines separated by commas \
            (default: DRAY_CLUSTER, else below $XDG_STATE_HOME or ~/.local/state).
            """, valueName: "cluster"),
        completion: .directory)
    var cluster: ByteArgument?

    @Option(name: .long, help: "What to log: LEVEL, then FACILITY=LEVEL for exceptions.")
    var log: String = "error"

    @Option(name: .long, help: "How long an operation is tried again while engines are away.")
    var timeout = HumanDuration(.seconds(30))

    @Flag(
        name: .long, help: "Print to standard error where the time of the client's requests went.")
    var trace = false

    /// The directory of the cluster.
    func directory() throws(CommandFailure) -> LocalPath {
        if let cluster { return LocalPath(cluster.bytes) }
        if let variable = Environment["DRAY_CLUSTER"] { return LocalPath(variable) }
        return try DefaultDirectory.cluster()
    }

    /// Where to find the engines, and how to reach them.
    func description(_ world: World) throws(CommandFailure) -> ClusterDescription {
        let given = cluster?.bytes ?? Environment["DRAY_CLUSTER"]
        let addresses: [String]
        if let given, let text = String(validating: given, as: UTF8.self), text.contains("://") {
            addresses = text.split(separator: ",").map(String.init)
        } else {
            addresses = try ClusterFile.read(try directory()).addresses
        }
        var description = ClusterDescription(
            addresses: addresses, operationTimeout: timeout.duration)
        description.fabric = try FabricOptions.ofEnvironment(world)
        return description
    }

    /// The real world, with the fabric and the devices of this machine.
    func world() throws(CommandFailure) -> World {
        try RealWorld.make(logMask: log)
    }

    /// Connects, runs `body`, and ends the connection, whatever came of it.
    func withCluster<Value>(
        _ body: (Cluster, World) async throws(CommandFailure) -> Value
    ) async throws(CommandFailure) -> Value {
        let world = try world()
        let description = try description(world)
        let cluster: Cluster
        do throws(DrayError) {
            cluster = try await Cluster.connect(
                to: description, world: world, timeout: min(.seconds(10), timeout.duration))
        } catch {
            throw CommandFailure(error, "cluster")
        }
        if trace { await cluster.startTracing() }
        do throws(CommandFailure) {
            let value = try await body(cluster, world)
            if trace { Terminal.note(TraceTable.text(await cluster.callTraces)) }
            await cluster.close()
            return value
        } catch {
            if trace { Terminal.note(TraceTable.text(await cluster.callTraces)) }
            await cluster.close()
            throw error
        }
    }

    /// Connects and runs one operation of the store; its error becomes a failure about `what`.
    func run<Value>(
        _ what: String, _ body: (Cluster) async throws(DrayError) -> Value
    ) async throws(CommandFailure) -> Value {
        try await withCluster { (cluster, _) async throws(CommandFailure) in
            try await store(what) { () async throws(DrayError) in try await body(cluster) }
        }
    }
}

/// What a command that changes containers opens them for. Those that only read open them for that.
struct AccessOptions: ParsableArguments {
    @Flag(
        name: .long,
        help: "Open the container for reading only: whatever would change it is refused.")
    var readOnly = false

    var access: ContainerAccess { readOnly ? .readOnly : .readWrite }
}

/// Whether a command prints data for programs.
struct OutputOptions: ParsableArguments {
    @Flag(name: .long, help: "Print JSON instead of text.")
    var json = false

    /// Prints one of the two.
    func print(
        _ value: some Encodable, text: @autoclosure () -> String
    ) throws(CommandFailure) {
        let output = json ? try JSON.text(value) : text()
        if !output.isEmpty { try Terminal.print(output) }
    }
}

/// The one place where the program's world is put together.
enum RealWorld {
    static func make(logMask: String) throws(CommandFailure) -> World {
        let log = LogFacilities()
        do throws(LogMaskError) {
            try log.set(mask: logMask)
        } catch {
            throw CommandFailure(.usage, "--log", "\(error)")
        }
        return make(log: log)
    }

    static func make(log: LogFacilities) -> World {
        var world = World.libfabric(log: log)
        world.devices = RealDeviceStore(log: log)
        world.environment = Environment.dray
        return world
    }
}

/// Runs an operation of the store and turns its error into a failure about `what`.
func store<Value>(
    _ what: String, _ body: () async throws(DrayError) -> Value
) async throws(CommandFailure) -> Value {
    do throws(DrayError) {
        return try await body()
    } catch {
        throw CommandFailure(error, what)
    }
}

extension Cluster {
    /// Opens the container at a path.
    func container(
        _ path: ContainerPath, _ access: ContainerAccess
    ) async throws(CommandFailure) -> Container {
        try await store(path.text) { () async throws(DrayError) in
            try await pool(path.pool).container(path.container, access)
        }
    }
}
