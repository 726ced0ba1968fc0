internal import ArgumentParser

/// A number of bytes as people write it: `4096`, `64k`, `1.5MiB`, `4GB`.
///
/// `k`, `M`, `G`, `T`, `P` and their `KiB`… forms are powers of 1024; `kB`, `MB`… powers of 1000.
struct Size: ExpressibleByArgument, Hashable, Comparable, Sendable, CustomStringConvertible {
    var bytes: UInt64

    init(bytes: UInt64) {
        self.bytes = bytes
    }

    init?(argument: String) {
        let digits = argument.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
        let unit = argument.dropFirst(digits.count).drop { $0 == " " }
        guard let factor = Size.factor(of: unit) else { return nil }
        let parts = digits.split(separator: ".", omittingEmptySubsequences: false)
        guard (1...2).contains(parts.count), let whole = UInt64(parts[0]) else { return nil }
        let (product, overflow) = whole.multipliedReportingOverflow(by: factor)
        guard !overflow else { return nil }
        var bytes = product
        if parts.count == 2 {
            // A fraction of at most nine digits, rounded down to whole bytes.
            guard (1...9).contains(parts[1].count), let fraction = UInt64(parts[1]) else {
                return nil
            }
            let scale = (0..<parts[1].count).reduce(UInt64(1)) { value, _ in value * 10 }
            let share = factor.multipliedFullWidth(by: fraction)
            let (sum, carry) = bytes.addingReportingOverflow(
                scale.dividingFullWidth(share).quotient)
            guard !carry else { return nil }
            bytes = sum
        }
        self.bytes = bytes
    }

    private static func factor(of unit: Substring) -> UInt64? {
        if unit.isEmpty || unit == "B" || unit == "b" { return 1 }
        guard let letter = unit.first?.lowercased(),
            let exponent = ["k", "m", "g", "t", "p"].firstIndex(of: letter)
        else { return nil }
        let base: UInt64
        switch unit.dropFirst().lowercased() {
        case "", "i", "ib": base = 1024
        case "b": base = 1000
        default: return nil
        }
        return (0...exponent).reduce(1) { value, _ in value * base }
    }

    /// The size with the largest unit that leaves at least 1, to three digits: `1.50 MiB`.
    var description: String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
        var index = 0
        var value = Double(bytes)
        while value >= 1023.5, index < units.count - 1 {
            value /= 1024
            index += 1
        }
        if index == 0 { return "\(bytes) B" }
        let digits = value < 9.995 ? 2 : value < 99.95 ? 1 : 0
        return "\(Decimal.text(value, digits: digits)) \(units[index])"
    }

    /// The size without loss, as it may be written into a configuration: `4GiB`, `65537`.
    var exact: String {
        let units = ["", "KiB", "MiB", "GiB", "TiB", "PiB"]
        var index = 0
        var value = bytes
        while value > 0, value % 1024 == 0, index < units.count - 1 {
            value /= 1024
            index += 1
        }
        return "\(value)\(units[index])"
    }

    var defaultValueDescription: String { exact }

    static func < (left: Size, right: Size) -> Bool { left.bytes < right.bytes }
}

/// Decimal numbers without Foundation's formatters.
enum Decimal {
    /// `value` with `digits` (0 to 6) digits after the point, rounded.
    static func text(_ value: Double, digits: Int) -> String {
        precondition((0...6).contains(digits))
        guard value.isFinite, value.magnitude < 1e12 else { return "\(value)" }
        let scale = (0..<digits).reduce(1.0) { scale, _ in scale * 10 }
        let scaled = Int64((value.magnitude * scale).rounded())
        let sign = value < 0 && scaled != 0 ? "-" : ""
        let text = String(scaled)
        guard digits > 0 else { return sign + text }
        let padded = String(repeating: "0", count: max(0, digits + 1 - text.count)) + text
        return sign + padded.dropLast(digits) + "." + padded.suffix(digits)
    }
}
