public import CoreMetrics
internal import Synchronization

/// Something in a `TelemetryRegistry` that has a value.
protocol TelemetryInstrument: AnyObject, Sendable {
    var value: TelemetrySample.Value { get }
}

/// Counts; one atomic addition each time.
final class TelemetryCounter: CounterHandler, TelemetryInstrument {
    // Ordering: relaxed. The number publishes nothing but itself.
    private let count = Atomic<Int64>(0)

    func increment(by amount: Int64) { count.wrappingAdd(amount, ordering: .relaxed) }
    func reset() { count.store(0, ordering: .relaxed) }

    var value: TelemetrySample.Value { .count(count.load(ordering: .relaxed)) }
}

/// Shows the last value.
final class TelemetryGauge: RecorderHandler, MeterHandler, TelemetryInstrument {
    private let level = Mutex<Double>(0)

    func record(_ value: Int64) { set(Double(value)) }
    func record(_ value: Double) { set(value) }
    func set(_ value: Int64) { set(Double(value)) }
    func set(_ value: Double) { level.withLock { $0 = value } }
    func increment(by amount: Double) { level.withLock { $0 += amount } }
    func decrement(by amount: Double) { level.withLock { $0 -= amount } }

    var value: TelemetrySample.Value { .level(level.withLock { $0 }) }
}

/// Takes many recorded values at once, as an instrument that keeps a histogram can.
public protocol LatencyHistogramHandler: TimerHandler {
    /// Adds what a histogram of `LatencyHistogram.precisions.lowerBound` bits has recorded.
    func merge(_ histogram: LatencyHistogram)
}

/// A distribution of integers: eight buckets to each power of two. A short lock each time.
final class TelemetryHistogram: RecorderHandler, LatencyHistogramHandler, TelemetryInstrument {
    private let state = Mutex(LatencyHistogram(precision: TelemetryHistogram.precision))

    private static let precision = LatencyHistogram.precisions.lowerBound
    /// Values are not negative.
    static let bucketCount = bucket(of: UInt64(Int64.max)) + 1

    func recordNanoseconds(_ duration: Int64) { record(duration) }
    func record(_ value: Double) {
        // What is not a number of a sensible size counts as zero.
        record(Int64(exactly: value.rounded()) ?? 0)
    }

    /// Negative values count as zero.
    func record(_ value: Int64) {
        state.withLock { $0.record(nanoseconds: UInt64(max(0, value))) }
    }

    func merge(_ histogram: LatencyHistogram) {
        state.withLock { $0.merge(histogram) }
    }

    /// Values below 8 have a bucket each; above, the three bits after the leading one decide.
    static func bucket(of value: UInt64) -> Int {
        LatencyHistogram.bucket(of: value, precision)
    }

    /// The largest value that falls into `bucket`.
    static func upperBound(of bucket: Int) -> Int64 {
        Int64(clamping: LatencyHistogram.upperBound(of: bucket, precision))
    }

    var value: TelemetrySample.Value {
        .distribution(TelemetryDistribution(histogram: state.withLock { $0 }))
    }
}
