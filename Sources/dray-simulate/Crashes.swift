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

            Stores are on one device ('single'), on one that freed blocks are discarded on \
            ('discarding'), or have log and index on a second one ('pair'), where one device may \
            have kept everything and the other nothing. Without --devices each scenario is run on \
            one device, and on one of the two others, which take turns; the next seed has them the \
            other way round.

            Exit code 0: every scenario was good. 1: one was not.
            """)

    @Argument(
        help: "The scenarios; without one, all of them. --list shows them.",
        completion: .list(CrashScenario.all.map(\.name)))
    var scenarios: [String] = []

    @Option(help: "What stores are on; may be repeated.")
    var devices: [SimulatedStore.Devices] = []

    @Option(
        help: """
            How often each power failure is drawn that leaves a choice: which of several writes \
            to a block or a sector, none of them flushed, is there afterwards. The time grows with \
            it.
            """)
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
        let chosen = CrashScenario.all.enumerated().filter {
            scenarios.isEmpty || scenarios.contains($0.element.name)
        }
        if list { return chosen.forEach { print($0.element.name) } }
        var (runs, failed, boundaries, recoveries) = (0, 0, 0, 0)
        for (number, scenario) in chosen {
            for devices in devices(of: number) {
                var scenario = scenario
                scenario.shape.devices = devices
                let report = CrashExplorer(scenario, seed: seed, draws: draws).run()
                runs += 1
                boundaries += report.boundaries
                recoveries += report.recoveries
                if !quiet || !report.passed {
                    print("\(scenario.name), \(devices.rawValue): \(report.summary)")
                }
                for violation in report.violations { print("  VIOLATION \(violation)") }
                for shortfall in report.shortfalls { print("  TOO LITTLE: \(shortfall)") }
                if !report.passed { failed += 1 }
            }
        }
        let what = chosen.count == 1 ? "'\(chosen[0].element.name)'" : "\(chosen.count) scenarios"
        print(
            "\(what), \(runs) runs, crashed at \(boundaries) boundaries: \(recoveries) states "
                + "recovered; \(failed) failed")
        if failed > 0 { throw ExitCode(1) }
    }

    /// What the scenario with that number is run on.
    private func devices(of number: Int) -> [SimulatedStore.Devices] {
        guard devices.isEmpty else { return devices }
        let others: [SimulatedStore.Devices] = [.discarding, .pair]
        return [.single, others[(number + Int(seed)) % others.count]]
    }
}

extension SimulatedStore.Devices: ExpressibleByArgument {}
