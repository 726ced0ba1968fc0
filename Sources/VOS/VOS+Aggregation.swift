internal import BIO
public import DrayRuntime
internal import Logging

extension VOS {
    /// The most keys in one log record of a removal, and in one step of a destruction.
    private static let removalKeysMax = 256
    /// The most bytes of keys in one log record of a removal.
    private static let removalBytesMax = 4096

    /// Drops versions that nobody can see at `epoch` or later, and gives their space back: what a
    /// newer version or a punch of that epoch or before hides. From then on neither reads nor
    /// updates below `epoch` are possible.
    ///
    /// Stays below the epochs of updates under way. Cooperative: works in small steps. Does nothing
    /// when it is running already. Cost: some microseconds for each version it drops.
    public func aggregate(upTo epoch: UInt64) async throws(VOSError) {
        try begin()
        defer { end() }
        guard !isAggregating else { return }
        isAggregating = true
        defer { isAggregating = false }
        let bound = min(epoch, (epochsInFlight.min() ?? .max) - 1)
        guard bound > aggregatedEpoch, let first = shadows.first, first.epoch <= bound else {
            return
        }
        aggregatedEpoch = bound
        var removal = Removal()
        var steps = 0
        while let shadow = shadows.first, shadow.epoch <= bound {
            shadows.removeFirst()
            if let record = index[shadow.key] {
                if record.kind.isPunch {
                    try await removePunched(shadow.key, record, &removal)
                } else if isHidden(shadow.key, record, at: bound) {
                    removal.add(shadow.key)
                }
            }
            try await flush(&removal, ifAbove: VOS.removalBytesMax)
            steps += 1
            if steps % 64 == 0 { await giveWay() }
        }
        try await flush(&removal, ifAbove: 0)
    }

    /// Keys that are about to be removed.
    private struct Removal {
        var keys: [IndexKey.Bytes] = []
        var bytes = 0

        mutating func add(_ key: IndexKey.Bytes) {
            keys.append(key)
            bytes += key.count
        }
    }

    private func flush(_ removal: inout Removal, ifAbove limit: Int) async throws(VOSError) {
        guard removal.bytes > limit || removal.keys.count >= VOS.removalKeysMax else { return }
        let keys = removal.keys
        removal = Removal()
        for key in keys where key.count + 64 > store.recordBytesMax {
            throw .badArgument("a key of \(key.count) bytes does not fit into the log")
        }
        let epoch = aggregatedEpoch
        let bytes = LogRecord.encodeRemoval(aggregatedEpoch: epoch, keys: keys)
        try await append(bytes) { [self] sequence in
            apply(.removal(aggregatedEpoch: epoch, keys: keys), sequence: sequence)
        }
    }

    /// Whether `record`, a value, cannot be seen at `bound` or later because of what is not above
    /// `bound` itself.
    private func isHidden(
        _ key: IndexKey.Bytes, _ record: IndexRecord, at bound: UInt64
    ) -> Bool {
        if let punch = newestPunch(over: key, record, epoch: bound), punch.hides(record) {
            return true
        }
        if record.kind == .single {
            guard let newer = index.last(below: key) else { return false }
            return IndexKey.agree(newer.key, key, length: Int(record.akeyEnd) + 1)
                && newer.record.epoch <= bound
        }
        let length = Int(record.akeyEnd)
        let akey = Array(key[0..<length])
        // The newest up to the bound at the same offset is what hides most versions.
        var start = Array(key[0..<length + 9])
        start.append(word: ~bound)
        if let newest = index.first(from: start), newest.record.isNewer(than: record),
            IndexKey.agree(newest.key, start, length: length + 9), newest.record.end >= record.end
        {
            return true
        }
        var records: [IndexRecord] = []
        forEachExtent(akey, prefix: akey.count, in: record.offset..<record.end) { _, other in
            if other.epoch <= bound { records.append(other) }
            return true
        }
        return !Painting.visible(records, in: record.offset..<record.end)
            .contains { $0.record === record }
    }

    /// Removes everything that a punch hides, then the punch itself.
    private func removePunched(
        _ key: IndexKey.Bytes, _ punch: IndexRecord, _ removal: inout Removal
    ) async throws(VOSError) {
        let length: Int
        switch punch.kind {
        case .objectPunch: length = IndexKey.objectLength
        case .dkeyPunch: length = Int(punch.dkeyEnd)
        case .akeyPunch: length = Int(punch.akeyEnd)
        case .single, .extent: preconditionFailure("a value is no punch")
        }
        let prefix = Array(key[0..<length])
        var position: IndexKey.Bytes? = prefix
        while let start = position {
            position = nil
            var looked = 0
            index.forEach(from: start) { key, record in
                guard IndexKey.hasPrefix(key, prefix) else { return false }
                guard looked < VOS.removalKeysMax else {
                    position = key
                    return false
                }
                looked += 1
                if record !== punch, punch.isNewer(than: record) { removal.add(key) }
                return true
            }
            while removal.keys.count > 0, removal.bytes > VOS.removalBytesMax {
                try await flush(&removal, ifAbove: VOS.removalBytesMax)
            }
            if position != nil { await giveWay() }
        }
        // The punch goes in a record of its own or behind what it hides, never before.
        removal.add(key)
    }

    // MARK: - Destruction

    /// Removes everything of a container, all versions at once, and frees its space. Cooperative.
    ///
    /// Not atomic: after a crash part of it may be left, and the caller calls this again. Nobody
    /// may use the container any more.
    public func destroyContainer(pool: UniqueID, container: UniqueID) async throws(VOSError) {
        try await destroy(IndexKey.container(pool, container))
    }

    /// Removes everything of a pool: otherwise like `destroyContainer`.
    public func destroyPool(_ pool: UniqueID) async throws(VOSError) {
        try await destroy(IndexKey.pool(pool))
    }

    private func destroy(_ prefix: IndexKey.Bytes) async throws(VOSError) {
        try begin()
        defer { end() }
        let end = IndexKey.successor(ofPrefix: prefix)
        while true {
            var count = 0
            var limit = end
            index.forEach(from: prefix) { key, _ in
                guard IndexKey.compare(key, end) < 0 else { return false }
                if count == VOS.removalKeysMax {
                    limit = key
                    return false
                }
                count += 1
                return true
            }
            guard count > 0 || hasUndecided(from: prefix, to: end) else { return }
            let stop = limit
            try await append(LogRecord.encodeRange(from: prefix, to: stop)) { [self] sequence in
                apply(.range(from: prefix, to: stop), sequence: sequence)
            }
            await giveWay()
        }
    }

    // MARK: - Background

    /// Aggregates, and takes checkpoints, until the store is closed or the device fails. Spawn one.
    ///
    /// When less than an eighth of the blocks is free, superseded versions are kept for a second
    /// only (or the retention time, if that is shorter).
    public func runBackground() async {
        while !isClosed {
            await xstream.sleep(for: .milliseconds(Int64(options.backgroundPeriod)))
            guard !isClosed else { return }
            do throws(VOSError) {
                let now = world.clock.wallNanoseconds
                let isTight = store.allocator.freeBlocks < store.allocator.totalBlocks / 8
                let kept = isTight ? min(options.retention, 1_000_000_000) : options.retention
                // No further than epochs go: the wall clock may be ahead, and the updates that come
                // when it is right again must not be too old.
                let newest = shadows.last?.epoch ?? 0
                if now > kept { try await aggregate(upTo: min(now - kept, newest)) }
                if wantsCheckpoint { try await checkpoint() }
            } catch .closed {
                return
            } catch .device(let error) {
                log.error("the store is out of service: \(error)")
                return
            } catch {
                log.warning("work in the background: \(error)")
            }
        }
    }

    /// Whether so much was logged that a checkpoint is worth its while: half the log, or as much
    /// as the checkpoint itself is likely to be, but at least 32 MiB.
    private var wantsCheckpoint: Bool {
        let worth = max(32 << 20, UInt64(indexBytes))
        return lastSequence > checkpointSequence
            && store.logUsed > min(store.logSize / 2, worth)
    }
}
