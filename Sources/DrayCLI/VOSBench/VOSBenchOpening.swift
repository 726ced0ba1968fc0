internal import VOS

/// What one process found that opened a store.
struct VOSBenchOpened: Codable, Hashable, Sendable {
    var keys: UInt64
    /// Of the tables of the index.
    var indexBytes: UInt64
    /// Reading the superblocks and the log, and then the index.
    var logSeconds: Double
    var storeSeconds: Double
    var residentBefore: UInt64
    var resident: UInt64
    var residentPeak: UInt64
    /// Any values, each compared with what was written, and the memory afterwards.
    var reads: UInt64
    var readsPerSecond: Double
    var residentRead: UInt64
}

/// A store with many keys.
struct VOSBenchOpening: Codable, Hashable, Sendable {
    var keys: UInt64
    var keySize: Int
    var valueSize: Int
    var fillSeconds: Double
    /// Bytes given to the device meanwhile.
    var fillWritten: UInt64
    /// Memory before, the most while it was filled, and then.
    var residentBefore: UInt64
    var residentFillPeak: UInt64
    var residentFilled: UInt64
    /// Each by a process of its own.
    var opened: [VOSBenchOpened]
    /// The medians of the times to open, and of the rates of reading afterwards.
    var openSeconds = 0.0
    var readsPerSecond = 0.0

    func text(indexMemory: Int) -> String {
        func median(_ bytes: (VOSBenchOpened) -> UInt64) -> String {
            "\(Size(bytes: UInt64(Median.of(opened.map { Double(bytes($0)) }))))"
        }
        var table = Table([
            ("KEYS", .right), ("KEY SIZE", .right), ("FILL", .right), ("KEYS/S", .right),
            ("MEMORY BEFORE", .right), ("PEAK", .right), ("FILLED", .right), ("OPEN", .right),
            ("OF WHICH LOG", .right), ("MEMORY OPEN", .right), ("PEAK OPEN", .right),
            ("INDEX", .right), ("ITS MEMORY", .right), ("READS/S", .right),
            ("MEMORY READ", .right),
        ])
        let rate = fillSeconds > 0 ? Double(keys) / fillSeconds : 0
        table.add([
            "\(keys)", "\(keySize)", VOSBenchLatency.time(fillSeconds),
            Decimal.text(rate, digits: 0), "\(Size(bytes: residentBefore))",
            "\(Size(bytes: residentFillPeak))", "\(Size(bytes: residentFilled))",
            VOSBenchLatency.time(openSeconds),
            VOSBenchLatency.time(Median.of(opened.map(\.logSeconds))),
            median(\.resident), median(\.residentPeak), median(\.indexBytes),
            "\(Size(bytes: UInt64(indexMemory)))", Decimal.text(readsPerSecond, digits: 0),
            median(\.residentRead),
        ])
        return table.text
    }
}

/// What the log of a process held that was killed.
struct VOSBenchLogged: Codable, Hashable, Sendable {
    /// After the last checkpoint.
    var records: UInt64
    var entries: UInt64
    var logBytes: UInt64
    /// How long the store reckons that replaying them takes at most.
    var expectedSeconds: Double
    /// Checkpoints before.
    var checkpoints: Int

    init(_ cost: ReplayCost, checkpoints: Int) {
        records = cost.records
        entries = cost.entries
        logBytes = cost.bytes
        expectedSeconds = Double(cost.nanoseconds) / 1e9
        self.checkpoints = checkpoints
    }
}

/// A store that is opened after a kill.
struct VOSBenchRecovery: Codable, Hashable, Sendable {
    var size: Int
    /// Updates in flight before the kill.
    var depth: Int
    var values: UInt64
    var logged: VOSBenchLogged
    /// Each by a process of its own.
    var opened: [VOSBenchOpened]
    /// The median of the times to open.
    var openSeconds: Double

    static func table(_ rows: [VOSBenchRecovery]) -> String {
        var table = Table([
            ("RECOVER", .right), ("DEPTH", .right), ("RECORDS", .right), ("LOG", .right),
            ("CHECKPOINTS", .right), ("EXPECTED", .right), ("OPEN", .right),
            ("OF WHICH LOG", .right), ("READS/S", .right),
        ])
        for row in rows {
            table.add([
                Size(bytes: UInt64(row.size)).exact, "\(row.depth)", "\(row.logged.records)",
                "\(Size(bytes: row.logged.logBytes))", "\(row.logged.checkpoints)",
                VOSBenchLatency.time(row.logged.expectedSeconds),
                VOSBenchLatency.time(row.openSeconds),
                VOSBenchLatency.time(Median.of(row.opened.map(\.logSeconds))),
                Decimal.text(Median.of(row.opened.map(\.readsPerSecond)), digits: 0),
            ])
        }
        return table.text
    }
}
