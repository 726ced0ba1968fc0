public import DrayRuntime

extension VOS {
    /// The objects of a container with anything visible at `epoch`, in order, after `anchor`.
    ///
    /// `next` is the anchor to go on from; nil when there are no more.
    public func listObjects(
        pool: UniqueID, container: UniqueID, after anchor: ObjectID? = nil, limit: Int,
        epoch: UInt64 = .max
    ) async throws(VOSError) -> (objects: [ObjectID], next: ObjectID?) {
        try checkEpoch(epoch, in: ContainerName(pool: pool, container: container))
        try begin()
        defer { end() }
        let prefix = IndexKey.container(pool, container)
        let start = anchor.map {
            IndexKey.successor(ofPrefix: IndexKey.object(pool, container, $0))
        }
        var objects: [ObjectID] = []
        let search = try await VisibleSearch(makeView(), prefix: prefix, isName: false, epoch)
        var more = false
        if let start { try await search.seek(start) }
        while try await search.next(self) {
            guard objects.count < limit else {
                more = true
                break
            }
            let key = unsafe IndexKey.Bytes(search.key[0..<IndexKey.objectLength])
            objects.append(ObjectID(high: key.word(at: 32), low: key.word(at: 40)))
            try await search.seek(IndexKey.successor(ofPrefix: key))
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
        let view = makeView()
        while let first = try await nextExtent(path, from: position, view) {
            position = max(position, first)
            // Windows have fixed places: hidden extents, which not every replica has yet, must not
            // decide where a visible one is cut.
            let (sum, overflow) = (position / window * window).addingReportingOverflow(window)
            let end = overflow ? .max : sum
            guard position < end else { break }
            let segments = try await visibleSegments(
                path, range: position..<end, epoch: fetch.epoch, view)
            for segment in segments {
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

    /// Where the window begins that has the first extent, visible or not, which reaches beyond
    /// `offset`.
    private func nextExtent(
        _ path: NamePath, from offset: UInt64, _ view: ReadView
    ) async throws(VOSError) -> UInt64? {
        var prefix = path.bytes
        prefix.append(IndexKey.extentTag)
        let cursor = try await IndexCursor(view, prefix: IndexKey.Prefix(prefix), name: path.bytes)
        // No extent is longer than a window.
        var target = prefix
        let window = offset / IndexKey.windowBytes
        target.append(
            extentAt: (window - min(window, 1)) * IndexKey.windowBytes,
            class: IndexKey.extentClasses.lowerBound)
        try await cursor.seek(target)
        while cursor.isValid {
            let head = try cursor.entry.head()
            if head.end > offset {
                return head.offset / IndexKey.windowBytes * IndexKey.windowBytes
            }
            try await cursor.next()
        }
        return nil
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
        try checkEpoch(epoch, in: unsafe parent.withUnsafeBytes { unsafe ContainerName($0) })
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
        var more = false
        let search = try await VisibleSearch(makeView(), prefix: prefix, isName: false, epoch)
        if anchor != nil { try await search.seek(start) }
        while try await search.next(self) {
            guard names.count < limit, bytes < bytesMax else {
                more = true
                break
            }
            let key = unsafe IndexKey.Bytes(search.key)
            guard let (name, end) = IndexKey.name(in: key, at: prefix.count) else {
                throw .damaged(what: "a key of the index")
            }
            names.append(name)
            bytes += name.count
            try await search.seek(IndexKey.successor(ofPrefix: Array(key[0..<end])))
        }
        return (names, more ? names.last : nil)
    }
}
