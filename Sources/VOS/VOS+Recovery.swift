internal import BIO
internal import DequeModule
internal import DrayRuntime
internal import Logging

/// Opening: the manifest, then the log after it.
extension VOS {
    func recover() async throws(VOSError) {
        if let root = store.checkpoint { try await loadManifest(root) }
        try await replayLog()
        try checkSpace()
        adoptUndecided()
        log.info(
            "\(version.tables.count) tables, \(active.tree.count) entries, log to \(lastSequence)")
    }

    /// What is referred to and what is free is all that there is.
    private func checkSpace() throws(VOSError) {
        let total = UInt64(store.allocator.totalBlocks)
        let (referred, free) = (referredBlocks, UInt64(store.allocator.freeBlocks))
        guard referred + free == total else {
            throw .damaged(
                what: "\(referred) blocks are referred to and \(free) are free, of \(total)")
        }
    }

    // MARK: - Manifest

    private func loadManifest(_ root: CheckpointRoot) async throws(VOSError) {
        let piece = ManifestPiece(root)
        let isRight = piece.copies.allSatisfy { copy in
            copy.reduce(0) { $0 + Int($1.count) } == VOS.blockCount(piece.byteCount)
        }
        guard root.byteCount > 0, isRight else {
            throw .damaged(what: "a manifest of \(root.byteCount) bytes")
        }
        let bytes = try await read(piece)
        let manifest = try VOS.undamaged { () throws(MalformedBytes) in
            let manifest = try Manifest.decode(bytes)
            guard manifest.sequence == root.logSequence,
                manifest.pages.count == blockMap.pageCount
            else { throw MalformedBytes(what: "a manifest of another store") }
            return manifest
        }
        self.manifest = manifest
        lastSequence = manifest.sequence
        aggregatedEpoch = manifest.aggregatedEpoch
        nextTable = manifest.nextTable
        destroyed = manifest.destroyed
        for snapshot in manifest.snapshots { snapshots.insert(snapshot.epoch, snapshot.name) }
        for entry in manifest.usages { tableUsages.add(entry.usage, to: entry.name) }
        version = IndexVersion().changed(
            removing: [],
            adding: manifest.tables.map { IndexTable($0, store: store, cache: blockCache) })
        try checkLevels()
        try markUsed(manifest.extents)
        try await loadPages(manifest)
        try checkUsages()
        try await loadChunks(manifest)
    }

    /// Tables of one level above 0 must not overlap.
    private func checkLevels() throws(VOSError) {
        for tables in version.levels[1...] {
            for (left, right) in zip(tables, tables.dropFirst())
            where IndexKey.compare(left.info.lastKey, right.info.firstKey) >= 0 {
                throw .damaged(
                    what: "tables \(left.info.id) and \(right.info.id) of the index overlap")
            }
        }
    }

    /// What the manifest says of the tables, the containers and the block map must agree.
    private func checkUsages() throws(VOSError) {
        let tables = version.tables.map(\.info)
        let usages = tableUsages.entries.map(\.usage)
        let blocks = blockMap.blocks.count
        guard tables.reduce(0, { $0 + $1.valueBlocks }) == blocks,
            usages.reduce(0, { $0 + $1.blockBytes }) == blocks * UInt64(BlockDevice.blockSize),
            tables.reduce(0, { $0 + $1.entries }) == usages.reduce(0, { $0 + $1.entries })
        else { throw .damaged(what: "the counts of the manifest contradict each other") }
    }

    private func loadPages(_ manifest: Manifest) async throws(VOSError) {
        for (index, page) in manifest.pages.enumerated() {
            guard let piece = ManifestPiece(page: page, index: index) else { continue }
            let bytes = try await read(piece)
            let extents = try VOS.undamaged { () throws(MalformedBytes) in
                try blockMap.load(page: index, bytes)
            }
            try markUsed(extents)
        }
    }

    private func loadChunks(_ manifest: Manifest) async throws(VOSError) {
        transactions.restore(horizon: manifest.horizon)
        var transactionCount: UInt64 = 0
        for (index, chunk) in manifest.chunks.enumerated() {
            let bytes = try await read(ManifestPiece(chunk: chunk, index: index))
            try VOS.undamaged { () throws(MalformedBytes) in
                switch chunk.type {
                case .transactions: transactionCount += try loadTransactions(bytes)
                case .prepared: try loadPrepared(bytes)
                case .completions: try loadCompletions(bytes)
                }
            }
        }
        guard manifest.transactionCount == transactionCount else {
            throw .damaged(what: "a manifest with transactions missing")
        }
        for dtx in undecided { try markUsed(dtx.blocks) }
    }

    private func markUsed(_ extents: [BlockExtent]) throws(VOSError) {
        do throws(BIOError) {
            for extent in extents { try store.allocator.markUsed(extent) }
        } catch {
            throw .damaged(what: "the block map: \(error)")
        }
    }

    private static func undamaged<Value>(
        _ body: () throws(MalformedBytes) -> Value
    ) throws(VOSError) -> Value {
        do throws(MalformedBytes) {
            return try body()
        } catch {
            throw .damaged(what: error.what)
        }
    }

    private func loadTransactions(_ bytes: [UInt8]) throws(MalformedBytes) -> UInt64 {
        var reader = ByteReader(bytes)
        var count: UInt64 = 0
        while reader.remaining > 0 {
            transactions.add(
                try reader.id(), epoch: try reader.quad(), isCommitted: try reader.byte() != 0)
            count += 1
        }
        return count
    }

    private func loadPrepared(_ bytes: [UInt8]) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        while reader.remaining > 0 {
            let sequence = try reader.quad()
            let record = try reader.countedString(maximum: Manifest.Chunk.byteCountMax)
            guard case .prepared(let dtx) = try LogRecord.decode(record) else {
                throw MalformedBytes(what: "a manifest's transaction is another record")
            }
            didPrepare(dtx, sequence: sequence)
        }
    }

    private func loadCompletions(_ bytes: [UInt8]) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        while reader.remaining > 0 {
            let id = try reader.id()
            completions[id] = Completion(
                epoch: try reader.quad(),
                members: try reader.countedString(maximum: VOSLimits.membersLengthMax))
        }
    }

    /// The bytes of a piece, from the first copy that is intact. Those before it are written again
    /// at once. Throws when none is.
    private func read(_ piece: ManifestPiece) async throws(VOSError) -> [UInt8] {
        var damage: [VOSError] = []
        var intact: IOBuffer?
        while intact == nil, damage.count < piece.copies.count {
            do throws(VOSError) {
                intact = try await piece.read(copy: damage.count, from: store)
            } catch {
                damage.append(error)
            }
        }
        guard let intact else { throw damage[0] }
        for (copy, error) in damage.enumerated() {
            log.warning("copy \(copy) of \(piece.name) is written again from another: \(error)")
            try await piece.mend(copy: copy, with: intact, in: store)
        }
        return intact.array(0..<piece.byteCount)
    }

    // MARK: - Log

    private func replayLog() async throws(VOSError) {
        var damage: String?
        do throws(BIOError) {
            try await store.replay { (sequence, bytes) throws(BIOError) in
                do throws(MalformedBytes) {
                    let record = try LogRecord.decode(
                        unsafe bytes.withUnsafeBytes { unsafe Array($0) })
                    guard sequence > lastSequence else {
                        throw MalformedBytes(what: "log record \(sequence) after \(lastSequence)")
                    }
                    try adoptBlocks(of: record)
                    apply(record, sequence: sequence)
                } catch {
                    damage = "log record \(sequence): \(error.what)"
                    throw .corrupt(path: store.device.name, offset: 0, what: error.what)
                }
            }
        } catch {
            if let damage { throw .damaged(what: damage) }
            throw VOS.error(error)
        }
    }

    /// The blocks of the values of a record that is replayed are in use.
    private func adoptBlocks(of record: LogRecord) throws(MalformedBytes) {
        let operations: [PreparedOperation]
        switch record {
        case .update(_, _, let list): operations = list
        case .prepared(let dtx): operations = dtx.operations
        case .outcomes, .range, .discard, .snapshot: return
        }
        do throws(BIOError) {
            for operation in operations {
                for extent in operation.record.blocks { try store.allocator.markUsed(extent) }
            }
        } catch {
            throw MalformedBytes(what: "its blocks: \(error)")
        }
    }
}
