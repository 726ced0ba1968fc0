public import DrayRuntime

extension VOS {
    /// The objects of a container with anything visible at `epoch`: those from `lower` on and
    /// before `upper`, in order or, reversed, from the last to the first, after `anchor`.
    ///
    /// `next` is the anchor to go on from; nil when there are no more. Waits for the updates under
    /// way, for those that transactions have prepared no longer than `patience`: then it throws
    /// `.undecided`.
    public func listObjects(
        pool: UniqueID, container: UniqueID, from lower: ObjectID? = nil,
        upTo upper: ObjectID? = nil, isReversed: Bool = false, after anchor: ObjectID? = nil,
        limit: Int, epoch: UInt64 = .max, patience: Instant? = nil
    ) async throws(VOSError) -> (objects: [ObjectID], next: ObjectID?) {
        try begin()
        defer { end() }
        let names = ListedNames(
            prefix: IndexKey.container(pool, container), device: indexDevice, areObjects: true)
        try await waitForUpdates(ofContainer: names.prefix, upTo: epoch, until: patience)
        try checkEpoch(epoch, in: ContainerName(pool: pool, container: container))
        var page = NamePage(limit: limit, bytesMax: .max)
        let range = KeyRange(
            from: lower.map(ListedNames.bytes), upTo: upper.map(ListedNames.bytes),
            isReversed: isReversed)
        try await list(
            names, in: range, after: anchor.map(ListedNames.bytes), epoch: epoch, &page)
        let objects = page.names.map(ListedNames.object)
        return (objects, page.hasMore ? objects.last : nil)
    }

    /// The distribution keys of an object with anything visible at `epoch`: those in `range`, in
    /// its order, after `anchor`: at most `limit` of them, and about `bytesMax` bytes.
    ///
    /// `next` is the anchor to go on from; nil when there are no more. What is there all the while
    /// is listed once, whatever is written meanwhile. Cost: O(log n) for each.
    public func listDkeys(
        pool: UniqueID, container: UniqueID, object: ObjectID, in range: KeyRange = .all,
        after anchor: [UInt8]? = nil, limit: Int, bytesMax: Int = .max, epoch: UInt64 = .max,
        patience: Instant? = nil, isolation: ReadIsolation = .none
    ) async throws(VOSError) -> (keys: [[UInt8]], next: [UInt8]?) {
        let prefix = IndexKey.object(pool, container, object)
        return try await listNames(
            prefix, in: range, after: anchor, limit: limit, bytesMax: bytesMax, epoch: epoch,
            patience: patience, isolation: isolation)
    }

    /// The attribute keys under a distribution key: otherwise like `listDkeys`.
    public func listAkeys(
        pool: UniqueID, container: UniqueID, object: ObjectID, dkey: [UInt8],
        in range: KeyRange = .all, after anchor: [UInt8]? = nil, limit: Int,
        bytesMax: Int = .max, epoch: UInt64 = .max, patience: Instant? = nil,
        isolation: ReadIsolation = .none
    ) async throws(VOSError) -> (keys: [[UInt8]], next: [UInt8]?) {
        try checkKey(dkey)
        let path = NamePath(
            object: IndexKey.object(pool, container, object), dkey: dkey, akey: nil)
        return try await listNames(
            path.bytes, in: range, after: anchor, limit: limit, bytesMax: bytesMax, epoch: epoch,
            patience: patience, isolation: isolation)
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
                path, range: position..<end, epoch: fetch.epoch, view
            ).segments
            for segment in segments {
                if extents.count >= max(1, limit) { return (extents, segment.start) }
                extents.append(
                    ArrayExtent(
                        offset: segment.start, byteCount: segment.end - segment.start,
                        epoch: segment.record.epoch, recordSize: segment.record.recordSize))
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
        _ parent: IndexKey.Bytes, in range: KeyRange, after anchor: [UInt8]?, limit: Int,
        bytesMax: Int, epoch: UInt64, patience: Instant?, isolation: ReadIsolation
    ) async throws(VOSError) -> (keys: [[UInt8]], next: [UInt8]?) {
        for key in [range.lower, range.upper, anchor] { try checkKey(key) }
        try begin()
        defer { end() }
        let object = KeyLocks.object(parent)
        noteRead(object, nil, at: epoch, isolation)
        guard await locks.waitForUpdates(ofObject: parent, until: patience) else {
            throw .undecided
        }
        try checkEpoch(epoch, in: unsafe parent.withUnsafeBytes { unsafe ContainerName($0) })
        try checkRead(object, nil, at: epoch, isolation)
        var page = NamePage(limit: limit, bytesMax: bytesMax)
        let names = ListedNames(prefix: parent + [IndexKey.childTag], device: indexDevice)
        try await list(names, in: range, after: anchor, epoch: epoch, &page)
        return (page.names, page.hasMore ? page.names.last : nil)
    }

    private func list(
        _ names: ListedNames, in range: KeyRange, after anchor: [UInt8]?, epoch: UInt64,
        _ page: inout NamePage
    ) async throws(VOSError) {
        if range.isReversed {
            try await listBackwards(names, in: range, after: anchor, epoch: epoch, &page)
        } else {
            try await listForwards(names, in: range, after: anchor, epoch: epoch, &page)
        }
    }

    private func listForwards(
        _ names: ListedNames, in range: KeyRange, after anchor: [UInt8]?, epoch: UInt64,
        _ page: inout NamePage
    ) async throws(VOSError) {
        var start = range.lower.map(names.place)
        if let anchor {
            let behind = IndexKey.successor(ofPrefix: names.place(of: anchor))
            start = start.map { IndexKey.compare($0, behind) < 0 ? behind : $0 } ?? behind
        }
        let search = try await VisibleSearch(
            makeView(), prefix: names.prefix, isName: false, epoch)
        if let start { try await search.seek(start) }
        while try await search.next(self) {
            let key = unsafe IndexKey.Bytes(search.key)
            let (name, end) = try names.name(in: key)
            if let upper = range.upper, !name.lexicographicallyPrecedes(upper) { return }
            guard page.add(name) else { return }
            try await search.seek(IndexKey.successor(ofPrefix: Array(key[0..<end])))
        }
    }

    /// From the last name to the first one: of each, whether anything of it is visible.
    private func listBackwards(
        _ names: ListedNames, in range: KeyRange, after anchor: [UInt8]?, epoch: UInt64,
        _ page: inout NamePage
    ) async throws(VOSError) {
        var bound = IndexKey.successor(ofPrefix: names.prefix)
        for key in [range.upper, anchor] {
            guard let key else { continue }
            let place = names.place(of: key)
            if IndexKey.compare(place, bound) < 0 { bound = place }
        }
        let view = makeView()
        let cursor = try await IndexCursor(
            view, prefix: IndexKey.Prefix(names.prefix), name: nil, isReversed: true)
        try await cursor.seek(bound)
        var looked = 0
        while cursor.isValid {
            let key = unsafe IndexKey.Bytes(cursor.entry.key)
            let (name, end) = try names.name(in: key)
            if let lower = range.lower, name.lexicographicallyPrecedes(lower) { return }
            let path = IndexKey.Bytes(key[0..<end])
            let search = try await VisibleSearch(
                view, prefix: path, isName: !names.areObjects, epoch)
            if try await search.next(self) {
                guard page.add(name) else { return }
            }
            try await cursor.seek(path)
            looked += 1
            if looked % VOS.searchMax == 0 { await giveWay() }
        }
    }
}

/// What is listed: the names that come behind a prefix.
private struct ListedNames {
    let prefix: IndexKey.Bytes
    /// That of the index, for messages.
    let device: String
    /// They are identifiers of objects, of 16 bytes; else keys.
    var areObjects = false

    /// Where the entries of a name begin.
    func place(of name: [UInt8]) -> IndexKey.Bytes {
        guard !areObjects else { return prefix + name }
        return prefix
            + .written(capacity: 2 * name.count + 2) { writer in
                IndexKey.putEscaped(name, to: &writer)
            }
    }

    func name(in key: IndexKey.Bytes) throws(VOSError) -> (name: [UInt8], end: Int) {
        if areObjects {
            return (Array(key[prefix.count..<IndexKey.objectLength]), IndexKey.objectLength)
        }
        guard let found = IndexKey.name(in: key, at: prefix.count) else {
            throw .damaged(what: "a key of the index on \(device) has no name")
        }
        return found
    }

    static func bytes(of object: ObjectID) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(word: object.high)
        bytes.append(word: object.low)
        return bytes
    }

    static func object(_ bytes: [UInt8]) -> ObjectID {
        ObjectID(high: bytes.word(at: 0), low: bytes.word(at: 8))
    }
}

/// The names of a list, as they are found.
private struct NamePage {
    let limit: Int
    let bytesMax: Int
    private(set) var names: [[UInt8]] = []
    private var bytes = 0
    /// Whether there is one that had no room.
    private(set) var hasMore = false

    init(limit: Int, bytesMax: Int) {
        self.limit = limit
        self.bytesMax = bytesMax
    }

    /// False when there is no room for it.
    mutating func add(_ name: [UInt8]) -> Bool {
        guard names.count < limit, bytes < bytesMax else {
            hasMore = true
            return false
        }
        names.append(name)
        bytes += name.count
        return true
    }
}
