internal import ArgumentParser
internal import Dray
internal import DrayProtocol
internal import DrayRuntime

extension EngineCommand {
    struct Log: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show or change what running engines log.",
            discussion: """
                A mask is a level for all facilities, then exceptions: warning,cart=debug. Changed \
                masks last until the engine ends. Where lines go depends on how the engine was \
                started: a development cluster keeps them beside its devices.
                """)

        @Argument(help: "LEVEL, then FACILITY=LEVEL for exceptions; shows the masks if not given.")
        var mask: String?
        @OptionGroup var ranks: RankOptions
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            var request = TuneRequest()
            request.logMask = mask
            let (rows, status) = try await ranks.tune(request, cluster)
            try output.print(
                rows,
                text: Table.text(rows, [("ENGINE", .right), ("LOG MASK", .left)]) { row in
                    [["\(row.rank)", row.logMask]]
                })
            try finish(status)
        }
    }

    struct Faults: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show or change the faults that are injected into running engines.",
            discussion: """
                For tests of what stands above. A fault is POINT with any of probability=0…1, \
                interval=N (only every Nth time), count=N (so often, then no more), and error=NAME \
                or delay=N with us, ms or s (late instead of failed, where the point can wait), \
                separated by commas. Those given replace all that were there. The engine must have \
                been started with faults on.

                Points, and their errors, of which the first is the usual one:
                \(FaultPoint.allCases.map(line).joined(separator: "\n"))
                """)

        private static func line(_ point: FaultPoint) -> String {
            "\(point.rawValue): "
                + point.errors.map(\.rawValue).joined(separator: ", ")
        }

        @Argument(help: "POINT,probability=P,interval=N,count=N,error=NAME; shows them if none.")
        var rules: [String] = []
        @Flag(name: .long, help: "No more faults.") var clear = false
        @OptionGroup var ranks: RankOptions
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func validate() throws {
            guard rules.isEmpty || !clear else {
                throw ValidationError("Give faults or --clear, not both.")
            }
            for rule in rules {
                do throws(FaultRuleError) {
                    _ = try FaultRule(parsing: rule)
                } catch {
                    throw ValidationError("\(error)")
                }
            }
        }

        func run() async throws {
            var request = TuneRequest()
            if clear || !rules.isEmpty { request.faults = rules }
            let (rows, status) = try await ranks.tune(request, cluster)
            let head: [(String, Table.Alignment)] = [
                ("ENGINE", .right), ("FAULT", .left), ("PASSED", .right), ("STRUCK", .right),
            ]
            try output.print(
                rows,
                text: Table.text(rows, head) { row in
                    row.faults.map { ["\(row.rank)", $0.rule, "\($0.passed)", "\($0.struck)"] }
                })
            try finish(status)
        }
    }
}

extension RankOptions {
    fileprivate func tune(
        _ request: TuneRequest, _ cluster: ClusterOptions
    ) async throws(CommandFailure) -> ([TuneRow], ExitStatus) {
        let (replies, status) = try await ask(cluster) { cluster, ranks in
            await cluster.tune(request, ranks: ranks)
        }
        return (replies.map(TuneRow.init), status)
    }
}

/// How one engine is set.
struct TuneRow: Codable, Hashable, Sendable {
    struct Fault: Codable, Hashable, Sendable {
        var rule: String
        var passed: UInt64
        var struck: UInt64
    }

    var rank: UInt32
    var logMask: String
    var faults: [Fault]

    init(_ rank: UInt32, _ reply: TuneReply) {
        self.rank = rank
        logMask = reply.logMask
        faults = reply.faults.map { Fault(rule: $0.rule, passed: $0.passed, struck: $0.struck) }
    }
}

extension Table {
    /// The text of a table with the lines that `lines` makes of each row.
    fileprivate static func text(
        _ rows: [TuneRow], _ head: [(String, Alignment)], _ lines: (TuneRow) -> [[String]]
    ) -> String {
        var table = Table(head)
        for row in rows { for line in lines(row) { table.add(line) } }
        return table.text
    }
}
