internal import BIO
internal import CaRT
internal import Dray
internal import DrayEngine
internal import DrayFabric
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime

/// A whole cluster on virtual time: engines, clients that change and check values, and faults,
/// all decided by one seed. The engines and clients are the real code.
public final class ClusterSimulation {
    static let deviceSize: UInt64 = 512 << 20
    static let poolSizePerEngine: UInt64 = 128 << 20
    static let logSize: UInt64 = 512 << 10
    static let retention: Duration = .milliseconds(300)
    static let clientNodeFirst = 100
    static let fabricConfiguration: FabricConfiguration = {
        do throws(FabricConfigurationError) {
            return try FabricConfiguration(options: [.eagerLimit: "20KiB"], environment: [:])
        } catch {
            preconditionFailure("\(error)")
        }
    }()
    /// One in so many of the blocks that were written rots at the end of a run.
    static let rotPeriod: UInt64 = 8

    let simulation: Simulation
    let options: Options
    let plan: Plan
    let fabric: SimulatedFabric
    let devices: SimulatedDeviceStore
    let cluster: UniqueID
    /// What devices do while nothing is wrong with them.
    private(set) var goodDevices = DeviceFaults()
    var entropy: Entropy
    var report: SimulationReport
    let shared = SharedValues()
    var clients: [SimulatedClient] = []
    /// The workloads of all processes there were, for their counts and violations.
    var workloads: [Workload] = []

    /// When the clients and faults stop.
    var workEnd = Instant(nanoseconds: 0)

    /// Every engine has come up once.
    private var isSetUp = false
    private(set) var incarnations: [Int]
    private(set) var isRunning: [Bool]
    private var clientIncarnation = 0

    /// Prepares a simulation. Runs of the same seed and options are equal.
    public init(seed: UInt64, options: Options = Options()) {
        self.options = options
        simulation = Simulation(seed: seed)
        entropy = simulation.entropy.fork("cluster")
        plan = Plan(options, seed: seed)
        fabric = SimulatedFabric(simulation: simulation)
        devices = SimulatedDeviceStore(simulation: simulation)
        cluster = UniqueID.random(using: &entropy)
        report = SimulationReport(seed: seed)
        report.cluster =
            "\(plan.engineCount) x \(plan.targetCount) targets on \(plan.deviceCount) "
            + "\(plan.deviceCount == 1 ? "device" : "devices"), \(plan.clientCount) clients, "
            + "\(plan.objectClass)"
        report.objectClass = plan.objectClass.description
        // Half of the clusters have power supplies that tear every write.
        goodDevices.crashOutcome = entropy.chance(1, in: 2) ? .tear : .random
        devices.setFaults(goodDevices)
        if options.printsEvents {
            simulation.onRecord = { [unowned simulation] kind, value in
                print("\(simulation.now.nanoseconds) \(kind) \(value)")
            }
        }
        incarnations = Array(repeating: 0, count: plan.engineCount)
        isRunning = Array(repeating: false, count: plan.engineCount)
    }

    /// Runs everything and says what happened.
    public func run() -> SimulationReport {
        setUp()
        isSetUp = true
        if report.violations.isEmpty { runWorkload() }
        report.virtualSeconds = Double(simulation.now.nanoseconds - 1_000_000_000) / 1e9
        report.turns = simulation.turnCount
        report.events = simulation.eventCount
        report.eventHash = simulation.eventHash
        return report
    }

    // MARK: - Processes

    func world(node: Int, incarnation: Int) -> World {
        var log = LogFacilities(sink: { _ in })
        if let level = options.logLevel {
            log = LogFacilities(sink: { LogFacilities.standardError("node \(node): \($0)") })
            do throws(LogMaskError) {
                try log.set(mask: level)
            } catch {
                violation(.setUp, "\(error)")
            }
        }
        var world = simulation.world(node: node, incarnation: incarnation, log: log)
        world.fabric = fabric
        world.devices = devices
        return world
    }

    func configuration(rank: Int) -> EngineConfiguration {
        let engines = (0..<plan.engineCount).map { rank in
            EngineRecord(
                rank: UInt32(rank),
                addresses: EngineConfiguration.addresses(
                    base: "sim://engine-\(rank)", targetCount: plan.targetCount))
        }
        var configuration = EngineConfiguration(
            cluster: cluster, rank: UInt32(rank), engines: engines,
            devicePaths: (0..<plan.deviceCount).map {
                $0 == 0 ? "device-\(rank)" : "device-\(rank)-\($0)"
            })
        // Small and short, so that checkpoints, aggregation and the reuse of blocks are part of
        // every run.
        configuration.logSize = ClusterSimulation.logSize
        // Small, so that values come and go.
        configuration.valueCacheBytes = 32 << 10
        // The least: the index of a run is of several tables then.
        configuration.indexBytes = 64 << 10
        // Small, so that values travel by bulk transfers, too.
        configuration.fabric = ClusterSimulation.fabricConfiguration
        configuration.retention = ClusterSimulation.retention.nanosecondsClamped
        configuration.transactionAge = plan.transactionAge?.nanosecondsClamped
        configuration.peerTimeout = plan.peerTimeout
        return configuration
    }

    /// Runs `body` as a task of a fresh process until it is done. False when time ran out.
    func runAlone(
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
        for rank in 0..<plan.engineCount {
            let configuration = configuration(rank: rank)
            do throws(BIOError) {
                for path in configuration.devicePaths {
                    try devices.create(path: path, size: ClusterSimulation.deviceSize)
                }
            } catch {
                violation(.setUp, "cannot create a device: \(error)")
            }
            let formatted = runAlone("format") { world, _ in
                do throws(EngineError) {
                    try await Engine.format(configuration, world: world)
                } catch {
                    self.violation(.setUp, "cannot format: \(error)")
                }
            }
            if !formatted { violation(.setUp, "formatting hangs") }
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
                self.violation(.start, "engine \(rank) does not start: \(error)")
            }
        }
    }

    private var serving: [Int: Bool] = [:]
    private(set) var engines: [Int: Engine] = [:]

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

    func waitForEngines() {
        let ready = simulation.run(for: .seconds(60)) {
            (0..<plan.engineCount).allSatisfy { serving[$0] == true }
                || !report.violations.isEmpty
        }
        if !ready { violation(.start, "the engines do not come up") }
    }

    func violation(_ kind: Violation.Kind, _ what: String) {
        report.violations.append(Violation(isSetUp ? kind : .setUp, what))
    }

    // MARK: - Clocks

    private var skews: [Int: Int64] = [:]
    /// By how much clocks are off beside that, all the time.
    private var offsets: [Int: Int64] = [:]

    /// Sets all clocks a little off, if they may be: two engines never give the same epoch at the
    /// same time.
    func offsetClocks(ofClients clients: [SimulatedClient]) {
        guard plan.faults.contains(.clock) else { return }
        var entropy = simulation.entropy.fork("clocks")
        let most = Int64(FaultSchedule.offsetMax.nanosecondsClamped)
        for node in Array(0..<plan.engineCount) + clients.map(\.node) {
            let offset = Int64(entropy.below(UInt64(2 * most))) - most
            simulation.stepWallClock(node: node, by: offset)
            offsets[node] = offset
        }
    }

    /// Sets the wall clock of a node off by `offset` nanoseconds, or as it was when that is zero.
    /// Returns false, and does nothing, when it is off already.
    func setSkew(node: Int, _ offset: Int64) -> Bool {
        let current = skews[node] ?? 0
        guard offset == 0 || current == 0 else { return false }
        if offset != current { simulation.stepWallClock(node: node, by: offset - current) }
        skews[node] = offset
        return true
    }

    /// Sets all clocks right.
    func endSkew() {
        for node in skews.keys.sorted() { _ = setSkew(node: node, 0) }
        for node in offsets.keys.sorted() {
            simulation.stepWallClock(node: node, by: -offsets[node, default: 0])
        }
        offsets = [:]
    }
}
