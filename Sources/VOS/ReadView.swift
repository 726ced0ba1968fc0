internal import BIO
internal import DrayRuntime

/// The index as it was when somebody began to read: what is logged later is not in it, and what is
/// in it stays, with the blocks of its values, as long as the view is kept.
struct ReadView {
    let active: Memtable
    /// What is being written to a table.
    let frozen: Memtable?
    let version: IndexVersion
    /// Entries with this stamp or a later one are not in it.
    let limit: UInt64
    /// Nor are these.
    let destroyed: DestroyedRanges?

    /// The first entry that is not below `target` and begins with its first `prefix` bytes: one of
    /// an akey, of which this is the path.
    func first(
        from target: IndexKey.Bytes, prefix: Int, name: NamePath
    ) async throws(VOSError) -> (key: IndexKey.Bytes, record: IndexRecord)? {
        if isAnythingDestroyed(below: target, prefix) {
            return try await firstLeft(from: target, prefix: prefix, name: name.bytes)
        }
        var best: (key: IndexKey.Bytes, record: IndexRecord)?
        forEachMemtable { memtable in
            if let found = memtable.first(from: target, prefix: prefix, below: limit) {
                choose(found, &best)
            }
        }
        let hash = unsafe target.withPrefix(name.akeyEnd) { unsafe TableFilter.path($0) }
        for candidate in version.candidates(
            from: IndexKey.Prefix(target), prefix: IndexKey.Prefix(target, count: prefix))
        {
            if candidate.isAlone, try await !candidate.table.mayContain(hash) { continue }
            if let found = try await candidate.table.first(from: target, prefix: prefix) {
                choose(found, &best)
            }
        }
        return best
    }

    private func isAnythingDestroyed(below target: IndexKey.Bytes, _ prefix: Int) -> Bool {
        destroyed?.overlapping(IndexKey.Prefix(target, count: prefix)) != nil
    }

    /// The same as `first` where something is destroyed. `name`: as a cursor takes it.
    private func firstLeft(
        from target: IndexKey.Bytes, prefix: Int, name: IndexKey.Bytes?
    ) async throws(VOSError) -> (key: IndexKey.Bytes, record: IndexRecord)? {
        let cursor = try await IndexCursor(
            self, prefix: IndexKey.Prefix(target, count: prefix), name: name)
        try await cursor.seek(target)
        guard cursor.isValid else { return nil }
        return (unsafe IndexKey.Bytes(cursor.entry.key), try cursor.entry.record())
    }

    private func choose(
        _ found: (key: IndexKey.Bytes, record: IndexRecord),
        _ best: inout (key: IndexKey.Bytes, record: IndexRecord)?
    ) {
        if let current = best, IndexKey.compare(current.key, found.key) < 0 { return }
        best = found
    }

    // MARK: - Punches

    /// The newest punch up to `epoch` of the levels of `path`, of those that it has.
    func newestPunch(
        over path: IndexKey.Bytes, dkeyEnd: Int, akeyEnd: Int, epoch: UInt64
    ) async throws(VOSError) -> PunchPoint? {
        guard mayHavePunch(for: path) else { return nil }
        var point: PunchPoint?
        for length in [IndexKey.objectLength, dkeyEnd, akeyEnd] where length > 0 {
            if let found = try await newestPunch(path, length: length, epoch: epoch) {
                var newest = point ?? PunchPoint()
                newest.raise(EntryHead(found))
                point = newest
            }
        }
        return point
    }

    func mayHavePunch(for key: IndexKey.Bytes) -> Bool {
        version.mayHavePunch(for: key) || active.hasPunch(for: key)
            || frozen?.hasPunch(for: key) ?? false
    }

    @inline(__always)
    func forEachMemtable(_ body: (Memtable) -> Void) {
        body(active)
        if let frozen { body(frozen) }
    }

    /// The newest punch of what the first `length` bytes of `key` name.
    func newestPunch(
        _ key: IndexKey.Bytes, length: Int, epoch: UInt64
    ) async throws(VOSError) -> IndexRecord? {
        var target = IndexKey.Bytes()
        target.reserveCapacity(length + 9)
        target.append(contentsOf: key[0..<length])
        target.append(IndexKey.punchTag)
        target.append(word: ~epoch)
        if isAnythingDestroyed(below: target, length + 1) {
            return try await firstLeft(from: target, prefix: length + 1, name: nil)?.record
        }
        var best: (key: IndexKey.Bytes, record: IndexRecord)?
        forEachMemtable { memtable in
            guard memtable.punchCount > 0 else { return }
            if let found = memtable.first(from: target, prefix: length + 1, below: limit) {
                choose(found, &best)
            }
        }
        guard version.mayHavePunch(for: key) else { return best?.record }
        let hash = unsafe target.withPrefix(length) { unsafe TableFilter.punch($0) }
        for candidate in version.candidates(
            from: IndexKey.Prefix(target), prefix: IndexKey.Prefix(target, count: length + 1))
        {
            guard candidate.table.info.punches > 0 || !candidate.isAlone else { continue }
            if candidate.isAlone, try await !candidate.table.mayContain(hash) { continue }
            if let found = try await candidate.table.first(from: target, prefix: length + 1) {
                choose(found, &best)
            }
        }
        return best?.record
    }
}

extension [UInt8] {
    /// Calls `body` with the first `count` bytes.
    func withPrefix<Value>(_ count: Int, _ body: (UnsafeRawBufferPointer) -> Value) -> Value {
        precondition(count <= self.count)
        return unsafe withUnsafeBytes { bytes in
            unsafe body(UnsafeRawBufferPointer(rebasing: bytes[0..<count]))
        }
    }
}

/// The newest punch that applies somewhere: hides what is older.
struct PunchPoint {
    var epoch: UInt64 = 0
    var stamp: UInt64 = 0

    func hides(_ head: EntryHead) -> Bool {
        head.epoch != epoch ? head.epoch < epoch : head.stamp < stamp
    }

    func hides(_ record: IndexRecord) -> Bool {
        record.epoch != epoch ? record.epoch < epoch : record.stamp < stamp
    }

    mutating func raise(_ punch: EntryHead) {
        guard !hides(punch) else { return }
        epoch = punch.epoch
        stamp = punch.stamp
    }
}
