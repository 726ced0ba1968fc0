import ArgumentParser
import DraySimulator

/// The program. It has no options of its own: they would take those of the same name from the
/// subcommands.
@main
struct DraySimulate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dray-simulate",
        abstract: "Runs Dray, or parts of it, on virtual time under faults.",
        subcommands: [Simulate.self, Swim.self, Transport.self], defaultSubcommand: Simulate.self)
}

/// Runs simulated clusters, one per seed.
struct Simulate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "clusters",
        abstract: "Runs simulated clusters under faults and checks every answer.",
        discussion: """
            Exit code 0: every run was good and reached its floors. 1: a run was not; the line \
            printed with it repeats it.
            """)

    @Option(help: "How many seeds to run.")
    var seeds: Int = 1

    @Option(help: "The first seed.")
    var seed: UInt64 = 1

    @Option(help: "Engines in the cluster. Without it the seed decides, as for the next three.")
    var engines: Int?

    @Option(help: "Targets of each engine.")
    var targets: Int?

    @Option(help: "Clients.")
    var clients: Int?

    @Option(name: .customLong("class"), help: "The object class of all objects.")
    var objectClass: String?

    @Option(help: "Operations of each client at a time, 1 to 4.")
    var lanes = 4

    @Option(help: "Virtual milliseconds of workload.")
    var milliseconds = 2_000

    @Option(
        help: """
            What may go wrong, separated by commas: \
            \(FaultKind.allCases.map(\.rawValue).joined(separator: ", ")), or none.
            """)
    var faults = FaultKind.allCases.map(\.rawValue).joined(separator: ",")

    @Flag(help: "When a seed fails, look for the smallest cluster and workload with which it does.")
    var shrink = false

    @Flag(help: "Print every fault.")
    var verbose = false

    @Option(help: "Log mask of all processes, such as debug or cart=debug.")
    var log: String?

    @Flag(help: "Print every event that the hash covers, to compare two runs.")
    var events = false

    @Flag(help: "Print only failures and the total.")
    var quiet = false

    mutating func validate() throws {
        guard seeds > 0, (engines ?? 1) > 0, (targets ?? 1) > 0, (clients ?? 1) > 0 else {
            throw ValidationError("counts must be positive")
        }
        guard (1...4).contains(lanes) else { throw ValidationError("a client has 1 to 4 lanes") }
        guard milliseconds > 0 else { throw ValidationError("time must be positive") }
        let classes = ClusterSimulation.Options.objectClasses
        if let objectClass, !classes.contains(objectClass.uppercased()) {
            throw ValidationError(
                "there is no class '\(objectClass)'; there are: "
                    + classes.joined(separator: ", "))
        }
        _ = try faultKinds()
    }

    private func faultKinds() throws -> Set<FaultKind> {
        if faults == "none" { return [] }
        var kinds: Set<FaultKind> = []
        for name in faults.split(separator: ",") {
            guard let kind = FaultKind(rawValue: String(name)) else {
                throw ValidationError(
                    "there is no fault '\(name)'; there are: "
                        + FaultKind.allCases.map(\.rawValue).joined(separator: ", "))
            }
            kinds.insert(kind)
        }
        return kinds
    }

    private func options() throws -> ClusterSimulation.Options {
        var options = ClusterSimulation.Options()
        options.engineCount = engines
        options.targetCount = targets
        options.clientCount = clients
        options.objectClass = objectClass
        options.laneCount = lanes
        options.duration = .milliseconds(milliseconds)
        options.faults = try faultKinds()
        options.isVerbose = verbose
        options.logLevel = log
        options.printsEvents = events
        return options
    }

    mutating func run() throws {
        let options = try options()
        var failed = 0
        var total = SimulationReport(seed: seed)
        for seed in seed..<(seed + UInt64(seeds)) {
            let report = ClusterSimulation(seed: seed, options: options).run()
            total.operations += report.operations
            total.acknowledgedWrites += report.acknowledgedWrites
            total.faults += report.faults
            total.crashes += report.crashes
            if !quiet || !report.passed { print(report.summary) }
            for violation in report.violations { print("  VIOLATION \(violation)") }
            for shortfall in report.shortfalls { print("  TOO LITTLE: \(shortfall)") }
            guard !report.passed else { continue }
            failed += 1
            print("  repeat with: \(Shrinking.command(seed, options)) --verbose")
            if shrink, !report.violations.isEmpty {
                let smallest = Shrinking.smallest(seed, options) { print("  \($0)") }
                print("  smallest: \(Shrinking.command(seed, smallest)) --verbose")
            }
        }
        print(
            "\(seeds) seeds: \(total.operations) operations, \(total.acknowledgedWrites) "
                + "acknowledged writes, \(total.faults) faults, \(total.crashes) crashes; "
                + "\(failed) failed")
        if failed > 0 { throw ExitCode(1) }
    }
}
