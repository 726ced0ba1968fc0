import ArgumentParser
import DraySimulator

/// Runs the transport alone under faults, one simulation per seed.
struct Transport: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "transport",
        abstract: "Runs the transport alone under faults and checks every call.",
        discussion: """
            Exit code 0: every run was good and reached its floors. 1: a run was not; the line \
            printed with it repeats it.
            """)

    @OptionGroup var common: SeedOptions

    @Option(help: FaultList<TransportFault>.help)
    var faults = FaultList<TransportFault>.all.joined(separator: ",")

    mutating func validate() throws {
        _ = try FaultList<TransportFault>.parse(faults)
    }

    /// The command that repeats a seed.
    private func command(_ seed: UInt64) -> String {
        var words = ["scripts/simulate transport --seed \(seed)"]
        if common.milliseconds != 2_000 { words.append("--milliseconds \(common.milliseconds)") }
        if faults != FaultList<TransportFault>.all.joined(separator: ",") {
            words.append("--faults \(faults)")
        }
        return words.joined(separator: " ")
    }

    mutating func run() throws {
        var options = TransportSimulation.Options()
        options.duration = .milliseconds(common.milliseconds)
        options.faults = try FaultList<TransportFault>.parse(faults)
        options.isVerbose = common.verbose
        options.logLevel = common.log
        options.printsEvents = common.events
        var failed = 0
        var (calls, replies, kills) = (0, 0, 0)
        for seed in common.all {
            let report = TransportSimulation(seed: seed, options: options).run()
            calls += report.calls
            replies += report.replies
            kills += report.kills
            common.report(
                report.summary, violations: report.violations, shortfalls: report.shortfalls,
                command: command(seed))
            if !report.passed { failed += 1 }
        }
        print(
            "\(common.seeds) seeds of the transport: \(calls) calls, \(replies) replies, "
                + "\(kills) kills; \(failed) failed")
        if failed > 0 { throw ExitCode(1) }
    }
}
