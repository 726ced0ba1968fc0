internal import BIO
internal import DrayRuntime
internal import VOS

/// Long loads: overwriting, work in the background.
extension VOSBench {
    // MARK: - Background

    /// Updates with work in the background and without, in turn. Each time the store is opened
    /// again, with a fresh checkpoint: so none is needed while nobody takes one.
    func measureBackground(_ size: Int) async throws(CommandFailure) {
        let values = values(size, count: plan.count(of: size, in: plan.workingSet))
        try await format()
        let filled = try await open()
        try await with(filled) { () async throws(CommandFailure) in
            try await fill(filled, values)
        }
        var latencies: [Bool: LatencyHistogram] = [:]
        var rounds: [Bool: [Double]] = [:]
        for _ in 0..<plan.rounds {
            for isOn in plan.background {
                let target = try await open(background: false)
                try await with(target) { () async throws(CommandFailure) in
                    try await rest(target)
                    target.vos.mergesTables = isOn
                    if isOn { target.startBackground(on: xstream) }
                    let word = isOn ? "on" : "off"
                    let load = Load(
                        "update \(Size(bytes: UInt64(size)).exact), background \(word)",
                        end: xstream.now + plan.time, now: xstream.now)
                    try await drive(load, VOSBenchPlan.overwriteDepth, target, values) {
                        worker async throws(VOSError) in
                        try await self.updateOne(worker, load, target, values)
                    }
                    latencies[isOn, default: LatencyHistogram()].merge(load.latencies)
                    rounds[isOn, default: []].append(Double(load.done) / load.seconds)
                }
            }
        }
        for isOn in plan.background {
            report.background.append(
                VOSBenchBackground(
                    size: size, depth: VOSBenchPlan.overwriteDepth, isOn: isOn,
                    perSecond: Median.of(rounds[isOn] ?? []),
                    latency: VOSBenchLatency(latencies[isOn] ?? LatencyHistogram())))
        }
    }

    /// Drops what nobody can see any more, and takes a checkpoint.
    private func rest(_ target: BenchTarget) async throws(CommandFailure) {
        do throws(VOSError) {
            try await target.vos.aggregate(upTo: target.clock.now())
            try await target.vos.checkpoint()
        } catch {
            throw CommandFailure(error, file.path.text)
        }
    }

    // MARK: - Overwriting

    /// Overwrites a working set, any value at any time, and counts bytes and blocks.
    func measureOverwrite(_ size: Int) async throws(CommandFailure) {
        let values = values(size, count: plan.count(of: size, in: plan.workingSet))
        let live = values.count * values.bytesOfEach
        try await format()
        let target = try await open()
        try await with(target) { () async throws(CommandFailure) in
            try await fill(target, values)
            try await rest(target)
            let before = target.statistics
            let load = Load(
                "overwriting \(Size(bytes: UInt64(size)).exact)",
                limit: plan.overwrite / UInt64(size) + 1, end: xstream.now + plan.overwriteTime,
                now: xstream.now)
            let space = SpaceWatch(target.vos)
            space.start(on: xstream)
            try await drive(load, VOSBenchPlan.overwriteDepth, target, values) {
                worker async throws(VOSError) in
                load.next += 1
                try await self.updateOne(worker, load, target, values)
            }
            let asked = target.statistics.since(before)
            let used = space.stop()
            try await settle(target)
            report.overwrites.append(
                VOSBenchOverwrite(
                    size: size, depth: VOSBenchPlan.overwriteDepth, values: values.count,
                    liveBytes: live, updates: load.done, updatedBytes: load.bytes,
                    seconds: load.seconds, waits: load.waits,
                    written: asked.bytesWritten, flushes: asked.flushCount,
                    usedMost: max(used, SpaceWatch.used(target.vos)),
                    usedAtRest: SpaceWatch.used(target.vos),
                    latency: VOSBenchLatency(load.latencies)
                ).divided())
        }
    }

    /// Waits until what is kept for the retention time has gone, and space does not change.
    private func settle(_ target: BenchTarget) async throws(CommandFailure) {
        await xstream.sleep(for: plan.retention)
        var last = SpaceWatch.used(target.vos)
        var calm = 0
        for _ in 0..<VOSBench.settlingMax where calm < 4 {
            await xstream.sleep(for: .milliseconds(500))
            let now = SpaceWatch.used(target.vos)
            calm = now == last ? calm + 1 : 0
            last = now
        }
    }

    /// How many half seconds aggregation gets to catch up.
    private static let settlingMax = 120

    /// Looks at the space in use now and then. Confined to the xstream.
    private final class SpaceWatch {
        private let vos: VOS
        private var most: UInt64
        private var isStopped = false

        init(_ vos: VOS) {
            self.vos = vos
            most = SpaceWatch.used(vos)
        }

        /// Bytes of blocks in use.
        static func used(_ vos: VOS) -> UInt64 { vos.space.total - vos.space.free }

        func start(on xstream: XStream) {
            xstream.spawn {
                while !self.isStopped {
                    self.most = max(self.most, SpaceWatch.used(self.vos))
                    await xstream.sleep(for: .milliseconds(50))
                }
            }
        }

        /// The most that was in use.
        func stop() -> UInt64 {
            isStopped = true
            return max(most, SpaceWatch.used(vos))
        }
    }
}
