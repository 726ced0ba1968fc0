internal import DrayRuntime

/// Arrays have a record size: the first write chooses it, and all that can be seen together have
/// the same.
extension VOS {
    /// Throws `.badArgument` unless an extent is of whole records, or of a piece of records that
    /// are longer than an extent may be.
    static func checkRecords(
        _ recordSize: UInt32, offset: UInt64, byteCount: Int
    ) throws(VOSError) {
        guard recordSize != 1 else { return }
        guard recordSize > 0 else { throw .badArgument("an array with records of 0 bytes") }
        guard recordSize <= VOSLimits.valueLengthMax else { return }
        guard offset % UInt64(recordSize) == 0, byteCount % Int(recordSize) == 0 else {
            throw .badArgument(
                "\(byteCount) bytes at \(offset), which are not whole records of "
                    + "\(recordSize) bytes")
        }
    }

    /// Whether a container may have arrays whose records are not single bytes. Never so in a store
    /// of byte arrays, where it costs next to nothing to ask.
    func mayHaveRecords(_ name: ContainerName) -> Bool {
        mayHaveRecords(name, in: active.usages) || mayHaveRecords(name, in: tableUsages)
            || frozen.map { mayHaveRecords(name, in: $0.memtable.usages) } ?? false
    }

    private func mayHaveRecords(_ name: ContainerName, in usages: UsageTable) -> Bool {
        usages.recordExtents > 0 && usages.usage(of: name).recordExtents > 0
    }

    /// Whether an update may not fit the record sizes of arrays. Never so of byte arrays among
    /// byte arrays.
    func mayMismatch(_ update: Update) -> Bool {
        update.operations.contains { $0.hasRecords }
            || mayHaveRecords(ContainerName(pool: update.pool, container: update.container))
    }

    /// Throws `.recordSizeMismatch` when the changes, at `epoch`, would let anybody see an array
    /// with records of two sizes. Their keys are locked: nobody else chooses a size meanwhile.
    func checkRecordSizes(of updates: [Update], epoch: UInt64) async throws(VOSError) {
        var choices = RecordSizeChoices()
        for update in updates {
            let object = IndexKey.object(update.pool, update.container, update.object)
            for operation in update.operations {
                let (dkey, akey) = operation.body.names
                try choices.add(operation, NamePath(object: object, dkey: dkey, akey: akey))
            }
        }
        for choice in choices.open {
            let stored = try await recordSize(
                of: choice.path, at: epoch, makeView(), .from(isPunched: choice.isPunched))
            guard let stored, stored != choice.recordSize else { continue }
            throw .recordSizeMismatch(stored: stored, given: choice.recordSize)
        }
    }

    /// Which extents of an array a search for its record size is about.
    enum RecordSizeScope {
        /// What is visible at the epoch.
        case visible
        /// Also what is newer, as long as no punch is between: who sees that would see something of
        /// the epoch as well. `isPunched`: only that.
        case from(isPunched: Bool)
    }

    /// The record size of an array at `epoch`; nil when there is nothing in `scope`. All of that
    /// has the same.
    func recordSize(
        of path: NamePath, at epoch: UInt64, _ view: ReadView, _ scope: RecordSizeScope = .visible
    ) async throws(VOSError) -> UInt32? {
        let (findsOlder, findsNewer) =
            switch scope {
            case .visible: (true, false)
            case .from(let isPunched): (!isPunched, true)
            }
        let punch = try await view.newestPunch(over: path, epoch: epoch)
        var prefix = path.bytes
        prefix.append(IndexKey.extentTag)
        let cursor = try await IndexCursor(view, prefix: IndexKey.Prefix(prefix), name: path.bytes)
        try await cursor.seek(prefix)
        var looked = 0
        while cursor.isValid {
            let head = try cursor.entry.head()
            if head.epoch <= epoch {
                if findsOlder, !(punch?.hides(head) ?? false) { return head.recordSize }
            } else if findsNewer {
                let later = try await view.newestPunch(over: path, epoch: head.epoch)
                if later.map({ $0.epoch <= epoch }) ?? true { return head.recordSize }
            }
            try await cursor.next()
            looked += 1
            if looked % VOS.searchMax == 0 { await giveWay() }
        }
        return nil
    }
}

/// Follows the changes of a transaction, in their order: which arrays must be looked up. Each
/// write must agree with what there is after the changes before it.
private struct RecordSizeChoices {
    /// What was done last to a key, by its path.
    private enum Last {
        /// It was punched, as the change of this number.
        case punch(Int)
        case write(Int, UInt32)
    }

    private var last: [IndexKey.Bytes: Last] = [:]
    private var count = 0
    /// The arrays to look up, and the size that is written. `isPunched`: what is older is gone,
    /// because a change before removes it.
    private(set) var open: [(path: NamePath, recordSize: UInt32, isPunched: Bool)] = []

    mutating func add(_ operation: Operation, _ path: NamePath) throws(VOSError) {
        count += 1
        switch operation.body {
        case .single: return
        case .punchObject, .punchDkey, .punchAkey: last[path.bytes] = .punch(count)
        case .array(_, _, _, let recordSize, _):
            let punched = max(
                lastPunch(path, IndexKey.objectLength), lastPunch(path, path.dkeyEnd))
            switch last[path.bytes] {
            case .write(let number, let size) where number > punched:
                guard size == recordSize else {
                    throw .recordSizeMismatch(stored: size, given: recordSize)
                }
            case .punch: open.append((path, recordSize, true))
            case .write, nil: open.append((path, recordSize, punched > 0))
            }
            last[path.bytes] = .write(count, recordSize)
        }
    }

    /// When the object or dkey that the first `length` bytes of a path name was punched; 0: not.
    private func lastPunch(_ path: NamePath, _ length: Int) -> Int {
        guard case .punch(let number) = last[Array(path.bytes[0..<length])] else { return 0 }
        return number
    }
}

extension Operation {
    /// Whether it writes an array whose records are not single bytes.
    var hasRecords: Bool {
        guard case .array(_, _, _, let recordSize, _) = body else { return false }
        return recordSize != 1
    }

    /// Whether it removes all that is below a distribution or attribute key.
    var isPunch: Bool {
        switch body {
        case .punchDkey, .punchAkey: true
        case .punchObject, .single, .array: false
        }
    }

    /// Whether nobody else may change its distribution key meanwhile: what it depends on must stay
    /// as it is. Byte arrays only keep those out that have other records, and these are alone.
    var isExclusive: Bool { condition != .none || hasRecords }
}
