internal import ArgumentParser
internal import Dray
internal import DrayFileSystem
internal import DrayProtocol
internal import DrayRuntime

extension StorageCommand {
    struct Scrub: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show or begin the verification of everything that running engines store.",
            discussion: """
                Each store of an engine reads all its values and its index now and then \
                (scrub_rate and scrub_interval in the engine's settings) and compares them with \
                their checksums. This shows how far it is and what it has found damaged, with \
                object, keys, extent, epoch, device and offset. --start begins a pass where none \
                is under way, --stop ends it; what was found stays. The exit status is 1 when \
                anything is damaged, 5 when an engine does not answer.
                """)

        @Flag(name: .long, help: "Begin a pass now.") var start = false
        @Option(
            name: .long,
            help: "With --start: the most bytes that each store reads in a second.")
        var rate: Size?
        @Flag(name: .long, help: "End the passes that are under way.") var stop = false
        @Flag(name: .long, help: "Show it when no pass is under way any more.") var wait = false
        @OptionGroup var ranks: RankOptions
        @OptionGroup var cluster: ClusterOptions
        @OptionGroup var output: OutputOptions

        func validate() throws {
            guard !start || !stop else {
                throw ValidationError("Give --start or --stop, not both.")
            }
            guard rate == nil || start else { throw ValidationError("--rate goes with --start.") }
            if let rate, rate.bytes == 0 { throw ValidationError("--rate must not be 0.") }
        }

        func run() async throws {
            var request = ScrubRequest()
            request.action = start ? .start : stop ? .stop : .query
            request.rate = rate?.bytes ?? 0
            let (rows, status) = try await ask(request)
            try output.print(rows, text: ScrubRow.text(rows))
            let isDamaged = rows.contains { !$0.findings.isEmpty }
            try finish(status == .success && isDamaged ? .failure : status)
        }

        /// Asks the engines; with --wait, again and again.
        private func ask(
            _ request: ScrubRequest
        ) async throws(CommandFailure) -> ([ScrubRow], ExitStatus) {
            let isWaiting = wait
            let (replies, status) = try await ranks.ask(cluster) { cluster, ranks in
                var all = await cluster.scrub(request, ranks: ranks)
                while isWaiting, all.contains(where: { ScrubRow.isRunning($0.reply) }) {
                    await cluster.run { [cluster] in
                        await cluster.xstream.sleep(for: .milliseconds(200))
                    }
                    all = await cluster.scrub(ranks: ranks)
                }
                return all
            }
            let rows = replies.flatMap { rank, reply in
                reply.stores.map { ScrubRow(rank, $0) }
            }
            return (rows, status)
        }
    }
}

/// How the scrubbing of one store goes.
struct ScrubRow: Codable, Hashable, Sendable {
    /// One pass over a store.
    struct Pass: Codable, Hashable, Sendable {
        /// UTC, by the engine's clock.
        var started: String
        var ended: String?
        /// Whether it came to the end of the store.
        var isComplete: Bool
        /// Bytes that were verified, and about how many there were when it began.
        var bytes: UInt64
        var bytesTotal: UInt64
        var tables: UInt64
        var values: UInt64
        var errors: UInt64

        init(_ pass: ScrubProgress) {
            started = Pass.time(pass.started)
            ended = pass.ended.map(Pass.time)
            isComplete = pass.isComplete
            bytes = pass.bytes
            bytesTotal = pass.bytesTotal
            tables = pass.tables
            values = pass.values
            errors = pass.errors
        }

        private static func time(_ nanoseconds: UInt64) -> String {
            // To the second.
            let seconds = Int64(nanoseconds / 1_000_000_000)
            let text = CalendarTime.text(Timestamp(seconds: seconds, nanoseconds: 0))
            return (text.firstIndex(of: ".").map { String(text[..<$0]) } ?? text) + "Z"
        }
    }

    var rank: UInt32
    /// A number, or "system" for the engine's own metadata.
    var target: String
    /// The pass under way, and the one before.
    var current: Pass?
    var last: Pass?
    /// Passes that came to the end, what they read, and what they found, since the engine started.
    var passes: UInt64
    var bytes: UInt64
    var errors: UInt64
    /// What is known to be damaged.
    var findings: [FindingRow]

    init(_ rank: UInt32, _ scrub: StoreScrub) {
        self.rank = rank
        target = scrub.target.map { "\($0)" } ?? "system"
        current = scrub.current.map(Pass.init)
        last = scrub.last.map(Pass.init)
        passes = scrub.passes
        bytes = scrub.bytes
        errors = scrub.errors
        let store = "engine \(rank), " + (scrub.target.map { "target \($0)" } ?? "system")
        findings = scrub.findings.map { FindingRow($0, store: store) }
    }

    static func isRunning(_ result: Result<ScrubReply, DrayError>) -> Bool {
        guard case .success(let reply) = result else { return false }
        return reply.stores.contains { $0.current != nil }
    }

    /// "43 %" while it runs; else how the last pass ended.
    private var state: String {
        if let current {
            let share = min(99, 100 * current.bytes / max(1, current.bytesTotal))
            return "\(share) %"
        }
        guard let last else { return "never" }
        return last.isComplete ? "done" : "stopped"
    }

    /// A line for each store, and one for each finding.
    static func text(_ rows: [ScrubRow]) -> String {
        var table = Table([
            ("ENGINE", .right), ("TARGET", .right), ("STATE", .left), ("STARTED", .left),
            ("ENDED", .left), ("VERIFIED", .right), ("VALUES", .right), ("DAMAGED", .right),
        ])
        for row in rows {
            let pass = row.current ?? row.last
            table.add([
                "\(row.rank)", row.target, row.state, pass?.started ?? "-", pass?.ended ?? "-",
                Size(bytes: pass?.bytes ?? 0).description, "\(pass?.values ?? 0)",
                "\(row.findings.count)",
            ])
        }
        return ([table.text] + rows.flatMap(\.findings).map(\.text)).joined(separator: "\n")
    }
}

extension FindingRow {
    init(_ finding: ScrubFinding, store: String) {
        self.init(store: store, what: finding.what)
        part = finding.part
        table = finding.table
        block = finding.block
        device = finding.device.isEmpty ? nil : finding.device
        offset = finding.offset
        entry = finding.value.map(StoreListing.EntryName.init)
    }
}

extension StoreListing.EntryName {
    init(_ value: ScrubbedValue) {
        object = "\(value.pool)/\(value.container)/\(value.object)"
        dkey = EscapedName.text(value.dkey)
        akey = EscapedName.text(value.akey)
        offset = value.offset
        length = Int(clamping: value.length)
        epoch = value.epoch
        kind = value.offset == nil ? "value" : "extent"
    }
}
