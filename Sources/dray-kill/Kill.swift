internal import ArgumentParser
internal import DrayPlacement
internal import DrayRuntime
internal import Glibc

/// Kills and stops real processes under load.
@main
struct DrayKill: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dray-kill",
        abstract: "Kills and stops real processes under load and checks what the others see.",
        subcommands: [
            Kill.self, TransportKill.self, TransportNode.self, StorageKill.self, StorageNode.self,
        ],
        defaultSubcommand: Kill.self)

    static func main() async {
        // A process that we have something to tell may have ended.
        signal(SIGPIPE, SIG_IGN)
        await main(nil)
    }
}

/// Kills and stops the engines of a real cluster under load.
struct Kill: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "engines",
        abstract: "Kills and stops real engines under load and checks every answer.",
        discussion: """
            Exit code 0: everything was right. 1: it was not; the files of the engines are kept. \
            A seed chooses the faults and what the clients do, but not who is faster.
            """)

    @Option(help: "The program whose engines run: a 'dray'.")
    var dray: String

    @Option(help: "Engines in the cluster.")
    var engines = 4

    @Option(help: "Targets of each engine.")
    var targets = 1

    @Option(help: "Devices of each engine, no more than it has targets.")
    var devices = 1

    @Option(name: .customLong("class"), help: "The object class of all objects.")
    var objectClass = "RP_3G1"

    @Option(help: "Clients, each on a thread of its own.")
    var clients = 3

    @OptionGroup var common: FaultOptions

    mutating func validate() throws {
        guard engines > 0, targets > 0, clients > 0 else {
            throw ValidationError("counts must be positive")
        }
        guard (1...targets).contains(devices) else {
            throw ValidationError("an engine has 1 device to as many as targets")
        }
        guard ObjectClass(objectClass) != nil else {
            throw ValidationError("there is no class '\(objectClass)'")
        }
        guard Files.isProgram(dray) else { throw ValidationError("\(dray) is no program") }
    }

    mutating func run() async throws {
        guard let objectClass = ObjectClass(objectClass) else { return }
        let options = Harness.Options(
            program: dray, parent: common.directory, engines: engines, targets: targets,
            devices: devices, objectClass: objectClass, clients: clients, cycles: common.cycles,
            seed: common.seed, isVerbose: common.verbose)
        let xstream = World.real().makeXStream(name: "dray-kill")
        let report = try await xstream.run { () async throws(Failure) -> Report in
            try await Harness.run(options, on: xstream)
        }
        print(report.summary)
        printFindings(violations: report.violations, shortfalls: report.shortfalls)
        if let files = report.files { print("  the files are in \(files)") }
        guard report.violations.isEmpty, report.shortfalls.isEmpty else {
            print("  the same faults again: dray-kill --seed \(common.seed) --verbose")
            throw ExitCode(1)
        }
    }
}
