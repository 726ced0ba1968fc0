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

    @Option(help: "How many seeds to run.")
    var seeds: Int = 1

    @Option(help: "The first seed.")
    var seed: UInt64 = 1

    @Option(help: "Virtual milliseconds of workload.")
    var milliseconds = 2_000

    @Option(
        help: """
            What may go wrong, separated by commas: \
            \(TransportFault.allCases.map(\.rawValue).joined(separator: ", ")), or none.
            """)
    var faults = TransportFault.allCases.map(\.rawValue).joined(separator: ",")

    @Flag(help: "Print every fault.")
    var verbose = false

    @Option(help: "Log mask of all processes, such as debug or cart=debug.")
    var log: String?

    @Flag(help: "Print every event that the hash covers, to compare two runs.")
    var events = false

    @Flag(help: "Print only failures and the total.")
    var quiet = false

    mutating func validate() throws {
        guard seeds > 0, milliseconds > 0 else {
            throw ValidationError("counts must be positive")
        }
        _ = try faultKinds()
    }

    private func faultKinds() throws -> Set<TransportFault> {
        if faults == "none" { return [] }
        var kinds: Set<TransportFault> = []
        for name in faults.split(separator: ",") {
            guard let kind = TransportFault(rawValue: String(name)) else {
                throw ValidationError(
                    "there is no fault '\(name)'; there are: "
                        + TransportFault.allCases.map(\.rawValue).joined(separator: ", "))
            }
            kinds.insert(kind)
        }
        return kinds
    }

    /// The command that repeats a seed.
    private func command(_ seed: UInt64) -> String {
        var words = ["scripts/simulate transport --seed \(seed)"]
        if milliseconds != 2_000 { words.append("--milliseconds \(milliseconds)") }
        if faults != TransportFault.allCases.map(\.rawValue).joined(separator: ",") {
            words.append("--faults \(faults)")
        }
        return words.joined(separator: " ")
    }

    mutating func run() throws {
        var options = TransportSimulation.Options()
        options.duration = .milliseconds(milliseconds)
        options.faults = try faultKinds()
        options.isVerbose = verbose
        options.logLevel = log
        options.printsEvents = events
        var failed = 0
        var (calls, replies, kills) = (0, 0, 0)
        for seed in seed..<(seed + UInt64(seeds)) {
            let report = TransportSimulation(seed: seed, options: options).run()
            calls += report.calls
            replies += report.replies
            kills += report.kills
            if !quiet || !report.passed { print(report.summary) }
            for violation in report.violations { print("  VIOLATION \(violation)") }
            for shortfall in report.shortfalls { print("  TOO LITTLE: \(shortfall)") }
            guard !report.passed else { continue }
            failed += 1
            print("  repeat with: \(command(seed)) --verbose")
        }
        print(
            "\(seeds) seeds of the transport: \(calls) calls, \(replies) replies, "
                + "\(kills) kills; \(failed) failed")
        if failed > 0 { throw ExitCode(1) }
    }
}
