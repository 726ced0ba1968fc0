internal import Dray
internal import DrayRuntime

/// One simulated client: changes and reads values that only it writes, and knows after every
/// step what each of them may be.
final class Workload {
    private let name: String
    private let container: Container
    private let xstream: XStream
    private var entropy: Entropy
    private let map: KeyValue
    private let array: DrayObject
    private var writeCount: UInt32 = 0

    private var keys: [PossibleStates<[UInt8]?>]
    private var arrays: [PossibleStates<[UInt32]>]

    private(set) var operations = 0
    private(set) var acknowledgedWrites = 0
    private(set) var unknownOutcomes = 0
    /// Reads that were refused because what is stored is damaged.
    private(set) var damagedReads = 0
    private(set) var violations: [String] = []
    /// Blocks have rotted: a read may say so.
    private var mayBeDamaged = false

    /// The most operations under way at once, each on keys and arrays of its own.
    static let laneMax = 4
    static let keyCount = 24
    static let arrayCount = 4
    static let cellCount = 160
    /// Not a divisor of anything, so that extents begin and end inside blocks and chunks.
    static let cellSize = 1_000
    static let valueMax = 40_000

    init(
        name: String, container: Container, arrayID: ObjectID, xstream: XStream, entropy: Entropy
    ) {
        self.name = name
        self.container = container
        self.xstream = xstream
        self.entropy = entropy
        map = KeyValue(container: container)
        array = container.object(arrayID)
        keys = Array(repeating: PossibleStates(nil), count: Workload.keyCount)
        arrays = Array(
            repeating: PossibleStates(Array(repeating: 0, count: Workload.cellCount)),
            count: Workload.arrayCount)
    }

    /// Runs random operations, `lanes` at a time, until `end`, then calls `done`.
    func run(lanes: Int, until end: Instant, then done: @escaping () -> Void) {
        var running = lanes
        for lane in 0..<lanes {
            xstream.spawn { [self] in
                await run(lane: lane, of: lanes, until: end)
                running -= 1
                if running == 0 { done() }
            }
        }
    }

    /// A random index below `count` that belongs to `lane`.
    private func pick(_ count: Int, _ lane: Int, _ lanes: Int) -> Int {
        lane + lanes * Int(entropy.below(UInt64(count / lanes)))
    }

    private func run(lane: Int, of lanes: Int, until end: Instant) async {
        while xstream.now < end, violations.isEmpty {
            switch entropy.below(11) {
            case 0...3: await putKey(pick(Workload.keyCount, lane, lanes))
            case 4, 5: await removeKey(pick(Workload.keyCount, lane, lanes))
            case 6: await readKey(pick(Workload.keyCount, lane, lanes))
            case 7...9: await writeArray(pick(Workload.arrayCount, lane, lanes))
            default: await readArray(pick(Workload.arrayCount, lane, lanes))
            }
            if entropy.chance(1, in: 8) {
                await xstream.sleep(for: .microseconds(Int64(entropy.below(20_000))))
            }
        }
    }

    /// Reads everything back, by keys, by list and by arrays; `container` may be that of another
    /// client. When blocks are `rotten`, reads may be refused for that.
    func verify(through container: Container, rotten: Bool) async {
        let other = Workload(
            name: name, container: container, arrayID: array.id, xstream: xstream,
            entropy: entropy)
        other.keys = keys
        other.arrays = arrays
        other.mayBeDamaged = rotten
        for index in 0..<Workload.keyCount { await other.readKey(index, mustSucceed: true) }
        for index in 0..<Workload.arrayCount { await other.readArray(index, mustSucceed: true) }
        await other.verifyList()
        keys = other.keys
        arrays = other.arrays
        operations += other.operations
        damagedReads += other.damagedReads
        violations += other.violations
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

    private func putKey(_ index: Int) async {
        if keys[index].needsLook {
            await readKey(index)
            return
        }
        let value = makeValue()
        let conditions: [DrayObject.Condition] = [.none, .none, .insert, .update]
        var condition = conditions[Int(entropy.below(UInt64(conditions.count)))]
        // A resend that is not recognised shows where the condition held at first.
        if keys[index].states[0] == nil, entropy.chance(1, in: 2) { condition = .insert }
        operations += 1
        let applied: ([UInt8]?) -> [UInt8]? = { state in
            switch condition {
            case .none: value
            case .insert: state == nil ? value : state
            case .update: state == nil ? nil : value
            }
        }
        do throws(DrayError) {
            try await map.put(key(index), value, condition: condition)
            let possible = keys[index].observe { state in
                switch condition {
                case .none: true
                case .insert: state == nil
                case .update: state != nil
                }
            }
            if !possible { violation("key \(index): a condition held that could not") }
            keys[index].acknowledge { _ in value }
            acknowledgedWrites += 1
        } catch {
            switch error.code {
            case .exists:
                if condition != .insert || !keys[index].observe({ $0 != nil }) {
                    violation("key \(index): 'exists', but it cannot")
                }
            case .notFound:
                if condition != .update || !keys[index].observe({ $0 == nil }) {
                    violation("key \(index): 'not found', but it must be there")
                }
            default:
                if isUnknown(error) { keys[index].doubt(applied) }
            }
        }
    }

    private func removeKey(_ index: Int) async {
        if keys[index].needsLook {
            await readKey(index)
            return
        }
        let condition: DrayObject.Condition = entropy.chance(1, in: 2) ? .none : .update
        operations += 1
        do throws(DrayError) {
            try await map.object.remove(dkey: key(index), condition: condition)
            if condition == .update, !keys[index].observe({ $0 != nil }) {
                violation("key \(index): removed, but it was not there")
            }
            keys[index].acknowledge { _ in nil }
            acknowledgedWrites += 1
        } catch {
            if condition == .update, error.code == .notFound {
                if !keys[index].observe({ $0 == nil }) {
                    violation("key \(index): 'not found', but it must be there")
                }
            } else if isUnknown(error) {
                keys[index].doubt { _ in nil }
            }
        }
    }

    private func readKey(_ index: Int, mustSucceed: Bool = false) async {
        operations += 1
        do throws(DrayError) {
            let value = try await map.get(key(index))
            if !keys[index].observe({ $0 == value }) {
                violation(
                    "key \(index): read \(describe(value)), expected "
                        + keys[index].states.map(describe).joined(separator: " or "))
            }
        } catch {
            if isDamage(error) { return }
            if mustSucceed || !isUnknown(error) {
                violation("key \(index): cannot be read: \(error)")
            }
        }
    }

    private func verifyList() async {
        operations += 1
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
            violation("list failed: \(error)")
            return
        }
        let expected = (0..<Workload.keyCount).filter { keys[$0].states[0] != nil }.map(key)
            .sorted { $0.lexicographicallyPrecedes($1) }
        if listed != expected {
            violation("list has \(listed.count) keys, expected \(expected.count)")
        }
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

    private func writeArray(_ index: Int) async {
        if arrays[index].needsLook {
            await readArray(index)
            return
        }
        writeCount += 1
        let write = writeCount
        let first = Int(entropy.below(UInt64(Workload.cellCount)))
        let longest = entropy.chance(1, in: 2) ? 12 : Workload.cellCount
        let count = 1 + Int(entropy.below(UInt64(min(longest, Workload.cellCount - first))))
        let buffer = IOBuffer(count: count * Workload.cellSize)
        for cell in 0..<count { fill(buffer, cell: cell, with: write) }
        operations += 1
        let applied: ([UInt32]) -> [UInt32] = { state in
            var state = state
            for cell in first..<(first + count) { state[cell] = write }
            return state
        }
        do throws(DrayError) {
            try await array.write(
                dkey: arrayKey(index), akey: [1], offset: UInt64(first * Workload.cellSize),
                buffer: buffer, range: 0..<buffer.count)
            arrays[index].acknowledge(applied)
            acknowledgedWrites += 1
        } catch {
            if isUnknown(error) { arrays[index].doubt(applied) }
        }
    }

    private func readArray(_ index: Int, mustSucceed: Bool = false) async {
        operations += 1
        let count = Workload.cellCount * Workload.cellSize
        let buffer = IOBuffer(count: count)
        let expected = IOBuffer(count: count)
        do throws(DrayError) {
            try await array.read(
                dkey: arrayKey(index), akey: [1], offset: 0, into: buffer, range: 0..<count)
        } catch {
            if isDamage(error) { return }
            if mustSucceed || !isUnknown(error) {
                violation("array \(index): cannot be read: \(error)")
            }
            return
        }
        let actual = buffer.array(0..<count)
        let matches = arrays[index].observe { state in
            for (cell, write) in state.enumerated() { fill(expected, cell: cell, with: write) }
            return expected.array(0..<count) == actual
        }
        if !matches {
            violation(
                "array \(index): contents are none of \(arrays[index].states.count) possible")
        }
    }

    // MARK: -

    /// Whether the error leaves the outcome open. Anything else is a violation.
    private func isUnknown(_ error: DrayError) -> Bool {
        switch error.code {
        case .unavailable, .timedOut, .cancelled:
            unknownOutcomes += 1
            return true
        case .notFound, .exists, .noSpace, .invalidArgument, .corrupt, .conflict, .device,
            .internalError:
            violation("unexpected error \(error.code): \(error)")
            return false
        }
    }

    /// Whether the error says that what is stored is damaged, and that can be so.
    private func isDamage(_ error: DrayError) -> Bool {
        guard mayBeDamaged, error.code == .corrupt else { return false }
        damagedReads += 1
        return true
    }

    private func violation(_ what: String) {
        violations.append("client \(name): \(what)")
    }
}
