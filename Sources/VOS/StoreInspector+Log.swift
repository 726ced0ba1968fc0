internal import BIO
internal import DrayChecksums
internal import DrayRuntime

/// What the log has that the manifest has not.
extension StoreInspector {
    /// `undecided`: the transactions of the manifest.
    func readLog(_ undecided: [DTX]) async {
        var replay = LogReplay()
        for dtx in undecided {
            if replay.undecided[dtx.id] != nil {
                add(.manifest, "transaction \(dtx.id) is prepared twice", nil)
            }
            replay.undecided[dtx.id] = dtx
            refer(dtx.operations, "transaction \(dtx.id)")
        }
        await reader.forEachRecord { sequence, bytes in
            self.apply(sequence, unsafe bytes.withUnsafeBytes { unsafe Array($0) }, &replay)
        }
        changes = replay.changes
        for (operation, stamp) in changes {
            await look(at: operation, stamp: stamp)
            unsafe operation.key.withUnsafeBytes { key in
                let notesAll = unsafe recordContainers.contains(ContainerName(key))
                recordSizes.note(
                    operation.key, EntryHead(operation.record), notesAll: notesAll)
            }
        }
        report.undecided = replay.undecided.count
        let rest = replay.undecided.values.sorted { $0.sequence < $1.sequence }
        for dtx in rest {
            for operation in dtx.operations {
                await look(
                    at: operation, stamp: dtx.sequence &* VOSLimits.stampsPerRecord)
            }
        }
    }

    private struct LogReplay {
        var undecided: [UniqueID: DTX] = [:]
        var changes: [(operation: PreparedOperation, stamp: UInt64)] = []

        mutating func add(_ operations: [PreparedOperation], _ sequence: UInt64) {
            var stamp = sequence &* VOSLimits.stampsPerRecord
            for operation in operations {
                changes.append((operation, stamp))
                stamp &+= 1
            }
        }
    }

    /// As replay does it: what is aborted, or destroyed while undecided, has no blocks any more.
    private func apply(_ sequence: UInt64, _ bytes: [UInt8], _ replay: inout LogReplay) {
        let record: LogRecord
        do throws(MalformedBytes) {
            record = try LogRecord.decode(bytes)
        } catch {
            add(.log, "log record \(sequence): \(error.what)", nil)
            return
        }
        switch record {
        case .update(_, _, let operations):
            refer(operations, "log record \(sequence)")
            replay.add(operations, sequence)
        case .prepared(let dtx):
            dtx.sequence = sequence
            refer(dtx.operations, "log record \(sequence)")
            replay.undecided[dtx.id] = dtx
        case .outcomes(let outcomes):
            for outcome in outcomes where outcome.kind != .completed {
                guard let dtx = replay.undecided.removeValue(forKey: outcome.id) else { continue }
                if outcome.kind == .committed {
                    replay.add(dtx.operations, dtx.sequence)
                } else {
                    release(dtx.operations)
                }
            }
        case .snapshot(let name, let epoch, let isTaken):
            if isTaken { snapshots.insert(epoch, name) } else { snapshots.remove(epoch, name) }
        case .range(let from, let to):
            snapshots.removeAll(between: from, to)
            destroy(
                DestroyedRange(from: from, to: to, stamp: VOS.stamp(after: sequence)), &replay)
        case .discard(let from, let to, let epochs):
            destroy(
                DestroyedRange(
                    from: from, to: to, epochs: epochs, stamp: VOS.stamp(after: sequence)), &replay)
        }
    }

    private func destroy(_ range: DestroyedRange, _ replay: inout LogReplay) {
        destroyed.append(range)
        // The order makes no difference.
        for dtx in replay.undecided.values where range.epochs.contains(dtx.epoch) {
            release(dtx.operations.filter { range.contains($0.key) })
            dtx.operations.removeAll { range.contains($0.key) }
        }
    }

    private func refer(_ operations: [PreparedOperation], _ what: String) {
        for operation in operations where operation.record.hasBlocks {
            let name = StoreEntry.Name(operation, stamp: 0)
            refer(operation.record.blocks, part: .log, "a value of \(what)", entry: name)
            report.space.logValues += operation.record.blockCount
        }
    }

    private func release(_ operations: [PreparedOperation]) {
        for operation in operations where operation.record.hasBlocks {
            for extent in operation.record.blocks where reader.holds(extent) {
                used.remove(extent)
            }
            report.space.logValues -= operation.record.blockCount
        }
    }

    private func look(at operation: PreparedOperation, stamp: UInt64) async {
        let record = operation.record
        guard let name = StoreEntry.Name(operation, stamp: stamp) else {
            add(.log, "a change in the log has no proper key", nil)
            return
        }
        state.entries += 1
        checkRecords(record, name, part: .log, table: nil)
        visit(
            StoreEntry(
                name: name, table: nil, blocks: record.blocks,
                checksumType: record.checksumType, checksums: record.checksums()))
        await verify(record, name, table: nil)
    }
}

extension StoreEntry.Name {
    /// What a key and its record are about; nil when the key has no such names.
    init?(key: IndexKey.Bytes, _ record: IndexRecord, stamp: UInt64) {
        guard key.count >= IndexKey.objectLength else { return nil }
        pool = UniqueID(high: key.word(at: 0), low: key.word(at: 8))
        container = UniqueID(high: key.word(at: 16), low: key.word(at: 24))
        object = ObjectID(high: key.word(at: 32), low: key.word(at: 40))
        var end = IndexKey.objectLength
        if record.dkeyEnd > 0 {
            guard end < key.count, key[end] == IndexKey.childTag,
                let found = IndexKey.name(in: key, at: end + 1), found.end == Int(record.dkeyEnd)
            else { return nil }
            dkey = found.name
            end = found.end
        }
        if record.akeyEnd > 0 {
            guard end < key.count, key[end] == IndexKey.childTag,
                let found = IndexKey.name(in: key, at: end + 1), found.end == Int(record.akeyEnd)
            else { return nil }
            akey = found.name
        }
        offset = record.kind == .extent ? record.offset : nil
        byteCount = Int(record.byteCount)
        recordSize = record.kind == .extent ? record.recordSize : nil
        epoch = record.epoch
        self.stamp = stamp
        isPunch = record.kind.isPunch
    }

    init?(_ operation: PreparedOperation, stamp: UInt64) {
        self.init(key: operation.key, operation.record, stamp: stamp)
    }

    /// What can be said of a key without its value.
    init?(approximately key: IndexKey.Bytes) {
        guard key.count >= IndexKey.objectLength + IndexKey.versionLength else { return nil }
        pool = UniqueID(high: key.word(at: 0), low: key.word(at: 8))
        container = UniqueID(high: key.word(at: 16), low: key.word(at: 24))
        object = ObjectID(high: key.word(at: 32), low: key.word(at: 40))
        byteCount = 0
        isPunch = false
        epoch = ~key.word(at: key.count - 16)
        stamp = ~key.word(at: key.count - 8)
        let start = IndexKey.objectLength
        guard key[start] == IndexKey.childTag,
            let found = IndexKey.name(in: key, at: start + 1), found.end < key.count
        else { return }
        dkey = found.name
        if key[found.end] == IndexKey.childTag {
            akey = IndexKey.name(in: key, at: found.end + 1)?.name
        }
    }
}
