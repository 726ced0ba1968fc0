internal import Dray
internal import DrayRuntime
internal import Synchronization

/// What one client does with the values that it shares with all others. Everything is recorded;
/// what it means is checked when the run is over.
final class SharedWorkload {
    private let client: Int
    private let shared: SharedValues
    private let map: KeyValue
    private let array: DrayObject
    private let xstream: XStream
    private var entropy: Entropy
    private let judge: ErrorJudge
    /// How long after it began a change of unknown outcome may still happen.
    private let lateness: Duration

    private(set) var operations = 0
    private(set) var acknowledgedWrites = 0

    init(
        client: Int, shared: SharedValues, container: Container, xstream: XStream,
        entropy: Entropy, judge: ErrorJudge, lateness: Duration
    ) {
        self.lateness = lateness
        self.client = client
        self.shared = shared
        self.xstream = xstream
        self.entropy = entropy
        self.judge = judge
        map = KeyValue(container: container)
        array = container.object(container.wellKnownObjectID(SharedValues.arrayObject))
    }

    /// A few are used much more than others.
    private func pick(_ count: Int) -> Int {
        Int(min(entropy.below(UInt64(count)), entropy.below(UInt64(count))))
    }

    /// One random operation.
    func runOne() async {
        switch entropy.below(10) {
        case 0...3: await get(pick(SharedValues.keyCount))
        case 4...6: await put(pick(SharedValues.keyCount))
        case 7: await remove(pick(SharedValues.keyCount))
        case 8: await write(pick(SharedValues.arrayCount))
        default: await read(pick(SharedValues.arrayCount), whole: entropy.chance(1, in: 2))
        }
    }

    /// One random read. Returns whether it was answered.
    func readOne() async -> Bool {
        entropy.chance(3, in: 4)
            ? await get(pick(SharedValues.keyCount))
            : await read(pick(SharedValues.arrayCount), whole: false)
    }

    /// Reads everything. Returns whether all of it could be read.
    func readAll() async -> Bool {
        var isRead = true
        for index in 0..<SharedValues.keyCount where !(await get(index)) { isRead = false }
        for index in 0..<SharedValues.arrayCount where !(await read(index, whole: true)) {
            isRead = false
        }
        return isRead
    }

    /// Until when a change that begins now may still happen.
    private var lastMoment: Instant { xstream.now + lateness }

    private func begin(
        key: Int, _ change: RegisterModel.Action?
    ) -> History<Int, RegisterModel.Action>.Token {
        shared.keys.withLock {
            $0.begin(
                client: client, key: key, change: change, at: xstream.now, until: lastMoment)
        }
    }

    private func begin(
        array: Int, _ change: CellArrayModel.Action?
    ) -> History<Int, CellArrayModel.Action>.Token {
        shared.arrays.withLock {
            $0.begin(
                client: client, key: array, change: change, at: xstream.now, until: lastMoment)
        }
    }

    /// A change has failed. What its client knows not to have happened is taken out of the history:
    /// whoever reads it has read what nobody wrote. Returns false unless the error may not be, when
    /// there is nothing to be tried again.
    private func end<Key: Hashable & Comparable & Sendable, Action: Hashable & Sendable>(
        _ token: History<Key, Action>.Token, of history: borrowing Mutex<History<Key, Action>>,
        _ error: DrayError, _ subject: String
    ) -> Bool {
        switch judge.outcome(of: error, subject) {
        case .open: return false
        case .nothing:
            history.withLock { $0.drop(token) }
            return false
        case .wrong: return true
        }
    }

    // MARK: - Keys

    private func drawCondition() -> RegisterModel.Condition {
        let conditions: [RegisterModel.Condition] = [.none, .none, .insert, .update]
        return conditions[Int(entropy.below(UInt64(conditions.count)))]
    }

    @discardableResult
    private func get(_ index: Int) async -> Bool {
        operations += 1
        let token = begin(key: index, nil)
        do throws(DrayError) {
            let bytes = try await map.get(SharedValues.key(index))
            let value = bytes.flatMap { SharedValues.value(of: $0) }
            if bytes != nil, value == nil {
                judge.violation("shared key \(index): a value that nobody wrote")
            }
            shared.keys.withLock { $0.finish(token, as: .get(value)) }
            return true
        } catch {
            judge.judgeRead(error, "shared key \(index)")
            return false
        }
    }

    /// Puts a value of its own. Returns whether the outcome is known.
    @discardableResult
    func put(_ index: Int) async -> Bool {
        let value = shared.nextValue()
        let condition = drawCondition()
        return await change(index, .put(value, condition), condition) {
            [map] () async throws(DrayError) in
            try await map.put(
                SharedValues.key(index), SharedValues.bytes(of: value),
                condition: condition.asked(ofKey: index))
        }
    }

    /// Returns whether the outcome is known.
    @discardableResult
    func remove(_ index: Int) async -> Bool {
        let condition: RegisterModel.Condition = entropy.chance(1, in: 2) ? .none : .update
        return await change(index, .remove(condition), condition) {
            [map] () async throws(DrayError) in
            try await map.object.remove(
                dkey: SharedValues.key(index), condition: condition.asked(ofKey: index))
        }
    }

    private func change(
        _ index: Int, _ action: RegisterModel.Action, _ condition: RegisterModel.Condition,
        _ body: () async throws(DrayError) -> Void
    ) async -> Bool {
        operations += 1
        let token = begin(key: index, action)
        do throws(DrayError) {
            try await body()
            shared.keys.withLock { $0.finish(token, as: action) }
            acknowledgedWrites += 1
        } catch {
            switch (error.code, condition) {
            case (.exists, .insert), (.notFound, .update):
                shared.keys.withLock { $0.finish(token, as: .refused(condition)) }
            default: return end(token, of: shared.keys, error, "shared key \(index)")
            }
        }
        return true
    }

    // MARK: - Arrays

    private func pickCells() -> Range<Int> {
        let first = Int(entropy.below(UInt64(SharedValues.cellCount)))
        return first..<(first + 1 + Int(entropy.below(UInt64(SharedValues.cellCount - first))))
    }

    /// Returns whether the outcome is known.
    @discardableResult
    func write(_ index: Int) async -> Bool {
        operations += 1
        let number = shared.nextWrite()
        let cells = pickCells()
        let buffer = IOBuffer(count: cells.count * SharedValues.cellSize)
        SharedValues.fill(buffer, with: number)
        let action = CellArrayModel.Action.write(number, cells)
        let token = begin(array: index, action)
        do throws(DrayError) {
            try await array.write(
                dkey: SharedValues.arrayKey(index), akey: [1],
                offset: UInt64(cells.lowerBound * SharedValues.cellSize), buffer: buffer,
                range: 0..<buffer.count)
            shared.arrays.withLock { $0.finish(token, as: action) }
            acknowledgedWrites += 1
            return true
        } catch {
            return end(token, of: shared.arrays, error, "shared array \(index)")
        }
    }

    @discardableResult
    private func read(_ index: Int, whole: Bool) async -> Bool {
        operations += 1
        let cells = whole ? 0..<SharedValues.cellCount : pickCells()
        let buffer = IOBuffer(count: cells.count * SharedValues.cellSize)
        let token = begin(array: index, nil)
        do throws(DrayError) {
            try await array.read(
                dkey: SharedValues.arrayKey(index), akey: [1],
                offset: UInt64(cells.lowerBound * SharedValues.cellSize), into: buffer,
                range: 0..<buffer.count)
            guard let writes = SharedValues.writes(in: buffer) else {
                judge.violation("shared array \(index): a cell holds parts of two writes")
                return true
            }
            shared.arrays.withLock { $0.finish(token, as: .read(first: cells.lowerBound, writes)) }
            return true
        } catch {
            judge.judgeRead(error, "shared array \(index)")
            return false
        }
    }
}

extension RegisterModel.Condition {
    /// What the client is given. A key of a map has one akey: what is asked of its dkey, as is done
    /// for every other key, comes to the same.
    func asked(ofKey index: Int) -> DrayObject.Condition {
        let isOfDkey = index % 2 == 1
        return switch self {
        case .none: .none
        case .insert: isOfDkey ? .insertDkey : .insert
        case .update: isOfDkey ? .updateDkey : .update
        }
    }
}
