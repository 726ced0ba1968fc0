internal import ArgumentParser
internal import Dray
internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime

struct PoolCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pool", abstract: "Create, list, query and destroy pools.",
        subcommands: [Create.self, List.self, Query.self, Destroy.self])

    /// How a pool is printed.
    struct Info: Codable, Hashable {
        var id: String
        var label: String
        var size: UInt64
        var targets: Int

        init(_ pool: Pool) {
            id = pool.id.description
            label = pool.label
            size = pool.record.size
            targets = pool.record.map.targetCount
        }
    }

    struct Create: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Create a pool over all targets of the cluster.")

        @Argument(help: "The pool's label.") var label: String
        @Option(name: .long, help: "Raw bytes on all targets together, such as 4GiB.")
        var size: Size
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            try await cluster.withCluster { (cluster, _) async throws(CommandFailure) in
                let pool: Pool
                do throws(DrayError) {
                    pool = try await cluster.createPool(label: label, size: size.bytes)
                } catch {
                    var failure = CommandFailure(error, "pool \(label)")
                    if error.code == .noSpace { failure.advice = "choose a smaller --size" }
                    throw failure
                }
                let info = Info(pool)
                try output.print(
                    info,
                    text: "pool \(info.label): \(Size(bytes: info.size)) on "
                        + "\(info.targets) targets")
            }
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List the pools.")

        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let pools = try await cluster.run("pools") {
                (cluster) async throws(DrayError) in
                try await cluster.pools()
            }.map(Info.init)
            var table = Table([
                ("POOL", .left), ("SIZE", .right), ("TARGETS", .right), ("ID", .left),
            ])
            for pool in pools {
                table.add([
                    pool.label, Size(bytes: pool.size).description, "\(pool.targets)", pool.id,
                ])
            }
            try output.print(pools, text: table.text)
        }
    }

    struct Query: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show how full a pool is.",
            discussion: "Sizes are raw; 'usable' is what still fits as data of each class.")

        @Argument(help: "The pool's label.") var label: String
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let (pool, usage) = try await cluster.run("pool \(label)") {
                (cluster) async throws(DrayError) in
                let pool = try await cluster.pool(label)
                return (pool, try await pool.query())
            }
            let report = Usage(pool, usage)
            try output.print(report, text: report.text)
        }
    }

    struct Destroy: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Destroy a pool with everything in it.")

        @Argument(help: "The pool's label.") var label: String
        @OptionGroup var cluster: ClusterOptions

        func run() async throws {
            try await cluster.run("pool \(label)") {
                (cluster) async throws(DrayError) in
                try await cluster.destroyPool(label)
            }
        }
    }

    /// What `query` prints.
    struct Usage: Codable, Hashable {
        var pool: Info
        var used: UInt64
        var free: UInt64
        /// Bytes of data that still fit, by class.
        var usable: [String: UInt64]
        var targets: [Target]

        struct Target: Codable, Hashable {
            var rank: UInt32
            var target: UInt32
            var size: UInt64
            var used: UInt64
            var deviceFree: UInt64
        }

        init(_ pool: Pool, _ usage: PoolUsage) {
            self.pool = Info(pool)
            used = usage.used
            free = usage.free
            let possible = usage.usableByClass.filter {
                $0.objectClass.groupCount(in: pool.record.map) != nil
            }
            usable = Dictionary(
                uniqueKeysWithValues: possible.map { ($0.objectClass.description, $0.bytes) })
            targets = usage.targets.map {
                Target(
                    rank: $0.address.rank, target: $0.address.target, size: $0.size,
                    used: $0.used, deviceFree: $0.deviceFree)
            }
        }

        var text: String {
            var lines = [
                "pool \(pool.label) (\(pool.id)): \(Size(bytes: pool.size)) raw, "
                    + "\(Size(bytes: used)) used, \(Size(bytes: free)) free"
            ]
            // The number of groups makes no difference: one line speaks for all of them.
            if let bytes = usable[ObjectClass.s1.description] {
                lines.append("usable: \(Size(bytes: bytes)) as any class without redundancy")
            }
            var table = Table([
                ("ENGINE", .right), ("TARGET", .right), ("SIZE", .right), ("USED", .right),
                ("DEVICE FREE", .right),
            ])
            for target in targets {
                table.add([
                    "\(target.rank)", "\(target.target)", "\(Size(bytes: target.size))",
                    "\(Size(bytes: target.used))", "\(Size(bytes: target.deviceFree))",
                ])
            }
            lines.append(table.text)
            return lines.joined(separator: "\n")
        }
    }
}
