internal import Glibc

/// One axis of a chart: its range, its ticks, and how values lie between them.
struct Axis {
    /// A labelled place. Without a label it is only a line.
    struct Tick: Hashable {
        var value: Double
        var label: String
    }

    enum Scale {
        case linear
        /// Equal factors are equally far apart. All values are positive.
        case logarithmic
    }

    /// What is shown, and the unit unless the labels have it.
    var title: String
    var scale: Scale
    /// Ascending.
    var ticks: [Tick]
    var range: ClosedRange<Double>

    /// Where a value lies: 0 at the beginning of the axis, 1 at its end.
    func position(_ value: Double) -> Double {
        let width =
            switch scale {
            case .linear: range.upperBound - range.lowerBound
            case .logarithmic: log(range.upperBound / range.lowerBound)
            }
        guard width > 0 else { return 0.5 }
        let offset =
            switch scale {
            case .linear: value - range.lowerBound
            case .logarithmic: log(value / range.lowerBound)
            }
        return min(1, max(0, offset / width))
    }

    // MARK: - Usual axes

    /// A logarithmic axis for measured values: whole decades around them, or parts of decades
    /// where they are close together.
    static func measured(
        _ title: String, _ values: [Double], label: (Double) -> String
    ) -> Axis {
        let positive = values.filter { $0 > 0 && $0.isFinite }
        let low = positive.min() ?? 1
        let high = max(positive.max() ?? 10, low)
        // 1, 2, 5 of each decade; where that is many ticks, only 1 has a label.
        let steps = [1.0, 2, 5]
        let first = Int(log10(low).rounded(.down))
        let last = Int(log10(high).rounded(.up))
        var places: [(value: Double, isDecade: Bool)] = []
        for exponent in first...max(first, last) {
            for step in steps { places.append((step * pow(10, Double(exponent)), step == 1)) }
        }
        // A rounding error must not move the end of the axis by a whole step.
        let start = places.last { $0.value <= low * 1.000_001 }?.value ?? low
        var end = places.first { $0.value >= high * 0.999_999 }?.value ?? high
        if end <= start { end = start * 2 }
        let shown = places.filter { (start...end).contains($0.value) }
        let crowded = shown.count > 10
        let ticks = shown.map { place in
            Tick(value: place.value, label: crowded && !place.isDecade ? "" : label(place.value))
        }
        return Axis(title: title, scale: .logarithmic, ticks: ticks, range: start...end)
    }

    /// A logarithmic axis with a tick at each of the values, which somebody chose.
    /// All are positive.
    static func chosen(_ title: String, _ values: [Double], label: (Double) -> String) -> Axis {
        let all = Set(values).sorted()
        let ticks = all.map { Tick(value: $0, label: label($0)) }
        guard let low = all.first, let high = all.last, low < high else {
            let only = all.first ?? 1
            return Axis(
                title: title, scale: .logarithmic, ticks: ticks, range: (only / 2)...(only * 2))
        }
        return Axis(title: title, scale: .logarithmic, ticks: ticks, range: low...high)
    }

    /// Shares of a distribution, with more and more room towards its end: a value is
    /// 1 / (1 - share), up to `count`.
    static func percentiles(count: UInt64) -> Axis {
        var ticks = [Tick(value: 1, label: "0 %"), Tick(value: 2, label: "50 %")]
        var value = 10.0
        var label = "90"
        let end = max(10, Double(count))
        while value <= end * 1.000_001 {
            ticks.append(Tick(value: value, label: label + " %"))
            value *= 10
            label = label == "90" ? "99" : label == "99" ? "99.9" : label + "9"
        }
        return Axis(
            title: "share of the calls that took no longer", scale: .logarithmic, ticks: ticks,
            range: 1...end)
    }
}
