public import DrayPlacement
internal import DrayProtocol
public import DrayRuntime

/// An object: values under distribution keys (dkeys) and attribute keys (akeys).
///
/// A dkey lives in one redundancy group, without redundancy on one target; the object class
/// spreads dkeys over groups and says how each is protected. Under each dkey and
/// akey stands either a single value, replaced as a whole, or an array that is written and read
/// in parts: of bytes, or of records of any size (`array(dkey:akey:recordSize:)`). Keys are
/// arbitrary bytes, up to 65,536, or integers: the object's id says which (`KeyTypes`).
public struct DrayObject: Sendable {
    public let id: ObjectID
    public let container: Container

    /// What must hold for a change to happen.
    public enum Condition: Sendable {
        case none
        /// The akey must have no value.
        case insert
        /// What is changed or removed must have a value: the akey, or the dkey or object.
        case update
        /// The dkey must have no value, under whatever akey.
        case insertDkey
        /// The dkey must have one.
        case updateDkey
    }

    /// What must be there for a read to succeed: `notFound` otherwise.
    public enum ReadCondition: Sendable {
        case none
        /// The dkey must have a value, under whatever akey.
        case dkeyExists
        /// The akey must have a value, single or array.
        case akeyExists
    }

    /// The longest single value, in bytes.
    public static let valueMax = ObjectLimits.dataMax

    /// Stores a single value of at most `valueMax` bytes. Durable when it returns.
    ///
    /// - Throws: `exists` or `notFound` when the condition does not hold, `noSpace`,
    ///   `invalidArgument`, and whatever `Cluster` says about failures.
    public func put(
        dkey: [UInt8], akey: [UInt8], value: [UInt8], condition: Condition = .none
    ) async throws(DrayError) {
        try checkKeys(dkey: dkey, akey: akey)
        guard value.count <= DrayObject.valueMax else {
            throw DrayError(
                .invalidArgument,
                "a single value has at most \(DrayObject.valueMax) bytes, "
                    + "this one \(value.count); write it as an array instead")
        }
        let object = self
        try await container.pool.cluster.onCore { core throws(DrayError) in
            try await core.put(
                object, dkey: dkey, akey: akey, value: value, condition: condition.wire)
        }
    }

    /// The single value, or nil when there is none.
    ///
    /// - Throws: `notFound` when the condition does not hold.
    public func get(
        dkey: [UInt8], akey: [UInt8], condition: ReadCondition = .none
    ) async throws(DrayError) -> [UInt8]? {
        try checkKeys(dkey: dkey, akey: akey)
        let object = self
        return try await container.pool.cluster.onCore { core throws(DrayError) in
            try await core.get(object, dkey: dkey, akey: akey, condition: condition)
        }
    }

    /// Removes what stands under the akey, or under the whole dkey when `akey` is nil.
    ///
    /// - Throws: `notFound` when the condition does not hold: `.update`, or `.updateDkey` of an
    ///   akey. `invalidArgument` for others.
    public func remove(
        dkey: [UInt8], akey: [UInt8]? = nil, condition: Condition = .none
    ) async throws(DrayError) {
        try checkKeys(dkey: dkey, akey: akey)
        try condition.wire.checkRemoval()
        let object = self
        try await container.pool.cluster.onCore { core throws(DrayError) in
            try await core.punch(object, dkey: dkey, akey: akey, condition: condition.wire)
        }
    }

    /// Removes the whole object: everything on all its shards.
    ///
    /// - Parameter condition: `.update`: all shards are asked first, in a transaction, whether they
    ///   have anything.
    /// - Throws: `notFound` when the condition does not hold, `invalidArgument` for others.
    public func punch(condition: Condition = .none) async throws(DrayError) {
        let object = self
        guard condition != .none else {
            try await container.pool.cluster.onCore { core throws(DrayError) in
                try await core.punchObject(object)
            }
            return
        }
        do {
            try await container.transaction { transaction in
                try await transaction.punch(object, condition: condition)
            }
        } catch let error as DrayError {
            throw error
        } catch {
            throw DrayError(.internalError, "object \(id): \(error)")
        }
    }

    /// At most `limit` dkeys of a range, in its order, after `key`, and whether there are more.
    /// Asks every shard. To go on, pass the last one as `key`: what is there all the while is
    /// listed once, whatever is written meanwhile.
    public func listDkeys(
        in range: KeyRange = .all, after key: [UInt8]? = nil, limit: Int = 1000
    ) async throws(DrayError) -> (keys: [[UInt8]], more: Bool) {
        try checkBounds(range, key)
        let object = self
        return try await container.pool.cluster.onCore { core throws(DrayError) in
            try await core.listDkeys(object, in: range, after: key, limit: limit)
        }
    }

    /// At most `limit` akeys of `dkey`: otherwise as `listDkeys`.
    public func listAkeys(
        dkey: [UInt8], in range: KeyRange = .all, after key: [UInt8]? = nil, limit: Int = 1000
    ) async throws(DrayError) -> (keys: [[UInt8]], more: Bool) {
        try checkKeys(dkey: dkey)
        try checkBounds(range, key)
        let object = self
        return try await container.pool.cluster.onCore { core throws(DrayError) in
            try await core.listAkeys(
                object, dkey: dkey, in: range, after: key, limit: limit)
        }
    }

    /// Writes `range` of `buffer` into the array of bytes, from byte `offset` on. Durable when it
    /// returns. Atomic up to 1 MiB; longer ranges are written in parts of that size, each with a
    /// deadline of its own. `progress` is called after each, with the bytes so far, on the client's
    /// xstream. The condition is that of the first part; an empty range is no write.
    ///
    /// - Throws: `exists` or `notFound` when the condition does not hold, `invalidArgument` when
    ///   the array has longer records.
    public func write(
        dkey: [UInt8], akey: [UInt8], offset: UInt64, buffer: IOBuffer, range: Range<Int>,
        condition: Condition = .none, progress: (@Sendable (Int) -> Void)? = nil
    ) async throws(DrayError) {
        try checkKeys(dkey: dkey, akey: akey)
        try checkRange(range, of: buffer, offset: offset)
        let object = self
        try await container.pool.cluster.onCore { core throws(DrayError) in
            try await core.write(
                object, dkey: dkey, akey: akey, offset: offset, buffer: buffer, range: range,
                condition: condition.wire, progress: progress)
        }
    }

    /// Reads the array of bytes from byte `offset` on into `range` of `buffer`. Bytes that were
    /// never written are zero. `progress` and `invalidArgument` as for `write`.
    ///
    /// - Throws: `notFound` when the condition does not hold.
    public func read(
        dkey: [UInt8], akey: [UInt8], offset: UInt64, into buffer: IOBuffer, range: Range<Int>,
        condition: ReadCondition = .none, progress: (@Sendable (Int) -> Void)? = nil
    ) async throws(DrayError) {
        try checkKeys(dkey: dkey, akey: akey)
        try checkRange(range, of: buffer, offset: offset)
        let object = self
        try await container.pool.cluster.onCore { core throws(DrayError) in
            try await core.read(
                object, dkey: dkey, akey: akey, offset: offset, buffer: buffer, range: range,
                condition: condition, progress: progress)
        }
    }

    /// The end of the array of bytes: one more than the last byte written, 0 when there is none.
    /// Throws as `read`.
    public func arrayEnd(
        dkey: [UInt8], akey: [UInt8], condition: ReadCondition = .none
    ) async throws(DrayError) -> UInt64 {
        try checkKeys(dkey: dkey, akey: akey)
        let object = self
        return try await container.pool.cluster.onCore { core throws(DrayError) in
            try await core.arrayShape(
                object, dkey: dkey, akey: akey, recordSize: 1, condition: condition
            ).end
        }
    }

    /// Where each shard is, group by group. For tools.
    public func layout() throws(DrayError) -> [TargetAddress] {
        guard let layout = ObjectLayout(of: id, in: container.pool.record.map) else {
            throw DrayError(
                .invalidArgument,
                "object \(id) does not fit pool "
                    + "\(container.pool.label): it was not made for it")
        }
        return layout.shards
    }

    /// Reads everything of the object from every replica, down to the devices, and compares: which
    /// values and extents there are, from which epochs, and their bytes. Without replicas it is
    /// only read. Writes may go on: what differs is looked at once more, at one epoch in all
    /// replicas, before it is reported. What is below one dkey is compared at
    /// once: it must be read within the time of an operation, and its list fit into one message
    /// (about a million values and extents).
    ///
    /// - Throws: `unavailable` or `timedOut` when the engine of a replica does not answer; which
    ///   one, the message says.
    public func verify() async throws(DrayError) -> VerificationReport {
        let object = self
        return try await container.pool.cluster.onCore { core throws(DrayError) in
            try await core.verify(object)
        }
    }

    /// Throws when a key is too long, or not what the object's keys are.
    func checkKeys(dkey: [UInt8]? = nil, akey: [UInt8]? = nil) throws(DrayError) {
        try checkLengths(dkey, akey)
        let types = id.keyTypes
        for (key, type) in [(dkey, types.dkey), (akey, types.akey)] {
            guard let problem = key.flatMap({ type.problem(with: $0) }) else { continue }
            throw DrayError(.invalidArgument, problem)
        }
    }

    /// Throws when a key of a change is none, or nothing can be done on its condition.
    func check(_ operation: ObjectOperation) throws(DrayError) {
        try checkKeys(
            dkey: operation.kind == .punchObject ? nil : operation.dkey,
            akey: operation.kind.hasAkey ? operation.akey : nil)
        switch operation.kind {
        case .updateSingle, .updateArray: return
        case .punchAkey, .punchDkey, .punchObject: try operation.condition.checkRemoval()
        }
    }

    /// Throws when a bound of a list is too long.
    func checkBounds(_ range: KeyRange, _ anchor: [UInt8]?) throws(DrayError) {
        try checkLengths(range.lower, range.upper, anchor)
    }

    private func checkLengths(_ keys: [UInt8]?...) throws(DrayError) {
        for case .some(let key) in keys where key.count > ObjectLimits.keyMax {
            throw DrayError(
                .invalidArgument,
                "a key has at most \(ObjectLimits.keyMax) bytes, this one \(key.count)")
        }
    }

    func checkRange(
        _ range: Range<Int>, of buffer: IOBuffer, offset: UInt64
    ) throws(DrayError) {
        guard range.lowerBound >= 0, range.upperBound <= buffer.count else {
            throw DrayError(
                .invalidArgument, "range \(range) is outside a buffer of \(buffer.count) bytes")
        }
        guard offset <= UInt64(Int64.max) - UInt64(range.count) else {
            throw DrayError(.invalidArgument, "offset \(offset) is beyond the end of any array")
        }
    }
}

extension DrayObject.Condition {
    var wire: ObjectOperation.Condition {
        switch self {
        case .none: .none
        case .insert: .insert
        case .update: .update
        case .insertDkey: .insertDkey
        case .updateDkey: .updateDkey
        }
    }
}

extension ObjectOperation.Condition {
    /// Throws when nothing can be removed on this condition.
    func checkRemoval() throws(DrayError) {
        switch self {
        case .none, .update, .updateDkey: return
        case .insert, .insertDkey:
            throw DrayError(.invalidArgument, "what must not exist cannot be removed")
        }
    }
}

extension DrayObject.ReadCondition {
    var wire: ObjectFetchRequest.Condition {
        switch self {
        case .none: .none
        case .dkeyExists: .dkeyExists
        case .akeyExists: .akeyExists
        }
    }
}
