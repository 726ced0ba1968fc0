/// Entries in the order of their keys: a B-tree. Nothing is ever removed, until all is. Whoever has
/// the tree keeps the arena of the entries.
///
/// Lookups and insertions cost O(log n); visiting costs O(1) an entry after O(log n).
struct IndexTree {
    private var root = IndexNode()
    private(set) var count = 0

    init() {}

    /// Inserts an entry whose key is not there.
    mutating func insert(_ entry: ArenaEntry) {
        root.insert(entry)
        count += 1
        if root.entries.count > IndexNode.entriesMax {
            let right = root.split(appending: false)
            root = IndexNode(
                entries: [root.entries[0], right.entries[0]], children: [root, right])
        }
    }

    /// Removes some entries; false when there are none. For a tree that is no more: it would take
    /// long to free all of it at once.
    mutating func dismantle() -> Bool {
        guard count > 0 else { return false }
        count -= root.removeLastLeaf()
        return true
    }

    /// Where the first entry is that is not below `key`; nil when there is none. Valid until the
    /// next insertion.
    func position(from key: UnsafeRawBufferPointer) -> (leaf: IndexNode, index: Int)? {
        let leaf = unsafe leaf(of: key)
        let index = unsafe leaf.lowerBound(key)
        if index < leaf.entries.count { return (leaf, index) }
        guard let last = leaf.entries.last, let next = unsafe separator(after: last.key) else {
            return nil
        }
        // The first of the next leaf.
        return unsafe (self.leaf(of: next.key), 0)
    }

    /// Where the last entry is that is below `key`; nil when there is none. Valid until the next
    /// insertion.
    func position(below key: UnsafeRawBufferPointer) -> (leaf: IndexNode, index: Int)? {
        var node = root
        // What to take when the leaf of the key has none that is below it.
        var left: IndexNode?
        while !node.isLeaf {
            let index = unsafe node.childIndex(key)
            if index > 0 { left = node.children[index - 1] }
            node = node.children[index]
        }
        let index = unsafe node.lowerBound(key)
        if index > 0 { return (node, index - 1) }
        guard var last = left else { return nil }
        while !last.isLeaf { last = last.children[last.children.count - 1] }
        return (last, last.entries.count - 1)
    }

    /// Visits entries from `start` on (empty: all), in ascending order, until `body` returns false.
    @inline(__always)
    func forEach(from start: UnsafeRawBufferPointer, _ body: (ArenaEntry) -> Bool) {
        var start = unsafe start
        while true {
            let leaf = unsafe leaf(of: start)
            for index in unsafe leaf.lowerBound(start)..<leaf.entries.count {
                guard body(leaf.entries[index]) else { return }
            }
            guard let last = leaf.entries.last, let next = unsafe separator(after: last.key) else {
                return
            }
            unsafe start = next.key
        }
    }

    /// Visits all entries, in ascending order, until `body` returns false.
    func forEach(_ body: (ArenaEntry) -> Bool) {
        unsafe forEach(from: UnsafeRawBufferPointer(start: nil, count: 0), body)
    }

    /// The leaf that holds `key`, or would.
    private func leaf(of key: UnsafeRawBufferPointer) -> IndexNode {
        var node = root
        while !node.isLeaf { node = unsafe node.children[node.childIndex(key)] }
        return node
    }

    /// What the keys of the leaf after that of `key` are not below; nil when it is the last one.
    private func separator(after key: UnsafeRawBufferPointer) -> ArenaEntry? {
        var separator: ArenaEntry?
        var node = root
        while !node.isLeaf {
            let index = unsafe node.childIndex(key)
            if index + 1 < node.entries.count { separator = node.entries[index + 1] }
            node = node.children[index]
        }
        return separator
    }

    /// Traps when the structure is broken. O(n); for tests.
    func checkInvariants() {
        var previous: ArenaEntry?
        var entries = 0
        func check(_ node: IndexNode, low: ArenaEntry?, high: ArenaEntry?) -> Int {
            precondition(node.entries.count <= IndexNode.entriesMax)
            node.checkHeads()
            if node.isLeaf {
                for entry in node.entries {
                    if let previous {
                        precondition(unsafe IndexKey.compare(previous.key, entry.key) < 0)
                    }
                    if let low { precondition(unsafe IndexKey.compare(low.key, entry.key) <= 0) }
                    if let high { precondition(unsafe IndexKey.compare(entry.key, high.key) < 0) }
                    previous = entry
                    entries += 1
                }
                return 1
            }
            precondition(node.entries.count == node.children.count)
            var height: Int?
            for (index, child) in node.children.enumerated() {
                precondition(!child.entries.isEmpty)
                let result = check(
                    child, low: index == 0 ? low : node.entries[index],
                    high: index + 1 < node.entries.count ? node.entries[index + 1] : high)
                precondition(height == nil || height == result, "leaves at different depths")
                height = result
            }
            return (height ?? 0) + 1
        }
        _ = check(root, low: nil, high: nil)
        precondition(entries == count)
    }
}
