import ArgumentParser
import DraySimulator

/// Runs simulated clusters, one per seed.
@main
struct Simulate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dray-simulate",
        abstract: "Runs simulated clusters under faults and checks every answer.",
        discussion: """
            Exit code 0: every run was good and reached its floors. 1: a run was not; the line \
            printed with it repeats it.
            """)

    @Option(help: "How many seeds to run.")
    var seeds: Int = 1

    @Option(help: "The first seed.")
    var seed: UInt64 = 1

    @Option(help: "Engines in the cluster.")
    var engines = 2

    @Option(help: "Targets of each engine.")
    var targets = 2

    @Option(help: "Clients.")
    var clients = 3

    @Option(help: "Virtual seconds of workload.")
    var seconds = 3

    @Flag(help: "Print every fault.")
    var verbose = false

    @Option(help: "Log mask of all processes, such as debug or cart=debug.")
    var log: String?

    @Flag(help: "Print every event that the hash covers, to compare two runs.")
    var events = false

    @Flag(help: "Print only failures and the total.")
    var quiet = false

    mutating func validate() throws {
        guard seeds > 0, engines > 0, targets > 0, clients > 0, seconds > 0 else {
            throw ValidationError("counts must be positive")
        }
    }

    mutating func run() throws {
        var options = ClusterSimulation.Options()
        options.engineCount = engines
        options.targetCount = targets
        options.clientCount = clients
        options.duration = .seconds(seconds)
        options.isVerbose = verbose
        options.logLevel = log
        options.printsEvents = events
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
            if !report.passed {
                failed += 1
                print(
                    "  repeat with: dray-simulate --verbose --seed \(seed) --engines \(engines)"
                        + " --targets \(targets) --clients \(clients) --seconds \(seconds)")
            }
        }
        print(
            "\(seeds) seeds: \(total.operations) operations, \(total.acknowledgedWrites) "
                + "acknowledged writes, \(total.faults) faults, \(total.crashes) crashes; "
                + "\(failed) failed")
        if failed > 0 { throw ExitCode(1) }
    }
}
