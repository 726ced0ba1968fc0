public import CoreMetrics
internal import Synchronization

/// Keeps the metrics of a process in memory, for `--json` output and for other processes to ask
/// for. A swift-metrics factory: instruments are made through the `World`, without a bootstrap.
///
/// An instrument that is made twice with one name and the same dimensions is the same instrument.
/// Safe from any thread. Making one takes a lock and allocates: keep it.
public final class TelemetryRegistry: MetricsFactory {
    struct Key: Hashable {
        let name: String
        let dimensions: [String]
        let kind: TelemetrySample.Kind
    }

    private let instruments = Mutex<[Key: any TelemetryInstrument]>([:])

    /// More instruments than this are not kept apart: further ones count into the void. Names
    /// come from the program, so a process that gets here makes names out of data.
    public static let instrumentsMax = 10_000

    public init() {}

    /// The present values, ordered by name, dimensions and kind. O(n log n).
    public func snapshot() -> [TelemetrySample] {
        let all = instruments.withLock { instruments in instruments.map { ($0.key, $0.value) } }
        return all.map { key, instrument in
            TelemetrySample(
                name: key.name, dimensions: key.dimensions, kind: key.kind,
                value: instrument.value)
        }.sorted { $0.order < $1.order }
    }

    private func instrument<Instrument: TelemetryInstrument>(
        _ kind: TelemetrySample.Kind, _ label: String, _ dimensions: [(String, String)],
        _ make: () -> Instrument
    ) -> Instrument {
        let key = Key(name: label, dimensions: dimensions.map { "\($0.0)=\($0.1)" }, kind: kind)
        return instruments.withLock { instruments in
            if let known = instruments[key] as? Instrument { return known }
            let made = make()
            if instruments.count < TelemetryRegistry.instrumentsMax { instruments[key] = made }
            return made
        }
    }

    /// A number that only grows.
    public func makeCounter(
        label: String, dimensions: [(String, String)]
    ) -> any CounterHandler {
        instrument(.counter, label, dimensions) { TelemetryCounter() }
    }

    /// With `aggregate` a distribution, without it a gauge that shows the last value.
    public func makeRecorder(
        label: String, dimensions: [(String, String)], aggregate: Bool
    ) -> any RecorderHandler {
        if aggregate {
            return instrument(.distribution, label, dimensions) { TelemetryHistogram() }
        }
        return instrument(.gauge, label, dimensions) { TelemetryGauge() }
    }

    /// A gauge that may also be moved up and down.
    public func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler {
        instrument(.gauge, label, dimensions) { TelemetryGauge() }
    }

    /// A distribution of nanoseconds.
    public func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        instrument(.timer, label, dimensions) { TelemetryHistogram() }
    }

    // Values outlive the instruments: what a closed pool has done still counts.
    public func destroyCounter(_ handler: any CounterHandler) {}
    public func destroyRecorder(_ handler: any RecorderHandler) {}
    public func destroyMeter(_ handler: any MeterHandler) {}
    public func destroyTimer(_ handler: any TimerHandler) {}
}

/// One metric at one moment.
public struct TelemetrySample: Sendable, Equatable {
    /// What kind of instrument it comes from; timers are distributions of nanoseconds.
    public enum Kind: String, Sendable, Hashable { case counter, gauge, distribution, timer }

    /// What it shows.
    public enum Value: Sendable, Equatable {
        case count(Int64)
        case level(Double)
        case distribution(TelemetryDistribution)
    }

    public let name: String
    /// `key=value` strings, in the order that the instrument was made with.
    public let dimensions: [String]
    public let kind: Kind
    public let value: Value

    fileprivate var order: (String, String, String) {
        (name, dimensions.joined(separator: ","), kind.rawValue)
    }
}

/// A summary of recorded values. Quantiles come from buckets and are up to 12.5 % too large, but
/// never above the maximum.
public struct TelemetryDistribution: Sendable, Equatable {
    /// All of it.
    public let histogram: LatencyHistogram

    public var count: UInt64 { histogram.count }
    public var sum: Double { Double(histogram.total) }
    public var minimum: Int64 { Int64(clamping: histogram.percentile(0)) }
    public var maximum: Int64 { Int64(clamping: histogram.maximum) }
    public var median: Int64 { Int64(clamping: histogram.percentile(0.5)) }
    public var percentile90: Int64 { Int64(clamping: histogram.percentile(0.9)) }
    public var percentile99: Int64 { Int64(clamping: histogram.percentile(0.99)) }
}
