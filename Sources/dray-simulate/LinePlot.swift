/// Lines over a logarithmic axis, as an SVG file.
struct LinePlot {
    struct Series {
        var name: String
        var points: [(x: Double, y: Double)]
    }

    var title: String
    var x: String
    var y: String
    var series: [Series]

    private static let width = 720.0
    private static let height = 420.0
    private static let left = 64.0
    private static let right = 24.0
    private static let top = 40.0
    private static let bottom = 52.0
    private static let colours = ["#1f77b4", "#d62728", "#7fb2d9", "#ea9293"]

    /// A number with so many digits behind the point.
    static func text(_ value: Double, digits: Int) -> String {
        var scale = 1.0
        for _ in 0..<digits { scale *= 10 }
        let scaled = Int((value * scale).rounded())
        guard digits > 0 else { return "\(scaled)" }
        let fraction = String(scaled.magnitude % UInt(scale))
        let sign = scaled < 0 ? "-" : ""
        return sign + "\(scaled.magnitude / UInt(scale))."
            + String(repeating: "0", count: digits - fraction.count) + fraction
    }

    /// The logarithm to the base 2, as exact as a plot needs.
    private static func log2(_ value: Double) -> Double {
        var rest = value.significand
        var result = Double(value.exponent)
        var step = 0.5
        for _ in 0..<20 {
            rest *= rest
            if rest >= 2 {
                rest /= 2
                result += step
            }
            step /= 2
        }
        return result
    }

    private var points: [(x: Double, y: Double)] { series.flatMap(\.points) }

    private func horizontal(_ value: Double) -> Double {
        let (low, high) = (
            LinePlot.log2(points.map(\.x).min() ?? 1), LinePlot.log2(points.map(\.x).max() ?? 2)
        )
        let share = high > low ? (LinePlot.log2(value) - low) / (high - low) : 0.5
        return LinePlot.left + share * (LinePlot.width - LinePlot.left - LinePlot.right)
    }

    private func vertical(_ value: Double, step: Double) -> Double {
        let share = value / highest(step)
        return LinePlot.height - LinePlot.bottom
            - share * (LinePlot.height - LinePlot.top - LinePlot.bottom)
    }

    /// The next multiple of `step` above everything.
    private func highest(_ step: Double) -> Double {
        ((points.map(\.y).max() ?? 0) * 1.05 / step).rounded(.up) * step
    }

    /// Between lines: 1, 2 or 5 times a power of ten, so that there are at most eight of them.
    private var step: Double {
        let most = points.map(\.y).max() ?? 1
        var power = 0.001
        while true {
            for factor in [1.0, 2.0, 5.0] where power * factor * 7 >= most {
                return power * factor
            }
            power *= 10
        }
    }

    var svg: String {
        func n(_ value: Double) -> String { LinePlot.text(value, digits: 1) }
        let (width, height) = (LinePlot.width, LinePlot.height)
        let step = step
        var lines = [
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"\(Int(width))\" "
                + "height=\"\(Int(height))\" viewBox=\"0 0 \(Int(width)) \(Int(height))\" "
                + "font-family=\"sans-serif\" font-size=\"13\">",
            "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>",
            "<text x=\"\(n(LinePlot.left))\" y=\"24\" font-size=\"16\">\(title)</text>",
        ]
        let (start, end) = (LinePlot.left, width - LinePlot.right)
        for index in 0...Int((highest(step) / step).rounded()) {
            let value = Double(index) * step
            let place = vertical(value, step: step)
            lines.append(
                "<path d=\"M\(n(start)) \(n(place))H\(n(end))\" stroke=\"#ddd\"/>"
                    + "<text x=\"\(n(start - 6))\" y=\"\(n(place + 4))\" text-anchor=\"end\">"
                    + "\(LinePlot.text(value, digits: step < 0.1 ? 2 : step < 1 ? 1 : 0))</text>")
        }
        for value in Set(points.map(\.x)).sorted() {
            let place = horizontal(value)
            let base = height - LinePlot.bottom
            lines.append(
                "<path d=\"M\(n(place)) \(n(base))v5\" stroke=\"#888\"/>"
                    + "<text x=\"\(n(place))\" y=\"\(n(base + 20))\" text-anchor=\"middle\">"
                    + "\(Int(value))</text>")
        }
        lines.append(
            "<text x=\"\(n((start + end) / 2))\" y=\"\(n(height - 12))\" "
                + "text-anchor=\"middle\">\(x)</text>"
                + "<text transform=\"translate(16 \(n(height / 2))) rotate(-90)\" "
                + "text-anchor=\"middle\">\(y)</text>")
        for (index, one) in series.enumerated() {
            let colour = LinePlot.colours[index % LinePlot.colours.count]
            let path = one.points.map {
                "\(n(horizontal($0.x))) \(n(vertical($0.y, step: step)))"
            }
            lines.append(
                "<path d=\"M\(path.joined(separator: "L"))\" fill=\"none\" stroke=\"\(colour)\" "
                    + "stroke-width=\"2\"/>")
            let row = LinePlot.top + 8 + Double(index) * 18
            lines.append(
                "<path d=\"M\(n(start + 12)) \(n(row))h24\" stroke=\"\(colour)\" "
                    + "stroke-width=\"2\"/>"
                    + "<text x=\"\(n(start + 42))\" y=\"\(n(row + 4))\">\(one.name)</text>")
        }
        lines.append("</svg>")
        return lines.joined(separator: "\n") + "\n"
    }
}
