internal import BIO
internal import CaRT
internal import Dray
internal import DrayEngine
internal import DrayFabric
internal import DrayProtocol
internal import DrayRuntime

/// A whole cluster on virtual time: engines, clients that change and check values, and faults,
/// all decided by one seed. The engines and clients are the real code.
public final class ClusterSimulation {
    /// What is simulated.
    public struct Options: Sendable {
        public var engineCount = 2
        public var targetCount = 2
        public var clientCount = 3
        /// Operations that each client has under way at once, 1 to 4.
        public var laneCount = Workload.laneMax
        /// How long the workload runs, in virtual time.
        public var duration: Duration = .seconds(3)
        /// Prints every fault with its time.
        public var isVerbose = false
        /// Where the engines' and clients' log lines go; nowhere when nil.
        public var logLevel: String?
        /// Prints every event that the hash covers, to compare two runs.
        public var printsEvents = false

        public init() {}
    }

    static let deviceSize: UInt64 = 512 << 20
    static let logSize: UInt64 = 512 << 10
    static let retention: Duration = .milliseconds(300)
    static let clientNodeFirst = 100
    /// One in so many of the blocks that were written rots at the end of a run.
    static let rotPeriod: UInt64 = 8

    let simulation: Simulation
    let options: Options
    let fabric: SimulatedFabric
    let devices: SimulatedDeviceStore
    let cluster: UniqueID
    /// What devices do while nothing is wrong with them.
    private(set) var goodDevices = DeviceFaults()
    var entropy: Entropy
    private(set) var report: SimulationReport

    private(set) var incarnations: [Int]
    private(set) var isRunning: [Bool]
    private var clientIncarnation = 0

    /// Prepares a simulation. Runs of the same seed and options are equal.
    public init(seed: UInt64, options: Options = Options()) {
        self.options = options
        simulation = Simulation(seed: seed)
        entropy = simulation.entropy.fork("cluster")
        fabric = SimulatedFabric(simulation: simulation)
        devices = SimulatedDeviceStore(simulation: simulation)
        cluster = UniqueID.random(using: &entropy)
        report = SimulationReport(seed: seed)
        // Half of the clusters have power supplies that tear every write.
        goodDevices.crashOutcome = entropy.chance(1, in: 2) ? .tear : .random
        devices.setFaults(goodDevices)
        if options.printsEvents {
            simulation.onRecord = { [unowned simulation] kind, value in
                print("\(simulation.now.nanoseconds) \(kind) \(value)")
            }
        }
        incarnations = Array(repeating: 0, count: options.engineCount)
        isRunning = Array(repeating: false, count: options.engineCount)
    }

    /// Runs everything and says what happened.
    public func run() -> SimulationReport {
        setUp()
        if report.violations.isEmpty { runWorkload() }
        report.virtualSeconds = Double(simulation.now.nanoseconds - 1_000_000_000) / 1e9
        report.turns = simulation.turnCount
        report.events = simulation.eventCount
        report.eventHash = simulation.eventHash
        return report
    }

    // MARK: - Processes

    private func world(node: Int, incarnation: Int) -> World {
        var log = LogFacilities(sink: { _ in })
        if let level = options.logLevel {
            log = LogFacilities(sink: { LogFacilities.standardError("node \(node): \($0)") })
            do throws(LogMaskError) {
                try log.set(mask: level)
            } catch {
                violation("\(error)")
            }
        }
        var world = simulation.world(node: node, incarnation: incarnation, log: log)
        world.fabric = fabric
        world.devices = devices
        return world
    }

    private func configuration(rank: Int) -> EngineConfiguration {
        let engines = (0..<options.engineCount).map { rank in
            EngineRecord(
                rank: UInt32(rank),
                addresses: EngineConfiguration.addresses(
                    base: "sim://engine-\(rank)", targetCount: options.targetCount))
        }
        var configuration = EngineConfiguration(
            cluster: cluster, rank: UInt32(rank), engines: engines,
            devicePath: "device-\(rank)")
        // Small and short, so that checkpoints, aggregation and the reuse of blocks are part of
        // every run.
        configuration.logSize = ClusterSimulation.logSize
        configuration.retention = ClusterSimulation.retention.nanosecondsClamped
        return configuration
    }

    /// Runs `body` as a task of a fresh process until it is done. False when time ran out.
    private func runAlone(
        _ name: String, limit: Duration = .seconds(60),
        _ body: @escaping (World, XStream) async -> Void
    ) -> Bool {
        clientIncarnation += 1
        let world = world(node: 99, incarnation: clientIncarnation)
        let xstream = world.makeXStream(name: name)
        var isDone = false
        xstream.simulate {
            await body(world, xstream)
            isDone = true
        }
        return simulation.run(for: limit, until: { isDone })
    }

    private func setUp() {
        for rank in 0..<options.engineCount {
            let configuration = configuration(rank: rank)
            do throws(BIOError) {
                try devices.create(
                    path: configuration.devicePath, size: ClusterSimulation.deviceSize)
            } catch {
                violation("cannot create a device: \(error)")
            }
            let formatted = runAlone("format") { world, _ in
                do throws(EngineError) {
                    try await Engine.format(configuration, world: world)
                } catch {
                    self.violation("cannot format: \(error)")
                }
            }
            if !formatted { violation("formatting hangs") }
            start(rank: rank)
        }
        waitForEngines()
    }

    /// Starts a new incarnation of an engine.
    func start(rank: Int) {
        guard !isRunning[rank] else { return }
        isRunning[rank] = true
        incarnations[rank] += 1
        let incarnation = incarnations[rank]
        let world = world(node: rank, incarnation: incarnation)
        let configuration = configuration(rank: rank)
        let xstream = world.makeXStream(name: "boot-\(rank)")
        serving[rank] = false
        xstream.simulate {
            do throws(EngineError) {
                self.engines[rank] = try await Engine.start(configuration, world: world)
                self.serving[rank] = true
            } catch {
                self.violation("engine \(rank) does not start: \(error)")
            }
        }
    }

    private var serving: [Int: Bool] = [:]
    private var engines: [Int: Engine] = [:]

    /// Ends an engine as SIGKILL and a power cut together do: it stops, and its device forgets
    /// what was not flushed.
    func kill(rank: Int) {
        guard isRunning[rank] else { return }
        let incarnation = incarnations[rank]
        if !isDead(rank: rank) { simulation.kill(node: rank, incarnation: incarnation) }
        isRunning[rank] = false
        serving[rank] = false
        engines[rank] = nil
        devices.crash(node: Simulation.identity(node: rank, incarnation: incarnation))
        report.crashes += 1
    }

    /// Whether the engine was killed at a boundary of its device, and nobody has noticed yet.
    func isDead(rank: Int) -> Bool {
        isRunning[rank]
            && simulation.isDead(
                Simulation.identity(node: rank, incarnation: incarnations[rank]))
    }

    private func waitForEngines() {
        let ready = simulation.run(for: .seconds(60)) {
            (0..<options.engineCount).allSatisfy { serving[$0] == true }
                || !report.violations.isEmpty
        }
        if !ready { violation("the engines do not come up") }
    }

    // MARK: - The run

    private var description: ClusterDescription { description(timeout: .seconds(2)) }

    private func description(timeout: Duration) -> ClusterDescription {
        ClusterDescription(
            addresses: (0..<options.engineCount).map { "sim://engine-\($0)" },
            operationTimeout: timeout)
    }

    private var clientsDone = 0
    private var workloads: [Workload] = []

    private func runWorkload() {
        guard createContainer() else { return }
        let end = simulation.now + options.duration
        for index in 0..<options.clientCount { startClient(index, until: end) }
        let faults = FaultSchedule(self, until: end)
        faults.start()
        let limit = options.duration + .seconds(60)
        let finished = simulation.run(for: limit) {
            clientsDone == options.clientCount || !report.violations.isEmpty
        }
        if !finished { violation("the clients hang") }
        faults.stop()
        report.faults += faults.count
        quiesce()
        verify("after the run")
        guard report.violations.isEmpty else { return finish() }
        for rank in 0..<options.engineCount { kill(rank: rank) }
        quiesce()
        verify("after a restart of all engines")
        guard report.violations.isEmpty else { return finish() }
        rot()
        verify("after blocks have rotted", rotten: true)
        finish()
    }

    private func finish() {
        for workload in workloads {
            report.operations += workload.operations
            report.acknowledgedWrites += workload.acknowledgedWrites
            report.unknownOutcomes += workload.unknownOutcomes
            report.damagedReads += workload.damagedReads
            report.violations += workload.violations
        }
    }

    private func createContainer() -> Bool {
        let description = description
        let done = runAlone("admin") { world, xstream in
            do throws(DrayError) {
                let cluster = try await Cluster.connect(to: description, world: world)
                let pool = try await cluster.createPool(label: "tank", size: 256 << 20)
                try await pool.createContainer(label: "data")
                await cluster.close()
            } catch {
                self.violation("cannot create the container: \(error)")
            }
        }
        if !done { violation("creating the container hangs") }
        return done && report.violations.isEmpty
    }

    private func startClient(_ index: Int, until end: Instant) {
        let node = ClusterSimulation.clientNodeFirst + index
        let world = world(node: node, incarnation: 0)
        let xstream = world.makeXStream(name: "client-\(index)")
        // Some clients give up early, and their requests are on their way still.
        let timeouts: [Duration] = [.seconds(2), .milliseconds(400), .milliseconds(100)]
        let description = description(timeout: timeouts[index % timeouts.count])
        xstream.simulate {
            do throws(DrayError) {
                let cluster = try await Cluster.connect(
                    to: description, world: world, timeout: .seconds(30))
                let container = try await cluster.pool("tank").container("data")
                // On the client's own xstream: no detour between its tasks and its calls.
                cluster.xstream.simulate {
                    let workload = Workload(
                        name: "c\(index)", container: container,
                        arrayID: container.wellKnownObjectID(UInt32(100 + index)),
                        xstream: cluster.xstream, entropy: world.entropy.fork("workload"))
                    self.workloads.append(workload)
                    workload.run(lanes: self.options.laneCount, until: end) {
                        self.clientsDone += 1
                    }
                }
            } catch {
                self.violation("client \(index): \(error)")
                self.clientsDone += 1
            }
        }
    }

    /// Ends all faults and lets everything come back.
    private func quiesce() {
        fabric.heal()
        fabric.faults = .none
        devices.crash(atBoundary: nil)
        devices.setFaults(goodDevices)
        for rank in 0..<options.engineCount {
            if isDead(rank: rank) { kill(rank: rank) }
            simulation.resume(node: rank, incarnation: incarnations[rank])
            start(rank: rank)
        }
        waitForEngines()
    }

    /// Damages values where they lie on the devices.
    private func rot() {
        for rank in 0..<options.engineCount {
            let configuration = configuration(rank: rank)
            for area in configuration.dataAreas(deviceSize: ClusterSimulation.deviceSize) {
                report.rottenBlocks += devices.rot(
                    path: configuration.devicePath, in: area,
                    oneIn: ClusterSimulation.rotPeriod)
            }
        }
        simulation.record("rot", UInt64(report.rottenBlocks))
    }

    /// A new client reads back everything that every client wrote. When blocks are `rotten`, an
    /// error that says so is as good an answer as the right one.
    private func verify(_ when: String, rotten: Bool = false) {
        guard report.violations.isEmpty else { return }
        let description = description
        let workloads = workloads
        let done = runAlone("verify") { world, xstream in
            do throws(DrayError) {
                let cluster = try await Cluster.connect(to: description, world: world)
                let container = try await cluster.pool("tank").container("data")
                for workload in workloads {
                    await workload.verify(through: container, rotten: rotten)
                }
                await cluster.close()
            } catch {
                self.violation("cannot verify \(when): \(error)")
            }
        }
        if !done { violation("verifying \(when) hangs") }
    }

    func violation(_ what: String) {
        report.violations.append(what)
    }
}
