import CoreMetrics
import Synchronization
import Testing

@testable import DrayRuntime

@Suite struct MetricPublisherTests {
    struct Source {
        var done = 0
        var open = 0
        var times = LatencyHistogram(precision: LatencyHistogram.precisions.lowerBound)
    }

    static let set = MetricSet<Source>([
        .counter("work_done", "Work that was done.") { $0.done },
        .counter("work", unit: .bytes, "Bytes of it.") { $0.done * 10 },
        .gauge("work_open", "Work to do.") { $0.open },
        .times("work_time", "How long it took.") { $0.times },
    ])

    @Test func namesEndAsTheirUnits() {
        #expect(
            Self.set.definitions.map(\.name) == [
                "work_done_total", "work_bytes_total", "work_open", "work_time_seconds",
            ])
    }

    @Test func valuesArriveOnce() {
        let registry = TelemetryRegistry()
        var publisher = MetricPublisher(Self.set, factory: registry, dimensions: [("a", "1")])
        var source = Source()
        source.done = 3
        source.open = 7
        source.times.record(nanoseconds: 50)
        publisher.publish(source)
        publisher.publish(source)
        source.done = 5
        source.open = 2
        source.times.record(nanoseconds: 9000)
        publisher.publish(source)
        let samples = registry.snapshot()
        #expect(
            samples.map(\.name) == [
                "work_bytes_total", "work_done_total", "work_open", "work_time_seconds",
            ])
        #expect(samples.allSatisfy { $0.dimensions == ["a=1"] })
        #expect(samples[0].value == .count(50) && samples[1].value == .count(5))
        #expect(samples[2].value == .level(2))
        guard case .distribution(let times) = samples[3].value else {
            Issue.record("not a distribution")
            return
        }
        #expect(times.histogram == source.times)
    }

    /// Two objects with the same labels add up.
    @Test func objectsMayShareInstruments() {
        let registry = TelemetryRegistry()
        for _ in 0..<3 {
            var publisher = MetricPublisher(Self.set, factory: registry, dimensions: [])
            var source = Source()
            source.done = 2
            publisher.publish(source)
        }
        #expect(registry.snapshot().first { $0.name == "work_done_total" }?.value == .count(6))
    }

    /// A factory whose timers take one value at a time.
    final class OneByOne: MetricsFactory, TimerHandler, CounterHandler, MeterHandler,
        RecorderHandler
    {
        let recorded = Mutex<[Int64]>([])

        func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
            self
        }
        func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler { self }
        func makeRecorder(
            label: String, dimensions: [(String, String)], aggregate: Bool
        ) -> any RecorderHandler { self }
        func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler { self }
        func destroyCounter(_ handler: any CounterHandler) {}
        func destroyMeter(_ handler: any MeterHandler) {}
        func destroyRecorder(_ handler: any RecorderHandler) {}
        func destroyTimer(_ handler: any TimerHandler) {}
        func recordNanoseconds(_ duration: Int64) { recorded.withLock { $0.append(duration) } }
        func increment(by: Int64) {}
        func reset() {}
        func set(_ value: Int64) {}
        func set(_ value: Double) {}
        func increment(by: Double) {}
        func decrement(by: Double) {}
        func record(_ value: Int64) {}
        func record(_ value: Double) {}
    }

    @Test func otherTimersGetTheTimesThemselves() {
        let factory = OneByOne()
        var publisher = MetricPublisher(Self.set, factory: factory, dimensions: [])
        var source = Source()
        for value in [1, 5, 7] as [UInt64] { source.times.record(nanoseconds: value) }
        publisher.publish(source)
        #expect(factory.recorded.withLock { $0 } == [1, 5, 7])
        source.times.record(nanoseconds: 6)
        publisher.publish(source)
        #expect(factory.recorded.withLock { $0 } == [1, 5, 7, 6])
        // Many at a time are thinned out, and keep their distribution.
        for index in 0..<100_000 as Range<UInt64> {
            source.times.record(nanoseconds: index < 90_000 ? 3 : 1_000_000)
        }
        publisher.publish(source)
        let added = factory.recorded.withLock { $0.dropFirst(4) }
        #expect(added.count == 1000)
        #expect(added.count { $0 == 3 } == 900)
    }
}
