internal import CaRT
internal import DrayRuntime

/// One row of the results. Times in seconds.
struct SelfTestRow: Codable, Hashable, Sendable {
    /// What was measured.
    struct Shape: Codable, Hashable, Sendable {
        var provider: String
        /// Who called: `client` or `engines`.
        var from: String
        /// Contexts that called, and contexts that were called.
        var sources: Int
        var targets: Int
        var request: SelfTestCommand.Kind
        var reply: SelfTestCommand.Kind
        var size: Int
        /// Of each source.
        var inFlight: Int
        var align: Int
        var verify: Bool
    }

    /// Who called whom.
    struct Pair: Hashable, Sendable {
        var from: String
        var to: String
    }

    /// What one source had of one target.
    struct Endpoint: Codable, Hashable, Sendable {
        var from: String
        var to: String
        var calls: UInt64
        var mean: Double
        var maximum: Double
    }

    /// A point of the distribution: so many of the calls took no longer.
    struct Percentile: Codable, Hashable, Sendable {
        var share: Double
        var seconds: Double
    }

    var shape: Shape
    var calls: UInt64
    var callsPerSecond: Double
    var requestBytesPerSecond: Double
    var replyBytesPerSecond: Double
    var minimum: Double
    var mean: Double
    var median: Double
    var percentile90: Double
    var percentile99: Double
    var percentile999: Double
    var percentile9999: Double
    var maximum: Double
    /// The whole distribution, ever finer towards its end.
    var percentiles: [Percentile]
    var endpoints: [Endpoint]

    init(_ shape: Shape, _ pairs: [Pair], _ result: SelfTest.Result) {
        let latencies = result.latencies
        func at(_ share: Double) -> Double { Double(latencies.percentile(share)) / 1e9 }
        self.shape = shape
        calls = latencies.count
        callsPerSecond = result.rate
        requestBytesPerSecond = result.requestBandwidth
        replyBytesPerSecond = result.replyBandwidth
        minimum = at(0)
        mean = Double(latencies.mean) / 1e9
        median = at(0.5)
        percentile90 = at(0.9)
        percentile99 = at(0.99)
        percentile999 = at(0.999)
        percentile9999 = at(0.9999)
        maximum = at(1)
        percentiles = SelfTestRow.shares(count: latencies.count).map {
            Percentile(share: $0, seconds: at($0))
        }
        endpoints = zip(pairs, result.endpoints).map { pair, part in
            Endpoint(
                from: pair.from, to: pair.to, calls: part.calls,
                mean: part.calls == 0
                    ? 0 : Double(part.nanoseconds) / Double(part.calls) / 1e9,
                maximum: Double(part.maximum) / 1e9)
        }
    }

    /// The shares at which a distribution of `count` values is shown: eight for each factor of ten
    /// by which fewer values are left.
    static func shares(count: UInt64) -> [Double] {
        var shares: [Double] = [0]
        var left = 1.0
        // 10^(-1/8)
        let step = 0.749_894_209_332_455_9
        while left * step * Double(count) >= 1 {
            left *= step
            shares.append(1 - left)
        }
        return shares + [1]
    }

    private static func time(_ seconds: Double) -> String {
        HumanDuration(.nanoseconds(Int64(seconds * 1e9))).description
    }

    static func table(_ rows: [SelfTestRow]) -> String {
        var table = Table([
            ("PROVIDER", .left), ("SIZE", .right), ("REQUEST", .left), ("REPLY", .left),
            ("IN FLIGHT", .right), ("CALLS/S", .right), ("SENT/S", .right),
            ("RECEIVED/S", .right), ("MIN", .right), ("P50", .right), ("P99", .right),
            ("P99.9", .right), ("MAX", .right),
        ])
        for row in rows {
            table.add([
                row.shape.provider, "\(Size(bytes: UInt64(row.shape.size)))",
                row.shape.request.rawValue, row.shape.reply.rawValue,
                row.shape.sources > 1
                    ? "\(row.shape.sources) x \(row.shape.inFlight)" : "\(row.shape.inFlight)",
                Decimal.text(row.callsPerSecond, digits: 0),
                "\(Size(bytes: UInt64(row.requestBytesPerSecond)))",
                "\(Size(bytes: UInt64(row.replyBytesPerSecond)))", time(row.minimum),
                time(row.median), time(row.percentile99), time(row.percentile999),
                time(row.maximum),
            ])
        }
        return table.text
    }

    /// What each source had of each target.
    static func endpointTable(_ rows: [SelfTestRow]) -> String {
        var table = Table([
            ("SIZE", .right), ("REQUEST", .left), ("REPLY", .left), ("IN FLIGHT", .right),
            ("FROM", .left), ("TO", .left), ("CALLS", .right), ("MEAN", .right), ("MAX", .right),
        ])
        for row in rows {
            for endpoint in row.endpoints {
                table.add([
                    "\(Size(bytes: UInt64(row.shape.size)))", row.shape.request.rawValue,
                    row.shape.reply.rawValue, "\(row.shape.inFlight)", endpoint.from,
                    endpoint.to, "\(endpoint.calls)", time(endpoint.mean),
                    time(endpoint.maximum),
                ])
            }
        }
        return table.text
    }
}
