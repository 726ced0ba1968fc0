internal import DrayRuntime
internal import VOS

/// Updates, fetches, enumeration, each for some time.
extension VOSBench {
    /// Updates and fetches of values of one size.
    func measureTransfers(_ size: Int) async throws(CommandFailure) {
        let values = values(
            size, count: plan.count(of: size, in: UInt64(plan.cache * VOSBenchPlan.cacheFactor)))
        try await format()
        let target = try await open()
        try await with(target) { () async throws(CommandFailure) in
            try await fill(target, values)
            if plan.parts.contains(.update) {
                for depth in plan.depths {
                    try await measure(.update, target, values, depth, fioWrites: true) {
                        load, worker async throws(VOSError) in
                        try await self.updateOne(worker, load, target, values)
                    }
                }
            }
            if plan.parts.contains(.fetch) { try await measureFetches(target, values) }
        }
    }

    private func measureFetches(
        _ target: BenchTarget, _ values: BenchValues
    ) async throws(CommandFailure) {
        for depth in plan.depths {
            try await measure(.fetch, target, values, depth, fioWrites: false) {
                load, worker async throws(VOSError) in
                try await self.fetchOne(worker, load, target, values, of: values.count)
            }
        }
        // A value that is longer than this is not kept in memory.
        guard values.size <= 64 << 10 else { return }
        // One that stands in the index comes with the block of the index around it.
        let kept = values.isArray ? values.size : max(values.size, 8 << 10)
        let few = min(values.count, plan.count(of: kept, in: UInt64(plan.cache / 4)))
        let warming = Load("reading", limit: 3 * few, end: .never, now: xstream.now)
        try await drive(warming, 16, target, values) { worker async throws(VOSError) in
            let number = warming.next % few
            warming.next += 1
            try await target.fetch(values, number, into: worker.buffer)
        }
        for depth in plan.depths {
            try await measure(.fetchCached, target, values, depth, fioWrites: nil) {
                load, worker async throws(VOSError) in
                try await self.fetchOne(worker, load, target, values, of: few)
            }
        }
    }

    /// One row: as many rounds as asked for, in turn with fio.
    ///
    /// - Parameter fioWrites: what fio does beside it; nil: nothing.
    private func measure(
        _ what: VOSBenchRate.What, _ target: BenchTarget, _ values: BenchValues, _ depth: Int,
        fioWrites: Bool?,
        _ body: @escaping (Load, Worker) async throws(VOSError) -> Void
    ) async throws(CommandFailure) {
        var rounds: [VOSBenchRate.Round] = []
        for _ in 0..<plan.rounds {
            let load = Load(
                "\(what.rawValue) \(Size(bytes: UInt64(values.size)).exact), depth \(depth)",
                end: xstream.now + plan.time, now: xstream.now)
            try await drive(load, depth, target, values) { worker async throws(VOSError) in
                try await body(load, worker)
            }
            var limit: Fio.Figures?
            if let fio, let fioWrites {
                limit = try await fio.run(
                    writing: fioWrites, size: (values.size + 4095) / 4096 * 4096, depth: depth,
                    time: plan.time, seed: entropy.next(), on: xstream)
            }
            rounds.append(
                VOSBenchRate.Round(
                    latencies: load.latencies, seconds: load.seconds, waits: load.waits,
                    limit: limit))
        }
        report.rates.append(
            VOSBenchRate(what, size: values.size, depth: depth, values: values.count, rounds))
    }

    /// The keys of objects, page by page.
    func measureEnumeration() async throws(CommandFailure) {
        let count = plan.count(of: VOSBenchPlan.filledSize, in: UInt64(plan.cache / 2))
        let values = values(VOSBenchPlan.filledSize, count: count)
        try await format()
        let target = try await open()
        try await with(target) { () async throws(CommandFailure) in
            try await fill(target, values)
            _ = try await enumerateAll(target, values, into: nil)
            var rounds: [VOSBenchRate.Round] = []
            for _ in 0..<plan.rounds {
                let load = Load("enumerating", end: xstream.now + plan.time, now: xstream.now)
                while load.goesOn(at: xstream.now) {
                    try await enumerateAll(target, values, into: load)
                }
                load.ended = xstream.now
                load.bar.clear()
                rounds.append(
                    VOSBenchRate.Round(
                        latencies: load.latencies, operations: load.done, seconds: load.seconds,
                        waits: 0, limit: nil))
            }
            report.rates.append(
                VOSBenchRate(.enumerate, size: plan.keySize, depth: 1, values: count, rounds))
        }
    }

    /// Keys of one page.
    private static let pageKeys = 1024

    /// Lists every key once, and checks how many there are.
    private func enumerateAll(
        _ target: BenchTarget, _ values: BenchValues, into load: Load?
    ) async throws(CommandFailure) {
        var found: UInt64 = 0
        do throws(VOSError) {
            for object in 0..<BenchValues.objects {
                var anchor: [UInt8]?
                repeat {
                    let start = xstream.now
                    let page = try await target.vos.listDkeys(
                        pool: values.pool, container: values.container,
                        object: BenchValues.object(object), after: anchor,
                        limit: VOSBench.pageKeys)
                    load?.latencies.record(xstream.now.since(start))
                    found += UInt64(page.keys.count)
                    anchor = page.next
                } while anchor != nil
            }
        } catch {
            throw CommandFailure(error, file.path.text)
        }
        guard found == values.count else {
            throw CommandFailure(
                .different, "enumeration", "found \(found) keys, where \(values.count) are",
                advice: "keep the file as it is and report this")
        }
        load?.done += found
        load?.bytes += found * UInt64(plan.keySize)
        if let load { load.bar.update(load.figures, now: xstream.now) }
    }
}
