internal import DrayRuntime

/// One change of the index, ready to be applied: the key (without its stamp, which is known only
/// when the change is logged) and the record.
struct PreparedOperation {
    var key: IndexKey.Bytes
    let record: IndexRecord

    /// The names in the key.
    var names: (dkey: [UInt8]?, akey: [UInt8]?) {
        guard record.dkeyEnd > 0 else { return (nil, nil) }
        let dkey = IndexKey.name(in: key, at: IndexKey.objectLength + 1)?.name
        guard record.akeyEnd > 0 else { return (dkey, nil) }
        return (dkey, IndexKey.name(in: key, at: Int(record.dkeyEnd) + 1)?.name)
    }
}

/// A record of the write-ahead log.
///
///     type 1 | version 1 | ...
///     update:   epoch 8, transaction 16, changes
///     changes:  pool 16, container 16, object 16, count 2, operations
///               operation: kind 1, flags 1 (1 = in blocks, 2 = dkey of the one before,
///               12 = type of the checksums, 32 = with a record size), dkey 4 + n, akey 4 + n (what
///               the kind has), value (`RecordCoding`)
///     range:    from 4 + n, to 4 + n
///     discard:  from 4 + n, to 4 + n, first epoch 8, last epoch 8
///     snapshot: pool 16, container 16, epoch 8, 1 (taken) or 0 (dropped) 1
///     prepared: transaction 16, epoch 8, leader 1, members 4 + n, locks 2 (each key 8, mode 1),
///               changes of objects 2 (each: changes)
///     outcomes: count 2, each: kind 1 (1 committed, 2 aborted, 3 completed), transaction 16,
///               epoch 8
///
/// Numbers are little-endian; identifiers and keys big-endian, as in
/// `IndexKey`.
enum LogRecord {
    static let version: UInt8 = 5

    private enum RecordType: UInt8 {
        case update = 1
        case snapshot = 2
        case range = 3
        case prepared = 4
        case outcomes = 5
        case discard = 6
    }

    case update(epoch: UInt64, transaction: UniqueID, operations: [PreparedOperation])
    /// Everything from one key up to another is destroyed.
    case range(from: IndexKey.Bytes, to: IndexKey.Bytes)
    /// What has some epochs, from one key up to another, is discarded.
    case discard(from: IndexKey.Bytes, to: IndexKey.Bytes, epochs: ClosedRange<UInt64>)
    /// An epoch of a container is kept, or no longer.
    case snapshot(ContainerName, epoch: UInt64, isTaken: Bool)
    /// This target's part of a distributed transaction is durable, and undecided.
    case prepared(DTX)
    /// What became of transactions that were prepared.
    case outcomes([DTXOutcome])

    // MARK: - Encoding

    /// The record of an update. `prepared` are its operations in order, with their values placed.
    static func encode(_ update: Update, prepared: [PreparedOperation]) -> [UInt8] {
        .written(capacity: headLength + length(of: update, prepared)) { writer in
            writer.put(RecordType.update.rawValue)
            writer.put(version)
            writer.put(update.epoch)
            writer.put(id: update.transaction)
            put(update, prepared, to: &writer)
        }
    }

    /// Of an update, what stands before the changes.
    private static let headLength = 26

    /// The most bytes that the changes of one object take.
    private static func length(
        of update: Update, _ prepared: some Collection<PreparedOperation>
    ) -> Int {
        var length = IndexKey.objectLength + 2
        for (operation, prepared) in zip(update.operations, prepared) {
            let (dkey, akey) = operation.body.names
            length += 10 + (dkey?.count ?? 0) + (akey?.count ?? 0)
            length += RecordCoding.length(of: prepared.record)
        }
        return length
    }

    /// The changes of one object.
    private static func put(
        _ update: Update, _ prepared: some Collection<PreparedOperation>,
        to bytes: inout ByteWriter
    ) {
        bytes.put(id: update.pool)
        bytes.put(id: update.container)
        bytes.put(word: update.object.high)
        bytes.put(word: update.object.low)
        bytes.put(UInt16(prepared.count))
        var previous: [UInt8]?
        for (operation, prepared) in zip(update.operations, prepared) {
            put(prepared.record, operation.body.names, after: &previous, to: &bytes)
        }
    }

    /// One change. `previous` is the distribution key of the one before.
    private static func put(
        _ record: IndexRecord, _ names: (dkey: [UInt8]?, akey: [UInt8]?),
        after previous: inout [UInt8]?, to bytes: inout ByteWriter
    ) {
        bytes.put(record.kind.rawValue)
        var flags = RecordCoding.flags(of: record)
        let same = names.dkey != nil && names.dkey == previous
        if same { flags |= RecordCoding.flagSameDkey }
        bytes.put(flags)
        if let dkey = names.dkey, !same { bytes.put(string: dkey) }
        if let akey = names.akey { bytes.put(string: akey) }
        RecordCoding.put(record, to: &bytes)
        previous = names.dkey
    }

    /// The record of a part of a transaction. `prepared` are the operations of all `updates`, in
    /// order, with their values placed.
    static func encode(
        _ dtx: DTX, _ updates: [Update], prepared: [PreparedOperation]
    ) -> [UInt8] {
        var length = headLength(of: dtx)
        var next = 0
        for update in updates {
            let end = next + update.operations.count
            length += LogRecord.length(of: update, prepared[next..<end])
            next = end
        }
        return .written(capacity: length) { writer in
            putHead(of: dtx, partCount: updates.count, to: &writer)
            var next = 0
            for update in updates {
                let end = next + update.operations.count
                put(update, prepared[next..<end], to: &writer)
                next = end
            }
        }
    }

    /// The record of a part of a transaction of which changes were taken out.
    static func encode(_ dtx: DTX) -> [UInt8] {
        var length = headLength(of: dtx)
        var parts: [Range<Int>] = []
        for (index, operation) in dtx.operations.enumerated() {
            if let last = parts.last, last.count < VOSLimits.operationsMax,
                IndexKey.agree(
                    dtx.operations[last.lowerBound].key, operation.key,
                    length: IndexKey.objectLength)
            {
                parts[parts.count - 1] = last.lowerBound..<index + 1
            } else {
                parts.append(index..<index + 1)
            }
            // The names are no longer than in the key.
            length += IndexKey.objectLength + 12 + operation.key.count
            length += RecordCoding.length(of: operation.record)
        }
        return .written(capacity: length) { writer in
            putHead(of: dtx, partCount: parts.count, to: &writer)
            for part in parts {
                let key = dtx.operations[part.lowerBound].key
                writer.put(bytes: key, 0..<IndexKey.objectLength)
                writer.put(UInt16(part.count))
                var previous: [UInt8]?
                for operation in dtx.operations[part] {
                    put(operation.record, operation.names, after: &previous, to: &writer)
                }
            }
        }
    }

    /// How much `putHead` writes.
    private static func headLength(of dtx: DTX) -> Int {
        35 + dtx.members.count + 9 * dtx.locks.count
    }

    /// What stands before the changes.
    private static func putHead(of dtx: DTX, partCount: Int, to writer: inout ByteWriter) {
        writer.put(RecordType.prepared.rawValue)
        writer.put(version)
        writer.put(id: dtx.id)
        writer.put(dtx.epoch)
        writer.put((dtx.isLeader ? 1 : 0) as UInt8)
        writer.put(string: dtx.members)
        writer.put(UInt16(dtx.locks.count))
        for lock in dtx.locks {
            writer.put(lock.key)
            writer.put(lock.mode.rawValue)
        }
        writer.put(UInt16(partCount))
    }

    static func encodeOutcomes(_ outcomes: [DTXOutcome]) -> [UInt8] {
        var bytes: [UInt8] = [RecordType.outcomes.rawValue, version]
        bytes.reserveCapacity(4 + 25 * outcomes.count)
        bytes.put(UInt16(outcomes.count))
        for outcome in outcomes {
            bytes.append(outcome.kind.rawValue)
            bytes.append(id: outcome.id)
            bytes.put(outcome.epoch)
        }
        return bytes
    }

    static func encodeRange(from: IndexKey.Bytes, to: IndexKey.Bytes) -> [UInt8] {
        var bytes: [UInt8] = [RecordType.range.rawValue, version]
        bytes.put(string: from)
        bytes.put(string: to)
        return bytes
    }

    static func encodeDiscard(
        from: IndexKey.Bytes, to: IndexKey.Bytes, epochs: ClosedRange<UInt64>
    ) -> [UInt8] {
        var bytes: [UInt8] = [RecordType.discard.rawValue, version]
        bytes.put(string: from)
        bytes.put(string: to)
        bytes.put(epochs.lowerBound)
        bytes.put(epochs.upperBound)
        return bytes
    }

    static func encodeSnapshot(_ name: ContainerName, epoch: UInt64, isTaken: Bool) -> [UInt8] {
        var bytes: [UInt8] = [RecordType.snapshot.rawValue, version]
        bytes.append(id: name.pool)
        bytes.append(id: name.container)
        bytes.put(epoch)
        bytes.append(isTaken ? 1 : 0)
        return bytes
    }

    // MARK: - Decoding

    /// Reads a record. Any bytes are safe.
    static func decode(_ bytes: [UInt8]) throws(MalformedBytes) -> LogRecord {
        var reader = ByteReader(bytes)
        let type = try reader.byte()
        let version = try reader.byte()
        guard version == LogRecord.version else {
            throw MalformedBytes(what: "log record version \(version)")
        }
        let record: LogRecord
        switch RecordType(rawValue: type) {
        case .update: record = try decodeUpdate(&reader)
        case .range:
            record = .range(
                from: try reader.countedString(maximum: IndexKey.lengthMax),
                to: try reader.countedString(maximum: IndexKey.lengthMax))
        case .discard: record = try decodeDiscard(&reader)
        case .snapshot:
            record = .snapshot(
                ContainerName(pool: try reader.id(), container: try reader.id()),
                epoch: try reader.quad(), isTaken: try reader.byte() != 0)
        case .prepared: record = try decodePrepared(&reader)
        case .outcomes: record = try decodeOutcomes(&reader)
        case nil: throw MalformedBytes(what: "log record type \(type)")
        }
        guard reader.remaining == 0 else {
            throw MalformedBytes(what: "\(reader.remaining) bytes after a log record")
        }
        return record
    }

    private static func decodeUpdate(_ reader: inout ByteReader) throws(MalformedBytes) -> LogRecord
    {
        let epoch = try reader.quad()
        return .update(
            epoch: epoch, transaction: try reader.id(),
            operations: try decodeOperations(&reader, epoch: epoch))
    }

    private static func decodeDiscard(
        _ reader: inout ByteReader
    ) throws(MalformedBytes) -> LogRecord {
        let from = try reader.countedString(maximum: IndexKey.lengthMax)
        let to = try reader.countedString(maximum: IndexKey.lengthMax)
        return .discard(from: from, to: to, epochs: try reader.epochs())
    }

    private static func decodePrepared(
        _ reader: inout ByteReader
    ) throws(MalformedBytes) -> LogRecord {
        let id = try reader.id()
        let epoch = try reader.quad()
        let isLeader = try reader.byte() != 0
        let members = try reader.countedString(maximum: VOSLimits.membersLengthMax)
        let dtx = DTX(id: id, members: members, isLeader: isLeader)
        dtx.epoch = epoch
        dtx.record = reader.bytes
        for _ in 0..<(try reader.short()) {
            let key = try reader.quad()
            guard let mode = KeyLocks.Mode(rawValue: try reader.byte()) else {
                throw MalformedBytes(what: "the mode of a lock")
            }
            dtx.locks.append(KeyLocks.Request(key: key, mode: mode))
        }
        for _ in 0..<(try reader.short()) {
            dtx.operations += try decodeOperations(&reader, epoch: epoch)
        }
        return .prepared(dtx)
    }

    private static func decodeOutcomes(
        _ reader: inout ByteReader
    ) throws(MalformedBytes) -> LogRecord {
        var outcomes: [DTXOutcome] = []
        for _ in 0..<(try reader.short()) {
            guard let kind = DTXOutcome.Kind(rawValue: try reader.byte()) else {
                throw MalformedBytes(what: "the outcome of a transaction")
            }
            outcomes.append(
                DTXOutcome(kind: kind, id: try reader.id(), epoch: try reader.quad()))
        }
        return .outcomes(outcomes)
    }

    /// Decodes the changes of one object.
    private static func decodeOperations(
        _ reader: inout ByteReader, epoch: UInt64
    ) throws(MalformedBytes) -> [PreparedOperation] {
        let object = try reader.string(IndexKey.objectLength)
        let count = Int(try reader.short())
        guard count > 0, count <= VOSLimits.operationsMax else {
            throw MalformedBytes(what: "an update of \(count) operations")
        }
        var operations: [PreparedOperation] = []
        operations.reserveCapacity(count)
        var dkey: [UInt8]?
        for _ in 0..<count {
            let kindByte = try reader.byte()
            guard let kind = IndexRecord.Kind(rawValue: kindByte) else {
                throw MalformedBytes(what: "operation \(kindByte)")
            }
            let flags = try reader.byte()
            var akey: [UInt8]?
            if kind == .objectPunch {
                dkey = nil
            } else if flags & RecordCoding.flagSameDkey == 0 {
                dkey = try reader.countedString(maximum: VOSLimits.keyLengthMax)
            } else if dkey == nil {
                throw MalformedBytes(what: "no distribution key to repeat")
            }
            if kind.rawValue >= IndexRecord.Kind.akeyPunch.rawValue {
                akey = try reader.countedString(maximum: VOSLimits.keyLengthMax)
            }
            let path = NamePath(object: object, dkey: dkey, akey: akey)
            let record = try RecordCoding.record(
                kind: kind, flags: flags, dkeyEnd: path.dkeyEnd, akeyEnd: path.akeyEnd,
                epoch: epoch, from: &reader)
            operations.append(PreparedOperation(key: path.key(for: record), record: record))
        }
        return operations
    }
}

/// The encoded names of an operation, and where each ends.
struct NamePath {
    var bytes: IndexKey.Bytes
    let dkeyEnd: Int
    let akeyEnd: Int

    /// `object` is the prefix of an object.
    init(object: IndexKey.Bytes, dkey: [UInt8]?, akey: [UInt8]?) {
        self.init(dkey: dkey, akey: akey) { $0.put(bytes: object) }
    }

    /// What `fetch` is about.
    init(_ fetch: Fetch) {
        self.init(dkey: fetch.dkey, akey: fetch.akey) { writer in
            IndexKey.putObject(fetch.pool, fetch.container, fetch.object, to: &writer)
        }
    }

    @inline(__always)
    private init(
        dkey: [UInt8]?, akey: [UInt8]?, putObject: (inout ByteWriter) -> Void
    ) {
        var dkeyEnd = 0
        var akeyEnd = 0
        let names = (dkey?.count ?? 0) + (akey?.count ?? 0)
        let capacity = IndexKey.objectLength + 2 * names + 6
        bytes = .written(capacity: capacity, spare: NamePath.room) { writer in
            putObject(&writer)
            guard let dkey else { return }
            IndexKey.putName(dkey, to: &writer)
            dkeyEnd = writer.count
            guard let akey else { return }
            IndexKey.putName(akey, to: &writer)
            akeyEnd = writer.count
        }
        self.dkeyEnd = dkeyEnd
        self.akeyEnd = akeyEnd
    }

    /// For what `key` and the stamp add.
    private static let room = 1 + IndexKey.extentLength + IndexKey.versionLength

    /// The key of `record`, whose names these are, without the stamp.
    consuming func key(for record: IndexRecord) -> IndexKey.Bytes {
        switch record.kind {
        case .objectPunch, .dkeyPunch, .akeyPunch: bytes.append(IndexKey.punchTag)
        case .single: bytes.append(IndexKey.singleTag)
        case .extent:
            bytes.append(IndexKey.extentTag)
            bytes.append(
                extentAt: record.offset,
                class: IndexKey.extentClass(length: Int(record.byteCount)))
        }
        bytes.append(word: ~record.epoch)
        return bytes
    }
}

extension Operation.Body {
    /// The names that the operation has.
    var names: (dkey: [UInt8]?, akey: [UInt8]?) {
        switch self {
        case .punchObject: (nil, nil)
        case .punchDkey(let dkey): (dkey, nil)
        case .punchAkey(let dkey, let akey), .single(let dkey, let akey, _),
            .array(let dkey, let akey, _, _, _):
            (dkey, akey)
        }
    }

    /// The bytes of the value that it has.
    var value: ValueBytes? {
        switch self {
        case .punchObject, .punchDkey, .punchAkey: nil
        case .single(_, _, let value), .array(_, _, _, _, let value): value
        }
    }
}
