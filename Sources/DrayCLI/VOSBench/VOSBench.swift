internal import DrayRuntime
internal import VOS

/// A benchmark of one target's store. Confined to the xstream of the store, where each worker is a
/// task, as requests are in an engine.
final class VOSBench {
    let plan: VOSBenchPlan
    let file: BenchFile
    let fio: Fio?
    let world: World
    let xstream: XStream
    var entropy: Entropy
    var report: VOSBenchReport
    /// What workers read into and write from, by size.
    private var memory: [Int: [IOBuffer]] = [:]

    init(_ plan: VOSBenchPlan, _ file: BenchFile, fio: Fio?, world: World, on xstream: XStream) {
        self.plan = plan
        self.file = file
        self.fio = fio
        self.world = world
        self.xstream = xstream
        entropy = Entropy(seed: plan.seed)
        report = VOSBenchReport(
            device: file.path.text, deviceSize: file.range.upperBound, logSize: plan.logSize,
            cache: plan.cache, indexMemory: plan.indexMemory, keySize: plan.keySize)
    }

    /// Measures every part of the plan.
    func run() async throws(CommandFailure) -> VOSBenchReport {
        // First, while nothing else has used memory.
        if plan.parts.contains(.open) { try await measureOpening() }
        if plan.parts.contains(.recover) {
            for size in VOSBenchPlan.backgroundSizes { try await measureRecovery(size) }
        }
        if !plan.parts.isDisjoint(with: [.update, .fetch]) {
            for size in plan.sizes { try await measureTransfers(size) }
        }
        if plan.parts.contains(.enumerate) { try await measureEnumeration() }
        if plan.parts.contains(.background) {
            for size in VOSBenchPlan.backgroundSizes { try await measureBackground(size) }
        }
        if plan.parts.contains(.overwrite) {
            for size in VOSBenchPlan.overwriteSizes { try await measureOverwrite(size) }
        }
        return report
    }

    func values(_ size: Int, count: UInt64) -> BenchValues {
        BenchValues(
            pool: UniqueID(high: 2, low: 1), container: UniqueID(high: 3, low: 1), size: size,
            keySize: plan.keySize, count: count)
    }

    func format() async throws(CommandFailure) {
        try await BenchTarget.format(file, logSize: plan.logSize, world: world, on: xstream)
    }

    func open(background: Bool = true) async throws(CommandFailure) -> BenchTarget {
        let target = try await BenchTarget.open(file, plan, world: world, on: xstream)
        if background { target.startBackground(on: xstream) }
        return target
    }

    /// Runs `body` and closes the target, whatever came of it.
    func with<Value>(
        _ target: BenchTarget, _ body: () async throws(CommandFailure) -> Value
    ) async throws(CommandFailure) -> Value {
        do throws(CommandFailure) {
            let value = try await body()
            await target.close()
            return value
        } catch {
            await target.close()
            throw error
        }
    }

    // MARK: - Loads

    /// Writes every value once.
    func fill(_ target: BenchTarget, _ values: BenchValues) async throws(CommandFailure) {
        // Many small values in one update save time that nobody measures.
        let isSmall = values.size < 4096
        let batch = isSmall ? BenchValues.run : 1
        let load = Load(
            "filling \(Size(bytes: UInt64(values.size)).exact)", limit: values.count,
            end: .never, now: xstream.now)
        try await drive(load, isSmall ? 16 : 64, target, values, buffers: Int(batch)) {
            worker async throws(VOSError) in
            let first = load.next
            load.next += batch
            let numbers = first..<min(first + batch, values.count)
            var operations: [Operation] = []
            for number in numbers {
                let place = Int(number - first) * values.size
                values.stamp(number, in: worker.buffer, at: place)
                operations.append(values.operation(number, worker.buffer, at: place))
            }
            try await target.update(
                values, values.object(of: first), operations, id: worker.entropy.next())
            withExtendedLifetime(worker.buffer) {}
            load.done += UInt64(numbers.count)
            load.bytes += UInt64(numbers.count) * values.bytesOfEach
        }
    }

    /// Updates one value of `values`, any.
    func updateOne(
        _ worker: Worker, _ load: Load, _ target: BenchTarget, _ values: BenchValues
    ) async throws(VOSError) {
        let number = worker.entropy.below(values.count)
        values.stamp(number, in: worker.buffer)
        let operation = values.operation(number, worker.buffer)
        let id = worker.entropy.next()
        let start = xstream.now
        while true {
            do throws(VOSError) {
                try await target.update(values, values.object(of: number), [operation], id: id)
                break
            } catch .noSpace(let requested, let free) {
                // Aggregation makes room, if it gets the time. The update has to wait for that.
                guard xstream.now.since(start) < VOSBench.patience else {
                    throw .noSpace(requested: requested, free: free)
                }
                load.waits += 1
                await xstream.sleep(for: .milliseconds(10))
            }
        }
        load.latencies.record(xstream.now.since(start))
        load.done += 1
        load.bytes += values.bytesOfEach
        withExtendedLifetime(worker.buffer) {}
    }

    /// How long an update waits for space.
    private static let patience: Duration = .seconds(20)

    /// Reads one of the first `count` values, any.
    func fetchOne(
        _ worker: Worker, _ load: Load, _ target: BenchTarget, _ values: BenchValues,
        of count: UInt64
    ) async throws(VOSError) {
        let number = worker.entropy.below(count)
        let start = xstream.now
        try await target.fetch(values, number, into: worker.buffer)
        load.latencies.record(xstream.now.since(start))
        load.done += 1
        load.bytes += UInt64(values.size)
        if !values.isStamped(number, worker.buffer) { load.wrong = load.wrong ?? number }
    }

    /// Runs `depth` workers, each of which calls `body` again and again until the load ends.
    func drive(
        _ load: Load, _ depth: Int, _ target: BenchTarget, _ values: BenchValues,
        buffers: Int = 1, _ body: @escaping (Worker) async throws(VOSError) -> Void
    ) async throws(CommandFailure) {
        let tasks = TaskCounter()
        // A whole number of blocks, so that the device can fill it.
        let size = (max(8, buffers * values.size) + 4095) / 4096 * 4096
        // As that of an engine: used again and again, and known to the device.
        var memory = memory[size, default: []]
        while memory.count < depth { memory += IOBuffer.forLargeTransfers(count: size) }
        self.memory[size] = memory
        target.register(memory.prefix(depth))
        let workers = (0..<depth).map { index in
            Worker(buffer: memory[index], entropy: entropy.fork("\(load.title) \(index)"))
        }
        load.begin(at: xstream.now)
        for worker in workers {
            tasks.spawn(on: xstream) {
                var turns = 0
                while load.goesOn(at: self.xstream.now) {
                    do throws(VOSError) {
                        try await body(worker)
                    } catch {
                        load.failure = load.failure ?? error
                    }
                    turns += 1
                    // What comes from memory suspends nobody, and others want their turn.
                    if turns % VOSBench.turnsInARow == 0 {
                        load.bar.update(load.figures, now: self.xstream.now)
                        await self.xstream.yield()
                    }
                }
            }
        }
        await tasks.wait()
        entropy = entropy.fork("after \(load.title)")
        load.bar.clear()
        load.ended = xstream.now
        if let failure = load.failure { throw CommandFailure(failure, file.path.text) }
        if let wrong = load.wrong {
            throw CommandFailure(
                .different, "value \(wrong)", "is not what was written",
                advice: "keep the file as it is and report this")
        }
    }

    private static let turnsInARow = 16

    /// One of those who keep a load going.
    final class Worker {
        let buffer: IOBuffer
        var entropy: Entropy

        init(buffer: IOBuffer, entropy: Entropy) {
            self.entropy = entropy
            self.buffer = buffer
            for offset in stride(from: 0, to: buffer.count, by: 8) {
                unsafe buffer.bytes.storeBytes(
                    of: self.entropy.next(), toByteOffset: offset, as: UInt64.self)
            }
        }
    }

    /// What workers do together, and what came of it.
    final class Load {
        let title: String
        let bar: ProgressBar
        private(set) var started: Instant
        private let limit: UInt64
        private var end: Instant
        var latencies = LatencyHistogram()
        /// The number that the next one takes.
        var next: UInt64 = 0
        var done: UInt64 = 0
        /// Of values and keys.
        var bytes: UInt64 = 0
        /// How often an update found no space and waited.
        var waits: UInt64 = 0
        var failure: VOSError?
        var wrong: UInt64?
        var ended: Instant

        /// - Parameters:
        ///   - limit: how far `next` goes.
        ///   - end: when it ends at the latest.
        init(_ title: String, limit: UInt64 = .max, end: Instant, now: Instant) {
            self.title = title
            self.limit = limit
            self.end = end
            started = now
            ended = now
            bar = ProgressBar(title, unit: "values", now: now)
        }

        /// Only now is everything ready: the time counts from here.
        func begin(at now: Instant) {
            if end != .never { end = end + now.since(started) }
            started = now
        }

        func goesOn(at now: Instant) -> Bool {
            failure == nil && wrong == nil && next < limit && now < end
        }

        var seconds: Double { HumanDuration(ended.since(started)).seconds }

        var figures: ProgressBar.Figures {
            ProgressBar.Figures(
                files: done, bytes: bytes, filesTotal: limit == .max ? nil : limit,
                bytesTotal: limit == .max || done == 0 ? nil : bytes / done * limit)
        }
    }
}
