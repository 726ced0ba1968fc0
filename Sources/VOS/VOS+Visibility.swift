internal import DrayRuntime

/// What is visible at an epoch, of what the index has.
extension VOS {
    /// The most entries that one search looks at before others have their turn.
    static let searchMax = 512

    /// Whether anything below `prefix` is visible at `epoch`. `isName`: it is a dkey or akey.
    func hasVisibleValue(
        _ prefix: IndexKey.Bytes, isName: Bool, epoch: UInt64, _ view: ReadView
    ) async throws(VOSError) -> Bool {
        let search = try await VisibleSearch(view, prefix: prefix, isName: isName, epoch)
        return try await search.next(self)
    }

    /// The version of a single value that is visible, and whether it is the newest.
    ///
    /// What is newest is looked for first: if nothing that decides it is later than `epoch`, it is
    /// what is visible then.
    func visibleSingle(
        _ path: NamePath, epoch: UInt64, _ view: ReadView
    ) async throws(VOSError) -> (record: IndexRecord?, isNewest: Bool) {
        let newest = try await single(path, epoch: .max, view)
        if max(newest.record?.epoch ?? 0, newest.punch?.epoch ?? 0) <= epoch {
            return (newest.record, true)
        }
        return (try await single(path, epoch: epoch, view).record, false)
    }

    private func single(
        _ path: NamePath, epoch: UInt64, _ view: ReadView
    ) async throws(VOSError) -> (record: IndexRecord?, punch: PunchPoint?) {
        var start = path.bytes
        start.append(IndexKey.singleTag)
        start.append(word: ~epoch)
        let punch = try await view.newestPunch(over: path, epoch: epoch)
        let found = try await view.first(from: start, prefix: path.akeyEnd + 1, name: path)
        guard let record = found?.record, !(punch?.hides(record) ?? false) else {
            return (nil, punch)
        }
        return (record, punch)
    }

    /// The visible parts of an array in `range` (not empty), and whether they are the newest, too.
    func visibleSegments(
        _ path: NamePath, range: Range<UInt64>, epoch: UInt64, _ view: ReadView
    ) async throws(VOSError) -> (segments: [VisibleSegment], isNewest: Bool) {
        let newest = try await segments(path, range: range, epoch: .max, view)
        let latest = newest.segments.reduce(newest.punch?.epoch ?? 0) { max($0, $1.record.epoch) }
        if latest <= epoch { return (newest.segments, true) }
        return (try await segments(path, range: range, epoch: epoch, view).segments, false)
    }

    private func segments(
        _ path: NamePath, range: Range<UInt64>, epoch: UInt64, _ view: ReadView
    ) async throws(VOSError) -> (segments: [VisibleSegment], punch: PunchPoint?) {
        let punch = try await view.newestPunch(over: path, epoch: epoch)
        let records = try await extents(path, overlapping: range, view) { head in
            head.epoch <= epoch && !(punch?.hides(head) ?? false)
        }
        return (records.isEmpty ? [] : Painting.visible(records, in: range), punch)
    }

    /// The extents of an array that overlap `range` (not empty), of those that are `wanted`. Of
    /// several at one place, those behind the first that reaches to the end of the range, or as far
    /// as any of its class, are left out.
    private func extents(
        _ path: NamePath, overlapping range: Range<UInt64>, _ view: ReadView,
        _ wanted: (EntryHead) -> Bool
    ) async throws(VOSError) -> [IndexRecord] {
        let prefix = path.bytes.count + 1
        let classes = IndexKey.extentClasses
        // Of the first class, and the prefix of all keys to come.
        let firstTarget = VOS.seekTarget(path, range.lowerBound, classes.lowerBound)
        let cursor = try await IndexCursor(
            view, prefix: IndexKey.Prefix(firstTarget.key, count: prefix), name: path.bytes)
        var records: [IndexRecord] = []
        let back = IndexKey.lengthMax(ofClass: classes.upperBound) - 1
        let first = (range.lowerBound - min(range.lowerBound, back)) / IndexKey.windowBytes
        let last = (range.upperBound - 1) / IndexKey.windowBytes
        var window = first
        while window <= last {
            for extentClass in classes {
                let windowStart = window * IndexKey.windowBytes
                var target = firstTarget
                if extentClass != classes.lowerBound || target.offset < windowStart {
                    target = VOS.seekTarget(
                        path, range.lowerBound, extentClass, notBelow: windowStart)
                }
                guard target.offset / IndexKey.windowBytes == window else { continue }
                try await cursor.seek(target.key)
                // The epoch and the stamp are inverted, so this is above all at the last offset.
                guard cursor.isValid else { return records }
                try await collect(
                    cursor, prefix: prefix, window, extentClass, range, &records, wanted)
            }
            guard cursor.isValid else { break }
            // Windows that have nothing are passed over.
            let next = try cursor.entry.head().offset / IndexKey.windowBytes
            window = max(window + 1, next)
        }
        return records
    }

    /// Where extents of a class may begin that reach beyond `offset`.
    private static func seekTarget(
        _ path: NamePath, _ offset: UInt64, _ extentClass: UInt8, notBelow least: UInt64 = 0
    ) -> (key: IndexKey.Bytes, offset: UInt64) {
        let reach = IndexKey.lengthMax(ofClass: extentClass) - 1
        let start = max(offset - min(offset, reach), least)
        var key = IndexKey.Bytes()
        key.reserveCapacity(path.bytes.count + 1 + IndexKey.extentLength)
        key.append(contentsOf: path.bytes)
        key.append(IndexKey.extentTag)
        key.append(extentAt: start, class: extentClass)
        return (key, start)
    }

    /// Takes what is wanted of one class in one window, from where the cursor is.
    private func collect(
        _ cursor: IndexCursor, prefix: Int, _ window: UInt64, _ extentClass: UInt8,
        _ range: Range<UInt64>, _ records: inout [IndexRecord], _ wanted: (EntryHead) -> Bool
    ) async throws(VOSError) {
        var skipped: UInt64?
        var passed = 0
        while cursor.isValid {
            let head = try cursor.entry.head()
            guard head.offset / IndexKey.windowBytes == window, head.offset < range.upperBound,
                unsafe cursor.entry.key[prefix + 6] == extentClass
            else { return }
            if head.offset == skipped {
                passed += 1
                if passed > VOS.passedMax {
                    try await skip(cursor, prefix: prefix, head.offset, extentClass)
                    passed = 0
                    continue
                }
            } else if head.end > range.lowerBound, wanted(head) {
                records.append(try cursor.entry.record())
                // What is older at this place is hidden as far as the reader looks.
                if head.end >= range.upperBound { skipped = head.offset }
            }
            try await cursor.next()
        }
    }

    /// How many entries that nobody wants are passed one by one before a search skips the rest.
    private static let passedMax = 3

    /// Goes behind all entries at an offset.
    private func skip(
        _ cursor: IndexCursor, prefix: Int, _ offset: UInt64, _ extentClass: UInt8
    ) async throws(VOSError) {
        var target = unsafe IndexKey.Bytes(cursor.entry.key[0..<prefix])
        target.append(extentAt: offset, class: extentClass)
        target.append(word: .max)
        target.append(word: .max)
        target.append(0)
        try await cursor.seek(target)
    }

    /// The end and the record size of what is visible of an array.
    func visibleShape(
        _ path: NamePath, epoch: UInt64, _ view: ReadView
    ) async throws(VOSError) -> ArrayShape {
        let punch = try await view.newestPunch(over: path, epoch: epoch)
        var prefix = path.bytes
        prefix.append(IndexKey.extentTag)
        let cursor = try await IndexCursor(
            view, prefix: IndexKey.Prefix(prefix), name: path.bytes, isReversed: true)
        try await cursor.seek(IndexKey.successor(ofPrefix: prefix))
        var best: UInt64 = 0
        var recordSize: UInt32 = 0
        while cursor.isValid {
            let head = try cursor.entry.head()
            let extentClass = unsafe cursor.entry.key[prefix.count + 6]
            let window = head.offset / IndexKey.windowBytes
            // Nothing in this window, or before it, reaches further.
            let (windowReach, overflow) = ((window + 1) * IndexKey.windowBytes)
                .addingReportingOverflow(
                    IndexKey.lengthMax(ofClass: IndexKey.extentClasses.upperBound))
            if !overflow, windowReach <= best { break }
            let (reach, isFar) = head.offset.addingReportingOverflow(
                IndexKey.lengthMax(ofClass: extentClass))
            if !isFar, reach <= best {
                // Nor does anything else of this class in this window: on to the one below.
                var target = prefix
                target.append(
                    extentAt: window * IndexKey.windowBytes, class: extentClass)
                try await cursor.seek(target)
                continue
            }
            if head.epoch <= epoch, !(punch?.hides(head) ?? false) {
                best = max(best, head.end)
                recordSize = head.recordSize
            }
            try await cursor.next()
        }
        return ArrayShape(end: best, recordSize: recordSize)
    }
}

/// Walks what is visible below a prefix.
final class VisibleSearch {
    private let view: ReadView
    private let prefix: IndexKey.Bytes
    private let epoch: UInt64
    private let cursor: IndexCursor
    /// The punch over the akey that was looked at last.
    private var punched: IndexKey.Bytes = []
    private var punch: PunchPoint?

    init(
        _ view: ReadView, prefix: IndexKey.Bytes, isName: Bool, _ epoch: UInt64
    ) async throws(VOSError) {
        self.view = view
        self.prefix = prefix
        self.epoch = epoch
        cursor = try await IndexCursor(
            view, prefix: IndexKey.Prefix(prefix), name: isName ? prefix : nil)
        try await cursor.seek(prefix)
    }

    /// The key of the entry that was found.
    var key: UnsafeRawBufferPointer { unsafe cursor.entry.key }

    /// Goes to `target`, if that is not behind.
    func seek(_ target: IndexKey.Bytes) async throws(VOSError) { try await cursor.seek(target) }

    /// Goes to the first entry from the current one on that is a visible value; false when there is
    /// none. Lets others have their turn.
    func next(_ vos: VOS) async throws(VOSError) -> Bool {
        var looked = 0
        while cursor.isValid {
            let head = try cursor.entry.head()
            if !head.kind.isPunch, head.epoch <= epoch, try await !isPunched(head) { return true }
            try await cursor.next()
            looked += 1
            if looked % VOS.searchMax == 0 { await vos.giveWay() }
        }
        return false
    }

    private func isPunched(_ head: EntryHead) async throws(VOSError) -> Bool {
        let length = head.akeyEnd
        let common = unsafe punched.withUnsafeBytes { unsafe IndexKey.common($0, key) }
        if common < length || punched.count != length {
            punched = unsafe IndexKey.Bytes(key[0..<length])
            punch =
                view.mayHavePunch(for: punched)
                ? try await view.newestPunch(
                    over: punched, dkeyEnd: head.dkeyEnd, akeyEnd: length, epoch: epoch) : nil
        }
        return punch?.hides(head) ?? false
    }
}

extension ReadView {
    func newestPunch(
        over path: NamePath, epoch: UInt64
    ) async throws(VOSError) -> PunchPoint? {
        guard mayHavePunch(for: path.bytes) else { return nil }
        return try await newestPunch(
            over: path.bytes, dkeyEnd: path.dkeyEnd, akeyEnd: path.akeyEnd, epoch: epoch)
    }
}
