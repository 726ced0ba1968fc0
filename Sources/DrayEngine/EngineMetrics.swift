internal import BIO
internal import CaRT
internal import DrayProtocol
public import DrayRuntime

/// The metrics of an engine: those of its own, and those of each of its contexts.
public struct EngineMetrics: Sendable {
    var uptimeSeconds: Int
    var targetCount: Int

    /// The engine's own.
    static let set = MetricSet<EngineMetrics>([
        .gauge("dray_engine_uptime", unit: .seconds, "Time since the engine started.") {
            $0.uptimeSeconds
        },
        .gauge("dray_engine_targets", "Targets of the engine.") { $0.targetCount },
    ])

    /// Every metric that an engine has.
    public static let definitions =
        set.definitions + StoreMetrics.definitions + DeviceMetrics.definitions
        + NVMeHealth.metrics.definitions + ContextMetrics.set.definitions
}

/// Turns the samples of a registry into what is sent.
enum MetricFamilies {
    /// Groups samples by metric. Metrics that the engine does not define, which whoever shares its
    /// world may have made, come last and are without help.
    static func make(
        _ samples: [TelemetrySample], definitions: [MetricDefinition]
    ) -> [MetricFamily] {
        var families = definitions.map { MetricFamily($0) }
        var places: [String: Int] = [:]
        for (index, family) in families.enumerated() { places[family.name] = index }
        // In the order of names and labels.
        for sample in samples {
            let place: Int
            if let known = places[sample.name] {
                place = known
            } else {
                guard families.count < MetricsReply.familiesMax else { break }
                var family = MetricFamily()
                family.name = limited(sample.name)
                family.kind = kind(sample.kind)
                family.unit = sample.kind == .timer ? .seconds : .none
                place = families.count
                places[sample.name] = place
                families.append(family)
            }
            guard families[place].samples.count < MetricFamily.samplesMax else { continue }
            families[place].samples.append(self.sample(sample))
        }
        return families.filter { !$0.samples.isEmpty }
    }

    private static func kind(_ kind: TelemetrySample.Kind) -> MetricDefinition.Kind {
        switch kind {
        case .counter: .counter
        case .gauge: .gauge
        case .distribution, .timer: .histogram
        }
    }

    private static func sample(_ sample: TelemetrySample) -> MetricSample {
        var result = MetricSample()
        result.labels = sample.dimensions.prefix(MetricSample.labelsMax).map { text in
            let equals = text.firstIndex(of: "=") ?? text.endIndex
            return MetricLabel(
                name: limited(String(text[..<equals])),
                value: limited(String(text[equals...].dropFirst())))
        }
        switch sample.value {
        case .count(let count): result.value = Double(count)
        case .level(let level): result.value = level
        case .distribution(let distribution): result.histogram = distribution.histogram
        }
        return result
    }

    /// Text that can be sent.
    private static func limited(_ text: String) -> String {
        guard text.utf8.count > MetricFamily.textMax else { return text }
        return String(text.unicodeScalars.prefix(MetricFamily.textMax / 4).map(Character.init))
    }
}

extension SystemService {
    /// Brings the metrics of the engine to the world's factory, from whichever xstream has them.
    func publishMetrics() async {
        let own = EngineMetrics(
            uptimeSeconds: Int(clamping: xstream.now.since(started).components.seconds),
            targetCount: configuration.targetCount)
        var publisher =
            publisher
            ?? MetricPublisher(
                EngineMetrics.set, factory: world.metrics,
                dimensions: [("rank", "\(configuration.rank)")])
        publisher.publish(own)
        self.publisher = publisher
        contexts?.publishMetrics()
        var storage =
            storagePublisher
            ?? StoragePublisher(blocks, world: world, rank: configuration.rank, target: "system")
        storage.publish(blocks, vos)
        storagePublisher = storage
        monitor.publishMetrics()
        for target in targets {
            await target.xstream.run { target.value.publishMetrics() }
        }
        for target in lostTargets {
            await target.xstream.run { target.value.publishMetrics() }
        }
        if let membership {
            await membership.xstream.run { membership.value.publishMetrics() }
        }
    }

    /// What the factory has of this engine afterwards.
    func metrics() async throws(RPCError) -> MetricsReply {
        guard let telemetry = world.telemetry else {
            throw .service(
                .unavailable, "the engine's program collects its metrics itself; ask there")
        }
        await publishMetrics()
        // Several engines may share a world.
        let mine = "rank=\(configuration.rank)"
        let samples = telemetry.snapshot().filter { sample in
            sample.dimensions.contains(mine)
                || !sample.dimensions.contains { $0.hasPrefix("rank=") }
        }
        var reply = MetricsReply()
        reply.families = MetricFamilies.make(samples, definitions: EngineMetrics.definitions)
        return reply
    }
}

extension Engine {
    /// Brings the engine's metrics to the swift-metrics factory of its world. A program that hands
    /// in a factory of its own calls this before it reads them, or from time to time.
    public func publishMetrics() async {
        let system = system
        await system.xstream.run { await system.value.publishMetrics() }
    }
}
