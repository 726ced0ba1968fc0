internal import BIO
internal import DrayRuntime
internal import Glibc
internal import VOS

/// Opening: a store with many keys, and one whose process was killed. Other processes do it, which
/// have done nothing else.
extension VOSBench {
    /// Fills a store with keys, looks at its memory, and has other processes open it.
    func measureOpening() async throws(CommandFailure) {
        let values = values(VOSBenchPlan.filledSize, count: plan.keys)
        try await format()
        ProcessFigures.resetPeak()
        let before = try ProcessFigures.current()
        let target = try await open()
        let start = xstream.now
        var after = before
        var seconds = 0.0
        var written: UInt64 = 0
        try await with(target) { () async throws(CommandFailure) in
            try await fill(target, values)
            seconds = HumanDuration(xstream.now.since(start)).seconds
            written = target.statistics.bytesWritten
            after = try ProcessFigures.current()
        }
        let opened = try await openElsewhere(values)
        for one in opened where one.keys != plan.keys {
            throw CommandFailure(
                .different, file.path.text, "has \(one.keys) keys, where \(plan.keys) are",
                advice: "keep the file as it is and report this")
        }
        report.opening = VOSBenchOpening(
            keys: plan.keys, keySize: plan.keySize, valueSize: VOSBenchPlan.filledSize,
            fillSeconds: seconds, fillWritten: written,
            residentBefore: before.resident, residentFillPeak: after.residentPeak,
            residentFilled: after.resident, opened: opened,
            openSeconds: Median.of(opened.map { $0.logSeconds + $0.storeSeconds }),
            readsPerSecond: Median.of(opened.map(\.readsPerSecond)))
    }

    /// Has a process killed when its log is as full as it gets, and others open the store.
    func measureRecovery(_ size: Int) async throws(CommandFailure) {
        let values = values(size, count: plan.count(of: size, in: plan.workingSet))
        try await format()
        let target = try await open()
        try await with(target) { () async throws(CommandFailure) in
            try await fill(target, values)
        }
        for depth in VOSBenchPlan.recoverDepths {
            let logged: VOSBenchLogged = try await runElsewhere(
                values, ["--load-only", "--depth=\(depth)"], endsBy: SIGKILL)
            let opened = try await openElsewhere(values)
            report.recoveries.append(
                VOSBenchRecovery(
                    size: size, depth: depth, values: values.count, logged: logged, opened: opened,
                    openSeconds: Median.of(opened.map { $0.logSeconds + $0.storeSeconds })))
        }
    }

    // MARK: - Other processes

    /// Opens the store in processes that have done nothing else, and returns what those tell.
    private func openElsewhere(
        _ values: BenchValues
    ) async throws(CommandFailure) -> [VOSBenchOpened] {
        var opened: [VOSBenchOpened] = []
        for _ in 0..<plan.rounds {
            opened.append(try await runElsewhere(values, ["--open-only"], endsBy: nil))
        }
        return opened
    }

    /// Runs this program with the store, and returns what that prints. `endsBy`: the signal that
    /// ends it.
    private func runElsewhere<Output: Decodable>(
        _ values: BenchValues, _ what: [String], endsBy signal: Int32?
    ) async throws(CommandFailure) -> Output {
        let output = LocalPath(file.path.bytes + Array(".\(getpid()).json".utf8))
        defer { try? LocalFiles.remove(output) }
        let options =
            what + [
                "--size=\(values.size)", "--keys=\(values.count)", "--key-size=\(plan.keySize)",
                "--cache=\(plan.cache)", "--index-memory=\(plan.indexMemory)",
                "--retention=\(plan.retention.nanosecondsClamped)ns",
                "--time=\(plan.time.nanosecondsClamped)ns",
                "--overwrite-time=\(plan.overwriteTime.nanosecondsClamped)ns",
                "--seed=\(entropy.below(.max))",
            ]
        let arguments =
            [Array("bench".utf8), Array("vos".utf8), file.path.bytes]
            + options.map { Array($0.utf8) }
        let program = try ChildProcess.ownPath()
        let pid: Int32
        do throws(Errno) {
            pid = try ChildProcess.spawn(
                program, arguments, input: .null, output: .append(output), error: .descriptor(2),
                detached: false)
        } catch {
            throw CommandFailure(program.text, error.text)
        }
        var status = ChildProcess.reap(pid)
        while status == nil {
            await xstream.sleep(for: .milliseconds(5))
            status = ChildProcess.reap(pid)
        }
        guard status == signal ?? 0 else {
            throw CommandFailure(file.path.text, "another process could not work on it")
        }
        let bytes = (try? LocalFiles.read(output)) ?? []
        return try JSON.decode(Output.self, from: bytes, file: output.text)
    }

    /// The values that the process before us has written.
    private func givenValues() -> BenchValues { values(plan.sizes[0], count: plan.keys) }

    /// What the process that opens the store does: it opens it, looks at its memory, and reads any
    /// values.
    func openOnly() async throws(CommandFailure) -> VOSBenchOpened {
        let before = try ProcessFigures.current()
        let target = try await open(background: false)
        return try await with(target) { () async throws(CommandFailure) in
            let after = try ProcessFigures.current()
            // Each key has one version, once aggregation has been there; none was overwritten.
            let keys = target.vos.pools.reduce(0) { $0 + target.vos.usage(pool: $1).entries }
            let values = givenValues()
            let load = Load("reading", end: xstream.now + plan.time, now: xstream.now)
            try await drive(load, VOSBenchPlan.openedDepth, target, values) {
                worker async throws(VOSError) in
                try await self.fetchOne(worker, load, target, values, of: values.count)
            }
            return VOSBenchOpened(
                keys: keys, indexBytes: target.vos.indexTableBytes,
                logSeconds: HumanDuration(target.opening.log).seconds,
                storeSeconds: HumanDuration(target.opening.store).seconds,
                residentBefore: before.resident, resident: after.resident,
                residentPeak: after.residentPeak, reads: load.done,
                readsPerSecond: Double(load.done) / load.seconds,
                residentRead: try ProcessFigures.current().resident)
        }
    }

    /// What the process that is killed does: it overwrites values, and when its log is about as
    /// full as it gets, just before a checkpoint makes room, it says what is in it and ends.
    func loadOnly() async throws(CommandFailure) {
        let target = try await open()
        try await with(target) { () async throws(CommandFailure) in
            let values = givenValues()
            let end = xstream.now + plan.overwriteTime
            let load = Load("filling the log", end: .never, now: xstream.now)
            let watch = LogWatch()
            try await drive(load, plan.depths[0], target, values) { worker async throws(VOSError) in
                try await self.updateOne(worker, load, target, values)
                let cost = target.vos.replayCost
                guard watch.isFull(cost) || self.xstream.now >= end else { return }
                VOSBench.die(VOSBenchLogged(cost, checkpoints: watch.checkpoints))
            }
        }
    }

    /// Says what the log holds, and ends the process in the middle of everything.
    private static func die(_ logged: VOSBenchLogged) -> Never {
        do throws(CommandFailure) {
            try Terminal.print(try JSON.text(logged))
            kill(getpid(), SIGKILL)
        } catch {
            Terminal.note("\(error)")
        }
        _exit(1)
    }

    /// Knows when the log is about as full as it was before the last checkpoints. Confined to the
    /// xstream.
    private final class LogWatch {
        private(set) var checkpoints = 0
        private var most: UInt64 = 0
        private var records: UInt64 = 0

        /// How many checkpoints it looks at first.
        private static let checkpointsMin = 3

        func isFull(_ cost: ReplayCost) -> Bool {
            if cost.records < records { checkpoints += 1 }
            records = cost.records
            most = max(most, cost.nanoseconds)
            return checkpoints >= LogWatch.checkpointsMin && cost.nanoseconds >= most / 20 * 19
        }
    }
}
