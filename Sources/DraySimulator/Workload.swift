package import Dray
package import DrayRuntime

/// What one client does: it changes and reads values that only it writes, and knows after every
/// step what each of them may be; and it takes part in what all clients share.
///
/// Confined to the client's xstream. The cluster may be simulated or real.
package final class Workload {
    /// What a workload is made with.
    package struct Setting {
        package var name: String
        /// The number of the client.
        package var client: Int
        package var container: Container
        package var xstream: XStream
        package var entropy: Entropy
        package var shared: SharedValues
        package var clocksDiffer: Bool
        /// Until when a change of unknown outcome, begun now, may still happen: so long after.
        package var lateness: Duration

        package init(
            name: String, client: Int, container: Container, xstream: XStream, entropy: Entropy,
            shared: SharedValues, clocksDiffer: Bool, lateness: Duration
        ) {
            self.name = name
            self.client = client
            self.container = container
            self.xstream = xstream
            self.entropy = entropy
            self.shared = shared
            self.clocksDiffer = clocksDiffer
            self.lateness = lateness
        }
    }

    private let setting: Setting
    private let name: String
    private let xstream: XStream
    private var entropy: Entropy
    private let map: KeyValue
    private let array: DrayObject
    private let shared: SharedWorkload
    private let transactions: TransactionWorkload
    private let judge: ErrorJudge
    private var writeCount: UInt32 = 0
    private var isStopped = false

    private var keys: [PossibleStates<[UInt8]?>]
    private var arrays: [PossibleStates<[UInt32]>]

    /// What each lane may leave undone if it ends now: to be called then.
    private var underWay: [Int: () -> Void] = [:]
    private var tasks: [Int: Task<Void, Never>] = [:]

    private var ownOperations = 0
    private var ownWrites = 0
    /// Of `read`.
    package private(set) var answeredReads = 0
    package var operations: Int { ownOperations + shared.operations + transactions.operations }
    package var acknowledgedWrites: Int { ownWrites + shared.acknowledgedWrites }
    package var commits: Int { transactions.commits }
    package var snapshots: Int { transactions.snapshots }
    package var unknownOutcomes: Int { judge.unknownOutcomes }
    package var refusals: Int { judge.refusals }
    var damagedReads: Int { judge.damagedReads }
    package var violations: [Violation] { judge.violations }

    /// The most operations under way at once, each on keys and arrays of its own.
    package static let laneMax = 4
    static let keyCount = 24
    static let arrayCount = 4
    static let cellCount = 160
    /// Not a divisor of anything, so that extents begin and end inside blocks and chunks.
    static let cellSize = 1_000
    static let valueMax = 40_000

    package init(_ setting: Setting) {
        self.setting = setting
        name = setting.name
        xstream = setting.xstream
        entropy = setting.entropy.fork("own")
        judge = ErrorJudge(name: setting.name, clocksDiffer: setting.clocksDiffer)
        shared = SharedWorkload(
            client: setting.client, shared: setting.shared, container: setting.container,
            xstream: setting.xstream, entropy: setting.entropy.fork("shared"), judge: judge,
            lateness: setting.lateness)
        transactions = TransactionWorkload(
            client: setting.client, shared: setting.shared, container: setting.container,
            xstream: setting.xstream, entropy: setting.entropy.fork("transactions"), judge: judge,
            lateness: setting.lateness)
        map = KeyValue(container: setting.container)
        array = Workload.arrays(of: setting.client, in: setting.container)
        keys = Array(repeating: PossibleStates(nil), count: Workload.keyCount)
        arrays = Array(
            repeating: PossibleStates(Array(repeating: 0, count: Workload.cellCount)),
            count: Workload.arrayCount)
    }

    private static func arrays(of client: Int, in container: Container) -> DrayObject {
        container.object(container.wellKnownObjectID(UInt32(100 + client)))
    }

    /// Every object that so many clients use.
    package static func objects(in container: Container, clients: Int) -> [DrayObject] {
        let numbers =
            [SharedValues.arrayObject] + TransactionWorkload.objects
            + [TransactionWorkload.pairObject]
        return [KeyValue(container: container).object]
            + (0..<clients).map { arrays(of: $0, in: container) }
            + numbers.map { container.object(container.wellKnownObjectID($0)) }
    }

    /// Goes on with what another workload knows, which does nothing any more: the process that it
    /// ran in was killed, or is not asked now.
    func takeOver(_ other: Workload) {
        keys = other.keys
        arrays = other.arrays
        writeCount = other.writeCount
    }

    /// Runs random operations, `lanes` at a time, until `isOver` or `stop`, then calls `done`.
    package func run(
        lanes: Int, until isOver: @escaping () -> Bool, then done: @escaping () -> Void
    ) {
        var running = lanes
        for lane in 0..<lanes {
            start(lane: lane, of: lanes, until: isOver) {
                running -= 1
                if running == 0 { done() }
            }
        }
    }

    /// A lane is one task; when that is cancelled, another one goes on.
    private func start(
        lane: Int, of lanes: Int, until isOver: @escaping () -> Bool,
        then done: @escaping () -> Void
    ) {
        tasks[lane] = xstream.spawnCancellable { [self] in
            await run(lane: lane, of: lanes, until: isOver)
            guard !isOver(), !isStopped, judge.violations.isEmpty else {
                tasks[lane] = nil
                done()
                return
            }
            start(lane: lane, of: lanes, until: isOver, then: done)
        }
    }

    /// Reads what is shared, one value after the other, until `stop`, then calls `done`.
    package func read(pausing pause: Duration, then done: @escaping () -> Void) {
        xstream.spawn { [self] in
            while !isStopped, judge.violations.isEmpty {
                if await shared.readOne() { answeredReads += 1 }
                await xstream.sleep(for: pause)
            }
            done()
        }
    }

    /// Lets each lane end after the operation that it is in.
    package func stop() { isStopped = true }

    /// Cancels the task of a lane, whatever it does. On the client's xstream.
    func cancel(lane: Int) { tasks[lane]?.cancel() }

    /// The process was killed: nobody knows what became of what is under way.
    func die() {
        for lane in underWay.keys.sorted() { underWay[lane]?() }
        underWay = [:]
    }

    /// A random index below `count` that belongs to `lane`.
    private func pick(_ count: Int, _ lane: Int, _ lanes: Int) -> Int {
        lane + lanes * Int(entropy.below(UInt64(count / lanes)))
    }

    private func run(lane: Int, of lanes: Int, until isOver: () -> Bool) async {
        while !isOver(), !isStopped, judge.violations.isEmpty, !Task.isCancelled {
            switch entropy.below(16) {
            case 0...3: await putKey(pick(Workload.keyCount, lane, lanes), lane)
            case 4, 5: await removeKey(pick(Workload.keyCount, lane, lanes), lane)
            case 6: await readKey(pick(Workload.keyCount, lane, lanes))
            case 7...9: await writeArray(pick(Workload.arrayCount, lane, lanes), lane)
            case 10: await readArray(pick(Workload.arrayCount, lane, lanes))
            case 11, 12: await transactions.runOne()
            default: await shared.runOne()
            }
            if entropy.chance(1, in: 5) {
                await xstream.sleep(for: .microseconds(Int64(entropy.below(20_000))))
            }
        }
    }

    /// Makes a change that may be interrupted for good at any moment: then `doubt` is called.
    private func changing(
        _ lane: Int, doubt: @escaping () -> Void, _ body: () async throws(DrayError) -> Void
    ) async throws(DrayError) {
        underWay[lane] = doubt
        defer { underWay[lane] = nil }
        try await body()
    }

    /// Until when a change that begins now may still happen.
    private var lastMoment: Instant { xstream.now + setting.lateness }

    /// Once nothing is wrong any more: operations of every kind, again and again until all of
    /// them succeed. Returns what still fails at `limit`.
    package func converge(until limit: Instant) async -> String? {
        // Clients are in each other's way here: what has succeeded once is not done again.
        var changes: [() async -> Bool] = [
            { [self] in await shared.remove(0) }, { [self] in await shared.write(0) },
            { [self] in await transactions.transfer() },
            { [self] in await transactions.writePair() },
            { [self] in await listKeys() },
        ]
        for lane in 0..<Workload.laneMax {
            changes.append { [self] in await removeKey(lane, lane) }
            changes.append { [self] in await writeArray(lane, lane) }
        }
        while xstream.now < limit {
            var left: [() async -> Bool] = []
            for change in changes where !(await change()) { left.append(change) }
            changes = left
            var succeeds = await shared.readAll()
            if !changes.isEmpty { succeeds = false }
            if !(await shared.put(0)) { succeeds = false }
            if !(await transactions.readAll()) { succeeds = false }
            for lane in 0..<Workload.laneMax {
                if !(await readKey(lane)) { succeeds = false }
                if !(await putKey(lane, lane)) { succeeds = false }
                if !(await readArray(lane)) { succeeds = false }
            }
            if succeeds, await transactions.readSnapshot() { return nil }
            await xstream.sleep(for: .milliseconds(100))
        }
        return judge.lastFailure
    }

    /// Until when something of this client may still happen by itself.
    var settled: Instant {
        (keys.map(\.settled) + arrays.map(\.settled)).max() ?? Instant(nanoseconds: 0)
    }

    /// Reads everything back, by keys, by list and by arrays, with what `other` knows. When blocks
    /// are `rotten`, reads may be refused for that.
    func verify(_ other: Workload, rotten: Bool) async {
        takeOver(other)
        judge.mayBeDamaged = rotten
        for index in 0..<Workload.keyCount { await readKey(index, mustSucceed: true) }
        for index in 0..<Workload.arrayCount { await readArray(index, mustSucceed: true) }
        await listKeys(mustSucceed: true)
        other.takeOver(self)
    }

    /// Reads everything back, once nothing can happen by itself any more, with operations that
    /// take at most `timeout`: also what is shared.
    package func verify(within timeout: Duration) async {
        if xstream.now <= settled { await xstream.sleep(until: settled + .milliseconds(1)) }
        var setting = setting
        setting.container = setting.container.within(timeout)
        let reader = Workload(setting)
        await reader.verify(self, rotten: false)
        await reader.readShared()
        for violation in reader.violations { judge.repeat(violation) }
    }

    /// Reads what all clients share.
    func readShared() async {
        if !(await shared.readAll()) { violation("shared values cannot be read", .error) }
        if !(await transactions.readAll()) { violation("accounts cannot be read", .error) }
    }

    // MARK: - Keys

    private func key(_ index: Int) -> [UInt8] {
        // A zero byte and an escape byte in every key: both are special in the index.
        Array("\(name)/".utf8) + [0, 0xff, UInt8(index)]
    }

    /// Random bytes that no other write of this client has.
    private func makeValue() -> [UInt8] {
        writeCount += 1
        let sizes: [UInt64] = [8, 64, 1_500, 3_000, 4_096, 9_000, UInt64(Workload.valueMax)]
        let count = 8 + Int(entropy.below(sizes[Int(entropy.below(UInt64(sizes.count)))]))
        var value = [UInt8](repeating: UInt8(truncatingIfNeeded: writeCount), count: count)
        for index in 0..<8 { value[index] = UInt8(truncatingIfNeeded: entropy.next()) }
        return value
    }

    /// Returns whether the outcome is known.
    @discardableResult
    private func putKey(_ index: Int, _ lane: Int) async -> Bool {
        keys[index].settle(at: xstream.now)
        if keys[index].needsLook { return await readKey(index) }
        let value = makeValue()
        let conditions: [RegisterModel.Condition] = [.none, .none, .insert, .update]
        var condition = conditions[Int(entropy.below(UInt64(conditions.count)))]
        // A resend that is not recognised shows where the condition held at first.
        if keys[index].states[0] == nil, entropy.chance(1, in: 2) { condition = .insert }
        ownOperations += 1
        let applied: ([UInt8]?) -> [UInt8]? = { state in
            switch condition {
            case .none: value
            case .insert: state == nil ? value : state
            case .update: state == nil ? nil : value
            }
        }
        let until = lastMoment
        let doubt = { [self] in keys[index].doubt(at: xstream.now, until: until, applied) }
        do throws(DrayError) {
            try await changing(lane, doubt: doubt) { () async throws(DrayError) in
                try await map.put(
                    key(index), value, condition: condition.asked(ofKey: index))
            }
            let possible = keys[index].observe(at: xstream.now) { state in
                switch condition {
                case .none: true
                case .insert: state == nil
                case .update: state != nil
                }
            }
            if !possible { violation("key \(index): a condition held that could not") }
            keys[index].acknowledge(at: xstream.now) { _ in value }
            ownWrites += 1
        } catch {
            switch error.code {
            case .exists:
                if condition != .insert || !keys[index].observe(at: xstream.now, { $0 != nil }) {
                    violation("key \(index): 'exists', but it cannot")
                }
            case .notFound:
                if condition != .update || !keys[index].observe(at: xstream.now, { $0 == nil }) {
                    violation("key \(index): 'not found', but it must be there")
                }
            default:
                if judge.outcome(of: error, "key \(index)") == .open { doubt() }
                return false
            }
        }
        return true
    }

    /// Returns whether the outcome is known.
    @discardableResult
    private func removeKey(_ index: Int, _ lane: Int) async -> Bool {
        keys[index].settle(at: xstream.now)
        if keys[index].needsLook { return await readKey(index) }
        let condition: RegisterModel.Condition = entropy.chance(1, in: 2) ? .none : .update
        ownOperations += 1
        let until = lastMoment
        let doubt = { [self] in keys[index].doubt(at: xstream.now, until: until) { _ in nil } }
        do throws(DrayError) {
            try await changing(lane, doubt: doubt) { () async throws(DrayError) in
                try await map.object.remove(
                    dkey: key(index), condition: condition.asked(ofKey: index))
            }
            if condition == .update, !keys[index].observe(at: xstream.now, { $0 != nil }) {
                violation("key \(index): removed, but it was not there")
            }
            keys[index].acknowledge(at: xstream.now) { _ in nil }
            ownWrites += 1
        } catch {
            if condition == .update, error.code == .notFound {
                if !keys[index].observe(at: xstream.now, { $0 == nil }) {
                    violation("key \(index): 'not found', but it must be there")
                }
            } else {
                if judge.outcome(of: error, "key \(index)") == .open { doubt() }
                return false
            }
        }
        return true
    }

    @discardableResult
    private func readKey(_ index: Int, mustSucceed: Bool = false) async -> Bool {
        ownOperations += 1
        keys[index].settle(at: xstream.now)
        do throws(DrayError) {
            let value = try await map.get(key(index))
            if !keys[index].observe(at: xstream.now, { $0 == value }) {
                violation(
                    "key \(index): read \(describe(value)), expected "
                        + keys[index].states.map(describe).joined(separator: " or "))
            }
            return true
        } catch {
            readFailed(error, "key \(index)", mustSucceed: mustSucceed)
            return false
        }
    }

    private func readFailed(_ error: DrayError, _ subject: String, mustSucceed: Bool) {
        let refused = judge.damagedReads
        judge.judgeRead(error, subject)
        if mustSucceed, judge.damagedReads == refused {
            violation("\(subject): cannot be read: \(error)", .error)
        }
    }

    /// Lists the client's keys: those that are there, in order. Returns whether that could be done.
    @discardableResult
    private func listKeys(mustSucceed: Bool = false) async -> Bool {
        ownOperations += 1
        for index in 0..<Workload.keyCount { keys[index].settle(at: xstream.now) }
        let prefix = Array("\(name)/".utf8)
        var listed: [[UInt8]] = []
        var after: [UInt8]?
        do throws(DrayError) {
            while true {
                let page = try await map.list(after: after, limit: 7)
                listed += page.keys.filter { $0.starts(with: prefix) }
                guard page.more, let last = page.keys.last else { break }
                after = last
            }
        } catch {
            readFailed(error, "list", mustSucceed: mustSucceed)
            return false
        }
        let present = (0..<Workload.keyCount).filter { listed.contains(key($0)) }
        for index in 0..<Workload.keyCount {
            let isListed = present.contains(index)
            if !keys[index].observe(at: xstream.now, { ($0 != nil) == isListed }) {
                violation("key \(index): \(isListed ? "" : "not ")listed, but it cannot be")
            }
        }
        if listed != present.map(key).sorted(by: { $0.lexicographicallyPrecedes($1) }) {
            violation("list has \(listed.count) keys, \(present.count) of them once, in order")
        }
        return true
    }

    private func describe(_ value: [UInt8]?) -> String {
        value.map { "\($0.count) bytes (\($0.last ?? 0), \($0.prefix(4)))" } ?? "nothing"
    }

    // MARK: - Arrays

    // Each array is `cellCount` cells under one dkey; every byte of a cell tells which write made
    // it, so that a torn write is seen.

    private func arrayKey(_ index: Int) -> [UInt8] { Array("\(name)/array\(index)".utf8) }

    private func fill(_ buffer: IOBuffer, cell: Int, with write: UInt32) {
        for offset in 0..<Workload.cellSize {
            let byte = UInt8(truncatingIfNeeded: write &* 31 &+ UInt32(offset))
            unsafe buffer.bytes[cell * Workload.cellSize + offset] = write == 0 ? 0 : byte
        }
    }

    /// Returns whether the outcome is known.
    @discardableResult
    private func writeArray(_ index: Int, _ lane: Int) async -> Bool {
        arrays[index].settle(at: xstream.now)
        if arrays[index].needsLook { return await readArray(index) }
        writeCount += 1
        let write = writeCount
        let first = Int(entropy.below(UInt64(Workload.cellCount)))
        let longest = entropy.chance(1, in: 2) ? 12 : Workload.cellCount
        let count = 1 + Int(entropy.below(UInt64(min(longest, Workload.cellCount - first))))
        let buffer = IOBuffer(count: count * Workload.cellSize)
        for cell in 0..<count { fill(buffer, cell: cell, with: write) }
        ownOperations += 1
        let applied: ([UInt32]) -> [UInt32] = { state in
            var state = state
            for cell in first..<(first + count) { state[cell] = write }
            return state
        }
        let until = lastMoment
        let doubt = { [self] in arrays[index].doubt(at: xstream.now, until: until, applied) }
        do throws(DrayError) {
            try await changing(lane, doubt: doubt) { () async throws(DrayError) in
                try await array.write(
                    dkey: arrayKey(index), akey: [1], offset: UInt64(first * Workload.cellSize),
                    buffer: buffer, range: 0..<buffer.count)
            }
            arrays[index].acknowledge(at: xstream.now, applied)
            ownWrites += 1
            return true
        } catch {
            if judge.outcome(of: error, "array \(index)") == .open { doubt() }
            return false
        }
    }

    @discardableResult
    private func readArray(_ index: Int, mustSucceed: Bool = false) async -> Bool {
        ownOperations += 1
        arrays[index].settle(at: xstream.now)
        let count = Workload.cellCount * Workload.cellSize
        let buffer = IOBuffer(count: count)
        let expected = IOBuffer(count: count)
        do throws(DrayError) {
            try await array.read(
                dkey: arrayKey(index), akey: [1], offset: 0, into: buffer, range: 0..<count)
        } catch {
            readFailed(error, "array \(index)", mustSucceed: mustSucceed)
            return false
        }
        let actual = buffer.array(0..<count)
        let matches = arrays[index].observe(at: xstream.now) { state in
            for (cell, write) in state.enumerated() { fill(expected, cell: cell, with: write) }
            return expected.array(0..<count) == actual
        }
        if !matches {
            violation(
                "array \(index): contents are none of \(arrays[index].states.count) possible")
        }
        return true
    }

    private func violation(_ what: String, _ kind: Violation.Kind = .value) {
        judge.violation(what, kind)
    }
}
