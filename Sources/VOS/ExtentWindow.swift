internal import DrayRuntime

/// Entries that wait until it is known whether they are hidden.
struct EntryBuffer {
    private var bytes: [UInt8] = []
    /// Of each, where its key and its value end.
    private var ends: [(key: Int, value: Int)] = []
    private(set) var heads: [EntryHead] = []

    var isEmpty: Bool { heads.isEmpty }

    mutating func append(_ entry: SourceCursor, _ head: EntryHead) {
        unsafe bytes.append(contentsOf: entry.key)
        let keyEnd = bytes.count
        unsafe bytes.append(contentsOf: entry.value)
        ends.append((keyEnd, bytes.count))
        heads.append(head)
    }

    func withEntry<Value>(
        _ index: Int,
        _ body: (
            _ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer
        ) throws(VOSError) -> Value
    ) throws(VOSError) -> Value {
        let start = index == 0 ? 0 : ends[index - 1].value
        let end = ends[index]
        return try unsafe bytes.withUnsafeBufferPointer { buffer throws(VOSError) in
            let bytes = UnsafeRawBufferPointer(buffer)
            return try unsafe body(
                UnsafeRawBufferPointer(rebasing: bytes[start..<end.key]),
                UnsafeRawBufferPointer(rebasing: bytes[end.key..<end.value]))
        }
    }

    mutating func removeAll() {
        bytes.removeAll(keepingCapacity: true)
        ends.removeAll(keepingCapacity: true)
        heads.removeAll(keepingCapacity: true)
    }
}

/// What becomes of an extent.
struct ExtentVerdict {
    /// What is left of it, when that is to stand in its place: nothing when it can go. Nil: it
    /// stays as it is.
    var parts: [Range<UInt64>]?
    /// From which epoch on less will be left; see `VersionFilter`.
    var hiddenFrom: UInt64?
}

/// Finds out what is hidden of the extents of an array, of entries in ascending order of their
/// keys: window by window. What hides an extent begins at most one window before it, and ends at
/// most one after it.
struct ExtentWindow {
    /// The most extents of a window that are looked at together. More are decided without what
    /// comes.
    private static let entriesMax = 32_768

    /// Values of fewer bytes stand in the index.
    private let inlineThreshold: Int
    /// Whether extents of which little is left can be written anew.
    private let cutsExtents: Bool

    /// The extents of one window, which are decided next, and of the one after it.
    private(set) var current = EntryBuffer()
    private var next = EntryBuffer()
    private var window: UInt64 = 0
    /// Decided ones that reach into the current window.
    private var tail: [EntryHead] = []
    /// The path of the akey.
    private var path: IndexKey.Bytes = []

    init(inlineThreshold: Int, cutsExtents: Bool) {
        self.inlineThreshold = inlineThreshold
        self.cutsExtents = cutsExtents
    }

    var isEmpty: Bool { current.isEmpty }

    /// Whether what waits must be decided before this comes.
    func mustDecide(before key: UnsafeRawBufferPointer, _ head: EntryHead) -> Bool {
        guard !current.isEmpty else { return false }
        return unsafe !isSameArray(key, head)
            || head.offset / IndexKey.windowBytes > window + 1
            || current.heads.count + next.heads.count >= ExtentWindow.entriesMax
    }

    private func isSameArray(_ key: UnsafeRawBufferPointer, _ head: EntryHead) -> Bool {
        guard head.kind == .extent, head.akeyEnd == path.count else { return false }
        return unsafe path.withUnsafeBytes { path in
            unsafe IndexKey.common(path, key) >= path.count
        }
    }

    mutating func add(_ entry: SourceCursor, _ head: EntryHead) {
        let place = head.offset / IndexKey.windowBytes
        if unsafe current.isEmpty && !isSameArray(entry.key, head) {
            tail = []
            path = unsafe IndexKey.Bytes(entry.key[0..<head.akeyEnd])
        }
        if current.isEmpty { window = place }
        if place == window { current.append(entry, head) } else { next.append(entry, head) }
    }

    /// What becomes of each extent of `current`. Then `advance`.
    func decide(_ filter: VersionFilter) -> [ExtentVerdict] {
        let heads = current.heads
        var result = [ExtentVerdict](repeating: ExtentVerdict(), count: heads.count)
        let all = heads + tail + next.heads
        guard hasOverlaps(all) else { return result }
        var stripes: [Int: [Int]] = [:]
        for (index, head) in all.enumerated() where head.epoch <= filter.bound {
            stripes[filter.stripe(head.epoch), default: []].append(index)
        }
        // The stripes do not depend on each other.
        for members in stripes.values {
            for (index, parts) in ExtentWindow.visible(all, members) where index < heads.count {
                let isWorthIt =
                    parts.isEmpty
                    || cutsExtents && isLittle(parts, of: heads[index], heads[index].weight)
                if isWorthIt { result[index].parts = parts }
            }
        }
        // When aggregation reaches the newest, all that is hidden now can go.
        let latest = all.reduce(0) { max($0, $1.epoch) }
        for (index, parts) in ExtentWindow.visible(all, Array(all.indices))
        where index < heads.count {
            let kept = result[index].parts.map { weight(of: $0) } ?? heads[index].weight
            guard kept > 0, parts.isEmpty || isLittle(parts, of: heads[index], kept) else {
                continue
            }
            let isHeld = filter.isInSnapshot(heads[index].epoch, before: latest)
            result[index].hiddenFrom = isHeld ? .max : latest
        }
        return result
    }

    /// Whether parts of an extent weigh no more than half of `whole`: then it is worth copying
    /// them, and copying again and again comes to no more than was written.
    private func isLittle(_ parts: [Range<UInt64>], of head: EntryHead, _ whole: UInt64) -> Bool {
        guard 2 * weight(of: parts) <= whole else { return false }
        let size = UInt64(head.recordSize)
        guard size <= UInt64(VOSLimits.valueLengthMax) else { return true }
        // If not, they are beside extents of another record size: a punch that is elsewhere hides
        // it all.
        return parts.allSatisfy { $0.lowerBound % size == 0 && $0.upperBound % size == 0 }
    }

    /// What parts of an extent weigh as extents of their own.
    private func weight(of parts: [Range<UInt64>]) -> UInt64 {
        parts.reduce(0) { $0 + EntryHead.weight($1.count, hasBlocks: $1.count >= inlineThreshold) }
    }

    /// The next window's extents are next, or nothing.
    mutating func advance() {
        let end = (window + 1) * IndexKey.windowBytes
        tail = (tail + current.heads).filter { $0.end > end }
        current.removeAll()
        swap(&current, &next)
        window += 1
    }

    /// Whether any two overlap.
    private func hasOverlaps(_ heads: [EntryHead]) -> Bool {
        var sorted = heads
        if zip(heads, heads.dropFirst()).contains(where: { $0.offset > $1.offset }) {
            sorted.sort { $0.offset < $1.offset }
        }
        return zip(sorted, sorted.dropFirst()).contains { $0.end > $1.offset }
    }

    /// What newer ones leave to be seen of those of `members`, indices into `heads`, that they hide
    /// in part or, then without parts, whole.
    static func visible(
        _ heads: [EntryHead], _ members: [Int]
    ) -> [(index: Int, parts: [Range<UInt64>])] {
        var covered: [Range<UInt64>] = []
        var result: [(index: Int, parts: [Range<UInt64>])] = []
        for index in members.sorted(by: { heads[$0].isNewer(than: heads[$1]) }) {
            let range = heads[index].offset..<heads[index].end
            // The first that ends behind or at its beginning.
            var low = 0
            var high = covered.count
            while low < high {
                let middle = (low + high) / 2
                if covered[middle].upperBound < range.lowerBound {
                    low = middle + 1
                } else {
                    high = middle
                }
            }
            var end = low
            var joined = range
            var isHidden = false
            var parts: [Range<UInt64>] = []
            var position = range.lowerBound
            while end < covered.count, covered[end].lowerBound <= range.upperBound {
                let hidden = covered[end].clamped(to: range)
                isHidden = isHidden || !hidden.isEmpty
                if position < hidden.lowerBound { parts.append(position..<hidden.lowerBound) }
                position = hidden.upperBound
                joined =
                    min(
                        joined.lowerBound, covered[end].lowerBound)..<max(
                        joined.upperBound, covered[end].upperBound)
                end += 1
            }
            if isHidden {
                if position < range.upperBound { parts.append(position..<range.upperBound) }
                result.append((index, parts))
            }
            covered.replaceSubrange(low..<end, with: [joined])
        }
        return result
    }
}
