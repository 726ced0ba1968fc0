import ArgumentParser
import VOSSimulator

/// Runs the store of one target alone beside a model, one simulation per seed.
struct Store: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "vos",
        abstract: "Runs the store of one target under crashes beside a model.",
        discussion: """
            Exit code 0: every run was good and reached its floors. 1: a run was not; the line \
            printed with it repeats it.
            """)

    @Option(help: "How many seeds to run.")
    var seeds = 1

    @Option(help: "The first seed.")
    var seed: UInt64 = 1

    @Option(help: "Steps of all users of a store together.")
    var steps = 2_000

    @Flag(help: "Scrub everything again and again meanwhile.")
    var scrub = false

    @Flag(help: "Print only failures and the total.")
    var quiet = false

    mutating func validate() throws {
        guard seeds > 0, steps > 0 else { throw ValidationError("counts must be positive") }
        guard UInt64(seeds) <= .max - seed else {
            throw ValidationError("there are no \(seeds) seeds from \(seed) on")
        }
    }

    mutating func run() throws {
        var options = StoreSimulation.Options()
        options.steps = steps
        options.isScrubbed = scrub
        var (failed, total, crashes, cut) = (0, 0, 0, 0)
        for seed in seed..<seed + UInt64(seeds) {
            let report = StoreSimulation(seed: seed, options: options).run()
            total += report.steps
            crashes += report.crashes
            cut += report.extentsCut
            if !quiet || !report.passed { print(report.summary) }
            for violation in report.violations { print("  VIOLATION \(violation)") }
            for shortfall in report.shortfalls { print("  TOO LITTLE: \(shortfall)") }
            guard !report.passed else { continue }
            failed += 1
            let length = (steps == 2_000 ? "" : " --steps \(steps)") + (scrub ? " --scrub" : "")
            print("  repeat with: scripts/simulate vos --seed \(seed)\(length)")
        }
        print(
            "\(seeds) seeds of the store: \(total) steps, \(crashes) crashes, \(cut) extents cut; "
                + "\(failed) failed")
        // In one seed alone there may be none.
        if total >= 10_000, cut < total / 2_000 {
            print("  TOO LITTLE: \(cut) extents cut, at least \(total / 2_000)")
            throw ExitCode(1)
        }
        if failed > 0 { throw ExitCode(1) }
    }
}
