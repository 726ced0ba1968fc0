internal import CaRT
internal import DrayRuntime

/// Where the time of requests went, as a table: the median of each part, and the whole. What their
/// handlers asked others stands below them, indented.
enum TraceTable {
    static func text(_ summaries: [CallTracer.Summary]) -> String {
        var table = Table([
            ("REQUEST", .left), ("COUNT", .right), ("QUEUED", .right), ("SENDING", .right),
            ("WAITING", .right), ("HANDLER", .right), ("BULK", .right), ("REPLYING", .right),
            ("P50", .right), ("P99", .right),
        ])
        func time(_ histogram: LatencyHistogram, _ fraction: Double = 0.5) -> String {
            HumanDuration(.nanoseconds(Int64(histogram.percentile(fraction)))).description
        }
        for summary in summaries {
            table.add([
                String(repeating: "  ", count: summary.depth) + summary.name,
                "\(summary.total.count)", time(summary.queued),
                time(summary.sending), time(summary.waiting), time(summary.handling),
                time(summary.bulk), time(summary.replying), time(summary.total),
                time(summary.total, 0.99),
            ])
        }
        return table.text
    }
}
