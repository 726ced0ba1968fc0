/// A node of an `IndexTree`: a leaf with keys and records, or an inner node with children and, for
/// each child, the smallest key it may hold.
final class IndexNode {
    static let entriesMax = 64

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

    /// Inserts a key that is not there.
    func insert(_ key: IndexKey.Bytes, _ record: IndexRecord) {
        if isLeaf {
            let index = lowerBound(key)
            precondition(
                index == keys.count || IndexKey.compare(keys[index], key) != 0,
                "two entries of the index have the same key")
            keys.insert(key, at: index)
            records.insert(record, at: index)
            return
        }
        let index = childIndex(key)
        let child = children[index]
        child.insert(key, record)
        if child.keys.count > IndexNode.entriesMax {
            let appending = index == children.count - 1
            let (separator, right) = child.split(appending: appending)
            keys.insert(separator, at: index + 1)
            children.insert(right, at: index + 1)
        }
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

    /// Removes the last leaf below this node, or the entries of this one, and returns how many
    /// entries there were.
    func removeLastLeaf() -> Int {
        guard let last = children.last else {
            defer {
                keys = []
                records = []
            }
            return keys.count
        }
        let removed = last.removeLastLeaf()
        if last.isLeaf {
            children.removeLast()
            keys.removeLast()
        }
        return removed
    }
}
