internal import DrayRuntime

/// One line on standard error that tells how far long work is. Silent unless a person looks.
///
/// Confined to the xstream that the work runs on.
final class ProgressBar {
    private let title: String
    /// What is counted.
    private let unit: String
    private let shown: Bool
    private let start: Instant
    private var last: Instant
    private var drawnWidth = 0

    /// What is known so far.
    struct Figures: Equatable {
        var files: UInt64 = 0
        var bytes: UInt64 = 0
        /// The totals, while they are known; nil before.
        var filesTotal: UInt64?
        var bytesTotal: UInt64?
    }

    /// Time between two drawings.
    private static let interval: Duration = .milliseconds(100)

    init(_ title: String, unit: String = "files", now: Instant, quiet: Bool = false) {
        self.title = title
        self.unit = unit
        shown = !quiet && Terminal.isTerminal(2)
        start = now
        last = now
    }

    /// Draws the line, at most ten times a second.
    func update(_ figures: @autoclosure () -> Figures, now: Instant) {
        guard shown, now.since(last) >= ProgressBar.interval else { return }
        last = now
        let width = Terminal.width(2)
        draw(
            ProgressBar.line(
                title, figures(), unit: unit, elapsed: HumanDuration(now.since(start)).seconds,
                width: width))
    }

    /// Wipes the line, so that other output has its place.
    func clear() {
        guard shown, drawnWidth > 0 else { return }
        draw("")
    }

    private func draw(_ line: String) {
        let padding = String(repeating: " ", count: max(0, drawnWidth - line.count))
        drawnWidth = line.count
        let text = "\r" + line + padding + (line.isEmpty ? "\r" : "")
        do throws(CommandFailure) {
            try Terminal.write(Array(text.utf8), to: 2)
        } catch {
            // A bar that cannot be drawn is no reason to stop the work it shows.
            drawnWidth = 0
        }
    }

    /// The line for `figures` after `elapsed` seconds, no wider than `width - 1`.
    static func line(
        _ title: String, _ figures: Figures, unit: String = "files", elapsed: Double, width: Int
    ) -> String {
        let rate = elapsed > 0 ? Double(figures.bytes) / elapsed : 0
        var parts = [title]
        if let share = share(figures) {
            let cells = max(5, min(24, width / 5))
            let full = Int((share * Double(cells)).rounded(.down))
            parts.append(
                "[" + String(repeating: "#", count: full)
                    + String(repeating: "-", count: cells - full) + "]")
            parts.append("\(Int(share * 100))%")
        }
        parts.append("\(figures.files)" + (figures.filesTotal.map { "/\($0)" } ?? "") + " " + unit)
        parts.append("\(Size(bytes: figures.bytes))")
        parts.append("\(Size(bytes: UInt64(max(0, min(rate, 1e18)))))/s")
        if let share = share(figures), share > 0.001, share < 1, elapsed > 1 {
            let left = elapsed * (1 - share) / share
            parts.append("ETA \(HumanDuration(.seconds(Int64(min(left, 1e9).rounded(.up)))))")
        }
        return String(parts.joined(separator: "  ").prefix(max(10, width - 1)))
    }

    /// How much is done, 0 to 1: by bytes and files together, so that neither many empty files
    /// nor one large file make it stand still.
    private static func share(_ figures: Figures) -> Double? {
        guard let files = figures.filesTotal, let bytes = figures.bytesTotal else { return nil }
        let weight = 4096.0
        let total = Double(bytes) + Double(files) * weight
        guard total > 0 else { return 1 }
        return min(1, (Double(figures.bytes) + Double(figures.files) * weight) / total)
    }
}
