import Testing

@testable import DrayRuntime

@Suite struct LatencyHistogramTests {
    /// Buckets follow each other without gap or overlap, over the whole range, and none is wider
    /// than the error allows.
    @Test(arguments: LatencyHistogram.precisions)
    func bucketsPartitionTheRange(precision: Int) {
        let error = LatencyHistogram(precision: precision).relativeError
        let count = LatencyHistogram.bucketCount(precision)
        var lower: UInt64 = 0
        for bucket in 0..<count {
            let upper = LatencyHistogram.upperBound(of: bucket, precision)
            #expect(LatencyHistogram.bucket(of: lower, precision) == bucket)
            #expect(LatencyHistogram.bucket(of: upper, precision) == bucket)
            #expect(Double(upper - lower) <= Double(lower) * error)
            if bucket < count - 1 { lower = upper + 1 }
        }
        #expect(LatencyHistogram.bucket(of: .max, precision) == count - 1)
    }

    /// Any percentile is that of the sorted values, or too large by no more than the error.
    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func percentilesAreRightWithinTheError(seed: UInt64) {
        var entropy = Entropy(seed: seed)
        let precision = Int(entropy.below(8)) + 3
        var histogram = LatencyHistogram(precision: precision)
        var values: [UInt64] = []
        for _ in 0..<Int(1 + entropy.below(3000)) {
            let value = entropy.next() >> (entropy.below(64))
            values.append(value)
            histogram.record(nanoseconds: value)
        }
        values.sort()
        #expect(histogram.minimum == values.first && histogram.percentile(0) == values.first)
        #expect(histogram.maximum == values.last && histogram.percentile(1) == values.last)
        #expect(histogram.count == UInt64(values.count))
        for share in [0.001, 0.1, 0.25, 0.5, 0.9, 0.99, 0.999] {
            let rank = max(1, Int((Double(values.count) * share).rounded(.up)))
            let exact = values[rank - 1]
            let found = histogram.percentile(share)
            #expect(found >= exact)
            #expect(Double(found - exact) <= Double(exact) * histogram.relativeError)
        }
    }

    @Test func mergedIsAsIfRecordedTogether() {
        var (one, two, both) = (LatencyHistogram(), LatencyHistogram(), LatencyHistogram())
        for value in 0..<1000 as Range<UInt64> {
            one.record(nanoseconds: value * 7)
            both.record(nanoseconds: value * 7)
            two.record(nanoseconds: value * 1001)
            both.record(nanoseconds: value * 1001)
        }
        one.merge(two)
        #expect(one == both)
        one.merge(LatencyHistogram())
        #expect(one == both)
    }

    @Test func differencesAreWhatWasRecordedBetween() {
        var histogram = LatencyHistogram(precision: 3)
        for value in [1, 50, 70_000] as [UInt64] { histogram.record(nanoseconds: value) }
        let earlier = histogram
        #expect(earlier.since(LatencyHistogram(precision: 3)) == earlier)
        #expect(histogram.since(earlier).count == 0)
        for value in [3, 900, 900, 1_000_000] as [UInt64] { histogram.record(nanoseconds: value) }
        let difference = histogram.since(earlier)
        #expect(difference.count == 4)
        #expect(difference.total == 3 + 900 + 900 + 1_000_000)
        #expect(difference.minimum == 3)
        #expect(difference.maximum == 1_000_000)
        var sum = earlier
        sum.merge(difference)
        #expect(sum == histogram)
    }

    @Test func countsBelowPowersOfTwo() {
        var histogram = LatencyHistogram(precision: 3)
        for value in 0..<5000 as Range<UInt64> { histogram.record(nanoseconds: value) }
        for exponent in 3...20 {
            #expect(histogram.count(belowPowerOfTwo: exponent) == min(5000, 1 << exponent))
        }
    }

    @Test func survivesTheWire() throws {
        var histogram = LatencyHistogram()
        #expect(try LatencyHistogram(decoding: histogram.encoded()) == histogram)
        for value in 0..<70 as Range<UInt64> { histogram.record(nanoseconds: value * value * 99) }
        histogram.record(nanoseconds: .max)
        let bytes = histogram.encoded()
        #expect(try LatencyHistogram(decoding: bytes) == histogram)
        for length in bytes.indices {
            #expect(throws: DecodingFailure.self) {
                try LatencyHistogram(decoding: Array(bytes[..<length]))
            }
        }
    }

    /// Bytes that contradict themselves are refused; none crash.
    @Test func hostileBytesAreRefused() {
        var histogram = LatencyHistogram(precision: 4)
        for value in [7, 7, 300] as [UInt64] { histogram.record(nanoseconds: value) }
        let good = histogram.encoded()
        var random = Entropy(seed: 8)
        for _ in 0..<5000 {
            var bytes = good
            bytes[Int(random.below(UInt64(bytes.count)))] = UInt8(random.below(256))
            guard let decoded = try? LatencyHistogram(decoding: bytes) else { continue }
            #expect(decoded.minimum <= decoded.maximum)
            #expect(decoded.percentile(0.5) <= decoded.maximum)
        }
        for precision in [0, 2, 11, 255] as [UInt8] {
            #expect(throws: DecodingFailure.self) {
                try LatencyHistogram(decoding: [precision] + good.dropFirst())
            }
        }
    }

    @Test func anEmptyOneHasNoValues() {
        let histogram = LatencyHistogram()
        #expect(histogram.percentile(0.5) == 0 && histogram.percentile(0) == 0)
        #expect(histogram.mean == 0 && histogram.count == 0)
    }
}
