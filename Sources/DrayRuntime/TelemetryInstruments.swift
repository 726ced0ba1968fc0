internal import CoreMetrics
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

/// A distribution of integers: eight buckets to each power of two. A short lock each time.
final class TelemetryHistogram: RecorderHandler, TimerHandler, TelemetryInstrument {
    private struct State {
        var buckets = [UInt64](repeating: 0, count: TelemetryHistogram.bucketCount)
        var count: UInt64 = 0
        var sum: Double = 0
        var minimum = Int64.max
        var maximum: Int64 = 0
    }

    static let bucketCount = 8 * 61

    private let state = Mutex(State())

    func recordNanoseconds(_ duration: Int64) { record(duration) }
    func record(_ value: Double) {
        // What is not a number of a sensible size counts as zero.
        record(Int64(exactly: value.rounded()) ?? 0)
    }

    /// Negative values count as zero.
    func record(_ value: Int64) {
        let value = max(0, value)
        state.withLock { state in
            state.buckets[TelemetryHistogram.bucket(of: UInt64(value))] += 1
            state.count += 1
            state.sum += Double(value)
            state.minimum = min(state.minimum, value)
            state.maximum = max(state.maximum, value)
        }
    }

    /// Values below 8 have a bucket each; above, the three bits after the leading one decide.
    static func bucket(of value: UInt64) -> Int {
        guard value >= 8 else { return Int(value) }
        let exponent = 63 - value.leadingZeroBitCount
        return (exponent - 2) * 8 + Int((value >> UInt64(exponent - 3)) & 7)
    }

    /// The largest value that falls into `bucket`.
    static func upperBound(of bucket: Int) -> Int64 {
        guard bucket >= 8 else { return Int64(bucket) }
        let exponent = UInt64(bucket / 8 + 2)
        let lower = (8 + UInt64(bucket % 8)) << (exponent - 3)
        return Int64(lower + (1 << (exponent - 3)) - 1)
    }

    var value: TelemetrySample.Value {
        let state = state.withLock { $0 }
        guard state.count > 0 else {
            return .distribution(
                TelemetryDistribution(
                    count: 0, sum: 0, minimum: 0, maximum: 0, median: 0, percentile90: 0,
                    percentile99: 0))
        }
        func quantile(_ percent: UInt64) -> Int64 {
            let rank = (state.count * percent + 99) / 100
            var seen: UInt64 = 0
            for (bucket, count) in state.buckets.enumerated() {
                seen += count
                if seen >= rank { return min(state.maximum, Self.upperBound(of: bucket)) }
            }
            return state.maximum
        }
        return .distribution(
            TelemetryDistribution(
                count: state.count, sum: state.sum, minimum: state.minimum,
                maximum: state.maximum, median: quantile(50), percentile90: quantile(90),
                percentile99: quantile(99)))
    }
}
