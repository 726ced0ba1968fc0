internal import DrayRuntime

/// How long operations took, in buckets of at most 3 % width. Fixed size, no allocation to record.
struct LatencyHistogram: Sendable {
    private var counts = [UInt64](repeating: 0, count: 64 * 32)
    private(set) var count: UInt64 = 0
    private(set) var minimum: UInt64 = .max
    private(set) var maximum: UInt64 = 0
    private var total: UInt64 = 0

    /// The bucket of a value: below 32 exactly, then 32 buckets for each power of two.
    private static func bucket(_ nanoseconds: UInt64) -> Int {
        guard nanoseconds >= 32 else { return Int(nanoseconds) }
        let exponent = 63 - nanoseconds.leadingZeroBitCount
        return (exponent - 4) * 32 + Int(nanoseconds >> UInt64(exponent - 5)) - 32
    }

    /// The greatest value of a bucket.
    private static func upper(_ bucket: Int) -> UInt64 {
        guard bucket >= 32 else { return UInt64(bucket) }
        let shift = UInt64(bucket / 32 - 1)
        return (UInt64(bucket % 32 + 32) + 1) << shift - 1
    }

    mutating func record(_ duration: Duration) {
        let nanoseconds = duration.nanosecondsClamped
        counts[LatencyHistogram.bucket(nanoseconds)] += 1
        count += 1
        total &+= nanoseconds
        minimum = min(minimum, nanoseconds)
        maximum = max(maximum, nanoseconds)
    }

    mutating func merge(_ other: LatencyHistogram) {
        for index in counts.indices { counts[index] += other.counts[index] }
        count += other.count
        total &+= other.total
        minimum = min(minimum, other.minimum)
        maximum = max(maximum, other.maximum)
    }

    /// The value that `share` (0 to 1) of the operations did not exceed, in nanoseconds.
    func percentile(_ share: Double) -> UInt64 {
        guard count > 0 else { return 0 }
        let wanted = UInt64((Double(count) * share).rounded(.up))
        var seen: UInt64 = 0
        for (index, number) in counts.enumerated() {
            seen += number
            if seen >= max(1, wanted) { return min(LatencyHistogram.upper(index), maximum) }
        }
        return maximum
    }

    var mean: UInt64 { count == 0 ? 0 : total / count }
}
