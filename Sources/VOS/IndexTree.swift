/// An ordered map from index keys to records: a B-tree whose nodes are copied on write.
///
/// Copying the struct is a snapshot: O(1), and later changes of either copy the nodes on their
/// path (at most one copy of each node per snapshot). Lookups, insertions and removals cost
/// O(log n); visiting costs O(1) an entry after O(log n).
struct IndexTree {
    private var root = IndexNode()
    private(set) var count = 0

    init() {}

    /// The record under `key`.
    subscript(key: IndexKey.Bytes) -> IndexRecord? {
        var node = root
        while !node.isLeaf { node = node.children[node.childIndex(key)] }
        let index = node.lowerBound(key)
        guard index < node.keys.count, IndexKey.compare(node.keys[index], key) == 0 else {
            return nil
        }
        return node.records[index]
    }

    /// Inserts or replaces, and returns what was replaced.
    @discardableResult
    mutating func insert(_ key: IndexKey.Bytes, _ record: IndexRecord) -> IndexRecord? {
        if !isKnownUniquelyReferenced(&root) { root = root.copy() }
        let old = root.insert(key, record)
        if old == nil { count += 1 }
        if root.keys.count > IndexNode.entriesMax {
            let (separator, right) = root.split(appending: false)
            root = IndexNode(keys: [root.keys[0], separator], children: [root, right])
        }
        return old
    }

    /// Removes `key`, and returns what was there.
    @discardableResult
    mutating func remove(_ key: IndexKey.Bytes) -> IndexRecord? {
        guard self[key] != nil else { return nil }
        if !isKnownUniquelyReferenced(&root) { root = root.copy() }
        let record = root.remove(key)
        count -= 1
        while root.children.count == 1 { root = root.children[0] }
        return record
    }

    /// The first entry that is not below `key`.
    func first(from key: IndexKey.Bytes) -> (key: IndexKey.Bytes, record: IndexRecord)? {
        var found: (IndexKey.Bytes, IndexRecord)?
        forEach(from: key) { key, record in
            found = (key, record)
            return false
        }
        return found
    }

    /// The last entry below `key`.
    func last(below key: IndexKey.Bytes) -> (key: IndexKey.Bytes, record: IndexRecord)? {
        var found: (IndexKey.Bytes, IndexRecord)?
        forEachReversed(below: key) { key, record in
            found = (key, record)
            return false
        }
        return found
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

    /// Visits entries below `end` (nil: all), in descending order, until `body` returns false.
    func forEachReversed(
        below end: IndexKey.Bytes? = nil, _ body: (IndexKey.Bytes, IndexRecord) -> Bool
    ) {
        _ = root.forEachReversed(below: end, body)
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
