internal import BIO
internal import DrayRuntime
internal import Logging

extension VOS {
    /// Writes the index as it is now to blocks, so that the log before is free.
    ///
    /// Updates go on meanwhile, and are not in it. Cooperative: serialises a few entries at a time.
    /// When a checkpoint is under way, waits for that one instead. Throws `.noSpace`, `.device`.
    public func checkpoint() async throws(VOSError) {
        try begin()
        defer { end() }
        if isCheckpointing {
            let error = unsafe await withUnsafeContinuation { continuation in
                checkpointWaiters.append(unsafe CheckpointWaiter(continuation: continuation))
            }
            if let error { throw error }
            return
        }
        isCheckpointing = true
        var failure: VOSError?
        do throws(VOSError) {
            try await writeCheckpoint()
        } catch {
            failure = error
        }
        isCheckpointing = false
        let waiters = checkpointWaiters
        checkpointWaiters = []
        for waiter in waiters { unsafe waiter.continuation.resume(returning: failure) }
        if let failure { throw failure }
    }

    /// The most blocks that a checkpoint of the index as it is can take.
    func checkpointBlocksMax() -> Int {
        let bytes =
            indexBytes + 25 * transactions.entries.count + preparedBytes + 12 * active.count
            + completions.values.reduce(0) { $0 + 28 + $1.members.count }
        let chunks = bytes / CheckpointChunk.byteCountGoal + 4
        return bytes / BlockDevice.blockSize + chunks + chunks / 64 + 4
    }

    private func writeCheckpoint() async throws(VOSError) {
        var directory = CheckpointDirectory()
        directory.sequence = lastSequence
        directory.aggregatedEpoch = aggregatedEpoch
        directory.horizon = transactions.horizon
        let snapshot = index
        let entries = transactions.entries
        let prepared = undecided.map { ($0.sequence, $0.record) }
        let completions = uncompleted
        var root: [BlockExtent] = []
        do throws(VOSError) {
            var bytes: [UInt8] = []
            for (count, entry) in entries.enumerated() {
                bytes.append(id: entry.transaction)
                bytes.put(entry.epoch)
                bytes.append(entry.isCommitted ? 1 : 0)
                directory.transactionCount += 1
                if count % 1024 == 1023 { await giveWay() }
                if bytes.count >= CheckpointChunk.byteCountGoal {
                    try await writeChunk(.transactions, &bytes, &directory)
                }
            }
            if !bytes.isEmpty { try await writeChunk(.transactions, &bytes, &directory) }
            for (sequence, record) in prepared {
                if bytes.count + record.count > CheckpointChunk.byteCountGoal, !bytes.isEmpty {
                    try await writeChunk(.prepared, &bytes, &directory)
                }
                bytes.put(sequence)
                bytes.put(string: record)
            }
            if !bytes.isEmpty { try await writeChunk(.prepared, &bytes, &directory) }
            for completion in completions {
                bytes.append(id: completion.id)
                bytes.put(completion.epoch)
                bytes.put(string: completion.members)
                if bytes.count >= CheckpointChunk.byteCountGoal {
                    try await writeChunk(.completions, &bytes, &directory)
                }
            }
            if !bytes.isEmpty { try await writeChunk(.completions, &bytes, &directory) }
            try await writeEntries(snapshot, &directory)
            try await publish(directory, &root)
        } catch {
            let written = directory.chunks.flatMap(\.extents) + root
            if !written.isEmpty { store.allocator.cancel(written) }
            throw error
        }
        // BIO frees the old directory, we the old chunks.
        let old = checkpointExtents
        if !old.isEmpty { store.allocator.free(old) }
        checkpointExtents = directory.chunks.flatMap(\.extents)
        checkpointSequence = directory.sequence
        log.info("checkpoint: \(directory.entryCount) entries, \(directory.chunks.count) chunks")
    }

    /// The most entries that are serialised before others have their turn.
    private static let entriesPerSlice = 128

    private func writeEntries(
        _ snapshot: IndexTree, _ directory: inout CheckpointDirectory
    ) async throws(VOSError) {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(CheckpointChunk.byteCountMax)
        var previous: IndexKey.Bytes = []
        var position: IndexKey.Bytes? = []
        while let start = position {
            position = nil
            var count = 0
            snapshot.forEach(from: start) { key, record in
                guard count < VOS.entriesPerSlice, bytes.count < CheckpointChunk.byteCountGoal
                else {
                    position = key
                    return false
                }
                CheckpointChunk.put(key, after: previous, record, to: &bytes)
                previous = key
                count += 1
                return true
            }
            directory.entryCount += UInt64(count)
            if bytes.count >= CheckpointChunk.byteCountGoal || position == nil && !bytes.isEmpty {
                try await writeChunk(.entries, &bytes, &directory)
                previous = []
            }
            await giveWay()
        }
    }

    private func writeChunk(
        _ type: CheckpointDirectory.ChunkType, _ bytes: inout [UInt8],
        _ directory: inout CheckpointDirectory
    ) async throws(VOSError) {
        let extents = try reserveForCheckpoint(bytes.count)
        directory.chunks.append(
            CheckpointDirectory.Chunk(
                type: type, byteCount: bytes.count,
                checksum: bytes.checksum(first: bytes.count), extents: extents))
        try await write(bytes, to: extents)
        bytes.removeAll(keepingCapacity: true)
    }

    private func reserveForCheckpoint(_ byteCount: Int) throws(VOSError) -> [BlockExtent] {
        do throws(BIOError) {
            return try store.allocator.reserve(
                blocks: UInt32(VOS.blockCount(byteCount)), privileged: true)
        } catch {
            throw VOS.error(error)
        }
    }

    private func write(_ bytes: [UInt8], to extents: [BlockExtent]) async throws(VOSError) {
        let size = VOS.blockCount(bytes.count) * BlockDevice.blockSize
        let buffer = IOBuffer(count: size)
        unsafe bytes.withUnsafeBytes { unsafe buffer.bytes.copyMemory(from: $0) }
        do throws(BIOError) {
            try unsafe await store.write(UnsafeRawBufferPointer(buffer.bytes), to: extents)
        } catch {
            throw VOS.error(error)
        }
    }

    private func publish(
        _ directory: CheckpointDirectory, _ root: inout [BlockExtent]
    ) async throws(VOSError) {
        let bytes = directory.encode()
        root = try reserveForCheckpoint(bytes.count)
        guard root.count <= CheckpointRoot.extentsMax else {
            throw .noSpace(requested: UInt64(bytes.count), free: space.free)
        }
        try await write(bytes, to: root)
        do throws(BIOError) {
            try await store.publishCheckpoint(
                CheckpointRoot(
                    extents: root, byteCount: UInt64(bytes.count),
                    checksum: bytes.checksum(first: bytes.count),
                    logSequence: directory.sequence))
        } catch {
            throw VOS.error(error)
        }
    }
}
