internal import CaRT
internal import DrayFabric
internal import DrayRuntime

/// The transport alone on virtual time: processes whose contexts call each other in every way,
/// over a fabric that loses, delays, reorders and misdelivers, while they are cut off, stopped,
/// killed and started again, all decided by one seed.
public final class TransportSimulation {
    /// What is simulated.
    public struct Options: Sendable {
        /// How long the workload runs, in virtual time.
        public var duration: Duration = .seconds(2)
        /// What may go wrong.
        public var faults: Set<TransportFault> = Set(TransportFault.allCases)
        /// Prints every fault with its time.
        public var isVerbose = false
        /// Where log lines of the processes go; nowhere when nil.
        public var logLevel: String?
        /// Prints every event that the hash covers, to compare two runs.
        public var printsEvents = false

        public init() {}
    }

    /// What one run has, as the seed decides.
    struct Plan {
        let processCount: Int
        let laneCount: Int
        /// In the order of `TransportFault`.
        let faults: [TransportFault]
        /// What the fabric does while nothing is wrong with it.
        let baseFaults: FabricFaults
        let eagerLimits = [1024, 4096, 20_480]
        let credits: UInt32
        let activeRequestsMax: Int
        let waitingMax: Int
        let bulksMax: Int
        let sessionIdle: Duration

        init(_ options: Options, entropy: Entropy) {
            var entropy = entropy
            processCount = 2 + Int(entropy.below(4))
            laneCount = 2 + Int(entropy.below(5))
            faults = TransportFault.allCases.filter { options.faults.contains($0) }
            // In half of the runs the network is never good.
            baseFaults = entropy.chance(1, in: 2) ? .harsh : .none
            credits = [1, 4, 32, 0][Int(entropy.below(4))]
            activeRequestsMax = entropy.chance(1, in: 3) ? 6 : 4096
            waitingMax = entropy.chance(1, in: 3) ? 4 : 65_536
            // Forgetting idle callers hides what they have lost.
            sessionIdle = entropy.chance(1, in: 3) ? .seconds(3) : .seconds(300)
            bulksMax = entropy.chance(1, in: 3) ? 2 : 256
        }
    }

    let simulation: Simulation
    let fabric: SimulatedFabric
    let options: Options
    let plan: Plan
    let ledger = TransportLedger()
    private(set) var processes: [TransportProcess] = []
    private(set) var isWorkOver = false
    private var entropy: Entropy
    private var report: TransportReport
    private var sourceCount: UInt32 = 0
    private var groupVersion: UInt32 = 1

    /// How much later than its deadline a call may end.
    static let grace: Duration = .milliseconds(12)
    /// How many times as long as it should a run may work to do enough.
    private static let periodsMax = 4
    /// Handlers may work on for five seconds when a context closes.
    static let closeMax: Duration = .seconds(6)
    /// All calls must have ended so long after the last fault.
    static let settlingMax: Duration = .seconds(30)
    /// Nothing is held so long after the last call: replies that nobody fetched go last.
    static let completionMax: Duration = .seconds(65)
    /// Once nothing is wrong any more everybody reaches everybody within this time.
    static let convergenceMax: Duration = .seconds(15)

    /// Prepares a simulation. Runs of the same seed and options are equal.
    public init(seed: UInt64, options: Options = Options()) {
        self.options = options
        simulation = Simulation(seed: seed)
        entropy = simulation.entropy.fork("transport")
        plan = Plan(options, entropy: simulation.entropy.fork("plan"))
        fabric = SimulatedFabric(simulation: simulation, faults: plan.baseFaults)
        report = TransportReport(seed: seed)
        if options.printsEvents {
            simulation.onRecord = { [unowned simulation] kind, value in
                print("\(simulation.now.nanoseconds) \(kind) \(value)")
            }
        }
        for index in 0..<plan.processCount {
            // The last one of three or more is a client.
            let isClient = index >= 2 && index == plan.processCount - 1
            processes.append(
                TransportProcess(
                    node: index, rank: isClient ? nil : UInt32(index),
                    contextCount: 1 + Int(entropy.below(3))))
        }
        let contexts = processes.map { "\($0.contextCount)" }.joined(separator: "+")
        report.processes = "\(contexts) contexts of \(plan.laneCount) lanes"
    }

    /// Runs everything and says what happened.
    public func run() -> TransportReport {
        work()
        rest()
        converge()
        checkNothingIsLeft()
        close()
        ledger.checkRefusals()
        count()
        report.virtualSeconds = Double(simulation.now.nanoseconds - 1_000_000_000) / 1e9
        report.turns = simulation.turnCount
        report.eventHash = simulation.eventHash
        report.violations = ledger.violations
        simulation.finish()
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
                ledger.violation("\(error)")
            }
        }
        var world = simulation.world(node: node, incarnation: incarnation, log: log)
        world.fabric = fabric
        return world
    }

    /// Small tables, so that their limits are met.
    func contextOptions(for process: TransportProcess, tag: Int, _ world: World) -> ContextOptions {
        var options = ContextOptions(clock: HybridLogicalClock(clock: world.clock))
        options.rank = process.rank
        options.tag = UInt32(tag)
        options.eagerLimit = plan.eagerLimits[(process.node + tag) % plan.eagerLimits.count]
        options.receiveCount = 24
        options.heldReceivesMax = 12
        options.credits = plan.credits
        options.activeRequestsMax = plan.activeRequestsMax
        options.waitingMax = plan.waitingMax
        options.bulksMax = plan.bulksMax
        options.cachedRegistrationBytesMax = 100_000
        options.pooledBytesMax = 200_000
        options.sessionIdle = plan.sessionIdle
        return options
    }

    func makeWorkload(_ context: Context, name: String) -> TransportWorkload {
        sourceCount += 1
        return TransportWorkload(
            TransportWorkload.Setting(
                context: context, source: sourceCount, targets: processes.flatMap(\.targets),
                ledger: ledger, entropy: simulation.entropy.fork("workload \(name)"),
                grace: TransportSimulation.grace))
    }

    // MARK: - The group

    private var members: [Group.Member] {
        processes.compactMap { process in
            process.rank.map {
                Group.Member(
                    rank: $0, incarnation: UInt64(process.incarnation + 1),
                    addresses: process.targets.map(\.address))
            }
        }
    }

    /// Tells a context who belongs to the group now.
    func tell(_ context: Context) {
        do throws(GroupError) {
            try context.group.apply(.replace(members), version: groupVersion)
        } catch .staleVersion {
            // It was told of a later one before this task had its turn.
            return
        } catch {
            ledger.violation("the group cannot change: \(error)")
        }
    }

    /// Makes a new version of the group and tells it to all contexts.
    func tellAll() {
        groupVersion += 1
        forEachContext { [self] in tell($0.context) }
    }

    /// Tells all contexts that the process of `rank` is gone: it is, or has only been silent.
    func evict(_ rank: UInt32) {
        let (process, incarnation) = (processes[Int(rank)], processes[Int(rank)].incarnation)
        forEachContext { workload in
            // A message that it is gone may not meet its successor.
            guard process.incarnation == incarnation, workload.context.rank != rank else {
                return
            }
            workload.evict(rank: rank)
        }
    }

    private func forEachContext(_ body: @escaping (TransportWorkload) -> Void) {
        for workload in processes.flatMap(\.openWorkloads) {
            workload.context.xstream.simulate { body(workload) }
        }
    }

    // MARK: - The course of a run

    private func work() {
        for process in processes { process.start(in: self) }
        let opened = simulation.run(for: .seconds(1)) { processes.allSatisfy(\.isOpen) }
        guard opened else { return ledger.violation("the contexts do not open") }
        let faults = TransportFaults(self)
        faults.start()
        // Faults may have left no time to do much: then the run goes on for another period.
        for _ in 0..<TransportSimulation.periodsMax {
            simulation.run(for: options.duration) { !ledger.violations.isEmpty }
            report.faults = faults.count
            report.kills = faults.kills
            count()
            if !ledger.violations.isEmpty || report.shortfalls.isEmpty { break }
        }
        faults.stop()
    }

    private func count() {
        let counts = ledger.counts
        report.calls = counts.calls
        report.replies = counts.replies
        report.spills = counts.spills
        report.transfers = counts.transfers
        report.notesSent = counts.notesSent
        report.notesReceived = counts.notesReceived
        report.cancelled = counts.cancelled
        report.handled = counts.handled
        report.injected = fabric.counts.injected
    }

    /// Ends all faults; every call must end.
    private func rest() {
        isWorkOver = true
        fabric.heal()
        fabric.faults = .none
        for process in processes {
            simulation.resume(node: process.node, incarnation: process.incarnation)
            if !process.isAlive { process.start(in: self) }
        }
        for workload in processes.flatMap(\.openWorkloads) { workload.stop() }
        let settled = simulation.run(for: TransportSimulation.settlingMax) {
            processes.allSatisfy { $0.isOpen && $0.openWorkloads.allSatisfy(\.isDone) }
        }
        guard !settled else { return }
        for process in processes {
            if !process.isOpen { ledger.violation("node \(process.node) does not open") }
            for workload in process.openWorkloads where !workload.isDone {
                ledger.violation(
                    "\(workload.context.address): calls hang: \(workload.openCalls)")
            }
        }
    }

    /// Everybody reaches everybody.
    private func converge() {
        guard ledger.violations.isEmpty else { return }
        let limit = simulation.now + TransportSimulation.convergenceMax
        let targets = processes.flatMap(\.targets)
        let workloads = processes.flatMap(\.openWorkloads)
        var left = workloads.count * targets.count
        for workload in workloads {
            for target in targets {
                workload.context.xstream.simulate { [ledger] in
                    if let failure = await workload.reach(target, by: limit) {
                        ledger.violation(
                            "\(workload.context.address) does not reach \(target.address) "
                                + "although all faults are over: \(failure)")
                    }
                    left -= 1
                }
            }
        }
        simulation.run(for: TransportSimulation.convergenceMax + .seconds(5)) { left == 0 }
        if left > 0 { ledger.violation("calls hang although all faults are over") }
    }

    /// Every slot, credit, buffer and registration must be back where it belongs.
    private func checkNothingIsLeft() {
        guard ledger.violations.isEmpty else { return }
        let workloads = processes.flatMap(\.openWorkloads)
        let complete = simulation.run(for: TransportSimulation.completionMax) {
            workloads.allSatisfy { $0.context.usage.isComplete }
        }
        if !complete {
            for workload in workloads where !workload.context.usage.isComplete {
                ledger.violation(
                    "\(workload.context.address) still has \(workload.context.usage)")
            }
        }
        for workload in workloads { workload.context.checkInvariants() }
        let lost = fabric.counts.regionsLost
        if lost > 0 {
            ledger.violation("memory was given back during \(lost) parts of bulk transfers")
        }
    }

    private func close() {
        guard ledger.violations.isEmpty else { return }
        let workloads = processes.flatMap(\.openWorkloads)
        var left = workloads.count
        for workload in workloads {
            workload.context.xstream.simulate {
                await workload.context.close()
                left -= 1
            }
        }
        simulation.run(for: TransportSimulation.closeMax) { left == 0 }
        if left > 0 { ledger.violation("\(left) contexts do not close") }
    }
}
