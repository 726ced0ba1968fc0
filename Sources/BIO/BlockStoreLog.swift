internal import DequeModule
public import DrayRuntime

/// The log of a store: replay, group commit, checkpoints.
extension BlockStore {
    /// Calls `apply` with the sequence number and bytes of every record after the checkpoint, in
    /// order. Then the store is ready for `append`. Must be called once, before the first append;
    /// an error of `apply` ends the replay.
    public func replay(
        _ apply: (_ sequence: UInt64, _ record: RawSpan) throws(BIOError) -> Void
    ) async throws(BIOError) {
        try checkService()
        precondition(phase == .opened, "a log is replayed once")
        guard var scan else { preconditionFailure("an opened store has scanned its log") }
        self.scan = nil
        try await scan.replay(after: appliedSequence, apply)
        appliedSequence = head.sequence - 1
        // A dropped group must never come back: its blocks may be written again before the next
        // group is, and would then match. The seal takes its place. It also says that the groups
        // before it were durable, so that nobody compares their checks with reused blocks.
        if scan.headIsStale || scan.lastIsUnsealed {
            do throws(BIOError) {
                try await writeSeal()
            } catch {
                fail(error)
                throw error
            }
        }
        phase = .ready
    }

    // MARK: - Append

    /// Appends a record and returns when it is durable, together with the blocks that `checks`
    /// name: their writes have ended, or `writing` writes all of them durably and may go on
    /// meanwhile. Whoever has an error from here waits for it. `apply` is called with the record's
    /// sequence number, in log order, as soon as that is so and before any append of the group
    /// returns.
    ///
    /// Throws `.full` when the log has no room (publish a checkpoint), `.outOfRange` when the
    /// record is larger than `recordBytesMax`, and `.outOfService` after an error; then nothing
    /// was logged. When the commit itself fails, throws its error: the record may or may not be
    /// there after the next open.
    public func append(
        _ record: [UInt8], checks: [BlockCheck], writing: Gather<BIOError?>? = nil,
        apply: @escaping (UInt64) -> Void
    ) async throws(BIOError) {
        try checkAppend(record, checks: checks)
        let error = await Waiter<BIOError?>.suspend { waiter in
            addPending(
                PendingRecord(
                    record: record, checks: checks, writing: writing, apply: apply, waiter: waiter))
        }
        if let error { throw error }
    }

    /// Appends a record and does not wait: it is durable when `apply` is called, and before any
    /// record that is appended later. Throws what `append` throws before anything was logged.
    public func enqueue(
        _ record: [UInt8], apply: @escaping (UInt64) -> Void
    ) throws(BIOError) {
        try checkAppend(record, checks: [])
        addPending(
            PendingRecord(record: record, checks: [], writing: nil, apply: apply, waiter: nil))
    }

    private func checkAppend(_ record: [UInt8], checks: [BlockCheck]) throws(BIOError) {
        try checkService()
        precondition(phase == .ready, "append before replay")
        let bytes = record.count + checks.count * GroupHeader.checkBytes
        guard bytes <= recordBytesMax else {
            throw .outOfRange("a log record of \(bytes) bytes; at most \(recordBytesMax)")
        }
        for check in checks {
            precondition(superblock.holds(check.extent), "no such blocks")
        }
        let room = superblock.logBlocks - (head.position - superblock.tail.position)
        let needed = pendingBlocksMax(adding: bytes + GroupHeader.recordPrefix)
        guard needed + BlockStore.logBlocksKept <= room else {
            let unit = UInt64(BlockDevice.blockSize)
            let free = room - min(room, pendingBlocksMax(adding: 0) + BlockStore.logBlocksKept)
            throw .full(requested: UInt64(bytes), free: free * unit)
        }
    }

    private func addPending(_ entry: PendingRecord) {
        pendingBytes += entry.byteCount
        pending.append(entry)
        startCommitting()
    }

    /// The most log blocks that the pending records and `bytes` more can take. Of two neighbouring
    /// groups the first has many records, or both exceed the maximum of one.
    func pendingBlocksMax(adding bytes: Int) -> UInt64 {
        let total = pendingBytes + bytes
        guard total > 0 else { return 0 }
        let unit = BlockDevice.blockSize
        let groups =
            2 * (total / groupBuffer.count) + 2 + pending.count / BlockStore.gatheredEnough
        return UInt64((total + unit - 1) / unit + groups)
    }

    private func startCommitting() {
        guard !committing else { return }
        committing = true
        xstream.spawn { await self.commit() }
    }

    /// Commits groups until nothing is pending. A group is what has gathered when the flush of the
    /// one before ends; a lone record waits for nobody.
    private func commit() async {
        while !pending.isEmpty {
            if !isOutOfService { await letGather() }
            guard !isOutOfService else {
                refusePending()
                break
            }
            let group = takeGroup()
            do throws(BIOError) {
                try await writeGroup(group)
            } catch {
                applyDurable()
                fail(error)
                for entry in group.entries { entry.waiter?.resume(returning: error) }
                continue
            }
            durable.append(group)
            if pending.count >= BlockStore.gatheredEnough {
                // The next group goes to the device first, so that neither it nor the xstream
                // waits for the other.
                xstream.spawn { [self] in
                    await xstream.yield()
                    applyDurable()
                }
            } else {
                applyDurable()
            }
        }
        applyDurable()
        committing = false
        scheduleSeal()
        let waiters = commitWaiters
        commitWaiters.removeAll()
        for waiter in waiters { waiter.resume() }
    }

    private func refusePending() {
        let rest = pending
        pending.removeAll()
        pendingBytes = 0
        for entry in rest {
            entry.waiter?.resume(returning: outOfService)
        }
    }

    /// The most rounds that a group waits for more records, and how many are enough.
    private static let gatheringRoundsMax = 16
    private static let gatheredEnough = 32

    /// Waits while each round of the xstream brings more records: a busy xstream then commits fewer
    /// groups, and each costs it several calls. A lone record waits for one round, which is short.
    private func letGather() async {
        var count = 0
        for _ in 0..<BlockStore.gatheringRoundsMax
        where pending.count > count && pending.count < BlockStore.gatheredEnough {
            count = pending.count
            await xstream.yield()
        }
    }

    func waitForCommits() async {
        while committing {
            await Waiter.suspend { commitWaiters.append($0) }
        }
    }

    // MARK: - Seals of an idle log

    /// Has the log sealed if nothing is appended for a while. Cheap: under load, a timer now and
    /// then; at rest, nothing.
    private func scheduleSeal() {
        guard sealTimer == nil, lastIsUnsealed, !isOutOfService else { return }
        let number = head.number
        sealTimer = xstream.schedule(at: xstream.now + BlockStore.sealDelay) { [weak self] in
            self?.sealIfIdle(since: number)
        }
    }

    /// `number`: that of the next group when the timer began.
    private func sealIfIdle(since number: UInt64) {
        sealTimer = nil
        guard isLogQuiet, lastIsUnsealed, !isOutOfService else { return }
        guard head.number == number else { return scheduleSeal() }
        // What is appended meanwhile waits for the seal as it does for any group.
        committing = true
        xstream.spawn { [self] in
            do throws(BIOError) { try await writeSeal() } catch { fail(error) }
            await commit()
        }
    }

    func cancelSeal() {
        sealTimer?.cancel()
        sealTimer = nil
    }

    /// As many pending records as one group holds; of many one half, so that two groups alternate:
    /// one is written while the other is applied.
    private func takeGroup() -> PendingGroup {
        var group = PendingGroup()
        let most = max(BlockStore.gatheredEnough, (pending.count + 1) / 2)
        var size = GroupHeader.byteCount
        while group.entries.count < most, let first = pending.first,
            size + first.byteCount <= groupBuffer.count
        {
            size += first.byteCount
            pendingBytes -= first.byteCount
            group.add(pending.removeFirst())
        }
        precondition(!group.entries.isEmpty, "a pending record fits no group")
        return group
    }

    /// The effects of groups that are durable become visible, then their appends return.
    private func applyDurable() {
        let groups = durable
        durable.removeAll(keepingCapacity: true)
        for group in groups {
            allocator.guardOnly(group.checks.map(\.extent))
            for entry in group.entries {
                appliedSequence += 1
                entry.apply(appliedSequence)
            }
            for entry in group.entries { entry.waiter?.resume(returning: nil) }
            discardFreed()
        }
    }

    // MARK: - Groups

    private func writeGroup(_ group: PendingGroup) async throws(BIOError) {
        let checks = group.checks
        var place = GroupHeader.byteCount
        for check in checks {
            groupBuffer.store(check.extent.start, at: place)
            groupBuffer.store(check.extent.count, at: place + 4)
            groupBuffer.store(UInt32(check.byteCount), at: place + 8)
            groupBuffer.store(check.checksum, at: place + 12)
            place += GroupHeader.checkBytes
        }
        for entry in group.entries {
            groupBuffer.store(UInt32(entry.record.count), at: place)
            place += GroupHeader.recordPrefix
            let range = place..<place + entry.record.count
            unsafe entry.record.withUnsafeBytes { bytes in
                unsafe groupBuffer.writable(range).copyMemory(from: bytes)
            }
            place = range.upperBound
        }
        // The log is durable last: with blocks on another device, those are flushed before.
        let isApart = places.metadata != nil
        if isApart, group.hasVolatile(where: { !places.isOnMetadata($0) }) {
            try await places.data.flush()
        }
        // Otherwise one flush makes the blocks and the log durable together.
        let flushing = group.hasVolatile { !isApart || places.isOnMetadata($0) }
        try await writeGroup(
            payloadEnd: place, recordCount: group.entries.count, checkCount: checks.count,
            isSeal: false, flushing: flushing)
        for entry in group.entries {
            if let writing = entry.writing, let error = await writing.results()[0] { throw error }
        }
    }

    /// Writes a group without records, durably. Nobody may write another one meanwhile.
    func writeSeal() async throws(BIOError) {
        try await writeGroup(
            payloadEnd: GroupHeader.byteCount, recordCount: 0, checkCount: 0, isSeal: true,
            flushing: false)
        allocator.guardOnly([])
    }

    /// Writes the group whose payload stands in `groupBuffer`; returns when it is durable.
    private func writeGroup(
        payloadEnd: Int, recordCount: Int, checkCount: Int, isSeal: Bool, flushing: Bool
    ) async throws(BIOError) {
        let payload = GroupHeader.byteCount..<payloadEnd
        let header = GroupHeader(
            generation: superblock.generation, cursor: head, recordCount: UInt32(recordCount),
            checkCount: UInt32(checkCount), payloadBytes: UInt32(payload.count),
            payloadChecksum: groupBuffer.checksum(payload), isSeal: isSeal)
        let length = Int(header.blocks) * BlockDevice.blockSize
        groupBuffer.zero(payloadEnd..<length)
        let chain = header.encode(into: groupBuffer)
        let used = head.position - superblock.tail.position
        guard used + header.blocks <= superblock.logBlocks else {
            throw .full(
                requested: UInt64(length),
                free: (superblock.logBlocks - used) * UInt64(BlockDevice.blockSize))
        }
        let start = head
        let next = head.sequence + UInt64(recordCount)
        live.append(LiveGroup(cursor: start, blocks: header.blocks, nextSequence: next))
        head = LogCursor(
            position: start.position + header.blocks, number: start.number + 1, chain: chain,
            sequence: next)
        lastIsUnsealed = !isSeal
        try await writeLog(at: start.position, length: length, flushing: flushing)
    }

    private func writeLog(
        at position: UInt64, length: Int, flushing: Bool
    ) async throws(BIOError) {
        let unit = UInt64(BlockDevice.blockSize)
        let device = places.log
        var done = 0
        while done < length {
            let place = (position + UInt64(done) / unit) % superblock.logBlocks
            let run = min(length - done, Int((superblock.logBlocks - place) * unit))
            // SAFETY: the buffer belongs to the store, and only one group is written at a time.
            let bytes = unsafe groupBuffer.readable(done..<done + run)
            let offset = superblock.logOffset + place * unit
            done += run
            if flushing, done == length {
                try unsafe await device.writeAndFlush(bytes, at: offset)
            } else {
                try unsafe await device.write(bytes, at: offset, durable: !flushing)
            }
        }
    }

    // MARK: - Checkpoints

    /// Makes `root`, whose copies were written with `write`, the checkpoint: durable in both
    /// superblocks. Then the log up to `root.logSequence` is free, and so are the blocks of the
    /// checkpoint's root before (this store frees them; the layer above only reserves new ones).
    ///
    /// Only one at a time. `root.logSequence` must have been applied and may not go back.
    public func publishCheckpoint(_ root: CheckpointRoot) async throws(BIOError) {
        try checkService()
        precondition(phase == .ready && !publishing, "one checkpoint at a time, after replay")
        precondition(root.logSequence <= appliedSequence, "a checkpoint of what is not applied")
        precondition(root.logSequence >= superblock.checkpoint?.logSequence ?? 0)
        for copy in root.copies {
            guard copy.count <= CheckpointRoot.extentsMax else {
                throw .outOfRange(
                    "a checkpoint root of \(copy.count) extents; at most "
                        + "\(CheckpointRoot.extentsMax)")
            }
            let room = copy.reduce(0) { $0 + $1.byteCount }
            precondition(root.byteCount <= room, "a checkpoint root larger than its extents")
        }
        publishing = true
        defer { publishing = false }
        var next = superblock
        next.sequence += 1
        next.checkpoint = root
        next.tail = live.first { $0.nextSequence > root.logSequence + 1 }?.cursor ?? head
        do throws(BIOError) {
            try await flushDevices()
            try await BlockStore.replaceSuperblocks(with: next, on: places.log)
        } catch {
            fail(error)
            throw error
        }
        let previous = superblock.checkpoint
        superblock = next
        while let first = live.first, first.cursor.position < next.tail.position {
            live.removeFirst()
        }
        if live.isEmpty {
            // The last group is not in the log any more: nobody will verify its checks.
            lastIsUnsealed = false
            allocator.guardOnly([])
        }
        if let previous { allocator.free(Array(previous.copies.joined())) }
    }
}
