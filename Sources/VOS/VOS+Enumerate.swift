public import DrayRuntime

extension VOS {
    /// The objects of a container with anything visible at `epoch`, in order, after `anchor`.
    ///
    /// `next` is the anchor to go on from; nil when there are no more.
    public func listObjects(
        pool: UniqueID, container: UniqueID, after anchor: ObjectID? = nil, limit: Int,
        epoch: UInt64 = .max
    ) async throws(VOSError) -> (objects: [ObjectID], next: ObjectID?) {
        try checkEpoch(epoch)
        try begin()
        defer { end() }
        let prefix = IndexKey.container(pool, container)
        let start = anchor.map {
            IndexKey.successor(ofPrefix: IndexKey.object(pool, container, $0))
        }
        var objects: [ObjectID] = []
        let more = await visit(prefix, from: start ?? prefix, epoch: epoch) { key in
            objects.append(ObjectID(high: key.word(at: 32), low: key.word(at: 40)))
            return objects.count < limit ? IndexKey.objectLength : nil
        }
        return (objects, more ? objects.last : nil)
    }

    /// The distribution keys of an object with anything visible at `epoch`, in the order of their
    /// bytes, after `anchor`: at most `limit` of them, and about `bytesMax` bytes.
    ///
    /// `next` is the anchor to go on from; nil when there are no more. Cost: O(log n) for each.
    public func listDkeys(
        pool: UniqueID, container: UniqueID, object: ObjectID, after anchor: [UInt8]? = nil,
        limit: Int, bytesMax: Int = .max, epoch: UInt64 = .max, patience: Instant? = nil,
        isTransactional: Bool = false
    ) async throws(VOSError) -> (keys: [[UInt8]], next: [UInt8]?) {
        let prefix = IndexKey.object(pool, container, object)
        return try await listNames(
            prefix, after: anchor, limit: limit, bytesMax: bytesMax, epoch: epoch,
            patience: patience, isTransactional: isTransactional)
    }

    /// The attribute keys under a distribution key: otherwise like `listDkeys`.
    public func listAkeys(
        pool: UniqueID, container: UniqueID, object: ObjectID, dkey: [UInt8],
        after anchor: [UInt8]? = nil, limit: Int, bytesMax: Int = .max, epoch: UInt64 = .max,
        patience: Instant? = nil, isTransactional: Bool = false
    ) async throws(VOSError) -> (keys: [[UInt8]], next: [UInt8]?) {
        try checkKey(dkey)
        let path = NamePath(
            object: IndexKey.object(pool, container, object), dkey: dkey, akey: nil)
        return try await listNames(
            path.bytes, after: anchor, limit: limit, bytesMax: bytesMax, epoch: epoch,
            patience: patience, isTransactional: isTransactional)
    }

    /// The visible parts of an array from byte `offset` on, in order: at most `limit`. Where one
    /// ends depends on what is visible alone, so that replicas can be compared.
    ///
    /// `next` is the offset to go on from; nil when there are no more.
    public func listExtents(
        _ fetch: Fetch, from offset: UInt64 = 0, limit: Int
    ) async throws(VOSError) -> (extents: [ArrayExtent], next: UInt64?) {
        let path = try path(of: fetch)
        try begin()
        defer { end() }
        try await settle(path, fetch)
        let window: UInt64 = 16 << 20
        var extents: [ArrayExtent] = []
        var position = offset
        while let first = nextExtent(path, from: position) {
            position = max(position, first)
            // Windows have fixed places: hidden extents, which not every replica has yet, must not
            // decide where a visible one is cut.
            let (sum, overflow) = (position / window * window).addingReportingOverflow(window)
            let end = overflow ? .max : sum
            guard position < end else { break }
            for segment in visibleSegments(path, range: position..<end, epoch: fetch.epoch) {
                if extents.count >= max(1, limit) { return (extents, segment.start) }
                extents.append(
                    ArrayExtent(
                        offset: segment.start, byteCount: segment.end - segment.start,
                        epoch: segment.record.epoch))
            }
            position = end
            await giveWay()
        }
        return (extents, nil)
    }

    /// Where the first extent, visible or not, lies that reaches beyond `offset`.
    private func nextExtent(_ path: NamePath, from offset: UInt64) -> UInt64? {
        var best: UInt64?
        for tag in IndexKey.extentTags.first...IndexKey.extentTags.last {
            let lengthMax = IndexKey.lengthMax(ofTag: tag)
            var start = path.bytes
            start.append(tag)
            start.append(word: offset >= lengthMax ? offset - lengthMax + 1 : 0)
            index.forEach(from: start) { key, record in
                guard IndexKey.agree(key, start, length: path.bytes.count + 1) else { return false }
                guard record.end > offset else { return true }
                best = min(best ?? .max, record.offset)
                return false
            }
        }
        return best
    }

    private func listNames(
        _ parent: IndexKey.Bytes, after anchor: [UInt8]?, limit: Int, bytesMax: Int, epoch: UInt64,
        patience: Instant?, isTransactional: Bool
    ) async throws(VOSError) -> (keys: [[UInt8]], next: [UInt8]?) {
        try checkKey(anchor)
        try begin()
        defer { end() }
        guard await locks.waitForUpdates(ofObject: parent, until: patience) else {
            throw .undecided
        }
        try checkEpoch(epoch)
        if isTransactional { try noteRead(KeyLocks.object(parent), nil, snapshot: epoch) }
        let prefix = parent + [IndexKey.childTag]
        var start = prefix
        if let anchor {
            start += .written(capacity: 2 * anchor.count + 2) { writer in
                IndexKey.putEscaped(anchor, to: &writer)
            }
            start = IndexKey.successor(ofPrefix: start)
        }
        var names: [[UInt8]] = []
        var bytes = 0
        let more = await visit(prefix, from: start, epoch: epoch) { key in
            guard let (name, end) = IndexKey.name(in: key, at: prefix.count) else { return nil }
            names.append(name)
            bytes += name.count
            return names.count < limit && bytes < bytesMax ? end : nil
        }
        return (names, more ? names.last : nil)
    }

    /// Calls `body` with a visible entry below `prefix`, then with the first one that does not
    /// share as many bytes with it as `body` said, and so on. Returns whether `body` ended it, with
    /// nil. Gives way to others.
    private func visit(
        _ prefix: IndexKey.Bytes, from start: IndexKey.Bytes, epoch: UInt64,
        _ body: (IndexKey.Bytes) -> Int?
    ) async -> Bool {
        var position = start
        var budget = VOS.searchMax
        while true {
            if budget <= 0 {
                await giveWay()
                budget = VOS.searchMax
            }
            switch searchVisible(from: position, prefix: prefix, epoch: epoch, limit: budget) {
            case .found(let key, _):
                guard let length = body(key) else { return true }
                position = IndexKey.successor(ofPrefix: Array(key[0..<length]))
                budget -= 4
            case .more(let key):
                position = key
                budget = 0
            case .none: return false
            }
        }
    }
}
