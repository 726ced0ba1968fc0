/// Charts below each other, as one SVG file that any browser shows.
///
/// ```swift
/// let text = SVGPlot(title: "Calls", charts: [chart]).text
/// ```
struct SVGPlot {
    var title: String
    /// A line below the title: how the figures came about.
    var note = ""
    var charts: [Chart]

    private static let width = 900.0
    private static let plotHeight = 340.0
    private static let margin = (left: 84.0, right: 44.0, top: 44.0, bottom: 56.0)
    private static let legendRow = 20.0
    private static let legendColumns = 3
    private static let headerHeight = 58.0
    private static let pointsWithMarksMax = 20

    /// Colours that people with any sight tell apart (Okabe and Ito, 2008); the same ones come
    /// again dashed.
    private static let colours = [
        "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d00",
    ]
    private static let dashes = ["", "7 4", "2 3", "10 3 2 3"]

    /// The file.
    var text: String {
        var body = ""
        var top = SVGPlot.headerHeight
        for chart in charts {
            body += SVGPlot.draw(chart, top: top)
            top += SVGPlot.height(of: chart)
        }
        let (width, height) = (SVGPlot.number(SVGPlot.width), SVGPlot.number(top + 8))
        let style = """
            text{font-family:system-ui,-apple-system,"Segoe UI",sans-serif;font-size:12px;\
            fill:#222}.title{font-size:18px;font-weight:600}.chart{font-size:14px;\
            font-weight:600}.note{fill:#666}.grid{stroke:#e3e3e3}.frame{fill:none;stroke:#888}\
            .line{fill:none;stroke-width:2;stroke-linejoin:round}
            """
        return """
            <?xml version="1.0" encoding="UTF-8"?>
            <svg xmlns="http://www.w3.org/2000/svg" width="\(width)" height="\(height)" \
            viewBox="0 0 \(width) \(height)" role="img">
            <title>\(SVGPlot.escaped(title))</title>
            <style>\(style)</style>
            <rect width="100%" height="100%" fill="#fff"/>
            <text class="title" x="20" y="28">\(SVGPlot.escaped(title))</text>
            <text class="note" x="20" y="47">\(SVGPlot.escaped(note))</text>
            \(body)</svg>

            """
    }

    private static func legendRows(_ chart: Chart) -> Int {
        (chart.series.count + legendColumns - 1) / legendColumns
    }

    private static func height(of chart: Chart) -> Double {
        margin.top + plotHeight + margin.bottom + Double(legendRows(chart)) * legendRow + 16
    }

    /// One chart whose upper edge is at `top`.
    private static func draw(_ chart: Chart, top: Double) -> String {
        let frame = (
            x: margin.left, y: top + margin.top, width: width - margin.left - margin.right,
            height: plotHeight
        )
        func x(_ value: Double) -> Double { frame.x + chart.x.position(value) * frame.width }
        func y(_ value: Double) -> Double {
            frame.y + (1 - chart.y.position(value)) * frame.height
        }
        var parts = [
            "<text class=\"chart\" x=\"20\" y=\"\(number(top + 24))\">"
                + escaped(chart.title) + "</text>"
        ]
        for tick in chart.x.ticks where chart.x.range.contains(tick.value) {
            let place = x(tick.value)
            parts.append(line(place, frame.y, place, frame.y + frame.height))
            parts.append(label(tick.label, place, frame.y + frame.height + 18, anchor: "middle"))
        }
        for tick in chart.y.ticks where chart.y.range.contains(tick.value) {
            let place = y(tick.value)
            parts.append(line(frame.x, place, frame.x + frame.width, place))
            parts.append(label(tick.label, frame.x - 8, place + 4, anchor: "end"))
        }
        parts.append(
            "<rect class=\"frame\" x=\"\(number(frame.x))\" y=\"\(number(frame.y))\" "
                + "width=\"\(number(frame.width))\" height=\"\(number(frame.height))\"/>")
        parts.append(
            label(
                chart.x.title, frame.x + frame.width / 2, frame.y + frame.height + 42,
                anchor: "middle"))
        let middle = frame.y + frame.height / 2
        parts.append(
            "<text text-anchor=\"middle\" transform=\"rotate(-90 16 \(number(middle)))\" "
                + "x=\"16\" y=\"\(number(middle))\">\(escaped(chart.y.title))</text>")
        for (index, series) in chart.series.enumerated() {
            parts += draw(series, stroke: stroke(index), x: x, y: y)
        }
        parts += legend(chart, top: frame.y + frame.height + margin.bottom)
        return parts.filter { !$0.isEmpty }.joined(separator: "\n") + "\n"
    }

    private static func draw(
        _ series: Chart.Series, stroke: String, x: (Double) -> Double, y: (Double) -> Double
    ) -> [String] {
        let places = series.points.map { "\(number(x($0.x))),\(number(y($0.y)))" }
        var parts = [
            "<polyline class=\"line\" \(stroke) points=\"\(places.joined(separator: " "))\"/>"
        ]
        guard series.points.count <= pointsWithMarksMax else { return parts }
        for point in series.points {
            parts.append(
                "<circle cx=\"\(number(x(point.x)))\" cy=\"\(number(y(point.y)))\" r=\"3.2\" "
                    + "fill=\"#fff\" \(stroke) stroke-width=\"2\"/>")
        }
        return parts
    }

    private static func legend(_ chart: Chart, top: Double) -> [String] {
        let column = (width - margin.left - margin.right) / Double(legendColumns)
        return chart.series.enumerated().flatMap { index, series in
            let left = margin.left + Double(index % legendColumns) * column
            let middle = top + Double(index / legendColumns) * legendRow + 12
            return [
                "<line \(stroke(index)) stroke-width=\"2\" x1=\"\(number(left))\" "
                    + "y1=\"\(number(middle))\" x2=\"\(number(left + 26))\" "
                    + "y2=\"\(number(middle))\"/>",
                label(series.name, left + 32, middle + 4, anchor: "start"),
            ]
        }
    }

    private static func stroke(_ index: Int) -> String {
        let dash = dashes[index / colours.count % dashes.count]
        return "stroke=\"\(colours[index % colours.count])\""
            + (dash.isEmpty ? "" : " stroke-dasharray=\"\(dash)\"")
    }

    private static func line(_ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double) -> String {
        "<line class=\"grid\" x1=\"\(number(x1))\" y1=\"\(number(y1))\" x2=\"\(number(x2))\" "
            + "y2=\"\(number(y2))\"/>"
    }

    private static func label(
        _ text: String, _ x: Double, _ y: Double, anchor: String
    ) -> String {
        guard !text.isEmpty else { return "" }
        return "<text text-anchor=\"\(anchor)\" x=\"\(number(x))\" y=\"\(number(y))\">"
            + escaped(text) + "</text>"
    }

    private static func number(_ value: Double) -> String {
        let text = Decimal.text(value, digits: 1)
        return text.hasSuffix(".0") ? String(text.dropLast(2)) : text
    }

    /// Text that XML takes for nothing else.
    static func escaped(_ text: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "&": result += "&amp;"
            case "<": result += "&lt;"
            case ">": result += "&gt;"
            case "\"": result += "&quot;"
            // No other control character may stand in XML at all.
            case let other where other.value < 0x20 || other.value == 0x7f: result += " "
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }
}
