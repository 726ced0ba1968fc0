internal import ArgumentParser

/// A span of time as people write it: `10s`, `500ms`, `1.5h`, `250us`. A bare number is seconds.
struct HumanDuration: ExpressibleByArgument, Hashable, Sendable, CustomStringConvertible {
    var duration: Duration

    init(_ duration: Duration) {
        self.duration = duration
    }

    /// Nanoseconds of each unit.
    private static let units: [(names: [String], nanoseconds: Int64)] = [
        (["ns"], 1), (["us", "µs", "μs"], 1_000), (["ms"], 1_000_000),
        (["s", "", "sec"], 1_000_000_000), (["m", "min"], 60_000_000_000),
        (["h"], 3_600_000_000_000), (["d"], 86_400_000_000_000),
    ]

    init?(argument: String) {
        let digits = argument.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
        let name = argument.dropFirst(digits.count).drop { $0 == " " }
        guard
            let unit = HumanDuration.units.first(where: { unit in
                unit.names.contains { $0.utf8.elementsEqual(name.utf8) }
            }), let value = Double(digits)
        else { return nil }
        let nanoseconds = value * Double(unit.nanoseconds)
        guard nanoseconds.isFinite, nanoseconds >= 0, nanoseconds < 9e18 else { return nil }
        duration = .nanoseconds(Int64(nanoseconds.rounded()))
    }

    /// The time in seconds.
    var seconds: Double {
        Double(duration.components.seconds) + Double(duration.components.attoseconds) / 1e18
    }

    /// The time with a fitting unit, to three digits: `1.50 s`, `12.3 ms`; `2 h 05 min` from a
    /// hundred seconds on.
    var description: String {
        let seconds = seconds
        if seconds >= 99.95 {
            let whole = Int64(seconds.rounded())
            let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60)
            func two(_ value: Int64) -> String { value < 10 ? "0\(value)" : "\(value)" }
            return hours > 0 ? "\(hours) h \(two(minutes)) min" : "\(minutes) min \(two(rest)) s"
        }
        let (value, unit) =
            seconds >= 0.9995
            ? (seconds, "s")
            : seconds >= 0.000_999_5 ? (seconds * 1e3, "ms") : (seconds * 1e6, "µs")
        if value == 0 { return "0 s" }
        return Decimal.text(value, digits: value < 9.995 ? 2 : value < 99.95 ? 1 : 0) + " " + unit
    }

    var defaultValueDescription: String {
        description.filter { $0 != " " }
    }
}
