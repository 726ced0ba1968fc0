internal import BIO
internal import DrayRuntime

/// Walks the index, all of its parts as one: the entries that begin with a prefix, in ascending
/// order or, reversed, in descending order.
@safe final class IndexCursor {
    @safe @exclusivity(unchecked) private var sources: [SourceCursor]
    @safe @exclusivity(unchecked) private var current: SourceCursor?
    private let isReversed: Bool
    /// What is passed over.
    private let destroyed: DestroyedRanges?

    /// Of a view. `name`: the path of the dkey or akey that the prefix belongs to, which the
    /// filters know.
    init(
        _ view: ReadView, prefix: IndexKey.Prefix, name: IndexKey.Bytes?, isReversed: Bool = false
    ) async throws(VOSError) {
        self.isReversed = isReversed
        destroyed = view.destroyed?.overlapping(prefix)
        sources = []
        sources.reserveCapacity(4)
        view.forEachMemtable { memtable in
            guard memtable.tree.count > 0 else { return }
            sources.append(
                MemtableCursor(
                    memtable, prefix: prefix, below: view.limit, isReversed: isReversed))
        }
        let hash = name.map { name in
            unsafe name.withPrefix(name.count) { unsafe TableFilter.path($0) }
        }
        for candidate in view.version.candidates(from: prefix, prefix: prefix) {
            if let hash, candidate.isAlone {
                if let filter = candidate.table.cachedFilter {
                    if !filter.mayContain(hash) { continue }
                } else if try await !candidate.table.mayContain(hash) {
                    continue
                }
            }
            sources.append(RunCursor(candidate.run, prefix: prefix, isReversed: isReversed))
        }
    }

    /// Of parts that are merged.
    init(merging sources: [SourceCursor]) {
        self.sources = sources
        isReversed = false
        destroyed = nil
    }

    var isValid: Bool { current != nil }

    /// The current entry; there must be one. Its key is valid until the cursor moves.
    var entry: SourceCursor {
        guard let current else { preconditionFailure("no current entry") }
        return current
    }

    /// Goes to the first entry that is not below `target`, which is not below the current one;
    /// reversed: to the last that is below it, and it is not above the current one.
    func seek(_ target: IndexKey.Bytes) async throws(VOSError) {
        for source in sources {
            if source.isNew {
                if !source.jump(target) { try await source.finish() }
            } else if source.isValid, source.isBelow(target) != isReversed {
                if !source.jump(target) { try await source.finish() }
            }
        }
        choose()
        if let destroyed { try await pass(destroyed) }
    }

    /// Goes to the next entry.
    @inline(__always)
    func next() async throws(VOSError) {
        try await step()
        if let destroyed { try await pass(destroyed) }
    }

    @inline(__always)
    private func step() async throws(VOSError) {
        guard let current else { return }
        if !current.step() { try await current.finish() }
        if sources.count > 1 || !current.isValid { choose() }
    }

    /// From the current entry on, goes to the first that is not garbage.
    private func pass(_ destroyed: DestroyedRanges) async throws(VOSError) {
        var passed = 0
        while let current {
            let head = try current.head()
            guard unsafe destroyed.hide(current.key, head) else { return }
            try await step()
            passed += 1
            await destroyed.giveWay(after: passed)
        }
    }

    private func choose() {
        var best: SourceCursor?
        for source in sources where source.isValid {
            if let best {
                let order = unsafe IndexKey.compare(source.key, best.key)
                guard isReversed ? order > 0 : order < 0 else { continue }
            }
            best = source
        }
        current = best
    }
}

extension SourceCursor {
    fileprivate final func isBelow(_ target: IndexKey.Bytes) -> Bool {
        unsafe target.withUnsafeBytes { unsafe IndexKey.compare(key, $0) < 0 }
    }
}
