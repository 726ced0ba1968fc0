internal import BIO
internal import DequeModule
internal import DrayRuntime
internal import Logging

/// Opening: the checkpoint, the log after it, then what follows from the index.
extension VOS {
    func recover() async throws(VOSError) {
        if let root = store.checkpoint { try await loadCheckpoint(root) }
        try await replayLog()
        try await adoptBlocks()
        isRecovering = false
        log.info("opened: \(index.count) entries, log up to \(lastSequence)")
    }

    // MARK: - Checkpoint

    private func loadCheckpoint(_ root: CheckpointRoot) async throws(VOSError) {
        let room = root.extents.reduce(0) { $0 + $1.byteCount }
        guard root.byteCount > 0, root.byteCount <= room else {
            throw .damaged(what: "a checkpoint root of \(root.byteCount) bytes")
        }
        let bytes = try await read(
            root.extents, byteCount: Int(root.byteCount), checksum: root.checksum)
        let directory = try VOS.undamaged { () throws(MalformedBytes) in
            let directory = try CheckpointDirectory.decode(bytes)
            guard directory.sequence == root.logSequence else {
                throw MalformedBytes(what: "a checkpoint directory of another root")
            }
            return directory
        }
        try await load(directory)
    }

    private static func undamaged<Value>(
        _ body: () throws(MalformedBytes) -> Value
    ) throws(VOSError) -> Value {
        do throws(MalformedBytes) {
            return try body()
        } catch {
            throw .damaged(what: error.what)
        }
    }

    private func load(_ directory: CheckpointDirectory) async throws(VOSError) {
        lastSequence = directory.sequence
        checkpointSequence = directory.sequence
        aggregatedEpoch = directory.aggregatedEpoch
        transactions.restore(horizon: directory.horizon)
        var transactionCount: UInt64 = 0
        var last: IndexKey.Bytes = []
        for chunk in directory.chunks {
            let bytes = try await read(
                chunk.extents, byteCount: chunk.byteCount, checksum: chunk.checksum)
            try VOS.undamaged { () throws(MalformedBytes) in
                switch chunk.type {
                case .transactions: transactionCount += try loadTransactions(bytes)
                case .entries: try loadEntries(bytes, last: &last)
                case .prepared: try loadPrepared(bytes)
                case .completions: try loadCompletions(bytes)
                }
            }
            checkpointExtents.append(contentsOf: chunk.extents)
        }
        guard directory.entryCount == UInt64(index.count),
            directory.transactionCount == transactionCount
        else { throw .damaged(what: "a checkpoint with entries missing") }
    }

    private func loadTransactions(_ bytes: [UInt8]) throws(MalformedBytes) -> UInt64 {
        var reader = ByteReader(bytes)
        var count: UInt64 = 0
        while reader.remaining > 0 {
            transactions.add(
                try reader.id(), epoch: try reader.quad(), isCommitted: try reader.byte() != 0)
            count += 1
        }
        return count
    }

    private func loadPrepared(_ bytes: [UInt8]) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        while reader.remaining > 0 {
            let sequence = try reader.quad()
            let record = try reader.countedString(maximum: CheckpointChunk.byteCountMax)
            guard case .prepared(let dtx) = try LogRecord.decode(record) else {
                throw MalformedBytes(what: "a checkpoint's transaction is another record")
            }
            didPrepare(dtx, sequence: sequence)
        }
    }

    private func loadCompletions(_ bytes: [UInt8]) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        while reader.remaining > 0 {
            let id = try reader.id()
            completions[id] = Completion(
                epoch: try reader.quad(),
                members: try reader.countedString(maximum: VOSLimits.membersLengthMax))
        }
    }

    private func loadEntries(
        _ bytes: [UInt8], last: inout IndexKey.Bytes
    ) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        var previous: IndexKey.Bytes = []
        while reader.remaining > 0 {
            let (key, record) = try CheckpointChunk.entry(after: previous, from: &reader)
            guard IndexKey.compare(last, key) < 0 else {
                throw MalformedBytes(what: "checkpoint entries out of order")
            }
            index.insert(key, record)
            count(key, record)
            previous = key
            last = key
        }
    }

    private func read(
        _ extents: [BlockExtent], byteCount: Int, checksum: UInt32
    ) async throws(VOSError) -> [UInt8] {
        let buffer = IOBuffer(count: VOS.blockCount(byteCount) * BlockDevice.blockSize)
        do throws(BIOError) {
            try unsafe await store.read(into: buffer.bytes, from: extents, firstBlock: 0)
        } catch {
            throw VOS.error(error)
        }
        let bytes = buffer.array(0..<byteCount)
        guard bytes.checksum(first: bytes.count) == checksum else {
            throw .damaged(what: "a part of the checkpoint does not match its checksum")
        }
        return bytes
    }

    // MARK: - Log

    private func replayLog() async throws(VOSError) {
        var damage: String?
        do throws(BIOError) {
            try await store.replay { (sequence, bytes) throws(BIOError) in
                do throws(MalformedBytes) {
                    let record = try LogRecord.decode(
                        unsafe bytes.withUnsafeBytes { unsafe Array($0) })
                    guard sequence > lastSequence else {
                        throw MalformedBytes(what: "log record \(sequence) after \(lastSequence)")
                    }
                    apply(record, sequence: sequence)
                } catch {
                    damage = "log record \(sequence): \(error.what)"
                    throw .corrupt(path: store.device.name, offset: 0, what: error.what)
                }
            }
        } catch {
            if let damage { throw .damaged(what: damage) }
            throw VOS.error(error)
        }
    }

    // MARK: - Blocks and shadows

    /// Marks the blocks of everything in the index as used, and finds out what is hidden.
    private func adoptBlocks() async throws(VOSError) {
        var failure: BIOError?
        let mark = { [store] (extent: BlockExtent) -> Bool in
            do throws(BIOError) {
                try store.allocator.markUsed(extent)
                return true
            } catch {
                failure = error
                return false
            }
        }
        for extent in checkpointExtents {
            guard mark(extent) else { break }
        }
        var previous: (key: IndexKey.Bytes, record: IndexRecord)?
        var reach: UInt64 = 0
        index.forEach { key, record in
            for extent in record.blocks {
                guard mark(extent) else { return false }
            }
            noteShadows(key, record, after: previous, reach: &reach)
            previous = (key, record)
            return failure == nil
        }
        if failure == nil {
            do throws(BIOError) { try adoptUndecided() } catch { failure = error }
        }
        if let failure { throw .damaged(what: "the block map: \(failure)") }
        shadows = Deque(shadows.sorted { $0.epoch < $1.epoch })
    }

    /// Like `noteShadows`, but looks around only where the neighbour gives reason to.
    private func noteShadows(
        _ key: IndexKey.Bytes, _ record: IndexRecord,
        after previous: (key: IndexKey.Bytes, record: IndexRecord)?, reach: inout UInt64
    ) {
        guard !record.kind.isPunch else {
            shadows.append(Shadow(epoch: record.epoch, key: key))
            return
        }
        let length = Int(record.akeyEnd)
        guard let previous, previous.record.kind == record.kind,
            IndexKey.agree(previous.key, key, length: length)
        else {
            reach = record.end
            return
        }
        let isCovered =
            previous.record.offset == record.offset && previous.record.end >= record.end
            && previous.key[length] == key[length]
        if record.kind == .single || isCovered {
            // The version before is newer and covers this one, whatever else does.
            shadows.append(Shadow(epoch: previous.record.epoch, key: key))
        } else if previous.key[length] != key[length] || record.offset < reach {
            noteShadows(key, record)
        }
        reach = max(previous.key[length] != key[length] ? 0 : reach, record.end)
    }
}
