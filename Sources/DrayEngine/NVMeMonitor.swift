internal import BIO
internal import DrayRuntime
internal import Logging

/// Asks the controllers of an engine's NVMe devices for their health, so that a metric and the log
/// say it when one warns. (DAOS: BIO health monitor) Confined to its xstream.
final class NVMeMonitor {
    /// How long after an answer a controller is asked again. (DAOS: 60 s)
    static let period = Duration.seconds(60)
    /// What is wrong with a controller that has answered before.
    private static let silence = "the controller does not answer"

    private let paths: [String]
    private let rank: UInt32
    private let world: World
    private let xstream: XStream
    private let log: Logger
    /// What each device said last, by its path. Those that are not NVMe say nothing.
    private var health: [String: NVMeHealth] = [:]
    /// Made when somebody first asks for the metrics.
    private var publishers: [String: MetricPublisher<NVMeHealth>] = [:]
    private var tasks: [Task<Void, Never>] = []

    init(_ paths: [String], rank: UInt32, world: World, xstream: XStream) {
        self.paths = paths
        self.rank = rank
        self.world = world
        self.xstream = xstream
        log = world.log.logger(.engine)
    }

    /// Begins to ask. Each device has a task of its own, so that none waits for another's.
    func start() {
        tasks = paths.filter(world.devices.mayHaveHealth).map { path in
            xstream.spawnCancellable { await self.watch(path) }
        }
    }

    /// Waits for no controller. What one says afterwards is not looked at.
    func stop() {
        for task in tasks { task.cancel() }
        tasks = []
    }

    /// Asks until the engine stops; only once where there is no health. The next question comes
    /// after the answer, so no more than one is under way.
    private func watch(_ path: String) async {
        var problems: [String] = []
        while true {
            let answer = await world.devices.health(of: path, on: xstream)
            guard !Task.isCancelled, answer != nil || health[path] != nil else { return }
            // Of a controller that does not answer, nothing is known to be over.
            let found =
                answer.map(NVMeMonitor.problems)
                ?? problems.filter { $0 != NVMeMonitor.silence } + [NVMeMonitor.silence]
            for problem in found where !problems.contains(problem) {
                log.warning("health of \(path): \(problem)")
            }
            for problem in problems where !found.contains(problem) {
                log.notice("health of \(path): no longer: \(problem)")
            }
            problems = found
            if let answer { note(answer, of: path) }
            do throws(CancellationError) {
                try await xstream.sleepOrCancel(for: NVMeMonitor.period)
            } catch {
                return
            }
        }
    }

    /// What lasts until it is over.
    private static func problems(of health: NVMeHealth) -> [String] {
        let isSpareLow = health.spare < health.spareThreshold
        return health.warnings + (isSpareLow ? ["spare space is below its threshold"] : [])
    }

    private func note(_ new: NVMeHealth, of path: String) {
        // Those from before the engine was started are no news.
        if let old = health[path], new.mediaErrors > old.mediaErrors {
            let more = new.mediaErrors - old.mediaErrors
            log.warning("health of \(path): media errors: \(more) more, \(new.mediaErrors) in all")
        }
        health[path] = new
    }

    /// Brings what was said last to the world's factory.
    func publishMetrics() {
        for path in paths {
            guard let health = health[path] else { continue }
            var publisher =
                publishers[path]
                ?? MetricPublisher(
                    NVMeHealth.metrics, factory: world.metrics,
                    dimensions: [("rank", "\(rank)"), ("path", path)])
            publisher.publish(health)
            publishers[path] = publisher
        }
    }
}

extension NVMeHealth {
    /// Their labels are `rank` and `path`.
    static let metrics = MetricSet<NVMeHealth>([
        .gauge(
            "dray_nvme_temperature_celsius",
            "Temperature of the device; 0 where nobody measures it."
        ) { $0.temperature ?? 0 },
        .gauge("dray_nvme_spare_percent", "Spare space that is left.") { Int($0.spare) },
        .gauge(
            "dray_nvme_life_used_percent",
            "How much of the device's life is used; may be more than 100."
        ) { Int($0.percentageUsed) },
        .gauge(
            "dray_nvme_media_errors",
            "How often the controller has found data damaged that it could not mend."
        ) { Int(clamping: $0.mediaErrors) },
        .gauge(
            "dray_nvme_critical_warning",
            "What the controller warns of, as a sum: 1 spare space, 2 temperature, 4 reliability, "
                + "8 read-only, 16 volatile memory backup, 32 persistent memory region."
        ) { Int($0.criticalWarning) },
    ])
}
