import CaRT
import DrayRuntime
import Foundation
import Testing

@testable import DrayCLI

#if canImport(FoundationXML)
    import FoundationXML
#endif

/// Counts the elements of an XML text, and whether it is well formed.
final class ElementCounter: NSObject, XMLParserDelegate {
    private(set) var counts: [String: Int] = [:]
    /// Of each element, what stands in it up to the next one begins.
    private(set) var texts: [String] = []

    /// Nil when the text is no XML.
    static func count(_ text: String) -> ElementCounter? {
        let counter = ElementCounter()
        let parser = XMLParser(data: Data(text.utf8))
        parser.delegate = counter
        guard parser.parse() else { return nil }
        counter.texts = counter.texts.map { $0.trimmingCharacters(in: .newlines) }
        return counter
    }

    func parser(
        _ parser: XMLParser, didStartElement name: String, namespaceURI: String?,
        qualifiedName: String?, attributes: [String: String]
    ) {
        counts[name, default: 0] += 1
        texts.append("")
    }

    func parser(_ parser: XMLParser, foundCharacters text: String) {
        if !texts.isEmpty { texts[texts.count - 1] += text }
    }
}

@Suite struct PlotTests {
    @Test func placesOnAxes() {
        let axis = Axis(title: "", scale: .logarithmic, ticks: [], range: 1...100)
        #expect(abs(axis.position(10) - 0.5) < 1e-9)
        #expect(axis.position(0.1) == 0 && axis.position(1000) == 1)
        let linear = Axis(title: "", scale: .linear, ticks: [], range: 10...20)
        #expect(linear.position(12.5) == 0.25)
        #expect(Axis(title: "", scale: .linear, ticks: [], range: 5...5).position(5) == 0.5)
    }

    @Test(arguments: [
        ([3.0e-6, 7.0e-5], 2e-6, 1e-4), ([1.0, 10.0], 1, 10), ([42.0], 20, 50), ([5.0], 5, 10),
        ([0.0, -1.0], 1, 10), ([1e-9, 1e3], 1e-9, 1e3),
    ])
    func measuredAxesSurroundTheirValues(values: [Double], low: Double, high: Double) {
        let axis = Axis.measured("", values) { "\($0)" }
        #expect(abs(axis.range.lowerBound / low - 1) < 1e-6)
        #expect(abs(axis.range.upperBound / high - 1) < 1e-6)
        #expect(axis.ticks.count { !$0.label.isEmpty } >= 1)
        #expect(axis.ticks.map(\.value) == axis.ticks.map(\.value).sorted())
    }

    @Test func percentileAxes() {
        let axis = Axis.percentiles(count: 20_000)
        #expect(axis.ticks.map(\.label) == ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"])
        #expect(axis.range == 1...20_000)
        #expect(Axis.percentiles(count: 1).ticks.last?.label == "90 %")
        let chosen = Axis.chosen("", [16, 1, 4, 4]) { "\(Int($0))" }
        #expect(chosen.ticks.map(\.label) == ["1", "4", "16"])
        #expect(abs(chosen.position(4) - 0.5) < 1e-9)
        #expect(Axis.chosen("", [8]) { "\($0)" }.position(8) == 0.5)
    }

    private func row(_ size: Int, _ inFlight: Int, _ provider: String = "ofi+tcp") -> SelfTestRow {
        var result = SelfTest.Result()
        for call in 1...1000 as ClosedRange<UInt64> {
            result.latencies.record(nanoseconds: call * 1000 * UInt64(inFlight))
        }
        result.elapsed = .milliseconds(500)
        result.requestBytes = UInt64(size) * 1000
        return SelfTestRow(
            SelfTestRow.Shape(
                provider: provider, from: "client", sources: 1, targets: 1, request: .inline,
                reply: .empty, size: size, inFlight: inFlight, align: 0, verify: false), [],
            result)
    }

    @Test func oneMeasurementIsOneChart() throws {
        let text = SelfTestPlot([row(64, 1)]).plot.text
        let counter = try #require(ElementCounter.count(text))
        #expect(counter.counts["polyline"] == 1)
        #expect(
            counter.texts.contains(
                "1 measurement of 1000 calls; "
                    + "latencies are at most 0.8 % too large"))
        #expect(!text.contains("nan") && !text.contains("inf\""))
    }

    @Test func whatIsVariedHasItsChart() throws {
        var rows: [SelfTestRow] = []
        for provider in ["ofi+tcp", "a<b&\"c\u{1}"] {
            for size in [64, 4096] {
                for flight in [1, 4, 16] {
                    rows.append(row(size, flight, provider))
                }
            }
        }
        let plot = SelfTestPlot(rows).plot
        #expect(
            plot.charts.map(\.title) == [
                "Latency", "Rate by calls in flight", "Median latency by calls in flight",
                "Rate by size", "Bandwidth by size",
            ])
        #expect(plot.charts.map(\.series.count) == [12, 4, 4, 6, 6])
        #expect(plot.charts[1].series[0].points.map(\.x) == [1, 4, 16])
        #expect(plot.charts[1].series[0].points.allSatisfy { abs($0.y - 2000) < 1e-6 })
        let counter = try #require(ElementCounter.count(plot.text))
        #expect(counter.counts["polyline"] == 32)
        #expect(counter.texts.contains("ofi+tcp, 4 KiB"))
        #expect(counter.texts.contains("a<b&\"c , 64 B"))
    }

    /// Curves rise, end at the maximum, and lie within the frame.
    @Test func curvesAreTheDistribution() {
        let chart = SelfTestPlot([row(64, 1)]).plot.charts[0]
        let points = chart.series[0].points
        #expect(points.map(\.x) == points.map(\.x).sorted())
        #expect(points.map(\.y) == points.map(\.y).sorted())
        #expect(points.last?.y == 1e-3)
        #expect(points.first?.y == 1e-6)
        #expect(points.allSatisfy { chart.x.range.contains($0.x) && chart.y.range.contains($0.y) })
    }

    @Test(arguments: [
        (1.0e-9, "1 ns"), (2e-6, "2 µs"), (1.5e-3, "1.5 ms"), (5e-5, "50 µs"), (1, "1 s"),
        (200, "200 s"),
    ])
    func timesHaveUnits(seconds: Double, text: String) {
        #expect(SelfTestPlot.time(seconds) == text)
    }

    @Test func otherLabels() {
        #expect(SelfTestPlot.count(20_000) == "20 k")
        #expect(SelfTestPlot.count(5) == "5")
        #expect(SelfTestPlot.bandwidth(2e9) == "2 GB/s")
        #expect(SelfTestPlot.size(65_536) == "64 KiB")
        #expect(SelfTestPlot.size(1536) == "1.50 KiB")
    }
}
