internal import DrayRuntime

/// Names a container.
struct ContainerName: Hashable, Comparable {
    let pool: UniqueID
    let container: UniqueID

    init(pool: UniqueID, container: UniqueID) {
        self.pool = pool
        self.container = container
    }

    /// The container that a key of the index belongs to.
    init(_ key: UnsafeRawBufferPointer) {
        unsafe pool = UniqueID(high: IndexKey.word(key, at: 0), low: IndexKey.word(key, at: 8))
        unsafe container = UniqueID(
            high: IndexKey.word(key, at: 16), low: IndexKey.word(key, at: 24))
    }

    func _rawHashValue(seed: Int) -> Int {
        FastHash.hash(pool.high ^ pool.low &* 31, container.high ^ container.low &* 31, seed: seed)
    }

    static func < (left: ContainerName, right: ContainerName) -> Bool {
        left.pool != right.pool ? left.pool < right.pool : left.container < right.container
    }
}

extension Fetch {
    var containerName: ContainerName { ContainerName(pool: pool, container: container) }
}

/// The epochs of containers that can be read however old they are.
struct SnapshotTable {
    private(set) var epochs: [ContainerName: [UInt64]] = [:]
    /// How often one was taken away.
    private(set) var changes = 0

    /// In ascending order.
    func epochs(of name: ContainerName) -> [UInt64] { epochs[name] ?? [] }

    /// The newest of all; 0 when there is none.
    var newest: UInt64 { epochs.values.reduce(0) { max($0, $1.last ?? 0) } }

    mutating func insert(_ epoch: UInt64, _ name: ContainerName) {
        var list = epochs[name] ?? []
        guard !list.contains(epoch) else { return }
        list.append(epoch)
        list.sort()
        epochs[name] = list
    }

    mutating func remove(_ epoch: UInt64, _ name: ContainerName) {
        guard var list = epochs[name] else { return }
        list.removeAll { $0 == epoch }
        changes += 1
        epochs[name] = list.isEmpty ? nil : list
    }

    /// A container or pool is destroyed.
    mutating func removeAll(between from: IndexKey.Bytes, _ to: IndexKey.Bytes) {
        for name in names(between: from, to) { epochs[name] = nil }
    }

    /// Whether any container between two keys has one.
    func isAny(between from: IndexKey.Bytes, _ to: IndexKey.Bytes) -> Bool {
        !names(between: from, to).isEmpty
    }

    private func names(
        between from: IndexKey.Bytes, _ to: IndexKey.Bytes
    ) -> [ContainerName] {
        epochs.keys.filter { name in
            let key = IndexKey.container(name.pool, name.container)
            return IndexKey.compare(key, from) >= 0 && IndexKey.compare(key, to) < 0
        }
    }
}
