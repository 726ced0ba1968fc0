public import CaRT
public import DrayRuntime

/// The metrics of one engine at one moment.
public struct MetricsReply: Message, Hashable {
    public var families: [MetricFamily] = []

    public static let familiesMax = 256

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&families, max: MetricsReply.familiesMax)
    }
}

/// One metric with all its values.
public struct MetricFamily: Message, Hashable {
    /// As Prometheus has it.
    public var name = ""
    public var kind = MetricDefinition.Kind.gauge
    public var unit = MetricDefinition.Unit.none
    public var help = ""
    /// One for each set of labels, in the order of the labels.
    public var samples: [MetricSample] = []

    public static let textMax = 1024
    public static let samplesMax = 2048

    public init() {}

    /// The family of a metric that the program defines, without values.
    public init(_ definition: MetricDefinition) {
        name = definition.name
        kind = definition.kind
        unit = definition.unit
        help = definition.help
    }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&name, max: MetricFamily.textMax)
        try coder.code(&kind)
        try coder.code(&unit)
        try coder.code(&help, max: MetricFamily.textMax)
        try coder.code(&samples, max: MetricFamily.samplesMax)
    }
}

/// One value of a metric.
public struct MetricSample: Message, Hashable {
    public var labels: [MetricLabel] = []
    /// Of a counter or gauge.
    public var value = 0.0
    /// Of a histogram, in nanoseconds, with `LatencyHistogram.precisions.lowerBound` bits.
    public var histogram: LatencyHistogram?

    public static let labelsMax = 64

    public init() {}

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&labels, max: MetricSample.labelsMax)
        try coder.code(&value)
        try coder.code(&histogram)
        // The finer ones are large.
        guard
            (histogram?.precision ?? LatencyHistogram.precisions.lowerBound)
                == LatencyHistogram.precisions.lowerBound
        else { throw .invalidValue }
    }
}

/// What tells one value of a metric apart from others.
public struct MetricLabel: Message, Hashable {
    public var name = ""
    public var value = ""

    public init() {}

    public init(name: String, value: String) {
        self.name = name
        self.value = value
    }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&name, max: MetricFamily.textMax)
        try coder.code(&value, max: MetricFamily.textMax)
    }
}
