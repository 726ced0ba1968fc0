/// One metric: its name, what it counts in, and what it means. Code, `dray metrics` and
/// `docs/metrics.md` take it from here.
///
/// Names are those of Prometheus: counters end with `_total`, times with `_seconds`, sizes with
/// `_bytes`.
public struct MetricDefinition: Hashable, Sendable {
    /// How its values behave.
    public enum Kind: UInt8, Sendable, Hashable, CaseIterable {
        /// Only grows.
        case counter = 1
        /// Goes up and down.
        case gauge = 2
        /// How often which value occurred.
        case histogram = 3
    }

    /// What its values are in.
    public enum Unit: UInt8, Sendable, Hashable, CaseIterable {
        case none = 0
        case bytes = 1
        case seconds = 2
    }

    /// The whole name, with the ending that kind and unit ask for.
    public let name: String
    public let kind: Kind
    public let unit: Unit
    /// One sentence.
    public let help: String

    /// - Parameters:
    ///   - kind: how its values behave.
    ///   - stem: the name without its ending: small letters, digits and `_`.
    ///   - unit: of its values; part of the name.
    ///   - help: a sentence for people.
    public init(_ kind: Kind, _ stem: String, unit: Unit = .none, _ help: String) {
        precondition(
            stem.first.map { $0.isLetter } ?? false
                && stem.utf8.allSatisfy {
                    (0x61...0x7a).contains($0) || (0x30...0x39).contains($0) || $0 == 0x5f
                }, "\(stem) is no name for a metric")
        precondition(kind != .histogram || unit == .seconds, "histograms are of times")
        let ending =
            switch unit {
            case .none: ""
            case .bytes: "_bytes"
            case .seconds: "_seconds"
            }
        name = stem + ending + (kind == .counter ? "_total" : "")
        self.kind = kind
        self.unit = unit
        self.help = help
    }
}

/// The metrics of one kind of object: each a definition, and how its value is read.
///
/// Objects count in plain integers, which cost next to nothing; the values are read only when
/// somebody asks.
public struct MetricSet<Source>: Sendable {
    /// One metric.
    public struct Entry: Sendable {
        enum Reading: Sendable {
            case number(@Sendable (Source) -> Int)
            case times(@Sendable (Source) -> LatencyHistogram)
        }

        public let definition: MetricDefinition
        let reading: Reading

        /// What has occurred so far.
        public static func counter(
            _ stem: String, unit: MetricDefinition.Unit = .none, _ help: String,
            _ read: @escaping @Sendable (Source) -> Int
        ) -> Entry {
            Entry(
                definition: MetricDefinition(.counter, stem, unit: unit, help),
                reading: .number(read))
        }

        /// What is now.
        public static func gauge(
            _ stem: String, unit: MetricDefinition.Unit = .none, _ help: String,
            _ read: @escaping @Sendable (Source) -> Int
        ) -> Entry {
            Entry(
                definition: MetricDefinition(.gauge, stem, unit: unit, help),
                reading: .number(read))
        }

        /// Times. The histogram has `LatencyHistogram.precisions.lowerBound` bits.
        public static func times(
            _ stem: String, _ help: String,
            _ read: @escaping @Sendable (Source) -> LatencyHistogram
        ) -> Entry {
            Entry(
                definition: MetricDefinition(.histogram, stem, unit: .seconds, help),
                reading: .times(read))
        }
    }

    public let entries: [Entry]

    /// Names must differ.
    public init(_ entries: [Entry]) {
        precondition(
            Set(entries.map(\.definition.name)).count == entries.count, "a metric is there twice")
        self.entries = entries
    }

    /// What there is, in order.
    public var definitions: [MetricDefinition] { entries.map(\.definition) }
}
