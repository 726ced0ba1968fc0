/// How often times of which length occurred: a histogram with a high dynamic range (as
/// HdrHistogram by Gil Tene), in nanoseconds.
///
/// Buckets are log-linear: each power of two is divided into 2^precision of them, and values below
/// 2^precision have one each. So any reported value is at most `relativeError` too large, over the
/// whole range of 64 bits, and never above the greatest recorded. Count, sum, minimum and maximum
/// are exact.
///
/// Recording costs a few nanoseconds and allocates nothing. The memory is fixed: 57 KiB with the
/// usual precision, 4 KiB with the least.
public struct LatencyHistogram: Hashable, Sendable {
    /// Bits that tell values of one magnitude apart.
    public let precision: Int
    private var counts: [UInt64]
    /// Recorded values.
    public private(set) var count: UInt64 = 0
    /// The sum of all recorded values, in nanoseconds; wraps around after five centuries.
    public private(set) var total: UInt64 = 0
    /// The least recorded value in nanoseconds; the largest number when there is none.
    public private(set) var minimum: UInt64 = .max
    /// The greatest recorded value in nanoseconds; 0 when there is none.
    public private(set) var maximum: UInt64 = 0

    /// The precisions there are.
    public static let precisions = 3...10

    /// - Parameter precision: one of `precisions`; 7 makes an error of at most 0.8 %.
    public init(precision: Int = 7) {
        precondition(LatencyHistogram.precisions.contains(precision))
        self.precision = precision
        counts = [UInt64](repeating: 0, count: LatencyHistogram.bucketCount(precision))
    }

    /// By how much of itself a reported value may be too large, at most.
    public var relativeError: Double { 1 / Double(UInt64(1) << UInt64(precision)) }

    // MARK: - Buckets

    /// The number of buckets.
    static func bucketCount(_ precision: Int) -> Int { (65 - precision) << precision }

    /// The bucket of a value.
    static func bucket(of value: UInt64, _ precision: Int) -> Int {
        guard value >> UInt64(precision) != 0 else { return Int(value) }
        let exponent = 63 - value.leadingZeroBitCount
        let shift = exponent - precision
        return shift << precision + Int(value >> UInt64(shift))
    }

    /// The greatest value of a bucket.
    static func upperBound(of bucket: Int, _ precision: Int) -> UInt64 {
        let size = 1 << precision
        guard bucket >= 2 * size else { return UInt64(bucket) }
        let shift = UInt64(bucket >> precision - 1)
        let start = UInt64(bucket & (size - 1) + size) << shift
        return start + (UInt64(1) << shift - 1)
    }

    // MARK: - Recording

    /// Counts one value.
    public mutating func record(nanoseconds: UInt64) {
        counts[LatencyHistogram.bucket(of: nanoseconds, precision)] += 1
        count += 1
        total &+= nanoseconds
        minimum = min(minimum, nanoseconds)
        maximum = max(maximum, nanoseconds)
    }

    /// Counts one value; a negative one as zero.
    public mutating func record(_ duration: Duration) {
        record(nanoseconds: duration.nanosecondsClamped)
    }

    /// Adds what another histogram of the same precision has recorded.
    public mutating func merge(_ other: LatencyHistogram) {
        precondition(other.precision == precision, "histograms of one precision are merged")
        guard other.count > 0 else { return }
        for index in counts.indices { counts[index] += other.counts[index] }
        count += other.count
        total &+= other.total
        minimum = min(minimum, other.minimum)
        maximum = max(maximum, other.maximum)
    }

    /// Forgets everything.
    public mutating func reset() {
        self = LatencyHistogram(precision: precision)
    }

    // MARK: - Reading

    /// The value that `share` (0 to 1) of the recorded ones do not exceed, in nanoseconds; 0 when
    /// there are none. Goes through all buckets.
    public func percentile(_ share: Double) -> UInt64 {
        guard count > 0 else { return 0 }
        guard share > 0 else { return minimum }
        // Never above `count`: a share may exceed 1 by what rounding leaves.
        let wanted = min(count, max(1, UInt64((Double(count) * min(share, 1)).rounded(.up))))
        var seen: UInt64 = 0
        for index in counts.indices where counts[index] > 0 {
            seen += counts[index]
            if seen >= wanted {
                return min(LatencyHistogram.upperBound(of: index, precision), maximum)
            }
        }
        return maximum
    }

    /// The mean in nanoseconds, rounded down; 0 when nothing was recorded.
    public var mean: UInt64 { count == 0 ? 0 : total / count }

    /// How many recorded values are below 2^`exponent` nanoseconds, exactly.
    public func count(belowPowerOfTwo exponent: Int) -> UInt64 {
        precondition((precision...63).contains(exponent))
        return counts[..<LatencyHistogram.bucket(of: 1 << UInt64(exponent), precision)]
            .reduce(0, +)
    }

    /// What was recorded since `earlier`, a former state of this histogram. Minimum and maximum
    /// are known as well as the buckets tell.
    public func since(_ earlier: LatencyHistogram) -> LatencyHistogram {
        precondition(earlier.precision == precision && earlier.count <= count)
        guard earlier.count > 0 else { return self }
        var difference = LatencyHistogram(precision: precision)
        for index in counts.indices where counts[index] > earlier.counts[index] {
            let number = counts[index] - earlier.counts[index]
            difference.counts[index] = number
            difference.count += number
            let lower =
                index == 0 ? 0 : LatencyHistogram.upperBound(of: index - 1, precision) + 1
            difference.minimum = min(difference.minimum, max(lower, minimum))
            difference.maximum = min(
                LatencyHistogram.upperBound(of: index, precision), maximum)
        }
        difference.total = total &- earlier.total
        return difference
    }
}

extension LatencyHistogram: ByteCodable {
    /// An empty one with the usual precision.
    public init() { self.init(precision: 7) }

    /// Only buckets that are not empty take room: twelve bytes each.
    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        var bits = UInt8(precision)
        try coder.code(&bits)
        guard LatencyHistogram.precisions.contains(Int(bits)) else { throw .invalidValue }
        var used: [UInt32] = []
        var numbers: [UInt64] = []
        var (least, greatest, sum) = (minimum, maximum, total)
        if !coder.isDecoding {
            for index in counts.indices where counts[index] > 0 {
                used.append(UInt32(index))
                numbers.append(counts[index])
            }
        }
        let bucketCount = LatencyHistogram.bucketCount(Int(bits))
        try coder.code(&used, max: bucketCount)
        try coder.code(&numbers, max: bucketCount)
        try coder.code(&least)
        try coder.code(&greatest)
        try coder.code(&sum)
        guard coder.isDecoding else { return }
        self = LatencyHistogram(precision: Int(bits))
        guard used.count == numbers.count else { throw .invalidValue }
        var previous = -1
        for (index, number) in zip(used, numbers) {
            guard Int(index) > previous, Int(index) < bucketCount, number > 0 else {
                throw .invalidValue
            }
            previous = Int(index)
            let (next, overflow) = count.addingReportingOverflow(number)
            guard !overflow else { throw .invalidValue }
            count = next
            counts[Int(index)] = number
        }
        try take(least: least, greatest: greatest, sum: sum, used: used)
    }

    /// Takes the exact values over, which must agree with the buckets.
    private mutating func take(
        least: UInt64, greatest: UInt64, sum: UInt64, used: [UInt32]
    ) throws(DecodingFailure) {
        if let first = used.first, let last = used.last {
            guard LatencyHistogram.bucket(of: least, precision) == Int(first),
                LatencyHistogram.bucket(of: greatest, precision) == Int(last), least <= greatest
            else { throw .invalidValue }
        } else {
            guard least == .max, greatest == 0, sum == 0 else { throw .invalidValue }
        }
        (minimum, maximum, total) = (least, greatest, sum)
    }
}
