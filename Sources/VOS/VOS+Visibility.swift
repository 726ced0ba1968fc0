/// What a bounded search for a visible value came to.
enum VisibleSearch {
    case found(IndexKey.Bytes, IndexRecord)
    case none
    /// Not yet: go on from this key.
    case more(IndexKey.Bytes)
}

extension VOS {
    /// The most entries that one search looks at before others have their turn.
    static let searchMax = 512

    /// The first entry from `start` on, below `prefix`, that is a visible value at `epoch`. Looks
    /// at no more than `limit` entries.
    func searchVisible(
        from start: IndexKey.Bytes, prefix: IndexKey.Bytes, epoch: UInt64, limit: Int
    ) -> VisibleSearch {
        var result = VisibleSearch.none
        var looked = 0
        var cache = PunchCache()
        index.forEach(from: start) { key, record in
            guard IndexKey.hasPrefix(key, prefix) else { return false }
            if looked == limit {
                result = .more(key)
                return false
            }
            looked += 1
            guard !record.kind.isPunch, record.epoch <= epoch,
                !isPunched(key, record, epoch: epoch, &cache)
            else { return true }
            result = .found(key, record)
            return false
        }
        return result
    }

    /// Whether anything below `prefix` is visible at `epoch`.
    func hasVisibleValue(_ prefix: IndexKey.Bytes, epoch: UInt64) -> Bool {
        if case .found = searchVisible(from: prefix, prefix: prefix, epoch: epoch, limit: .max) {
            return true
        }
        return false
    }

    /// The newest punch over the akey of the value that was looked at last.
    struct PunchCache {
        var key: IndexKey.Bytes = []
        var length = 0
        var point: PunchPoint?
    }

    /// Whether a punch up to `epoch` hides `record`, a value.
    func isPunched(
        _ key: IndexKey.Bytes, _ record: IndexRecord, epoch: UInt64, _ cache: inout PunchCache
    ) -> Bool {
        guard punches.hasAny(for: key) else { return false }
        let length = Int(record.akeyEnd)
        if cache.length != length || !IndexKey.agree(cache.key, key, length: length) {
            cache.key = key
            cache.length = length
            cache.point = newestPunch(over: key, record, epoch: epoch)
        }
        return cache.point?.hides(record) ?? false
    }

    /// The version of a single value that is visible, given the prefix of its attribute key.
    func visibleSingle(_ path: NamePath, epoch: UInt64) -> IndexRecord? {
        var start = path.bytes
        start.append(IndexKey.singleTag)
        start.append(word: ~epoch)
        guard let found = index.first(from: start),
            IndexKey.agree(found.key, start, length: path.akeyEnd + 1)
        else { return nil }
        if let punch = newestPunch(over: found.key, found.record, epoch: epoch),
            punch.hides(found.record)
        {
            return nil
        }
        return found.record
    }

    /// The visible parts of an array in `range` (not empty).
    func visibleSegments(
        _ path: NamePath, range: Range<UInt64>, epoch: UInt64
    ) -> [VisibleSegment] {
        let punch = punch(over: path, epoch: epoch)
        var records: [IndexRecord] = []
        forEachExtent(path.bytes, prefix: path.bytes.count, in: range) { _, record in
            guard record.epoch <= epoch, !(punch?.hides(record) ?? false) else { return true }
            records.append(record)
            // What is older at this offset is hidden by one that reaches to the end.
            return record.end < range.upperBound
        }
        return records.isEmpty ? [] : Painting.visible(records, in: range)
    }

    private func punch(over path: NamePath, epoch: UInt64) -> PunchPoint? {
        newestPunch(path.bytes, [IndexKey.objectLength, path.dkeyEnd, path.akeyEnd], epoch)
    }

    /// One past the last visible byte of an array; 0 when there is none.
    func visibleEnd(_ path: NamePath, epoch: UInt64) -> UInt64 {
        let punch = punch(over: path, epoch: epoch)
        var best: UInt64 = 0
        let length = path.bytes.count
        var limit: UInt8? = IndexKey.extentTags.last + 1
        while let above = limit {
            var end = path.bytes
            end.append(above)
            var current: UInt8?
            limit = nil
            index.forEachReversed(below: end) { key, record in
                guard IndexKey.agree(key, end, length: length),
                    key[length] >= IndexKey.extentTags.first
                else { return false }
                let tag = key[length]
                let (reach, overflow) = record.offset.addingReportingOverflow(
                    IndexKey.lengthMax(ofTag: tag))
                guard current ?? tag == tag, overflow || reach > best else {
                    // The rest of the class cannot reach further, or this is the next class.
                    limit = current ?? tag
                    return false
                }
                current = tag
                if record.epoch <= epoch, !(punch?.hides(record) ?? false) {
                    best = max(best, record.end)
                }
                return true
            }
            if let next = limit, next <= IndexKey.extentTags.first { limit = nil }
        }
        return best
    }
}
