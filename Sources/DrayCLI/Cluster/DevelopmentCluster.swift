internal import Dray
internal import DrayEngine
internal import DrayFabric
internal import DrayProtocol
internal import DrayRuntime
internal import Glibc

/// A cluster of engines on this machine, all below one directory. See README.md for its files.
struct DevelopmentCluster {
    let directory: LocalPath
    let world: World

    /// What a new cluster is made with.
    struct Plan {
        var engines: Int
        var targets: Int
        /// Of each engine.
        var devices = 1
        /// Of each of these.
        var deviceSize: Size
        /// Of each network; where there are fewer hosts or fewer providers, one for all.
        var providers: [String]
        var hosts = ["127.0.0.1"]

        var networkCount: Int { max(providers.count, hosts.count) }
    }

    static let enginesMax = 64

    init(directory: LocalPath, world: World) throws(CommandFailure) {
        self.directory = try directory.absolute()
        self.world = world
    }

    // MARK: - Making

    /// Makes the files of a new cluster and formats its devices. The cluster's file comes last:
    /// while it is missing there is no cluster.
    func make(_ plan: Plan) async throws(CommandFailure) -> ClusterFile {
        for rank in 0..<UInt32(plan.engines) {
            let home = EngineDirectory(cluster: directory, rank: rank)
            for device in (0..<plan.devices).map(home.devicePath)
            where (try? LocalFiles.status(device)) != nil {
                throw CommandFailure(
                    .exists, device.text, "a device file is there, but no cluster",
                    advice: "a start may have been interrupted; remove \(directory.text) if "
                        + "nothing in it is needed, or choose another directory")
            }
        }
        let file = try plannedFile(plan)
        var made: [LocalPath] = []
        do throws(CommandFailure) {
            try await makeDevices(file, made: &made)
            try file.write(directory)
        } catch {
            // What has just been made holds nothing yet, and must not be in the way next time.
            for device in made { try? LocalFiles.remove(device) }
            throw error
        }
        return file
    }

    private func makeDevices(
        _ file: ClusterFile, made: inout [LocalPath]
    ) async throws(CommandFailure) {
        for engine in file.engines {
            let home = EngineDirectory(cluster: directory, rank: engine.rank)
            do throws(Errno) {
                try LocalFiles.makeDirectories(home.path)
            } catch {
                throw CommandFailure(home.path.text, error.text)
            }
            let configuration = try settings(of: engine, in: file).configuration()
            try await EngineRunner.format(
                configuration, size: Size(bytes: engine.deviceSize), world: world)
            made += (0..<engine.deviceCount).map(home.devicePath)
        }
    }

    private func plannedFile(_ plan: Plan) throws(CommandFailure) -> ClusterFile {
        var entropy = world.entropy.fork("cluster")
        let id = UniqueID.random(using: &entropy)
        var taken: [Range<Int>] = []
        var engines: [ClusterFile.Engine] = []
        for rank in 0..<UInt32(plan.engines) {
            var addresses: [String] = []
            for network in 0..<plan.networkCount {
                let provider = plan.providers[network % plan.providers.count]
                let host = plan.hosts[network % plan.hosts.count]
                let address: String
                if FabricAddress.isNamed(provider) {
                    address = "\(provider)://dray-\(id.description.prefix(8))-\(rank)"
                } else {
                    let count = EngineConfiguration.contextCount(targetCount: plan.targets)
                    let port = try FreePorts.find(count, at: host, taken: taken, using: &entropy)
                    taken.append(port..<port + count)
                    address = "\(provider)://\(host):\(port)"
                }
                do throws(FabricError) {
                    _ = try FabricAddress(parsing: address)
                } catch {
                    throw CommandFailure(
                        .usage, "--provider \(provider)", "\(error)",
                        advice: "use ofi+tcp or shm")
                }
                addresses.append(address)
            }
            engines.append(
                ClusterFile.Engine(
                    rank: rank, address: addresses[0],
                    secondary: addresses.count > 1 ? Array(addresses.dropFirst()) : nil,
                    targets: plan.targets, devices: plan.devices > 1 ? plan.devices : nil,
                    deviceSize: plan.deviceSize.bytes))
        }
        return ClusterFile(id: id.description, engines: engines)
    }

    /// The settings of one engine: those chosen, else as its first `engine.yml` says them.
    func settings(
        of engine: ClusterFile.Engine, in file: ClusterFile,
        choices: [EngineSettings.Key: String] = [:]
    ) throws(CommandFailure) -> EngineSettings {
        let home = EngineDirectory(cluster: directory, rank: engine.rank)
        let engines = file.engines.map {
            "\($0.rank)=\($0.addresses.joined(separator: "|"))*\($0.targets)"
        }
        let devices = (0..<engine.deviceCount).compactMap { index in
            String(validating: home.devicePath(index).bytes, as: UTF8.self)
        }
        guard devices.count == engine.deviceCount,
            let process = String(validating: home.process.bytes, as: UTF8.self)
        else {
            throw CommandFailure(
                .usage, directory.text, "is no UTF-8, which a configuration file must be",
                advice: "choose another directory")
        }
        return try EngineSettings(
            flags: choices, environment: { _ in nil },
            file: [
                .clusterID: file.id, .rank: "\(engine.rank)",
                .engines: engines.joined(separator: ","),
                .device: devices.joined(separator: EngineSettings.separator),
                .processFile: process,
            ])
    }

    // MARK: - Starting

    /// An engine's process that `start` made.
    struct Started {
        var rank: UInt32
        var pid: Int32
    }

    /// Starts every engine that does not run. Returns those it started.
    ///
    /// - Parameters:
    ///   - settings: for those engines, in place of what their `engine.yml` says.
    ///   - faults: the same.
    func start(
        _ file: ClusterFile, settings choices: [EngineSettings.Key: String] = [:],
        faults: String? = nil
    ) throws(CommandFailure) -> [Started] {
        // Better to say here what is wrong with them than in the engines' logs.
        for engine in choices.isEmpty ? [] : file.engines {
            let settings = try settings(of: engine, in: file, choices: choices)
            _ = (try settings.configuration(), try settings.log())
        }
        let flags = choices.sorted { $0.key.rawValue < $1.key.rawValue }
            .map { "\($0.key.flag)=\($0.value)" }
        var started: [Started] = []
        let program = try ChildProcess.ownPath()
        for engine in file.engines {
            let home = EngineDirectory(cluster: directory, rank: engine.rank)
            if let process = EngineProcess.read(home.process), process.isAlive { continue }
            for device in (0..<engine.deviceCount).map(home.devicePath)
            where (try? LocalFiles.status(device)) == nil {
                throw CommandFailure(
                    .notFound, device.text, "a device of engine \(engine.rank) is missing",
                    advice: "put it back; nothing is formatted in its place")
            }
            do throws(Errno) {
                if (try? LocalFiles.status(home.configuration)) == nil {
                    let text = try? settings(of: engine, in: file).yaml
                    try LocalFiles.replace(
                        home.configuration, Array(((text ?? "") + "\n").utf8))
                }
                let pid = try ChildProcess.spawn(
                    program,
                    // Its networks are those of the file, whatever the environment says.
                    ["engine", "start", "--provider", "", "--config"].map { Array($0.utf8) }
                        + [home.configuration.bytes]
                        + flags.map { Array($0.utf8) }
                        + (faults.map { [Array("--faults".utf8), Array($0.utf8)] } ?? []),
                    input: .null, output: .append(home.log), error: .append(home.log),
                    detached: true)
                started.append(Started(rank: engine.rank, pid: pid))
            } catch {
                throw CommandFailure("engine \(engine.rank)", "cannot be started: \(error.text)")
            }
        }
        return started
    }

    /// Waits until every engine answers. Fails when one that was started ends, or time is up.
    func waitUntilServing(
        _ file: ClusterFile, started: [Started], timeout: Duration
    ) async throws(CommandFailure) {
        let end = world.clock.now + timeout
        let description = ClusterDescription(addresses: file.addresses)
        var silent = file.engines.map(\.rank)
        while world.clock.now < end {
            for engine in started where ChildProcess.reap(engine.pid) != nil {
                throw failure(of: engine.rank, "ended while it started")
            }
            silent = await silentEngines(description, all: file.engines.map(\.rank))
            if silent.isEmpty { return }
            usleep(20_000)
        }
        throw failure(of: silent.first ?? 0, "does not answer after \(HumanDuration(timeout))")
    }

    private func failure(of rank: UInt32, _ why: String) -> CommandFailure {
        let home = EngineDirectory(cluster: directory, rank: rank)
        let last = home.lastLogLine().map { ": \($0)" } ?? ""
        return CommandFailure(
            .unavailable, "engine \(rank)", why + last, advice: "its log is \(home.log.text)")
    }

    private func silentEngines(_ description: ClusterDescription, all: [UInt32]) async -> [UInt32] {
        do throws(DrayError) {
            let cluster = try await Cluster.connect(
                to: description, world: world, timeout: .milliseconds(500))
            let answers = await cluster.status(timeout: .milliseconds(500))
            await cluster.close()
            let serving = answers.filter { $0.status != nil }.map(\.engine.rank)
            return all.filter { !serving.contains($0) }
        } catch {
            return all
        }
    }

    // MARK: - Stopping

    /// Asks every engine to stop, and ends those that have not after `timeout`. Returns how many
    /// ran.
    func stop(_ file: ClusterFile, timeout: Duration) throws(CommandFailure) -> Int {
        var running: [(rank: UInt32, process: EngineProcess)] = []
        for engine in file.engines {
            let home = EngineDirectory(cluster: directory, rank: engine.rank)
            guard let process = EngineProcess.read(home.process), process.isAlive else { continue }
            running.append((engine.rank, process))
        }
        try signal(running, SIGTERM)
        let end = world.clock.now + timeout
        while running.contains(where: { $0.process.isAlive }), world.clock.now < end {
            usleep(10_000)
        }
        let stubborn = running.filter { $0.process.isAlive }
        for engine in stubborn {
            Terminal.note(
                "dray: engine \(engine.rank): did not stop in time: killed; what it "
                    + "acknowledged is stored")
        }
        try signal(stubborn, SIGKILL)
        while stubborn.contains(where: { $0.process.isAlive }) { usleep(10_000) }
        return running.count
    }

    private func signal(
        _ engines: [(rank: UInt32, process: EngineProcess)], _ number: Int32
    ) throws(CommandFailure) {
        for engine in engines {
            do throws(Errno) {
                try engine.process.signal(number)
            } catch {
                throw CommandFailure("engine \(engine.rank)", error.text)
            }
        }
    }
}
