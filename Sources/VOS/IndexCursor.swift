internal import BIO
internal import DrayRuntime

/// Walks the index, all of its parts as one: the entries that begin with a prefix, in ascending
/// order or, reversed, in descending order.
@safe final class IndexCursor {
    @safe @exclusivity(unchecked) private var sources: [SourceCursor]
    @safe @exclusivity(unchecked) private var current: SourceCursor?
    private let isReversed: Bool

    /// Of a view. `name`: the path of the dkey or akey that the prefix belongs to, which the
    /// filters know.
    init(
        _ view: ReadView, prefix: IndexKey.Bytes, name: IndexKey.Bytes?, isReversed: Bool = false
    ) async throws(VOSError) {
        self.isReversed = isReversed
        sources = []
        view.forEachMemtable { memtable in
            guard memtable.tree.count > 0 else { return }
            sources.append(
                MemtableCursor(
                    memtable, prefix: prefix, below: view.limit, isReversed: isReversed))
        }
        let hash = name.map { name in
            unsafe name.withPrefix(name.count) { unsafe TableFilter.path($0) }
        }
        let version = view.version
        for candidate in version.candidates(from: prefix, prefix: prefix.count) {
            let table = candidate.table
            if let hash, candidate.isAlone, try await !table.mayContain(hash) { continue }
            let level = table.info.level
            let tables = level == 0 || candidate.isAlone ? [table] : version.levels[level]
            sources.append(RunCursor(tables, prefix: prefix, isReversed: isReversed))
        }
    }

    /// Of parts that are merged.
    init(merging sources: [SourceCursor]) {
        self.sources = sources
        isReversed = false
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
    }

    /// Goes to the next entry.
    @inline(__always)
    func next() async throws(VOSError) {
        guard let current else { return }
        if !current.step() { try await current.finish() }
        if sources.count > 1 || !current.isValid { choose() }
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
    fileprivate final func jump(_ target: IndexKey.Bytes) -> Bool {
        unsafe target.withUnsafeBytes { unsafe jump($0) }
    }

    fileprivate final func isBelow(_ target: IndexKey.Bytes) -> Bool {
        unsafe target.withUnsafeBytes { unsafe IndexKey.compare(key, $0) < 0 }
    }
}
