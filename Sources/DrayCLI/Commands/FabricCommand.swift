internal import ArgumentParser
internal import CaRT
internal import DrayFabric
internal import DrayRuntime

struct FabricCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "fabric", abstract: "Show the networks of this machine.",
        subcommands: [List.self, Config.self])

    struct Config: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Print what is configured about the network, and where each value is from.",
            discussion: """
                Each value comes from its option, else its DRAY_… variable, else its default. \
                Clients and 'dray self-test' use what the variables say; so do engines, whose \
                addresses and credits are set as 'dray engine start --print-config' shows. With \
                several providers, an engine listens with each of them.
                """)

        @OptionGroup var options: FabricOptions
        @OptionGroup var output: OutputOptions

        func run() throws {
            let configuration = try options.resolve(try RealWorld.make(logMask: "error"))
            let report: FabricConfigurationReport
            do throws(FabricConfigurationError) {
                report = try FabricConfigurationReport(configuration)
            } catch {
                throw CommandFailure(error)
            }
            try output.print(report, text: report.text)
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the providers and interfaces that Dray can use.",
            discussion: """
                Opens an endpoint at each, as an engine would. 'ofi+tcp' on address 192.0.2.7 is \
                named 'ofi+tcp://192.0.2.7:PORT' where an address is asked for. A provider that \
                cannot wait is polled with a growing pause. The exit status is 4 when nothing \
                fits.
                """)

        @Option(
            name: .long, help: "Only this provider (repeat for more): ofi+tcp, shm, ….")
        var provider: [String] = []
        @Flag(name: .long, help: "Also what Dray cannot use, and why.") var all = false
        @Option(name: .long, help: "What to log: LEVEL, then FACILITY=LEVEL for exceptions.")
        var log = "error"
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let world = try RealWorld.make(logMask: log)
            let xstream = world.makeXStream(name: "dray-fabric")
            let wanted = Set(provider)
            let found = try await xstream.run {
                () async throws(CommandFailure) -> [FabricInterface] in
                do throws(FabricError) {
                    return try world.fabric.interfaces(provider: wanted, on: xstream)
                } catch {
                    throw CommandFailure("fabric", "\(error)")
                }
            }
            let rows = found.filter { all || $0.isUsable }.map(FabricRow.init)
            try output.print(rows, text: FabricRow.table(rows, all: all))
            guard !rows.isEmpty else {
                throw CommandFailure(
                    .notFound, provider.isEmpty ? "fabric" : provider.joined(separator: ", "),
                    "there is nothing that Dray can use",
                    advice: "'dray fabric list --all' says why")
            }
        }
    }
}

/// One line of `dray fabric list`.
struct FabricRow: Codable, Hashable, Sendable {
    var provider: String
    var libfabricProvider: String?
    var interface: String?
    var address: String?
    var domain: String
    var fabric: String
    /// Nil for any size.
    var messageSizeMax: UInt64?
    var canWait: Bool?
    var hasRemoteMemory: Bool
    var isUsable: Bool
    var problem: String?

    init(_ interface: FabricInterface) {
        provider = interface.provider
        libfabricProvider = interface.libfabricProvider
        self.interface = interface.interface
        address = interface.host
        domain = interface.domain
        fabric = interface.fabric
        messageSizeMax = interface.messageSizeMax
        canWait = interface.canWait
        hasRemoteMemory = interface.hasRemoteMemory
        isUsable = interface.isUsable
        problem = interface.problem
    }

    static func table(_ rows: [FabricRow], all: Bool) -> String {
        var columns: [(String, Table.Alignment)] = [
            ("PROVIDER", .left), ("LIBFABRIC", .left), ("INTERFACE", .left), ("ADDRESS", .left),
            ("DOMAIN", .left), ("MESSAGE MAX", .right), ("WAITS", .left), ("RMA", .left),
        ]
        if all { columns.append(("USABLE", .left)) }
        var table = Table(columns)
        func word(_ flag: Bool?) -> String { flag.map { $0 ? "yes" : "no" } ?? "-" }
        for row in rows {
            let size = row.messageSizeMax.map { "\(Size(bytes: $0))" } ?? "any"
            let usable = all ? [row.problem.map { "no: \($0)" } ?? "yes"] : []
            table.add(
                [
                    row.provider, row.libfabricProvider ?? "-", row.interface ?? "-",
                    row.address ?? "-", row.domain.isEmpty ? "-" : row.domain, size,
                    word(row.canWait), word(row.hasRemoteMemory),
                ] + usable)
        }
        return rows.isEmpty ? "" : table.text
    }
}
