import CoreMetrics
import Testing

@testable import DrayRuntime

@Suite struct TelemetryTests {
    @Test func snapshotIsOrderedAndComplete() {
        let registry = TelemetryRegistry()
        Counter(label: "b", dimensions: [("target", "1")], factory: registry).increment(by: 3)
        Counter(label: "b", dimensions: [("target", "0")], factory: registry).increment(by: 4)
        Gauge(label: "c", factory: registry).record(2.5)
        Meter(label: "d", factory: registry).increment(by: 1.5)
        Counter(label: "a", factory: registry).increment()
        let samples = registry.snapshot()
        #expect(samples.map(\.name) == ["a", "b", "b", "c", "d"])
        #expect(samples.map(\.dimensions) == [[], ["target=0"], ["target=1"], [], []])
        #expect(
            samples.map(\.value) == [.count(1), .count(4), .count(3), .level(2.5), .level(1.5)])
        #expect(samples == registry.snapshot())
    }

    @Test func theSameNameIsTheSameInstrument() {
        let registry = TelemetryRegistry()
        for _ in 0..<3 { Counter(label: "x", factory: registry).increment(by: 2) }
        Counter(label: "x", factory: registry).destroy()
        #expect(registry.snapshot().map(\.value) == [.count(6)])
    }

    @Test func timersAreDistributions() throws {
        let registry = TelemetryRegistry()
        let timer = CoreMetrics.Timer(label: "t", factory: registry)
        for value in 1...1_000 as ClosedRange<Int64> { timer.recordNanoseconds(value * 1_000) }
        timer.recordNanoseconds(-5)
        let sample = try #require(registry.snapshot().first)
        guard case .distribution(let distribution) = sample.value else {
            Issue.record("not a distribution: \(sample)")
            return
        }
        #expect(sample.kind == .timer)
        #expect(distribution.count == 1_001)
        #expect(distribution.minimum == 0)
        #expect(distribution.maximum == 1_000_000)
        #expect(distribution.sum == 500_500_000)
        #expect((500_000...563_000).contains(distribution.median))
        #expect((900_000...1_000_000).contains(distribution.percentile90))
        #expect((990_000...1_000_000).contains(distribution.percentile99))
    }

    @Test func anEmptyTimerHasAValue() {
        let registry = TelemetryRegistry()
        _ = CoreMetrics.Timer(label: "t", factory: registry)
        guard case .distribution(let distribution) = registry.snapshot()[0].value else {
            Issue.record("not a distribution")
            return
        }
        #expect(distribution.count == 0)
        #expect(distribution.maximum == 0)
    }

    /// Buckets follow each other without gap or overlap, over the whole range.
    @Test func bucketsPartitionTheRange() {
        for bucket in 0..<TelemetryHistogram.bucketCount {
            let bound = UInt64(TelemetryHistogram.upperBound(of: bucket))
            #expect(TelemetryHistogram.bucket(of: bound) == bucket)
            if bucket + 1 < TelemetryHistogram.bucketCount {
                #expect(TelemetryHistogram.bucket(of: bound + 1) == bucket + 1)
            }
        }
        #expect(
            TelemetryHistogram.bucket(of: UInt64(Int64.max)) == TelemetryHistogram.bucketCount - 1)
    }

    @Test(arguments: [Double.nan, .infinity, -.infinity, 1e300, -1])
    func strangeNumbersCountAsZero(value: Double) {
        let histogram = TelemetryHistogram()
        histogram.record(value)
        guard case .distribution(let distribution) = histogram.value else { return }
        #expect(distribution.count == 1)
        #expect(distribution.maximum == 0)
    }

    @Test func theRealWorldHasARegistry() {
        let world = World.real()
        Counter(label: "x", factory: world.metrics).increment()
        #expect(world.telemetry?.snapshot().count == 1)
    }

    @Test func threadsAddUp() async {
        let registry = TelemetryRegistry()
        await withTaskGroup { group in
            for _ in 0..<4 {
                group.addTask {
                    let counter = Counter(label: "x", factory: registry)
                    for _ in 0..<10_000 { counter.increment() }
                }
            }
        }
        #expect(registry.snapshot().map(\.value) == [.count(40_000)])
    }
}
