public import CoreMetrics

/// Brings the values of one object to the instruments of a swift-metrics factory.
///
/// Counters get what was added since the last time, so that several objects may share them. An
/// instrument that is no `LatencyHistogramHandler` gets the times one by one, or at most
/// `timesMax` of them that are spread like all.
public struct MetricPublisher<Source> {
    private enum Instrument {
        case counter(any CounterHandler, last: Int)
        case gauge(any MeterHandler)
        case times(any TimerHandler, last: LatencyHistogram)
    }

    private let set: MetricSet<Source>
    private var instruments: [Instrument]

    /// - Parameters:
    ///   - set: the metrics of such an object.
    ///   - factory: where they go.
    ///   - dimensions: what tells the object apart from others of its kind.
    public init(
        _ set: MetricSet<Source>, factory: any MetricsFactory, dimensions: [(String, String)]
    ) {
        self.set = set
        instruments = set.entries.map { entry in
            let name = entry.definition.name
            switch entry.definition.kind {
            case .counter:
                return .counter(factory.makeCounter(label: name, dimensions: dimensions), last: 0)
            case .gauge:
                return .gauge(factory.makeMeter(label: name, dimensions: dimensions))
            case .histogram:
                return .times(
                    factory.makeTimer(label: name, dimensions: dimensions),
                    last: LatencyHistogram(precision: LatencyHistogram.precisions.lowerBound))
            }
        }
    }

    /// Times that an instrument without a histogram gets at a time.
    public static var timesMax: Int { 1000 }

    /// Reads every value and passes it on.
    public mutating func publish(_ source: Source) {
        for (index, entry) in set.entries.enumerated() {
            switch (entry.reading, instruments[index]) {
            case (.number(let read), .counter(let handler, let last)):
                let value = read(source)
                guard value > last else { continue }
                handler.increment(by: Int64(value - last))
                instruments[index] = .counter(handler, last: value)
            case (.number(let read), .gauge(let handler)):
                handler.set(Int64(read(source)))
            case (.times(let read), .times(let handler, let last)):
                let value = read(source)
                guard value.count > last.count else { continue }
                MetricPublisher.add(value.since(last), to: handler)
                instruments[index] = .times(handler, last: value)
            case (.number, .times), (.times, .counter), (.times, .gauge):
                preconditionFailure("\(entry.definition.name) has an instrument of another kind")
            }
        }
    }

    private static func add(_ times: LatencyHistogram, to handler: any TimerHandler) {
        if let handler = handler as? any LatencyHistogramHandler {
            handler.merge(times)
            return
        }
        let count = Int(min(times.count, UInt64(timesMax)))
        for index in 0..<count {
            let share = (Double(index) + 0.5) / Double(count)
            handler.recordNanoseconds(Int64(clamping: times.percentile(share)))
        }
    }
}
