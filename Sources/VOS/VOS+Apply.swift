internal import BIO
internal import DrayRuntime

/// A version that is hidden by something newer.
struct Shadow {
    /// The epoch of what hides it: when aggregation reaches that, the version can go.
    let epoch: UInt64
    /// The version; or a punch, which hides everything older below it.
    let key: IndexKey.Bytes
}

/// How log records change the index: the same when they have just become durable and when they
/// are replayed. Runs in the order of the log and never suspends.
extension VOS {
    func apply(_ record: LogRecord, sequence: UInt64) {
        switch record {
        case .update(let epoch, let transaction, let operations):
            applyUpdate(
                epoch: epoch, transaction: transaction, operations: operations, sequence: sequence)
        case .removal(let aggregatedEpoch, let keys):
            lastSequence = sequence
            self.aggregatedEpoch = max(self.aggregatedEpoch, aggregatedEpoch)
            for key in keys { remove(key) }
        case .prepared(let dtx):
            lastSequence = sequence
            didPrepare(dtx, sequence: sequence)
        case .outcomes(let outcomes):
            lastSequence = sequence
            replay(outcomes)
        case .range(let from, let to):
            lastSequence = sequence
            removeUndecided(from: from, to: to)
            var keys: [IndexKey.Bytes] = []
            index.forEach(from: from) { key, _ in
                guard IndexKey.compare(key, to) < 0 else { return false }
                keys.append(key)
                return true
            }
            for key in keys { remove(key) }
        }
    }

    func applyUpdate(
        epoch: UInt64, transaction: UniqueID, operations: [PreparedOperation], sequence: UInt64
    ) {
        lastSequence = sequence
        apply(operations, sequence: sequence)
        transactions.add(transaction, epoch: epoch)
    }

    /// Puts changes into the index. `sequence` is that of the record that holds them.
    func apply(_ operations: [PreparedOperation], sequence: UInt64) {
        var stamp = sequence * UInt64(VOSLimits.operationsMax)
        for operation in operations {
            operation.record.stamp = stamp
            var key = operation.key
            if operation.record.kind == .extent { key.append(word: ~stamp) }
            insert(key, operation.record)
            stamp += 1
        }
    }

    private func insert(_ key: IndexKey.Bytes, _ record: IndexRecord) {
        count(key, record)
        if let old = index.insert(key, record) { discount(key, old) }
        if !isRecovering { noteShadows(key, record) }
    }

    private func remove(_ key: IndexKey.Bytes) {
        guard let old = index.remove(key) else { return }
        discount(key, old)
    }

    func count(_ key: IndexKey.Bytes, _ record: IndexRecord) {
        usages.add(key, record)
        indexBytes += key.count + record.checkpointBytes
        valueBlocks += record.blockCount
        if record.kind.isPunch { punches.add(key) }
    }

    /// `record` has left the index.
    private func discount(_ key: IndexKey.Bytes, _ record: IndexRecord) {
        usages.subtract(key, record)
        indexBytes -= key.count + record.checkpointBytes
        if record.kind.isPunch { punches.remove(key) }
        record.isRemoved = true
        cache.remove(record)
        if record.pins == 0 { freeBlocks(of: record) }
    }

    /// A reader is done with `record`.
    func unpin(_ record: IndexRecord) {
        precondition(record.pins > 0)
        record.pins -= 1
        if record.pins == 0, record.isRemoved { freeBlocks(of: record) }
    }

    private func freeBlocks(of record: IndexRecord) {
        guard record.hasBlocks else { return }
        valueBlocks -= record.blockCount
        if !isRecovering { store.allocator.free(record.blocks) }
    }

    // MARK: - Shadows

    /// Notes what the new entry hides, and what hides it.
    func noteShadows(_ key: IndexKey.Bytes, _ record: IndexRecord) {
        switch record.kind {
        case .objectPunch, .dkeyPunch, .akeyPunch:
            shadows.append(Shadow(epoch: record.epoch, key: key))
        case .single:
            let prefix = Int(record.akeyEnd) + 1
            if let next = index.first(from: key + [0]),
                IndexKey.agree(next.key, key, length: prefix)
            {
                shadows.append(Shadow(epoch: record.epoch, key: next.key))
            }
            if let newer = index.last(below: key), IndexKey.agree(newer.key, key, length: prefix) {
                shadows.append(Shadow(epoch: newer.record.epoch, key: key))
            }
        case .extent:
            let range = record.offset..<record.end
            forEachExtent(key, prefix: Int(record.akeyEnd), in: range) { otherKey, other in
                if other === record { return true }
                // Of several older ones at an offset, the first that reaches as far hides the rest
                // as well as this does, and that was noted.
                if record.isNewer(than: other) {
                    shadows.append(Shadow(epoch: record.epoch, key: otherKey))
                    return other.end < record.end
                }
                shadows.append(Shadow(epoch: other.epoch, key: key))
                return true
            }
        }
        if !record.kind.isPunch,
            let punch = newestPunch(over: key, record, epoch: .max), punch.hides(record)
        {
            shadows.append(Shadow(epoch: punch.epoch, key: key))
        }
    }

    /// How many entries that nobody wants are passed one by one before a search skips the rest.
    private static let passedMax = 3

    /// Visits the extents below an attribute key, the first `prefix` bytes of `key`, that overlap
    /// `range` (not empty): by class and offset, and at each offset the newest first. When `body`
    /// returns false, the older ones at the same offset, of the same class, are skipped.
    func forEachExtent(
        _ key: IndexKey.Bytes, prefix: Int, in range: Range<UInt64>,
        _ body: (IndexKey.Bytes, IndexRecord) -> Bool
    ) {
        var tag: UInt8? = IndexKey.extentTags.first
        var from: UInt64?
        while let current = tag {
            let lengthMax = IndexKey.lengthMax(ofTag: current)
            let first = range.lowerBound >= lengthMax ? range.lowerBound - lengthMax + 1 : 0
            let offset = from ?? first
            let start = IndexKey.Bytes.written(capacity: prefix + 9) { writer in
                writer.put(bytes: key, 0..<prefix)
                writer.put(current)
                writer.put(word: offset)
            }
            // What ends a class often tells that the akey has no more: that saves a search.
            tag = nil
            from = nil
            var skipped: UInt64?
            var passed = 0
            index.forEach(from: start) { other, record in
                guard IndexKey.agree(other, key, length: prefix) else { return false }
                guard other[prefix] == current, record.offset < range.upperBound else {
                    tag = max(current + 1, other[prefix])
                    return false
                }
                if record.offset == skipped {
                    passed += 1
                    guard passed > VOS.passedMax else { return true }
                    // Below the end of the range, so there is a next offset.
                    from = record.offset + 1
                    tag = current
                    return false
                }
                if record.end > range.lowerBound, !body(other, record) {
                    skipped = record.offset
                    passed = 0
                }
                return true
            }
            if let next = tag, next > IndexKey.extentTags.last { tag = nil }
        }
    }
}

/// The newest punch that applies somewhere: hides what is older.
struct PunchPoint {
    var epoch: UInt64 = 0
    var stamp: UInt64 = 0

    func hides(_ record: IndexRecord) -> Bool {
        record.epoch != epoch ? record.epoch < epoch : record.stamp < stamp
    }

    mutating func raise(_ punch: IndexRecord) {
        guard !hides(punch) else { return }
        epoch = punch.epoch
        stamp = punch.stamp
    }
}

extension VOS {
    /// The newest punch up to `epoch` of the levels that `key` has: its object, and, as far as
    /// `record` (an entry at or below it) has them, its dkey and akey.
    func newestPunch(
        over key: IndexKey.Bytes, _ record: IndexRecord, epoch: UInt64
    ) -> PunchPoint? {
        newestPunch(key, [IndexKey.objectLength, Int(record.dkeyEnd), Int(record.akeyEnd)], epoch)
    }

    /// The newest punch up to `epoch` at the prefixes of `key` with the given lengths (0: none).
    func newestPunch(
        _ key: IndexKey.Bytes, _ lengths: [Int], _ epoch: UInt64
    ) -> PunchPoint? {
        guard punches.hasAny(for: key) else { return nil }
        var point: PunchPoint?
        for length in lengths where length > 0 {
            var start = IndexKey.Bytes()
            start.reserveCapacity(length + 9)
            start.append(contentsOf: key[0..<length])
            start.append(IndexKey.punchTag)
            start.append(word: ~epoch)
            guard let found = index.first(from: start),
                IndexKey.agree(found.key, start, length: length + 1)
            else { continue }
            var newest = point ?? PunchPoint()
            newest.raise(found.record)
            point = newest
        }
        return point
    }
}
