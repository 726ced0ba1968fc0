import ArgumentParser
import VOSSimulator

/// Crashes a store at every moment of what scenarios do with it.
struct Crashes: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Crashes a store at every boundary of a write or flush of scenarios.",
        discussion: """
            Each moment is a power failure with what was not flushed kept, lost, torn and \
            reordered. What is left is opened, must be what was acknowledged with what was under \
            way whole or not at all, and must go on. Some recoveries are crashed in the same way.

            Exit code 0: every scenario was good. 1: one was not.
            """)

    @Argument(
        help: "The scenarios; without one, all of them. --list shows them.",
        completion: .list(CrashScenario.all.map(\.name)))
    var scenarios: [String] = []

    @Option(help: "How often a crash that leaves a choice is drawn.")
    var draws = 1

    @Option(help: "The seed of what is drawn.")
    var seed: UInt64 = 1

    @Flag(help: "Print the names of the scenarios.")
    var list = false

    @Flag(help: "Print only failures and the total.")
    var quiet = false

    mutating func validate() throws {
        guard (1...1_000_000).contains(draws), seed < 1 << 32 else {
            throw ValidationError("draws are 1 to 1,000,000; seeds are below 2^32")
        }
        for name in scenarios where !CrashScenario.all.contains(where: { $0.name == name }) {
            throw ValidationError("there is no scenario '\(name)'; --list shows those there are")
        }
    }

    mutating func run() throws {
        let chosen = CrashScenario.all.filter { scenarios.isEmpty || scenarios.contains($0.name) }
        if list { return chosen.forEach { print($0.name) } }
        var (failed, boundaries, recoveries) = (0, 0, 0)
        for scenario in chosen {
            let report = CrashExplorer(scenario, seed: seed, draws: draws).run()
            boundaries += report.boundaries
            recoveries += report.recoveries
            if !quiet || !report.passed { print("\(scenario.name): \(report.summary)") }
            for violation in report.violations { print("  VIOLATION \(violation)") }
            for shortfall in report.shortfalls { print("  TOO LITTLE: \(shortfall)") }
            if !report.passed { failed += 1 }
        }
        let what = chosen.count == 1 ? "'\(chosen[0].name)'" : "\(chosen.count) scenarios"
        print(
            "\(what) crashed at \(boundaries) boundaries: \(recoveries) states recovered; "
                + "\(failed) failed")
        if failed > 0 { throw ExitCode(1) }
    }
}
