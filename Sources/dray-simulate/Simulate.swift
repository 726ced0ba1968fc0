import ArgumentParser
import DraySimulator
import Glibc

/// The program. It has no options of its own: they would take those of the same name from the
/// subcommands.
@main
struct DraySimulate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dray-simulate",
        abstract: "Runs Dray, or parts of it, on virtual time under faults.",
        subcommands: [Simulate.self, Swim.self, Transport.self, Store.self, Crashes.self],
        defaultSubcommand: Simulate.self)
}

/// Runs simulated clusters, one per seed.
struct Simulate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "clusters",
        abstract: "Runs simulated clusters under faults and checks every answer.",
        discussion: """
            Exit code 0: every run was good and reached its floors. 1: a run was not; the line \
            printed with it repeats it. With --shrink each run is a process of its own, and one \
            that traps or takes longer than --limit is a run that was not good, too.
            """)

    @OptionGroup var common: SeedOptions

    @Option(help: "Engines in the cluster. Without it the seed decides, as for the next four.")
    var engines: Int?

    @Option(help: "Targets of each engine.")
    var targets: Int?

    @Option(help: "Devices of each engine, no more than it has targets.")
    var devices: Int?

    @Option(help: "Clients.")
    var clients: Int?

    @Option(name: .customLong("class"), help: "The object class of all objects.")
    var objectClass: String?

    @Option(help: "Operations of each client at a time, 1 to 4.")
    var lanes = 4

    @Option(help: FaultList<FaultKind>.help)
    var faults = FaultList<FaultKind>.all.joined(separator: ",")

    @Flag(
        help: """
            When a seed fails, look for the smallest cluster and workload with which it does so \
            in the same way.
            """)
    var shrink = false

    @Option(help: "Seconds of real time after which a run is ended (SIGALRM).")
    var limit: UInt32?

    /// A run takes a second or two, and ten times as long when it is not optimised.
    private static let limitOfProcesses: UInt32 = 120

    mutating func validate() throws {
        guard (engines ?? 1) > 0, (targets ?? 1) > 0, (devices ?? 1) > 0, (clients ?? 1) > 0
        else {
            throw ValidationError("counts must be positive")
        }
        guard (1...4).contains(lanes) else { throw ValidationError("a client has 1 to 4 lanes") }
        let classes = ClusterSimulation.Options.objectClasses
        if let objectClass, !classes.contains(objectClass.uppercased()) {
            throw ValidationError(
                "there is no class '\(objectClass)'; there are: "
                    + classes.joined(separator: ", "))
        }
        guard limit != 0 else { throw ValidationError("a run needs some time") }
        _ = try FaultList<FaultKind>.parse(faults)
    }

    private func options() throws -> ClusterSimulation.Options {
        var options = ClusterSimulation.Options()
        options.engineCount = engines
        options.targetCount = targets
        options.deviceCount = devices
        options.clientCount = clients
        options.objectClass = objectClass
        options.laneCount = lanes
        options.duration = .milliseconds(common.milliseconds)
        options.faults = try FaultList<FaultKind>.parse(faults)
        options.isVerbose = common.verbose
        options.logLevel = common.log
        options.printsEvents = common.events
        return options
    }

    mutating func run() throws {
        let options = try options()
        if shrink { return try runApart(options) }
        var failed = 0
        var total = SimulationReport(seed: common.seed)
        var classes: [String: Int] = [:]
        for seed in common.all {
            if let limit { alarm(limit) }
            let report = ClusterSimulation(seed: seed, options: options).run()
            classes[report.objectClass, default: 0] += 1
            total.operations += report.operations
            total.acknowledgedWrites += report.acknowledgedWrites
            total.faults += report.faults
            total.crashes += report.crashes
            common.report(
                report.summary, violations: report.violations.map(\.description),
                shortfalls: report.shortfalls, command: options.command(seed: seed))
            if !report.passed { failed += 1 }
        }
        print(
            "\(common.seeds) seeds: \(total.operations) operations, \(total.acknowledgedWrites) "
                + "acknowledged writes, \(total.faults) faults, \(total.crashes) crashes; "
                + "\(failed) failed")
        let missed = missedClasses(classes)
        for name in missed { print("  TOO LITTLE: no cluster with objects of class \(name)") }
        if failed > 0 || !missed.isEmpty { throw ExitCode(1) }
    }

    /// So many seeds meet every class that the seed may choose.
    private static let seedsForAllClasses = 500

    /// The classes that no cluster had, when there were clusters enough.
    private func missedClasses(_ counts: [String: Int]) -> [String] {
        guard common.seeds >= Simulate.seedsForAllClasses, objectClass == nil, engines == nil else {
            return []
        }
        return ClusterSimulation.Options.objectClasses.filter { counts[$0] == nil }
    }

    /// Runs each seed in a process of its own, and makes those that fail smaller.
    private func runApart(_ options: ClusterSimulation.Options) throws {
        let processes = SeedProcess(limit: limit ?? Simulate.limitOfProcesses)
        var failed = 0
        for seed in common.all {
            let outcome = try processes.run(seed, options)
            if outcome.isGood {
                if !common.quiet { print("seed \(seed): good") }
                continue
            }
            failed += 1
            for line in outcome.lines { print(line) }
            guard let first = outcome.findings.first else { continue }
            switch first.failure {
            case .violation: break
            case .trap, .hang:
                print("seed \(seed): \(first.failure): \(first.details)")
                print("  repeat with: \(options.command(seed: seed)) --verbose")
            }
            let shrinking = Shrinking(seed, first.failure) {
                print("  \($0)")
            } run: {
                try processes.run(seed, $0).findings
            }
            let smallest = try shrinking.smallest(options)
            print("  smallest: \(smallest.command(seed: seed)) --verbose")
        }
        print("\(common.seeds) seeds; \(failed) failed")
        if failed > 0 { throw ExitCode(1) }
    }
}
