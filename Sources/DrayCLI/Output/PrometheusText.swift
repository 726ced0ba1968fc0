internal import DrayProtocol
internal import DrayRuntime

/// Metrics in the text format of Prometheus, version 0.0.4.
enum PrometheusText {
    /// The bounds of a histogram's buckets: powers of two from a microsecond to half a minute.
    static let exponents = 10...35

    /// Every family with its help and type, each once, in the order given.
    static func text(_ families: [MetricFamily]) -> String {
        families.map { family in
            let name = name(family)
            var lines: [String] = []
            if !family.help.isEmpty { lines.append("# HELP \(name) \(escaped(family.help))") }
            lines.append("# TYPE \(name) \(type(family.kind))")
            for sample in family.samples { lines += self.lines(name, family, sample) }
            return lines.joined(separator: "\n") + "\n"
        }.joined()
    }

    /// Families of several engines as one list: a metric stands in one place only.
    static func merged(_ replies: [MetricsReply]) -> [MetricFamily] {
        var families: [MetricFamily] = []
        var places: [String: Int] = [:]
        for family in replies.flatMap(\.families) {
            if let place = places[family.name] {
                families[place].samples += family.samples
            } else {
                places[family.name] = families.count
                families.append(family)
            }
        }
        return families
    }

    private static func lines(
        _ name: String, _ family: MetricFamily, _ sample: MetricSample
    ) -> [String] {
        guard let histogram = sample.histogram else {
            return ["\(name)\(labels(sample.labels)) \(number(sample.value))"]
        }
        let divisor = family.unit == .seconds ? 1e9 : 1
        var lines = exponents.map { exponent in
            // The greatest integer below the power of two: those are counted exactly.
            let bound = Double((UInt64(1) << UInt64(exponent)) - 1) / divisor
            return "\(name)_bucket\(labels(sample.labels, le: number(bound))) "
                + "\(histogram.count(belowPowerOfTwo: exponent))"
        }
        lines.append("\(name)_bucket\(labels(sample.labels, le: "+Inf")) \(histogram.count)")
        lines.append(
            "\(name)_sum\(labels(sample.labels)) \(number(Double(histogram.total) / divisor))")
        lines.append("\(name)_count\(labels(sample.labels)) \(histogram.count)")
        return lines
    }

    private static func type(_ kind: MetricDefinition.Kind) -> String {
        switch kind {
        case .counter: "counter"
        case .gauge: "gauge"
        case .histogram: "histogram"
        }
    }

    /// A name that Prometheus takes: what others made may have any characters.
    private static func name(_ family: MetricFamily) -> String {
        let text = String(
            family.name.unicodeScalars.map { isNameScalar($0) ? Character($0) : "_" })
        let digit = text.unicodeScalars.first.map { (0x30...0x39).contains($0.value) } ?? true
        return digit ? "_" + text : text
    }

    private static func isNameScalar(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar {
        case "a"..."z", "A"..."Z", "0"..."9", "_", ":": true
        default: false
        }
    }

    private static func labels(_ labels: [MetricLabel], le: String? = nil) -> String {
        var parts = labels.map { label in
            let name = String(
                label.name.unicodeScalars.map {
                    isNameScalar($0) && $0 != ":" ? Character($0) : "_"
                })
            let value = escaped(label.value).replacing("\"", with: "\\\"")
            return "\(name)=\"\(value)\""
        }
        if let le { parts.append("le=\"\(le)\"") }
        return parts.isEmpty ? "" : "{" + parts.joined(separator: ",") + "}"
    }

    /// Backslashes and ends of lines, as the format wants them.
    private static func escaped(_ text: String) -> String {
        text.replacing("\\", with: "\\\\").replacing("\n", with: "\\n")
            .replacing("\r", with: " ")
    }

    private static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value > 0 ? "+Inf" : "-Inf" }
        if value == value.rounded(), value.magnitude < 1e15 { return "\(Int64(value))" }
        return "\(value)"
    }
}
