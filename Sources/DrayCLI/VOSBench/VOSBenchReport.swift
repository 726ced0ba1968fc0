internal import DrayRuntime

/// What a benchmark of a store found. Sizes in bytes, times in seconds.
struct VOSBenchReport: Codable, Hashable, Sendable {
    var device: String
    var deviceSize: UInt64
    var logSize: UInt64
    var cache: Int
    var indexMemory: Int
    var keySize: Int
    var rates: [VOSBenchRate] = []
    var opening: VOSBenchOpening?
    var recoveries: [VOSBenchRecovery] = []
    var background: [VOSBenchBackground] = []
    var overwrites: [VOSBenchOverwrite] = []

    /// The tables of what was measured, one below the other.
    var text: String {
        var tables: [String] = []
        if !rates.isEmpty { tables.append(VOSBenchRate.table(rates)) }
        if let opening { tables.append(opening.text(indexMemory: indexMemory)) }
        if !recoveries.isEmpty { tables.append(VOSBenchRecovery.table(recoveries)) }
        if !background.isEmpty { tables.append(VOSBenchBackground.table(background)) }
        if !overwrites.isEmpty { tables.append(VOSBenchOverwrite.table(overwrites)) }
        return tables.joined(separator: "\n\n")
    }
}

/// The middle one of several measurements.
enum Median {
    /// The mean of both where two are in the middle; 0 when there are none.
    static func of(_ numbers: [Double]) -> Double {
        guard !numbers.isEmpty else { return 0 }
        let sorted = numbers.sorted()
        let middle = sorted.count / 2
        return sorted.count % 2 == 1
            ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
    }
}

/// Times of single operations, in seconds.
struct VOSBenchLatency: Codable, Hashable, Sendable {
    var mean: Double
    var median: Double
    var percentile99: Double
    var percentile999: Double
    var maximum: Double

    init(_ histogram: LatencyHistogram) {
        mean = Double(histogram.mean) / 1e9
        median = Double(histogram.percentile(0.5)) / 1e9
        percentile99 = Double(histogram.percentile(0.99)) / 1e9
        percentile999 = Double(histogram.percentile(0.999)) / 1e9
        maximum = Double(histogram.maximum) / 1e9
    }

    static let columns: [(String, Table.Alignment)] = [
        ("P50", .right), ("P99", .right), ("P99.9", .right), ("MAX", .right),
    ]

    var cells: [String] {
        [median, percentile99, percentile999, maximum].map(Self.time)
    }

    static func time(_ seconds: Double) -> String {
        HumanDuration(.nanoseconds(Int64(seconds * 1e9))).description
    }
}

/// One row: operations of one kind, size and depth.
struct VOSBenchRate: Codable, Hashable, Sendable {
    enum What: String, Codable, Sendable {
        case update, fetch, enumerate
        case fetchCached = "fetch, cached"
    }

    var what: What
    /// Bytes of each value; of each key where keys are enumerated.
    var size: Int
    var depth: Int
    /// How many the store had.
    var values: UInt64
    var operations: UInt64
    /// The median of the rounds.
    var perSecond: Double
    var bytesPerSecond: Double
    /// Of all rounds together; where keys are enumerated, of pages.
    var latency: VOSBenchLatency
    /// How often an update had to wait for space.
    var waits: UInt64
    /// The medians of what fio found, and of the rates in one round divided by each other. Nil
    /// without fio.
    var fio: Fio.Figures?
    var ratio: Double?

    /// One measurement.
    struct Round {
        var latencies: LatencyHistogram
        /// Nil: each has a latency.
        var operations: UInt64?
        var seconds: Double
        var waits: UInt64
        var limit: Fio.Figures?

        var count: UInt64 { operations ?? latencies.count }
        var perSecond: Double { seconds > 0 ? Double(count) / seconds : 0 }
    }

    init(_ what: What, size: Int, depth: Int, values: UInt64, _ rounds: [Round]) {
        self.what = what
        self.size = size
        self.depth = depth
        self.values = values
        var all = LatencyHistogram()
        for round in rounds { all.merge(round.latencies) }
        operations = rounds.reduce(0) { $0 + $1.count }
        perSecond = Median.of(rounds.map(\.perSecond))
        bytesPerSecond = perSecond * Double(size)
        latency = VOSBenchLatency(all)
        waits = rounds.reduce(0) { $0 + $1.waits }
        let limits = rounds.compactMap(\.limit)
        guard !limits.isEmpty else { return }
        fio = Fio.Figures(
            perSecond: Median.of(limits.map(\.perSecond)),
            bytesPerSecond: Median.of(limits.map(\.bytesPerSecond)),
            median: Median.of(limits.map(\.median)),
            percentile99: Median.of(limits.map(\.percentile99)))
        ratio = Median.of(
            rounds.compactMap { round in
                guard let limit = round.limit, limit.perSecond > 0 else { return nil }
                return round.perSecond / limit.perSecond
            })
    }

    static func table(_ rates: [VOSBenchRate]) -> String {
        var table = Table(
            [
                ("WHAT", .left), ("SIZE", .right), ("DEPTH", .right), ("OPS/S", .right),
                ("BYTES/S", .right),
            ] + VOSBenchLatency.columns + [
                ("FIO OPS/S", .right), ("FIO P99", .right), ("RATIO", .right),
            ])
        for rate in rates {
            let fio = rate.fio.map {
                [Decimal.text($0.perSecond, digits: 0), VOSBenchLatency.time($0.percentile99)]
            }
            table.add(
                [
                    rate.what.rawValue, Size(bytes: UInt64(rate.size)).exact, "\(rate.depth)",
                    Decimal.text(rate.perSecond, digits: 0),
                    "\(Size(bytes: UInt64(rate.bytesPerSecond)))/s",
                ] + rate.latency.cells + (fio ?? ["", ""]) + [
                    rate.ratio.map { Decimal.text($0, digits: 2) } ?? ""
                ])
        }
        return table.text
    }
}

/// Updates with work in the background, or without.
struct VOSBenchBackground: Codable, Hashable, Sendable {
    var size: Int
    var depth: Int
    var isOn: Bool
    /// The median of the rounds.
    var perSecond: Double
    var latency: VOSBenchLatency

    /// With the 99th percentile of each size compared with the one without.
    static func table(_ rows: [VOSBenchBackground]) -> String {
        var table = Table(
            [
                ("BACKGROUND", .left), ("SIZE", .right), ("DEPTH", .right), ("UPDATES/S", .right),
            ] + VOSBenchLatency.columns + [("P99 / P99 OFF", .right)])
        for row in rows {
            let off = rows.first { $0.size == row.size && !$0.isOn }?.latency.percentile99 ?? 0
            table.add(
                [
                    row.isOn ? "on" : "off", Size(bytes: UInt64(row.size)).exact, "\(row.depth)",
                    Decimal.text(row.perSecond, digits: 0),
                ] + row.latency.cells + [
                    off > 0 ? Decimal.text(row.latency.percentile99 / off, digits: 2) : ""
                ])
        }
        return table.text
    }
}

/// What it costs to overwrite a working set.
struct VOSBenchOverwrite: Codable, Hashable, Sendable {
    var size: Int
    var depth: Int
    var values: UInt64
    /// Bytes of the values and their keys.
    var liveBytes: UInt64
    var updates: UInt64
    /// Bytes of values and keys that were updated.
    var updatedBytes: UInt64
    var seconds: Double
    var waits: UInt64
    /// Bytes that were given to the device.
    var written: UInt64
    /// How often something was made durable.
    var flushes: UInt64
    /// Bytes of blocks in use: the most while it ran, and after the retention time.
    var usedMost: UInt64
    var usedAtRest: UInt64
    var latency: VOSBenchLatency
    /// Bytes written for each that was updated, of values and keys, and of values alone.
    var writeAmplification = 0.0
    var writeAmplificationOfValues = 0.0
    /// Bytes in use for each that is live: at rest, and at most.
    var spaceAmplification = 0.0
    var spaceAmplificationMost = 0.0
    /// The same at rest, for each byte of values alone.
    var spaceAmplificationOfValues = 0.0

    /// The same with the quotients.
    consuming func divided() -> VOSBenchOverwrite {
        let size = UInt64(size)
        writeAmplification = Double(written) / Double(max(1, updatedBytes))
        writeAmplificationOfValues = Double(written) / Double(max(1, updates * size))
        spaceAmplification = Double(usedAtRest) / Double(max(1, liveBytes))
        spaceAmplificationOfValues = Double(usedAtRest) / Double(max(1, values * size))
        spaceAmplificationMost = Double(usedMost) / Double(max(1, liveBytes))
        return self
    }

    static func table(_ rows: [VOSBenchOverwrite]) -> String {
        var table = Table([
            ("OVERWRITE", .right), ("VALUES", .right), ("LIVE", .right), ("UPDATED", .right),
            ("WRITTEN", .right), ("WRITE AMPL.", .right), ("OF VALUES", .right),
            ("SPACE AMPL.", .right), ("OF VALUES", .right), ("MOST", .right),
            ("UPDATES/S", .right), ("P99", .right), ("WAITS", .right),
        ])
        for row in rows {
            let rate = row.seconds > 0 ? Double(row.updates) / row.seconds : 0
            table.add([
                Size(bytes: UInt64(row.size)).exact, "\(row.values)",
                "\(Size(bytes: row.liveBytes))", "\(Size(bytes: row.updatedBytes))",
                "\(Size(bytes: row.written))", Decimal.text(row.writeAmplification, digits: 2),
                Decimal.text(row.writeAmplificationOfValues, digits: 2),
                Decimal.text(row.spaceAmplification, digits: 2),
                Decimal.text(row.spaceAmplificationOfValues, digits: 2),
                Decimal.text(row.spaceAmplificationMost, digits: 2),
                Decimal.text(rate, digits: 0), VOSBenchLatency.time(row.latency.percentile99),
                "\(row.waits)",
            ])
        }
        return table.text
    }
}
