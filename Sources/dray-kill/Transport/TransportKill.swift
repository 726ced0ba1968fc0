internal import ArgumentParser
internal import DrayRuntime

/// Kills and stops processes that do nothing but call each other.
struct TransportKill: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "transport",
        abstract: "Kills and stops processes that call each other, and checks every call.",
        discussion: """
            Exit code 0: everything was right. 1: it was not. A seed chooses the faults and what \
            is called, but not who is faster.
            """)

    @Option(help: "The providers, separated by commas; each has its share of the cycles.")
    var providers = "ofi+tcp,ofi+tcp;ofi_rxm,shm"

    @Option(help: "Processes that call each other, 2 to 16.")
    var processes = 3

    @Option(help: "Contexts of each process, with a thread each, 1 to 4.")
    var contexts = 2

    @Option(help: "Calls that each context has under way to each process.")
    var lanes = 2

    @OptionGroup var common: FaultOptions

    private var providerList: [String] { providers.split(separator: ",").map(String.init) }

    mutating func validate() throws {
        guard (2...16).contains(processes), (1...4).contains(contexts) else {
            throw ValidationError("2 to 16 processes have 1 to 4 contexts each")
        }
        guard lanes > 0, !providerList.isEmpty else {
            throw ValidationError("counts must be positive")
        }
    }

    mutating func run() async throws {
        let setting = TransportSetting(
            processes: processes, contexts: contexts, lanes: lanes, seed: common.seed,
            directory: common.directory, isVerbose: common.verbose)
        let xstream = World.real().makeXStream(name: "dray-kill")
        let providers = providerList
        var hasFailed = false
        for (index, provider) in providers.enumerated() {
            let end = common.cycles * (index + 1) / providers.count
            let count = end - common.cycles * index / providers.count
            guard count > 0 else { continue }
            let report = await xstream.run { () async -> TransportKillReport in
                await TransportHarness.run(
                    setting, provider: provider, cycles: count, on: xstream)
            }
            print(report.summary)
            printFindings(violations: report.violations, shortfalls: report.shortfalls)
            hasFailed = hasFailed || !report.violations.isEmpty || !report.shortfalls.isEmpty
        }
        if hasFailed {
            print("  the same faults again: dray-kill transport --seed \(common.seed) --verbose")
            throw ExitCode(1)
        }
    }
}
