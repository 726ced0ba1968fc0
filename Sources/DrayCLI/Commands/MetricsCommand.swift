internal import ArgumentParser
internal import Dray
internal import DrayEngine
internal import DrayProtocol
internal import DrayRuntime

struct MetricsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "metrics", abstract: "Print the metrics of running engines.",
        discussion: """
            In the text format of Prometheus: an exporter of node_exporter's textfile collector, \
            or anything that runs a command, can pass them on. What each means stands in \
            docs/metrics.md. The exit status is 5 when an engine does not answer; the others' \
            metrics are printed all the same.
            """)

    @OptionGroup var ranks: RankOptions
    @Option(name: .long, help: "Only metrics whose name begins so (repeat for more).")
    var name: [String] = []
    @Flag(name: .long, help: "Print docs/metrics.md instead, and ask no engine.")
    var documentation = false
    @OptionGroup var cluster: ClusterOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        if documentation {
            return try Terminal.write(
                Array(MetricsDocumentation.text(EngineMetrics.definitions).utf8))
        }
        let (replies, status) = try await ranks.ask(cluster) { cluster, ranks in
            await cluster.metrics(ranks: ranks)
        }
        let families = PrometheusText.merged(replies.map(\.reply)).filter { family in
            name.isEmpty || name.contains { family.name.hasPrefix($0) }
        }
        if output.json {
            try Terminal.print(try JSON.text(families.map(MetricRow.init)))
        } else {
            try Terminal.write(Array(PrometheusText.text(families).utf8))
        }
        try finish(status)
    }
}

/// A metric in JSON.
struct MetricRow: Codable, Hashable, Sendable {
    struct Sample: Codable, Hashable, Sendable {
        var labels: [String: String]
        /// Of counters and gauges.
        var value: Double?
        /// Of histograms. Times in seconds.
        var count: UInt64?
        var sum: Double?
        var minimum: Double?
        var median: Double?
        var percentile90: Double?
        var percentile99: Double?
        var maximum: Double?
    }

    var name: String
    var type: String
    var help: String
    var samples: [Sample]

    init(_ family: MetricFamily) {
        name = family.name
        type = "\(family.kind)"
        help = family.help
        let divisor = family.unit == .seconds ? 1e9 : 1
        samples = family.samples.map { sample in
            // A name that comes twice, which is nobody's intention, keeps its first value.
            let labels = Dictionary(
                sample.labels.map { ($0.name, $0.value) }, uniquingKeysWith: { first, _ in first })
            guard let histogram = sample.histogram else {
                return Sample(labels: labels, value: sample.value)
            }
            func at(_ share: Double) -> Double { Double(histogram.percentile(share)) / divisor }
            return Sample(
                labels: labels, count: histogram.count, sum: Double(histogram.total) / divisor,
                minimum: at(0), median: at(0.5), percentile90: at(0.9), percentile99: at(0.99),
                maximum: at(1))
        }
    }
}

/// The page about metrics, made from their definitions.
enum MetricsDocumentation {
    static func text(_ definitions: [MetricDefinition]) -> String {
        let groups: [(prefix: String, title: String, about: String)] = [
            (
                "dray_engine_", "Engine",
                "One value for each engine, under the label `rank`."
            ),
            (
                "dray_storage_", "Storage",
                "One value for each target of an engine, under the labels `rank` and `target` (a "
                    + "number, or\n`system` for the engine's own metadata)."
            ),
            (
                "dray_device_", "Devices",
                "What each target has of its devices and has asked of them, under the labels "
                    + "`rank`, `target`,\n`device` (`data` or `metadata`) and `path`. Sums over a "
                    + "path are those of a device."
            ),
            (
                "dray_nvme_", "NVMe",
                "What the controllers of NVMe devices have said last of their health, which they "
                    + "are asked for\nevery minute, under the labels `rank` and `path`. Other "
                    + "devices have none, nor has one that the\nkernel does not let the engine ask."
            ),
            (
                "dray_cart_", "Transport",
                "One value for each context of an engine, under the labels `rank`, `tag` (0 is the "
                    + "system's\ncontext, 1 that of the first target, the last one that of the "
                    + "failure detector) and\n`provider`."
            ),
        ]
        var text = """
            # Metrics

            <!-- Made by `dray metrics --documentation`; a test compares. Do not edit. -->

            `dray metrics` prints what running engines have counted since they started, in the
            text format of Prometheus: counters end with `_total`, times are in seconds, and
            histograms have buckets at powers of two of a nanosecond, from a microsecond to half a
            minute. `--json` has percentiles instead, which are up to 12.5 % too large. Engines
            count in plain integers and make metrics of them only when they are asked.

            A program that embeds an engine gets the same through swift-metrics: it hands its
            factory to `World.real(metrics:)` and calls `Engine.publishMetrics()` before it reads.

            """
        var left = definitions
        for group in groups {
            let members = left.filter { $0.name.hasPrefix(group.prefix) }
            left.removeAll { $0.name.hasPrefix(group.prefix) }
            guard !members.isEmpty else { continue }
            text += "\n## \(group.title)\n\n\(group.about)\n\n" + table(members)
        }
        if !left.isEmpty { text += "\n## Others\n\n" + table(left) }
        return text
    }

    private static func table(_ definitions: [MetricDefinition]) -> String {
        "| metric | kind | what |\n|---|---|---|\n"
            + definitions.map { "| `\($0.name)` | \($0.kind) | \($0.help) |\n" }.joined()
    }
}
