/// An ordered map from index keys to records: a B-tree. Nothing is ever removed, until all is.
///
/// Lookups and insertions cost O(log n); visiting costs O(1) an entry after O(log n).
struct IndexTree {
    private var root = IndexNode()
    private(set) var count = 0

    init() {}

    /// Inserts a key that is not there.
    mutating func insert(_ key: IndexKey.Bytes, _ record: IndexRecord) {
        root.insert(key, record)
        count += 1
        if root.keys.count > IndexNode.entriesMax {
            let (separator, right) = root.split(appending: false)
            root = IndexNode(keys: [root.keys[0], separator], children: [root, right])
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
    func position(from key: IndexKey.Bytes) -> (leaf: IndexNode, index: Int)? {
        let leaf = leaf(of: key)
        let index = leaf.lowerBound(key)
        if index < leaf.keys.count { return (leaf, index) }
        guard let last = leaf.keys.last, let next = separator(after: last) else { return nil }
        // The first of the next leaf.
        return (self.leaf(of: next), 0)
    }

    /// Where the last entry is that is below `key`; nil when there is none. Valid until the next
    /// insertion.
    func position(below key: IndexKey.Bytes) -> (leaf: IndexNode, index: Int)? {
        var node = root
        // What to take when the leaf of the key has none that is below it.
        var left: IndexNode?
        while !node.isLeaf {
            let index = node.childIndex(key)
            if index > 0 { left = node.children[index - 1] }
            node = node.children[index]
        }
        let index = node.lowerBound(key)
        if index > 0 { return (node, index - 1) }
        guard var last = left else { return nil }
        while !last.isLeaf { last = last.children[last.children.count - 1] }
        return (last, last.keys.count - 1)
    }

    /// Visits entries from `start` on (nil: all), in ascending order, until `body` returns false.
    ///
    /// Inlined, and so is `body`: what it does not keep is then not retained either, which would
    /// cost more than everything else, as each entry is another place in memory.
    @inline(__always)
    func forEach(
        from start: IndexKey.Bytes? = nil, _ body: (IndexKey.Bytes, IndexRecord) -> Bool
    ) {
        var start = start
        while true {
            let leaf = leaf(of: start)
            var index = start.map { leaf.lowerBound($0) } ?? 0
            while index < leaf.keys.count {
                guard body(leaf.keys[index], leaf.records[index]) else { return }
                index += 1
            }
            guard let last = leaf.keys.last, let next = separator(after: last) else { return }
            start = next
        }
    }

    /// The leaf that holds `key`, or would; the first one for nil.
    private func leaf(of key: IndexKey.Bytes?) -> IndexNode {
        var node = root
        while !node.isLeaf { node = node.children[key.map { node.childIndex($0) } ?? 0] }
        return node
    }

    /// What the keys of the leaf after that of `key` are not below; nil when it is the last one.
    private func separator(after key: IndexKey.Bytes) -> IndexKey.Bytes? {
        var separator: IndexKey.Bytes?
        var node = root
        while !node.isLeaf {
            let index = node.childIndex(key)
            if index + 1 < node.keys.count { separator = node.keys[index + 1] }
            node = node.children[index]
        }
        return separator
    }

    /// Traps when the structure is broken. O(n); for tests.
    func checkInvariants() {
        var previous: IndexKey.Bytes?
        var entries = 0
        func check(_ node: IndexNode, depth: Int, low: IndexKey.Bytes?, high: IndexKey.Bytes?)
            -> Int
        {
            precondition(node.keys.count <= IndexNode.entriesMax)
            if node.isLeaf {
                precondition(node.keys.count == node.records.count)
                for key in node.keys {
                    if let previous { precondition(IndexKey.compare(previous, key) < 0) }
                    if let low { precondition(IndexKey.compare(low, key) <= 0) }
                    if let high { precondition(IndexKey.compare(key, high) < 0) }
                    previous = key
                    entries += 1
                }
                return 1
            }
            precondition(node.keys.count == node.children.count && node.records.isEmpty)
            var height: Int?
            for (index, child) in node.children.enumerated() {
                precondition(!child.keys.isEmpty)
                let result = check(
                    child, depth: depth + 1, low: index == 0 ? low : node.keys[index],
                    high: index + 1 < node.keys.count ? node.keys[index + 1] : high)
                precondition(height == nil || height == result, "leaves at different depths")
                height = result
            }
            return (height ?? 0) + 1
        }
        _ = check(root, depth: 0, low: nil, high: nil)
        precondition(entries == count)
    }
}
