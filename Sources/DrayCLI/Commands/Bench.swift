internal import Dray
internal import DrayPlacement
internal import DrayRuntime

/// One measurement of `dray bench`. Confined to the client's xstream, where each worker is a task.
///
/// Every value belongs to one worker, so that what a read must find is known.
final class Bench {
    private let plan: BenchPlan
    private let container: Container
    private let xstream: XStream
    private var entropy: Entropy
    private var failure: CommandFailure?
    private var writes = LatencyHistogram()
    private var reads = LatencyHistogram()
    private var verified: UInt64 = 0
    private var left: UInt64
    private var end = Instant.never

    private static let akey = Array("data".utf8)

    init(_ plan: BenchPlan, _ container: Container, _ xstream: XStream) {
        precondition(plan.values >= plan.depth, "each worker has a value of its own")
        self.plan = plan
        self.container = container
        self.xstream = xstream
        entropy = Entropy(seed: plan.seed)
        left = plan.count ?? .max
    }

    func run() async throws(CommandFailure) -> BenchResult {
        var objects: [[DrayObject]] = []
        do throws(DrayError) {
            for _ in 0..<plan.objects {
                var set: [DrayObject] = []
                for _ in 0..<plan.perTransaction {
                    let id = try await container.makeObjectID(objectClass: plan.objectClass)
                    set.append(container.object(id))
                }
                objects.append(set)
            }
        } catch {
            throw CommandFailure(error, "container \(container.label)")
        }
        let workers = (0..<plan.depth).map { [objects] index in
            Worker(
                index: index, plan: plan, objects: objects, entropy: entropy.fork("worker \(index)")
            )
        }
        if plan.readPercent > 0 { await inParallel(workers) { await self.fill($0) } }
        let start = xstream.now
        if plan.count == nil { end = start + plan.duration }
        if failure == nil { await inParallel(workers) { await self.work($0) } }
        let seconds = HumanDuration(xstream.now.since(start)).seconds
        if failure == nil, plan.verify { await inParallel(workers) { await self.check($0) } }
        do throws(DrayError) {
            for object in objects.joined() { try await object.punch() }
        } catch {
            fail(CommandFailure(error, "removing the objects"))
        }
        if let failure { throw failure }
        return BenchResult(
            objectClass: plan.objectClass.description, size: plan.size, depth: plan.depth,
            readPercent: plan.readPercent, seconds: seconds,
            writes: BenchResult.Side(writes, size: plan.size, seconds: seconds),
            reads: BenchResult.Side(reads, size: plan.size, seconds: seconds), verified: verified)
    }

    private func fail(_ error: CommandFailure) {
        failure = failure ?? error
    }

    private func inParallel(
        _ workers: [Worker], _ body: @escaping (Worker) async -> Void
    ) async {
        let counter = TaskCounter()
        for worker in workers { counter.spawn(on: xstream) { await body(worker) } }
        await counter.wait()
    }

    /// Writes every value once, so that all can be read.
    private func fill(_ worker: Worker) async {
        for slot in worker.versions.indices where failure == nil {
            await attempt { () async throws(DrayError) in try await worker.write(slot) }
        }
    }

    private func work(_ worker: Worker) async {
        while failure == nil, left > 0, xstream.now < end {
            left -= 1
            let slot = Int(worker.entropy.below(UInt64(worker.versions.count)))
            let reading =
                worker.versions[slot] > 0
                && worker.entropy.below(100) < UInt64(plan.readPercent)
            if plan.pause > .zero { await xstream.sleep(for: plan.pause) }
            let start = xstream.now
            await attempt { () async throws(DrayError) in
                if reading { try await worker.read(slot) } else { try await worker.write(slot) }
            }
            let elapsed = xstream.now.since(start)
            if reading {
                reads.record(elapsed)
                if plan.verify { verify(worker, slot) }
            } else {
                writes.record(elapsed)
            }
        }
    }

    /// Reads everything that was written once more. Not measured.
    private func check(_ worker: Worker) async {
        for slot in worker.versions.indices where worker.versions[slot] > 0 && failure == nil {
            await attempt { () async throws(DrayError) in try await worker.read(slot) }
            verify(worker, slot)
        }
    }

    private func verify(_ worker: Worker, _ slot: Int) {
        guard failure == nil else { return }
        guard worker.isAsWritten(slot) else {
            return fail(
                CommandFailure(
                    .different, "value \(worker.key(slot))", "is not what was written",
                    advice: "keep the cluster as it is and report this"))
        }
        verified += 1
    }

    private func attempt(_ body: () async throws(DrayError) -> Void) async {
        do throws(DrayError) {
            try await body()
        } catch {
            fail(CommandFailure(error, "benchmark"))
        }
    }

    /// One operation at a time, on values of its own.
    final class Worker {
        private let index: Int
        private let plan: BenchPlan
        /// A value belongs to one element: it is written to all objects there at once, and read
        /// from the first.
        private let objects: [[DrayObject]]
        private let buffer: IOBuffer
        var entropy: Entropy
        /// How often each value was written.
        var versions: [UInt32]

        init(index: Int, plan: BenchPlan, objects: [[DrayObject]], entropy: Entropy) {
            self.index = index
            self.plan = plan
            self.objects = objects
            self.entropy = entropy
            buffer = IOBuffer(count: plan.size)
            let share = plan.values / plan.depth + (index < plan.values % plan.depth ? 1 : 0)
            versions = [UInt32](repeating: 0, count: share)
        }

        /// The number of a value among those of all workers.
        func key(_ slot: Int) -> UInt64 { UInt64(slot * plan.depth + index) }

        private func objects(of slot: Int) -> [DrayObject] {
            objects[Int(key(slot) % UInt64(objects.count))]
        }

        private func dkey(_ slot: Int) -> [UInt8] {
            let key = key(slot)
            return stride(from: 56, through: 0, by: -8).map {
                UInt8(truncatingIfNeeded: key >> UInt64($0))
            }
        }

        /// The start of a value's contents, which tells its key and version apart.
        private func stamp(_ slot: Int) -> UInt64 {
            var generator = Entropy(seed: plan.seed ^ key(slot) << 32 ^ UInt64(versions[slot]))
            return generator.next()
        }

        func write(_ slot: Int) async throws(DrayError) {
            versions[slot] += 1
            var value = stamp(slot)
            let bytes = unsafe buffer.bytes
            for offset in stride(from: 0, to: plan.size, by: 8) {
                value = value &* 0x5851_f42d_4c95_7f2d &+ 0x1405_7b7e_f767_814f
                if offset + 8 <= plan.size {
                    unsafe bytes.storeBytes(of: value, toByteOffset: offset, as: UInt64.self)
                } else {
                    for index in offset..<plan.size {
                        unsafe bytes[index] = UInt8(
                            truncatingIfNeeded: value >> UInt64((index - offset) * 8))
                    }
                }
            }
            let objects = objects(of: slot)
            guard objects.count > 1 else {
                try await objects[0].write(
                    dkey: dkey(slot), akey: Bench.akey, offset: 0, buffer: buffer,
                    range: 0..<plan.size)
                return
            }
            try await writeTransaction(slot, objects)
        }

        private func writeTransaction(_ slot: Int, _ objects: [DrayObject]) async throws(DrayError)
        {
            let bytes = buffer.array(0..<plan.size)
            let dkey = dkey(slot)
            do {
                try await objects[0].container.transaction { transaction in
                    for object in objects {
                        try await transaction.write(
                            object, dkey: dkey, akey: Bench.akey, offset: 0, bytes: bytes)
                    }
                }
            } catch let error as DrayError {
                throw error
            } catch {
                throw DrayError(.internalError, "\(error)")
            }
        }

        func read(_ slot: Int) async throws(DrayError) {
            try await objects(of: slot)[0].read(
                dkey: dkey(slot), akey: Bench.akey, offset: 0, into: buffer, range: 0..<plan.size)
        }

        /// Whether the buffer has what was written last.
        func isAsWritten(_ slot: Int) -> Bool {
            var value = stamp(slot)
            let bytes = unsafe buffer.bytes
            for offset in stride(from: 0, to: plan.size, by: 8) {
                value = value &* 0x5851_f42d_4c95_7f2d &+ 0x1405_7b7e_f767_814f
                if offset + 8 <= plan.size {
                    let found = unsafe bytes.load(fromByteOffset: offset, as: UInt64.self)
                    guard found == value else { return false }
                } else {
                    for index in offset..<plan.size {
                        let wanted = UInt8(
                            truncatingIfNeeded: value >> UInt64((index - offset) * 8))
                        guard unsafe bytes[index] == wanted else { return false }
                    }
                }
            }
            return true
        }
    }
}
