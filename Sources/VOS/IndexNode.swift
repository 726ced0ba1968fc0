/// A node of an `IndexTree`: a leaf with entries, or an inner node with children and, for each
/// child, an entry whose key is the smallest that the child may hold.
final class IndexNode {
    static let entriesMax = 64

    @safe @exclusivity(unchecked) var entries: ContiguousArray<ArenaEntry>
    /// Of an inner node; as many as entries. The first entry is not looked at.
    @safe @exclusivity(unchecked) var children: ContiguousArray<IndexNode>

    init(
        entries: ContiguousArray<ArenaEntry> = [], children: ContiguousArray<IndexNode> = []
    ) {
        self.entries = entries
        self.children = children
    }

    var isLeaf: Bool { children.isEmpty }

    /// The index of the first entry whose key is not below `key`.
    func lowerBound(_ key: UnsafeRawBufferPointer) -> Int {
        unsafe first(from: 0, key) { $0 >= 0 }
    }

    /// Which child holds `key`.
    func childIndex(_ key: UnsafeRawBufferPointer) -> Int {
        unsafe first(from: 1, key) { $0 > 0 } - 1
    }

    /// The index of the first entry from `start` on whose order beside `key` (below, at or above 0)
    /// is as wanted.
    @inline(__always)
    private func first(
        from start: Int, _ key: UnsafeRawBufferPointer, _ isWanted: (Int) -> Bool
    ) -> Int {
        unsafe entries.withUnsafeBufferPointer { entries in
            var low = start
            var high = entries.count
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
    }

    /// Inserts an entry whose key is not there.
    func insert(_ entry: ArenaEntry) {
        if isLeaf {
            let index = unsafe lowerBound(entry.key)
            precondition(
                unsafe index == entries.count
                    || IndexKey.compare(entries[index].key, entry.key) != 0,
                "two entries of the index have the same key")
            entries.insert(entry, at: index)
            return
        }
        let index = unsafe childIndex(entry.key)
        let child = children[index]
        child.insert(entry)
        if child.entries.count > IndexNode.entriesMax {
            let right = child.split(appending: index == children.count - 1)
            entries.insert(right.entries[0], at: index + 1)
            children.insert(right, at: index + 1)
        }
    }

    /// Moves the upper part to a new node, and returns that. When keys are being appended the lower
    /// part stays nearly full.
    func split(appending: Bool) -> IndexNode {
        let at = appending ? entries.count * 7 / 8 : entries.count / 2
        let right = IndexNode(entries: ContiguousArray(entries[at...]))
        entries.removeLast(entries.count - at)
        if !isLeaf {
            right.children = ContiguousArray(children[at...])
            children.removeLast(children.count - at)
        }
        return right
    }

    /// Removes the last leaf below this node, or the entries of this one, and returns how many
    /// entries there were.
    func removeLastLeaf() -> Int {
        guard let last = children.last else {
            defer { entries = [] }
            return entries.count
        }
        let removed = last.removeLastLeaf()
        if last.isLeaf {
            children.removeLast()
            entries.removeLast()
        }
        return removed
    }
}
