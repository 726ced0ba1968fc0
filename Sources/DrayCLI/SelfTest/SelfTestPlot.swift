internal import CaRT
internal import DrayRuntime
internal import Glibc

/// The results of a self-test as charts: the latencies, and the rates by what was varied.
struct SelfTestPlot {
    private let rows: [SelfTestRow]

    init(_ rows: [SelfTestRow]) {
        self.rows = rows
    }

    /// Writes the charts into an SVG file; a reader sees the old file or the new one.
    func write(_ path: LocalPath) throws(CommandFailure) {
        do throws(Errno) {
            try LocalFiles.replace(path, Array(plot.text.utf8))
        } catch {
            throw CommandFailure(path.text, error.text)
        }
    }

    var plot: SVGPlot {
        var charts = [latencies]
        if Set(rows.map(\.shape.inFlight)).count > 1 {
            charts.append(
                chart(
                    "Rate by calls in flight", \.inFlight, x: "calls in flight", y: "calls/s",
                    xLabel: { Decimal.text($0, digits: 0) }, yLabel: SelfTestPlot.count
                ) { $0.callsPerSecond })
            charts.append(
                chart(
                    "Median latency by calls in flight", \.inFlight, x: "calls in flight",
                    y: "median latency", xLabel: { Decimal.text($0, digits: 0) },
                    yLabel: SelfTestPlot.time
                ) { $0.median })
        }
        let sizes = Set(rows.map(\.shape.size)).subtracting([0])
        if sizes.count > 1 {
            charts.append(
                chart(
                    "Rate by size", \.size, x: "bytes of a message", y: "calls/s",
                    xLabel: SelfTestPlot.size, yLabel: SelfTestPlot.count
                ) { $0.callsPerSecond })
            charts.append(
                chart(
                    "Bandwidth by size", \.size, x: "bytes of a message",
                    y: "both directions", xLabel: SelfTestPlot.size,
                    yLabel: SelfTestPlot.bandwidth
                ) { $0.requestBytesPerSecond + $0.replyBytesPerSecond })
        }
        let calls = rows.map(\.calls)
        let note =
            "\(rows.count) \(rows.count == 1 ? "measurement" : "measurements") of "
            + "\(SelfTestPlot.span(calls)) calls; "
            + "latencies are at most 0.8 % too large"
        return SVGPlot(title: "dray self-test", note: note, charts: charts)
    }

    // MARK: - Charts

    private var latencies: Chart {
        let series = rows.map { row in
            // The end of the distribution is as far away as one call in all.
            let end = max(1, Double(row.calls))
            let points = row.percentiles.map { point in
                Chart.Point(
                    x: point.share >= 1 ? end : min(end, 1 / (1 - point.share)),
                    y: max(point.seconds, 1e-9))
            }
            return Chart.Series(name: name(row.shape, without: []), points: points)
        }
        return Chart(
            title: "Latency", x: .percentiles(count: rows.map(\.calls).max() ?? 1),
            y: .measured(
                "round trip", series.flatMap { $0.points.map(\.y) }, label: SelfTestPlot.time),
            series: series)
    }

    private func chart(
        _ title: String, _ varied: KeyPath<SelfTestRow.Shape, Int>, x: String, y: String,
        xLabel: (Double) -> String, yLabel: (Double) -> String, value: (SelfTestRow) -> Double
    ) -> Chart {
        let shown = rows.filter { $0.shape[keyPath: varied] > 0 }
        var names: [String] = []
        var points: [String: [Chart.Point]] = [:]
        for row in shown {
            let name = name(row.shape, without: [varied])
            if points[name] == nil { names.append(name) }
            points[name, default: []].append(
                Chart.Point(x: Double(row.shape[keyPath: varied]), y: value(row)))
        }
        let series = names.map { name in
            // What has no bytes has no bandwidth.
            Chart.Series(
                name: name,
                points: (points[name] ?? []).filter { $0.y > 0 }.sorted { $0.x < $1.x })
        }.filter { !$0.points.isEmpty }
        return Chart(
            title: title,
            x: .chosen(x, series.flatMap { $0.points.map(\.x) }, label: xLabel),
            y: .measured(y, series.flatMap { $0.points.map(\.y) }, label: yLabel), series: series)
    }

    /// What tells a row apart from others: only what differs among them.
    private func name(
        _ shape: SelfTestRow.Shape, without: [KeyPath<SelfTestRow.Shape, Int>]
    ) -> String {
        var parts: [String] = []
        func add<Value: Hashable>(
            _ path: KeyPath<SelfTestRow.Shape, Value>, _ text: (Value) -> String
        ) {
            guard !without.contains(where: { $0 == path }),
                Set(rows.map { $0.shape[keyPath: path] }).count > 1
            else { return }
            parts.append(text(shape[keyPath: path]))
        }
        add(\.provider) { $0 }
        let kinds = Set(rows.map { [$0.shape.request, $0.shape.reply] })
        if kinds.count > 1 { parts.append("\(shape.request) / \(shape.reply)") }
        add(\.size) { SelfTestPlot.size(Double($0)) }
        add(\.inFlight) { "\($0) in flight" }
        return parts.isEmpty ? shape.provider : parts.joined(separator: ", ")
    }

    // MARK: - Labels

    static func time(_ seconds: Double) -> String {
        scaled(seconds * 1e9, ["ns", "µs", "ms", "s"])
    }

    static func count(_ value: Double) -> String { scaled(value, ["", "k", "M", "G"]) }

    static func bandwidth(_ bytes: Double) -> String {
        scaled(bytes, ["B/s", "kB/s", "MB/s", "GB/s", "TB/s"])
    }

    private static func span(_ values: [UInt64]) -> String {
        let (low, high) = (values.min() ?? 0, values.max() ?? 0)
        return low == high ? "\(low)" : "\(low) to \(high)"
    }

    /// A value with the unit, each a thousand of the one before, that leaves at least 1.
    private static func scaled(_ value: Double, _ units: [String]) -> String {
        var value = value
        var index = 0
        while value >= 999.9, index < units.count - 1 {
            value /= 1000
            index += 1
        }
        return short(value) + (units[index].isEmpty ? "" : " " + units[index])
    }

    static func size(_ bytes: Double) -> String {
        Size(bytes: UInt64(max(0, min(bytes, 1e18)))).description.replacing(".00 ", with: " ")
            .replacing(".0 ", with: " ")
    }

    private static func short(_ value: Double) -> String {
        let text = Decimal.text(value, digits: value < 9.95 && value.rounded() != value ? 1 : 0)
        return text.hasSuffix(".0") ? String(text.dropLast(2)) : text
    }
}
