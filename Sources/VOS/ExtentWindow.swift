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

/// Finds out which extents of an array are hidden, of entries in ascending order of their keys:
/// window by window. What hides an extent begins at most one window before it, and ends at most one
/// after it.
struct ExtentWindow {
    /// The most extents of a window that are looked at together. More are decided without what
    /// comes.
    private static let entriesMax = 32_768

    /// The extents of one window, which are decided next, and of the one after it.
    private(set) var current = EntryBuffer()
    private var next = EntryBuffer()
    private var window: UInt64 = 0
    /// Decided ones that reach into the current window.
    private var tail: [EntryHead] = []
    /// The path of the akey.
    private var path: IndexKey.Bytes = []

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

    /// For each extent of `current`, whether it can go; and, if not, from which epoch on it will be
    /// hidden. Then `advance`.
    func decide(_ filter: VersionFilter) -> [(isHidden: Bool, hiddenFrom: UInt64?)] {
        let heads = current.heads
        var result = [(isHidden: Bool, hiddenFrom: UInt64?)](
            repeating: (false, nil), count: heads.count)
        let others = tail + next.heads
        guard hasOverlaps(heads + others) else { return result }
        let all = heads + others
        var stripes: [Int: [Int]] = [:]
        for (index, head) in all.enumerated() where head.epoch <= filter.bound {
            stripes[filter.stripe(head.epoch), default: []].append(index)
        }
        // The stripes do not depend on each other.
        for members in stripes.values {
            for index in ExtentWindow.hidden(all, members) where index < heads.count {
                result[index].isHidden = true
            }
        }
        // When aggregation reaches the newest, all that is hidden now can go.
        let latest = all.reduce(0) { max($0, $1.epoch) }
        for index in ExtentWindow.hidden(all, Array(all.indices))
        where index < heads.count && !result[index].isHidden {
            let isHeld = filter.isInSnapshot(heads[index].epoch, before: latest)
            result[index].hiddenFrom = isHeld ? .max : latest
        }
        return result
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

    /// Which of `members`, indices into `heads`, newer ones of them hide whole.
    static func hidden(_ heads: [EntryHead], _ members: [Int]) -> [Int] {
        var covered: [Range<UInt64>] = []
        var hidden: [Int] = []
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
            if low < covered.count, covered[low].lowerBound <= range.lowerBound,
                covered[low].upperBound >= range.upperBound
            {
                hidden.append(index)
                continue
            }
            var end = low
            var joined = range
            while end < covered.count, covered[end].lowerBound <= range.upperBound {
                joined =
                    min(
                        joined.lowerBound, covered[end].lowerBound)..<max(
                        joined.upperBound, covered[end].upperBound)
                end += 1
            }
            covered.replaceSubrange(low..<end, with: [joined])
        }
        return hidden
    }
}
