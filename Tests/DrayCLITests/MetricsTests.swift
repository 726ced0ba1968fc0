import DrayEngine
import DrayProtocol
import DrayRuntime
import Foundation
import Testing

@testable import DrayCLI

@Suite(.serialized) struct MetricsTests {
    /// `docs/metrics.md` says what the code says. When it does not, write it anew:
    /// `swift run dray metrics --documentation > docs/metrics.md`.
    @Test func thePageIsThatOfTheCode() throws {
        let root = #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3)
            .joined(separator: "/")
        let page = try String(contentsOfFile: root + "/docs/metrics.md", encoding: .utf8)
        let text = MetricsDocumentation.text(EngineMetrics.definitions)
        #expect(
            page == text,
            "regenerate it: swift run dray metrics --documentation > docs/metrics.md")
        for definition in EngineMetrics.definitions {
            #expect(text.contains("| `\(definition.name)` |"))
        }
        #expect(!text.contains("## Others"))
    }

    private func family(
        _ name: String, _ kind: MetricDefinition.Kind, help: String, _ samples: [MetricSample]
    ) -> MetricFamily {
        var family = MetricFamily()
        family.name = name
        family.kind = kind
        family.help = help
        family.samples = samples
        return family
    }

    private func sample(_ labels: [(String, String)], _ value: Double) -> MetricSample {
        var sample = MetricSample()
        sample.labels = labels.map { MetricLabel(name: $0.0, value: $0.1) }
        sample.value = value
        return sample
    }

    @Test func numbersAndNamesAreEscaped() {
        let text = PrometheusText.text([
            family(
                "a_total", .counter, help: "A \\ and\nan end.",
                [
                    sample([], 12), sample([("x", "a\"b\\c\nd")], 1e20),
                    sample([("9-x", "")], 0.25),
                ]),
            family("7 odd/näme", .gauge, help: "", [sample([], .nan), sample([], -.infinity)]),
        ])
        #expect(
            text == """
                # HELP a_total A \\\\ and\\nan end.
                # TYPE a_total counter
                a_total 12
                a_total{x="a\\"b\\\\c\\nd"} 1e+20
                a_total{9_x=""} 0.25
                # TYPE _7_odd_n_me gauge
                _7_odd_n_me NaN
                _7_odd_n_me -Inf

                """)
    }

    @Test func histogramsAreCumulative() throws {
        var sample = sample([("tag", "1")], 0)
        var histogram = LatencyHistogram(precision: 3)
        for value in [100, 1023, 1024, 5_000_000_000, 1 << 40] as [UInt64] {
            histogram.record(nanoseconds: value)
        }
        sample.histogram = histogram
        var family = family("t_seconds", .histogram, help: "Times.", [sample])
        family.unit = .seconds
        let lines = PrometheusText.text([family]).split(separator: "\n").map(String.init)
        #expect(lines[1] == "# TYPE t_seconds histogram")
        #expect(lines[2] == "t_seconds_bucket{tag=\"1\",le=\"1.023e-06\"} 2")
        #expect(lines[3] == "t_seconds_bucket{tag=\"1\",le=\"2.047e-06\"} 3")
        #expect(lines.contains("t_seconds_bucket{tag=\"1\",le=\"+Inf\"} 5"))
        #expect(lines.last == "t_seconds_count{tag=\"1\"} 5")
        let counts = lines.filter { $0.contains("_bucket") }.compactMap {
            $0.split(separator: " ").last.flatMap { Int($0) }
        }
        #expect(counts.count == 27 && counts == counts.sorted())
        #expect(lines.dropLast().last?.hasPrefix("t_seconds_sum{tag=\"1\"} 1104.511") == true)
    }

    /// One family from several engines stands in one place.
    @Test func enginesAreMerged() {
        var replies = [MetricsReply(), MetricsReply(), MetricsReply()]
        replies[0].families = [family("a", .gauge, help: "", [sample([("rank", "0")], 1)])]
        replies[1].families = [
            family("b", .gauge, help: "", [sample([("rank", "1")], 2)]),
            family("a", .gauge, help: "", [sample([("rank", "1")], 3)]),
        ]
        let merged = PrometheusText.merged(replies)
        #expect(merged.map(\.name) == ["a", "b"])
        #expect(merged[0].samples.map(\.value) == [1, 3])
    }

    /// Each line of the format that we use; a sample's metric has been announced before.
    private func check(_ text: String) throws {
        let sample = try Regex(
            #"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{([a-z]+="[^"]*",?)+\})? (-?[0-9.e+-]+|NaN|[+-]Inf)$"#)
        var types: [String: String] = [:]
        var current = ""
        for line in text.split(separator: "\n") {
            let words = line.split(separator: " ", maxSplits: 3)
            if line.hasPrefix("# TYPE ") {
                current = String(words[2])
                #expect(types[current] == nil, "\(current) is announced twice")
                types[current] = String(words[3])
            } else if !line.hasPrefix("# HELP ") {
                let match = try #require(try sample.wholeMatch(in: line), "\(line)")
                let name = String(match.output[1].substring ?? "")
                let stem = ["_bucket", "_sum", "_count"].first { name == current + $0 }
                #expect(
                    name == current && types[current] != "histogram"
                        || stem != nil && types[current] == "histogram", "\(line)")
            }
        }
        // Without an NVMe device there is nothing to say of one.
        let names = EngineMetrics.definitions.map(\.name).filter { !$0.hasPrefix("dray_nvme_") }
        #expect(types.count == names.count)
    }

    @Test func readsThemFromEngines() throws {
        let program = try Program()
        defer { try? program.end() }
        #expect(try program.run("metrics", "--documentation").status == 0)
        let started = try program.dray(
            "cluster", "start", "--engines", "2", "--targets", "1", "--device-size", "256MiB")
        try #require(started.status == 0, "\(started.error)")
        let test = try program.dray(
            "self-test", "--engines", "--rank", "1", "--tag", "1", "--repetitions", "100",
            "--in-flight", "1", "--request", "bulk")
        #expect(test.status == 0, "\(test.error)")
        let all = try program.dray("metrics")
        try #require(all.status == 0, "\(all.error)")
        try check(all.text)
        let labels = "{rank=\"1\",tag=\"1\",provider=\"ofi+tcp\"}"
        // 100 calls of each and as many that warmed up.
        for line in [
            "dray_cart_requests_received_total\(labels) 200",
            "dray_cart_replies_sent_total\(labels) 200", "dray_cart_bulk_reads_total\(labels) 200",
            "dray_cart_bulk_bytes_total\(labels) 12800", "dray_engine_targets{rank=\"0\"} 1",
            "dray_cart_handler_duration_seconds_count\(labels) 12",
        ] {
            #expect(all.text.contains("\n" + line + "\n"), "\(line)")
        }
        let one = try program.dray(
            "metrics", "--rank", "1", "--name", "dray_cart_handler", "--json")
        let rows = try JSONDecoder().decode([MetricRow].self, from: Data(one.output))
        #expect(rows.map(\.name) == ["dray_cart_handler_duration_seconds"])
        // The failure detector may not have timed any of its own yet.
        #expect(rows[0].samples.prefix(2).map { $0.labels["tag"] } == ["0", "1"])
        #expect(rows[0].samples[1].count == 12)
        #expect(rows[0].samples[1].median ?? 0 > 0)
        #expect(all.text.contains("\ndray_cart_swim_pings_sent_total{rank=\"0\",tag=\"2\","))
        #expect(try program.dray("metrics", "--rank", "9").status == 4)
    }
}
