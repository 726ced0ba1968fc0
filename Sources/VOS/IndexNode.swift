/// A node of an `IndexTree`: a leaf with entries, or an inner node with children and, for each
/// child, an entry whose key is the smallest that the child may hold.
final class IndexNode {
    static let entriesMax = 64

    @safe @exclusivity(unchecked) private(set) var entries: ContiguousArray<ArenaEntry>
    /// Of an inner node; as many as entries. The first entry is not looked at.
    @safe @exclusivity(unchecked) private(set) var children: ContiguousArray<IndexNode>
    /// What the keys of all entries that are looked at begin with.
    @safe @exclusivity(unchecked) private var prefixLength = 0
    /// Of each entry, what comes behind the prefix. Searches look here first: the entries
    /// themselves lie all over the memory.
    @safe @exclusivity(unchecked) private var heads: ContiguousArray<UInt32> = []

    init(
        entries: ContiguousArray<ArenaEntry> = [], children: ContiguousArray<IndexNode> = []
    ) {
        self.entries = entries
        self.children = children
        makeHeads()
    }

    var isLeaf: Bool { children.isEmpty }

    /// The index of the first entry that is looked at.
    private var start: Int { isLeaf ? 0 : 1 }

    /// The index of the first entry whose key is not below `key`.
    func lowerBound(_ key: UnsafeRawBufferPointer) -> Int {
        unsafe first(key) { $0 >= 0 }
    }

    /// Which child holds `key`.
    func childIndex(_ key: UnsafeRawBufferPointer) -> Int {
        unsafe first(key) { $0 > 0 } - 1
    }

    /// The index of the first entry that is looked at whose order beside `key` (below, at or above
    /// 0) is as wanted.
    @inline(__always)
    private func first(
        _ key: UnsafeRawBufferPointer, _ isWanted: (Int) -> Bool
    ) -> Int {
        let start = start
        guard start < entries.count else { return start }
        // Taken for granted: the key has the prefix. The entry that is looked at next knows.
        let rest = unsafe UnsafeRawBufferPointer(rebasing: key[min(prefixLength, key.count)...])
        var (low, high) = unsafe sameHeads(as: KeyHead.short(rest), from: start)
        let known = unsafe entries[min(low, entries.count - 1)].key
        let common = unsafe IndexKey.common(known, key)
        if common < prefixLength {
            // The prefix decides.
            let isAbove = unsafe common < key.count && known[common] < key[common]
            return isAbove ? entries.count : start
        }
        while low < high {
            let middle = (low + high) / 2
            if unsafe isWanted(IndexKey.compare(entries[middle].key, key)) {
                high = middle
            } else {
                low = middle + 1
            }
        }
        return low
    }

    /// Where the entries from `start` on begin and end whose head is this.
    @inline(__always)
    private func sameHeads(as head: UInt32, from start: Int) -> (low: Int, high: Int) {
        unsafe heads.withUnsafeBufferPointer { buffer in
            let count = buffer.count
            guard let heads = buffer.baseAddress else { return (start, start) }
            let low = unsafe KeyHead.lowerBound(heads, start..<count, head)
            guard low < count, unsafe heads[low] == head else { return (low, low) }
            let high =
                unsafe head == .max
                ? count : KeyHead.lowerBound(heads, low..<count, head + 1)
            return (low, high)
        }
    }

    private func head(of entry: ArenaEntry) -> UInt32 {
        unsafe KeyHead.short(UnsafeRawBufferPointer(rebasing: entry.key[prefixLength...]))
    }

    /// Makes the prefix as long as it can be, and the heads anew.
    private func makeHeads() {
        heads.removeAll(keepingCapacity: true)
        guard start < entries.count, let last = entries.last else {
            heads.append(contentsOf: repeatElement(0, count: entries.count))
            return
        }
        // They are in order, so what these two share all do.
        prefixLength = unsafe IndexKey.common(entries[start].key, last.key)
        for index in entries.indices {
            heads.append(index < start ? 0 : head(of: entries[index]))
        }
    }

    /// Adds an entry, and the child that belongs to it, if the node has children.
    private func add(_ entry: ArenaEntry, at index: Int, child: IndexNode? = nil) {
        let isFirst = start >= entries.count
        let common = unsafe isFirst ? 0 : IndexKey.common(entries[start].key, entry.key)
        entries.insert(entry, at: index)
        if let child { children.insert(child, at: index) }
        if !isFirst, common >= prefixLength {
            heads.insert(head(of: entry), at: index)
        } else {
            makeHeads()
        }
    }

    /// Inserts an entry whose key is not there.
    func insert(_ entry: ArenaEntry) {
        if isLeaf {
            let index = unsafe lowerBound(entry.key)
            precondition(
                unsafe index == entries.count
                    || IndexKey.compare(entries[index].key, entry.key) != 0,
                "two entries of the index have the same key")
            add(entry, at: index)
            return
        }
        let index = unsafe childIndex(entry.key)
        let child = children[index]
        child.insert(entry)
        if child.entries.count > IndexNode.entriesMax {
            let right = child.split(appending: index == children.count - 1)
            add(right.entries[0], at: index + 1, child: right)
        }
    }

    /// Moves the upper part to a new node, and returns that. When keys are being appended the lower
    /// part stays nearly full.
    func split(appending: Bool) -> IndexNode {
        let at = appending ? entries.count * 7 / 8 : entries.count / 2
        let right = IndexNode(
            entries: ContiguousArray(entries[at...]),
            children: isLeaf ? [] : ContiguousArray(children[at...]))
        entries.removeLast(entries.count - at)
        if !isLeaf { children.removeLast(children.count - at) }
        makeHeads()
        return right
    }

    /// Removes the last leaf below this node, or the entries of this one, and returns how many
    /// entries there were.
    func removeLastLeaf() -> Int {
        guard let last = children.last else {
            defer {
                entries = []
                heads = []
            }
            return entries.count
        }
        let removed = last.removeLastLeaf()
        if last.isLeaf {
            children.removeLast()
            entries.removeLast()
            heads.removeLast()
        }
        return removed
    }

    /// Traps when the heads are not what they should be. For tests.
    func checkHeads() {
        precondition(heads.count == entries.count)
        for index in entries.indices where index >= start {
            let entry = entries[index]
            precondition(unsafe IndexKey.common(entries[start].key, entry.key) >= prefixLength)
            precondition(head(of: entry) == heads[index])
        }
    }
}
