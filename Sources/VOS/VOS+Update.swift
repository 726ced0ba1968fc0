internal import BIO
public import DrayChecksums
public import DrayRuntime

extension VOS {
    /// Applies an update: all of its operations, or none.
    ///
    /// Returns when it is durable and visible, with the epoch that its transaction was applied at:
    /// that of the update, unless the transaction had been applied before.
    ///
    /// - Parameters:
    ///   - patience: how long to wait for keys that transactions hold; nil: for ever.
    ///   - stamp: gives the epoch once the keys are locked, in place of the update's: only so is it
    ///     later than those of all that held the keys before.
    /// - Throws: `.exists` or `.notFound` for a condition that does not hold,
    ///   `.recordSizeMismatch`, `.noSpace`, `.epochTooOld`, `.duplicateInProgress`, `.undecided`,
    ///   `.keyTooLong`, `.valueTooLong`, `.badArgument`, `.checksumMismatch`, `.device`, `.closed`.
    @discardableResult
    public func update(
        _ update: Update, patience: Instant? = nil, stamp: (() -> UInt64)? = nil
    ) async throws(VOSError) -> UInt64 {
        var update = update
        if stamp == nil { try checkEpoch(ofUpdate: update.epoch) }
        try check(update)
        try begin()
        defer { end() }
        if update.transaction != .zero {
            if case .committed(let epoch) = state(of: update.transaction) { return epoch }
            guard dtxs[update.transaction] == nil,
                inProgress.insert(update.transaction).inserted
            else {
                throw .duplicateInProgress(update.transaction)
            }
        }
        defer { if update.transaction != .zero { inProgress.remove(update.transaction) } }
        var isInFlight = stamp == nil
        if isInFlight { epochsInFlight.append(update.epoch) }
        defer { if isInFlight { removeInFlight(update.epoch) } }

        let object = IndexKey.object(update.pool, update.container, update.object)
        let paths = update.operations.map { operation in
            let (dkey, akey) = operation.body.names
            return NamePath(object: object, dkey: dkey, akey: akey)
        }
        let objectKey = KeyLocks.object(object)
        let requests = lockRequests(update, object: objectKey, paths: paths)
        guard await locks.acquire(requests, until: patience) else { throw .undecided }
        defer { locks.release(requests) }
        if let stamp {
            update.epoch = stamp()
            try checkEpoch(ofUpdate: update.epoch)
            epochsInFlight.append(update.epoch)
            isInFlight = true
        }
        for (operation, path) in zip(update.operations, paths) where operation.condition != .none {
            try await checkCondition(operation, path)
        }
        if mayMismatch(update) {
            try await checkRecordSizes(of: [update], epoch: update.epoch)
        }
        for request in requests {
            let dkey = request.key == objectKey ? nil : request.key
            if dkey != nil || request.mode == .alone {
                stamps.didWrite(object: objectKey, dkey: dkey, at: update.epoch)
            }
        }
        try await write(update, paths: paths)
        return update.epoch
    }

    private func checkEpoch(ofUpdate epoch: UInt64) throws(VOSError) {
        guard epoch > 0, epoch < .max else { throw .badArgument("epoch \(epoch)") }
        guard epoch > aggregatedEpoch else {
            throw .epochTooOld(epoch: epoch, oldest: aggregatedEpoch + 1)
        }
    }

    /// Removes everything older than `epoch` under the attribute key, or, without one, the
    /// distribution key, or, without that, the object.
    @discardableResult
    public func punch(
        pool: UniqueID, container: UniqueID, object: ObjectID, dkey: [UInt8]? = nil,
        akey: [UInt8]? = nil, epoch: UInt64, transaction: UniqueID = .zero,
        condition: Operation.Condition = .none
    ) async throws(VOSError) -> UInt64 {
        let body: Operation.Body
        switch (dkey, akey) {
        case (nil, nil): body = .punchObject
        case (let dkey?, nil): body = .punchDkey(dkey)
        case (let dkey?, let akey?): body = .punchAkey(dkey: dkey, akey: akey)
        case (nil, .some): throw .badArgument("the punch of an akey needs its dkey")
        }
        return try await update(
            Update(
                pool: pool, container: container, object: object, epoch: epoch,
                transaction: transaction, operations: [Operation(body, condition: condition)]))
    }

    // MARK: - Checks

    func check(_ update: Update) throws(VOSError) {
        guard !update.operations.isEmpty else { throw .badArgument("an update without operations") }
        guard update.operations.count <= VOSLimits.operationsMax else {
            throw .badArgument(
                "\(update.operations.count) operations, "
                    + "where \(VOSLimits.operationsMax) are the most"
            )
        }
        switch update.stream {
        case .foreground, .rebuild: break
        case .aggregation, .metadata, .mirror:
            throw .badArgument("an update in the stream of \(update.stream)")
        }
        for operation in update.operations {
            let (dkey, akey) = operation.body.names
            try checkKey(dkey)
            try checkKey(akey)
            guard let value = operation.body.value else { continue }
            let count = unsafe value.bytes.count
            guard count <= VOSLimits.valueLengthMax else {
                throw .valueTooLong(length: count, maximum: VOSLimits.valueLengthMax)
            }
            if case .array(_, _, let offset, let recordSize, _) = operation.body {
                guard count > 0 else { throw .badArgument("an extent of no bytes") }
                guard offset <= UInt64.max - UInt64(VOSLimits.valueLengthMax) else {
                    throw .badArgument("an extent at \(offset)")
                }
                try VOS.checkRecords(recordSize, offset: offset, byteCount: count)
            }
            if let checksums = value.checksums,
                checksums.count != VOS.chunkCount(count) * value.checksumType.words
            {
                throw .badArgument("\(checksums.count) checksums for \(count) bytes")
            }
        }
    }

    func checkKey(_ key: [UInt8]?) throws(VOSError) {
        guard let key, key.count > VOSLimits.keyLengthMax else { return }
        throw .keyTooLong(length: key.count, maximum: VOSLimits.keyLengthMax)
    }

    func removeInFlight(_ epoch: UInt64) {
        guard let index = epochsInFlight.firstIndex(of: epoch) else {
            preconditionFailure("an update ended twice")
        }
        epochsInFlight.swapAt(index, epochsInFlight.count - 1)
        epochsInFlight.removeLast()
    }

    /// Updates of one dkey run together unless one has a condition, or writes records of an array;
    /// a punch of an object, or a condition on it, keeps everything else out of the object.
    private func lockRequests(
        _ update: Update, object: UInt64, paths: [NamePath]
    ) -> [KeyLocks.Request] {
        var requests: [KeyLocks.Request] = []
        requests.reserveCapacity(1 + paths.count)
        requests.append(KeyLocks.Request(key: object, mode: .write))
        for (operation, path) in zip(update.operations, paths) {
            if path.dkeyEnd == 0 {
                requests[0].mode = .alone
            } else {
                requests.append(
                    KeyLocks.Request(
                        key: KeyLocks.dkey(path.bytes, length: path.dkeyEnd),
                        mode: operation.isExclusive ? .alone : .write))
            }
        }
        KeyLocks.order(&requests)
        return requests
    }

    func checkCondition(_ operation: Operation, _ path: NamePath) async throws(VOSError) {
        let prefix: IndexKey.Bytes
        switch operation.condition {
        case .none: return
        case .insert, .update: prefix = path.bytes
        case .insertDkey, .updateDkey:
            guard path.dkeyEnd > 0 else {
                throw .badArgument("a condition on a distribution key without one")
            }
            prefix = Array(path.bytes[0..<path.dkeyEnd])
        }
        let exists = try await hasVisibleValue(
            prefix, isName: path.dkeyEnd > 0, epoch: .max, makeView())
        switch operation.condition {
        case .none: return
        case .insert, .insertDkey: if exists { throw .exists }
        case .update, .updateDkey: if !exists { throw .notFound }
        }
    }

    // MARK: - Writing

    /// Writes the values, then the log record.
    private func write(_ update: Update, paths: consuming [NamePath]) async throws(VOSError) {
        var prepared: [PreparedOperation] = []
        prepared.reserveCapacity(paths.count)
        var blocks = RecordBlocks(mayBeWritten: update.operations.count == 1)
        do throws(VOSError) {
            for (operation, path) in zip(update.operations, paths) {
                let record = try await place(
                    operation, path, epoch: update.epoch, stream: update.stream, in: &blocks)
                prepared.append(PreparedOperation(key: path.key(for: record), record: record))
            }
            let bytes = LogRecord.encode(update, prepared: prepared)
            guard bytes.count <= VOSLimits.recordLengthMax else {
                throw .badArgument(
                    "an update of \(bytes.count) bytes of keys and small values, where "
                        + "\(VOSLimits.recordLengthMax) are the most")
            }
            try await append(bytes, blocks) { [self] sequence in
                applyUpdate(
                    epoch: update.epoch, transaction: update.transaction, operations: prepared,
                    sequence: sequence)
            }
        } catch {
            await cancel(blocks)
            throw error
        }
    }

    /// The blocks of a record that was not logged are free, once nobody writes to them.
    func cancel(_ blocks: RecordBlocks) async {
        _ = await blocks.writing?.results()
        if !blocks.reserved.isEmpty { store.allocator.cancel(blocks.reserved) }
    }

    /// The most checkpoints that one append waits for.
    private static let checkpointsAwaitedMax = 8

    /// Appends a record once there is room in the log; a checkpoint makes room.
    func append(
        _ bytes: [UInt8], _ blocks: RecordBlocks = RecordBlocks(),
        apply: @escaping (UInt64) -> Void
    ) async throws(VOSError) {
        guard bytes.count + 16 * blocks.checks.count <= store.recordBytesMax else {
            throw .badArgument(
                "a log record of \(bytes.count) bytes and \(blocks.checks.count) checks, where "
                    + "\(store.recordBytesMax) bytes are the most")
        }
        for _ in 0..<VOS.checkpointsAwaitedMax {
            if isBehind { try await checkpoint() }
            if version.levels[0].count > VOS.level0Max { await waitForMerges() }
            do throws(BIOError) {
                // Nobody else waits for a long write.
                if let writing = blocks.writing, !store.isLogQuiet {
                    if let error = await writing.results()[0] { throw error }
                }
                try enqueueOutcomes()
                try await store.append(
                    bytes, checks: blocks.checks, writing: blocks.writing, apply: apply)
                startCheckpointIfWanted()
                return
            } catch .full(let requested, let free) {
                guard lastSequence > checkpointSequence else {
                    throw .noSpace(requested: requested, free: free)
                }
            } catch {
                throw .device(error)
            }
            try await checkpoint()
        }
        throw .noSpace(requested: UInt64(bytes.count), free: store.logSize - store.logUsed)
    }

    /// Computes or verifies the checksums of a value, and writes it to blocks if it is long.
    func place(
        _ operation: Operation, _ path: NamePath, epoch: UInt64, stream: BlockStream,
        in blocks: inout RecordBlocks
    ) async throws(VOSError) -> IndexRecord {
        let kind: IndexRecord.Kind
        var offset: UInt64 = 0
        var recordSize: UInt32 = 1
        switch operation.body {
        case .punchObject: kind = .objectPunch
        case .punchDkey: kind = .dkeyPunch
        case .punchAkey: kind = .akeyPunch
        case .single: kind = .single
        case .array(_, _, let first, let size, _):
            kind = .extent
            offset = first
            recordSize = size
        }
        guard let value = operation.body.value else {
            return IndexRecord(
                kind: kind, dkeyEnd: path.dkeyEnd, akeyEnd: path.akeyEnd, epoch: epoch)
        }
        guard !faults.fails(.vosSpace) else {
            throw .noSpace(requested: UInt64(unsafe value.bytes.count), free: 0)
        }
        let count = unsafe value.bytes.count
        if count < options.inlineThreshold || count == 0 {
            let checksums = try verifiedChecksums(value)
            try checkHeadroom(blocks: 0)
            return unsafe IndexRecord(
                kind: kind, dkeyEnd: path.dkeyEnd, akeyEnd: path.akeyEnd, epoch: epoch,
                offset: offset, byteCount: count, inline: Array(value.bytes),
                recordSize: recordSize, checksumType: value.checksumType, checksums: checksums)
        }
        let isLong = count >= VOS.longValue
        var checksums = isLong ? [] : try verifiedChecksums(value)
        let extents = try reserve(VOS.blockCount(count), for: stream)
        blocks.reserved.append(contentsOf: extents)
        if isLong {
            checksums = try await writeLong(value, to: extents, in: &blocks)
        } else {
            BlockChecks.append(of: value, checksums: checksums, in: extents, to: &blocks.checks)
            do throws(BIOError) {
                try await writeBlocks(value, to: extents)
            } catch {
                throw VOS.error(error)
            }
        }
        return IndexRecord(
            kind: kind, dkeyEnd: path.dkeyEnd, akeyEnd: path.akeyEnd, epoch: epoch, offset: offset,
            byteCount: count, blocks: extents, recordSize: recordSize,
            checksumType: value.checksumType, checksums: checksums)
    }

    private func verifiedChecksums(_ value: ValueBytes) throws(VOSError) -> [UInt32] {
        if let given = value.checksums, !value.isVerified { return given }
        let computed = unsafe VOS.checksums(of: value.bytes, value.checksumType)
        guard let given = value.checksums, given != computed else { return computed }
        var word = 0
        while given[word] == computed[word] { word += 1 }
        throw .checksumMismatch(chunk: word / value.checksumType.words)
    }

    /// The words of the checksums of each chunk of `bytes`.
    public static func checksums(
        of bytes: UnsafeRawBufferPointer, _ type: ChecksumType = .crc32c
    ) -> [UInt32] {
        unsafe type.checksums(of: bytes, chunk: VOSLimits.checksumChunk)
    }

    /// Ordinary updates leave enough free blocks for flushing and merging, without which nothing
    /// could be deleted any more.
    private func checkHeadroom(blocks: Int) throws(VOSError) {
        let free = UInt64(store.allocator.freeDataBlocks)
        // Usually there is plenty, and no need to count.
        guard free < UInt64(blocksKeptMax + blocks) else { return }
        let kept = UInt64(blocksKept)
        guard free < kept + UInt64(blocks) else { return }
        let unit = UInt64(BlockDevice.blockSize)
        throw .noSpace(
            requested: UInt64(max(1, blocks)) * unit, free: (free - min(free, kept)) * unit)
    }

    private func reserve(
        _ blocks: Int, for stream: BlockStream
    ) throws(VOSError) -> [BlockExtent] {
        try checkHeadroom(blocks: blocks)
        do throws(BIOError) {
            return try store.allocator.reserve(blocks: UInt32(blocks), stream: stream)
        } catch {
            throw VOS.error(error)
        }
    }

    /// From here on the device works on a value while its checksums are computed.
    private static let longValue = 256 << 10

    /// Writes a value to its blocks, computes or verifies its checksums meanwhile, and returns
    /// them. Blocks of a value that turns out to be damaged were written in vain.
    ///
    /// When nothing else is being written, the record may be, too, while this goes on: the blocks
    /// are written durably, and no flush of both follows.
    private func writeLong(
        _ value: ValueBytes, to extents: [BlockExtent], in blocks: inout RecordBlocks
    ) async throws(VOSError) -> [UInt32] {
        let isAlone =
            blocks.mayBeWritten && extents.count == 1
            && store.isLogQuiet && store.writesUnderWay == 0
        let writing = Gather<BIOError?>(count: 1)
        xstream.spawn { [self] in
            do throws(BIOError) {
                try await writeBlocks(value, to: extents, durable: isAlone)
                writing.finish(0, with: nil)
            } catch {
                writing.finish(0, with: error)
            }
        }
        // The write begins.
        await xstream.yield()
        let checksums: Result<[UInt32], VOSError>
        do throws(VOSError) {
            checksums = .success(try verifiedChecksums(value))
        } catch {
            checksums = .failure(error)
        }
        if case .success(let checksums) = checksums {
            BlockChecks.append(of: value, checksums: checksums, in: extents, to: &blocks.checks)
            if isAlone {
                blocks.writing = writing
                return checksums
            }
        }
        // Whatever the checksums say, the memory is in use for so long.
        if let error = await writing.results()[0] { throw VOS.error(error) }
        return try checksums.get()
    }

    /// Writes a value to its blocks: from where it is if the device can take it from there.
    private func writeBlocks(
        _ value: ValueBytes, to blocks: [BlockExtent], durable: Bool = false
    ) async throws(BIOError) {
        let bytes = unsafe value.bytes
        let size = VOS.blockCount(bytes.count) * BlockDevice.blockSize
        if bytes.count == size, unsafe VOS.isAligned(bytes.baseAddress) {
            try unsafe await store.write(bytes, to: blocks, durable: durable)
            return
        }
        let buffer = store.buffers.take(size)
        defer { store.buffers.give(buffer) }
        let target = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[0..<size])
        unsafe target.copyMemory(from: bytes)
        unsafe UnsafeMutableRawBufferPointer(rebasing: target[bytes.count...])
            .initializeMemory(as: UInt8.self, repeating: 0)
        try unsafe await store.write(
            UnsafeRawBufferPointer(target), to: blocks, durable: durable)
    }

    static func isAligned(_ address: UnsafeRawPointer?) -> Bool {
        UInt(bitPattern: address) % UInt(BlockDevice.blockSize) == 0
    }
}

/// The blocks that a log record names.
struct RecordBlocks {
    /// Whether the record may be logged while they are being written: it names no others.
    var mayBeWritten = false
    var reserved: [BlockExtent] = []
    var checks: [BlockCheck] = []
    /// What still writes them, durably.
    var writing: Gather<BIOError?>?
}

/// Makes the log's checks of a value's blocks from the value's own checksums.
enum BlockChecks {
    /// One check for each chunk; a chunk that lies in several extents gets one for each part.
    static func append(
        of value: ValueBytes, checksums: [UInt32], in blocks: [BlockExtent],
        to checks: inout [BlockCheck]
    ) {
        let bytes = unsafe value.bytes
        // Recovery must not take what was damaged on its way for what was not durable.
        let isReused = value.checksumType == .crc32c && (value.isVerified || value.checksums == nil)
        var extent = 0
        var used: UInt32 = 0
        for chunk in 0..<VOS.chunkCount(bytes.count) {
            let start = chunk * VOSLimits.checksumChunk
            let end = min(bytes.count, start + VOSLimits.checksumChunk)
            var first = start
            while first < end {
                if used == blocks[extent].count {
                    extent += 1
                    used = 0
                }
                let left = Int(blocks[extent].count - used)
                let count = min(left, VOS.blockCount(end - first))
                let last = min(end, first + count * BlockDevice.blockSize)
                let whole = isReused && first == start && last == end
                let part = unsafe UnsafeRawBufferPointer(rebasing: bytes[first..<last])
                checks.append(
                    BlockCheck(
                        extent: BlockExtent(
                            start: blocks[extent].start + used, count: UInt32(count)),
                        byteCount: last - first,
                        checksum: whole ? checksums[chunk] : unsafe CRC32C.checksum(of: part)))
                used += UInt32(count)
                first = last
            }
        }
    }
}
