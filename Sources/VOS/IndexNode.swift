/// A node of an `IndexTree`: a leaf with keys and records, or an inner node with children and, for
/// each child, the smallest key it may hold.
final class IndexNode {
    static let entriesMax = 64
    /// Neighbours that have no more than this together become one.
    static let mergeMax = 48

    @safe @exclusivity(unchecked) var keys: ContiguousArray<IndexKey.Bytes>
    /// Of a leaf.
    @safe @exclusivity(unchecked) var records: ContiguousArray<IndexRecord>
    /// Of an inner node; as many as keys. The first key is not looked at.
    @safe @exclusivity(unchecked) var children: ContiguousArray<IndexNode>

    init(
        keys: ContiguousArray<IndexKey.Bytes> = [], records: ContiguousArray<IndexRecord> = [],
        children: ContiguousArray<IndexNode> = []
    ) {
        self.keys = keys
        self.records = records
        self.children = children
    }

    var isLeaf: Bool { children.isEmpty }

    func copy() -> IndexNode {
        IndexNode(keys: keys, records: records, children: children)
    }

    /// The index of the first key that is not below `key`.
    func lowerBound(_ key: IndexKey.Bytes) -> Int {
        unsafe keys.withUnsafeBufferPointer { keys in
            unsafe key.withUnsafeBytes { key in
                var low = 0
                var high = keys.count
                while low < high {
                    let middle = (low + high) / 2
                    let order = unsafe IndexKey.compare(keys[middle], to: key)
                    if order < 0 { low = middle + 1 } else { high = middle }
                }
                return low
            }
        }
    }

    /// Which child holds `key`.
    func childIndex(_ key: IndexKey.Bytes) -> Int {
        unsafe keys.withUnsafeBufferPointer { keys in
            unsafe key.withUnsafeBytes { key in
                var low = 1
                var high = keys.count
                while low < high {
                    let middle = (low + high) / 2
                    let order = unsafe IndexKey.compare(keys[middle], to: key)
                    if order <= 0 { low = middle + 1 } else { high = middle }
                }
                return low - 1
            }
        }
    }

    /// A child that only this tree refers to.
    @inline(__always)
    private func ownedChild(_ index: Int) -> IndexNode {
        if !isKnownUniquelyReferenced(&children[index]) { children[index] = children[index].copy() }
        return children[index]
    }

    /// Inserts or replaces, and returns what was replaced. The node must be the tree's own.
    func insert(_ key: IndexKey.Bytes, _ record: IndexRecord) -> IndexRecord? {
        if isLeaf {
            let index = lowerBound(key)
            if index < keys.count, IndexKey.compare(keys[index], key) == 0 {
                let old = records[index]
                records[index] = record
                return old
            }
            keys.insert(key, at: index)
            records.insert(record, at: index)
            return nil
        }
        let index = childIndex(key)
        let child = ownedChild(index)
        let old = child.insert(key, record)
        if child.keys.count > IndexNode.entriesMax {
            let appending = index == children.count - 1
            let (separator, right) = child.split(appending: appending)
            keys.insert(separator, at: index + 1)
            children.insert(right, at: index + 1)
        }
        return old
    }

    /// Moves the upper part to a new node, and returns that with its smallest key. When keys are
    /// being appended the lower part stays nearly full.
    func split(appending: Bool) -> (IndexKey.Bytes, IndexNode) {
        let at = appending ? keys.count * 7 / 8 : keys.count / 2
        let right = IndexNode(keys: ContiguousArray(keys[at...]))
        keys.removeLast(keys.count - at)
        if isLeaf {
            right.records = ContiguousArray(records[at...])
            records.removeLast(records.count - at)
        } else {
            right.children = ContiguousArray(children[at...])
            children.removeLast(children.count - at)
        }
        return (right.keys[0], right)
    }

    /// Removes `key`, which the caller knows to be there. The node must be the tree's own.
    func remove(_ key: IndexKey.Bytes) -> IndexRecord {
        if isLeaf {
            let index = lowerBound(key)
            precondition(index < keys.count && IndexKey.compare(keys[index], key) == 0)
            keys.remove(at: index)
            return records.remove(at: index)
        }
        let index = childIndex(key)
        let child = ownedChild(index)
        let record = child.remove(key)
        if child.keys.count < IndexNode.mergeMax / 2 { merge(at: index) }
        return record
    }

    /// Merges a small child with a neighbour, if they fit into one.
    private func merge(at index: Int) {
        if children[index].keys.isEmpty {
            children.remove(at: index)
            keys.remove(at: index)
            return
        }
        for left in [index - 1, index] where left >= 0 && left + 1 < children.count {
            guard children[left].keys.count + children[left + 1].keys.count <= IndexNode.mergeMax
            else { continue }
            let right = children[left + 1]
            let target = ownedChild(left)
            // The first key of an inner node may be stale; the parent's separator is not.
            var rightKeys = right.keys
            if !right.isLeaf { rightKeys[0] = keys[left + 1] }
            target.keys.append(contentsOf: rightKeys)
            target.records.append(contentsOf: right.records)
            target.children.append(contentsOf: right.children)
            children.remove(at: left + 1)
            keys.remove(at: left + 1)
            return
        }
    }

    /// Visits keys below `end` in descending order until `body` returns false.
    func forEachReversed(
        below end: IndexKey.Bytes?, _ body: (IndexKey.Bytes, IndexRecord) -> Bool
    ) -> Bool {
        if isLeaf {
            var index = end.map { lowerBound($0) } ?? keys.count
            while index > 0 {
                index -= 1
                guard body(keys[index], records[index]) else { return false }
            }
            return true
        }
        var index = end.map { childIndex($0) } ?? children.count - 1
        guard children[index].forEachReversed(below: end, body) else { return false }
        while index > 0 {
            index -= 1
            guard children[index].forEachReversed(below: nil, body) else { return false }
        }
        return true
    }
}
