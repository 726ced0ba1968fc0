internal import ArgumentParser
internal import DrayRuntime

/// Kills processes that do nothing but use a store in a file.
struct StorageKill: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "storage",
        abstract: "Kills processes that use a store in a file, and verifies what is left.",
        discussion: """
            Exit code 0: everything was right. 1: it was not; the files are kept. A seed chooses \
            the moments and what is done, but not who is faster.
            """)

    @Option(help: "Updates under way at once.")
    var lanes = 12

    @Flag(help: "With a metadata device beside it: a second file.")
    var metadata = false

    @OptionGroup var common: FaultOptions

    mutating func validate() throws {
        guard lanes > 0 else { throw ValidationError("counts must be positive") }
    }

    mutating func run() async throws {
        let setting = StorageSetting(
            lanes: lanes, hasMetadata: metadata, seed: common.seed,
            directory: common.directory, isVerbose: common.verbose)
        let cycles = common.cycles
        let xstream = World.real().makeXStream(name: "dray-kill")
        let report = await xstream.run { () async -> StorageReport in
            await StorageHarness.run(setting, cycles: cycles, on: xstream)
        }
        print(report.summary)
        printFindings(violations: report.violations, shortfalls: report.shortfalls)
        if let files = report.files { print("  the files are in \(files)") }
        guard report.violations.isEmpty, report.shortfalls.isEmpty else {
            let options = (metadata ? "--metadata " : "") + "--seed \(common.seed) --verbose"
            print("  the same moments again: dray-kill storage \(options)")
            throw ExitCode(1)
        }
    }
}
