import BIO
import DrayRuntime
import Glibc
import Testing

/// A small store of cells on a `BlockStore`, and beside it the truth: what was acknowledged.
///
/// An update writes a few blocks of one value and appends a record that says where they are; when
/// it is applied, the cell's old blocks are freed.
final class Ledger {
    static let cellCount = 6

    struct Entry: Hashable {
        var cell: UInt8
        var value: UInt8
        var extent: BlockExtent
        var checksum: UInt32
        /// Makes records of different sizes.
        var padding: Int

        var record: [UInt8] {
            var bytes: [UInt8] = [cell, value, UInt8(extent.count)]
            for shift in [0, 8, 16, 24] {
                bytes.append(UInt8(truncatingIfNeeded: extent.start >> UInt32(shift)))
                bytes.append(UInt8(truncatingIfNeeded: checksum >> UInt32(shift)))
            }
            return bytes + [UInt8](repeating: value, count: padding)
        }

        init(cell: UInt8, value: UInt8, extent: BlockExtent, checksum: UInt32, padding: Int) {
            self.cell = cell
            self.value = value
            self.extent = extent
            self.checksum = checksum
            self.padding = padding
        }

        init?(_ bytes: [UInt8]) {
            guard bytes.count >= 11 else { return nil }
            let padding = [UInt8](repeating: bytes[1], count: bytes.count - 11)
            guard
                padding.withUnsafeBytes({ expected in
                    bytes.withUnsafeBytes {
                        expected.isEmpty
                            || memcmp($0.baseAddress! + 11, expected.baseAddress!, expected.count)
                                == 0
                    }
                })
            else { return nil }
            var start: UInt32 = 0
            var checksum: UInt32 = 0
            for index in 0..<4 {
                start |= UInt32(bytes[3 + index * 2]) << UInt32(index * 8)
                checksum |= UInt32(bytes[4 + index * 2]) << UInt32(index * 8)
            }
            self.init(
                cell: bytes[0], value: bytes[1],
                extent: BlockExtent(start: start, count: UInt32(bytes[2])), checksum: checksum,
                padding: bytes.count - 11)
        }
    }

    // The truth, which outlives every process.
    private(set) var journal: [UInt64: Entry] = [:]
    private(set) var acknowledged: UInt64 = 0
    private var submitted: Set<Entry> = []
    private(set) var recoveries = 0
    private(set) var recoveredUnacknowledged = 0

    // Of the process that runs.
    private var store: BlockStore?
    private var cells: [UInt8: Entry] = [:]
    private var nextValue: UInt8 = 1

    var sequence: UInt64 { store?.appliedSequence ?? 0 }

    static func pattern(_ value: UInt8, blocks: UInt32) -> IOBuffer {
        IOBuffer(copying: [UInt8](repeating: value, count: Int(blocks) * 4096))
    }

    // MARK: - Work

    /// Returns false when the store was full or out of service. With an xstream, the record is
    /// appended while a task of it writes the blocks.
    @discardableResult
    func update(
        cell: UInt8, blocks: UInt32, padding: Int, stream: BlockStream = .foreground,
        beside xstream: XStream? = nil
    ) async throws -> Bool {
        guard let store else { return false }
        nextValue = nextValue &+ 1
        let value = nextValue
        do throws(BIOError) {
            let extents = try store.allocator.reserve(blocks: blocks, stream: stream)
            guard extents.count == 1 else {
                store.allocator.cancel(extents)
                return false
            }
            let buffer = Self.pattern(value, blocks: blocks)
            let entry = Entry(
                cell: cell, value: value, extent: extents[0],
                checksum: CRC32C.checksum(of: UnsafeRawBufferPointer(buffer.bytes)),
                padding: padding)
            submitted.insert(entry)
            var writing: Gather<BIOError?>?
            if let xstream {
                writing = Self.startWriting(buffer, to: extents, store, on: xstream)
            } else {
                try await store.write(UnsafeRawBufferPointer(buffer.bytes), to: extents)
            }
            try await append(entry, writing: writing, store)
            return true
        } catch {
            switch error {
            case .outOfService, .failed, .full: return false
            default: throw error
            }
        }
    }

    private func append(
        _ entry: Entry, writing: Gather<BIOError?>?, _ store: BlockStore
    ) async throws(BIOError) {
        let check = BlockCheck(
            extent: entry.extent, byteCount: Int(entry.extent.byteCount), checksum: entry.checksum)
        var mine: UInt64 = 0
        do throws(BIOError) {
            try await store.append(entry.record, checks: [check], writing: writing) { sequence in
                mine = sequence
                self.journal[sequence] = entry
                if let old = self.cells.updateValue(entry, forKey: entry.cell) {
                    store.allocator.free([old.extent])
                }
            }
        } catch {
            if let writing { _ = await writing.results() }
            if case .full = error { store.allocator.cancel([entry.extent]) }
            throw error
        }
        acknowledged = max(acknowledged, mine)
    }

    private static func startWriting(
        _ buffer: IOBuffer, to extents: [BlockExtent], _ store: BlockStore, on xstream: XStream
    ) -> Gather<BIOError?> {
        let writing = Gather<BIOError?>(count: 1)
        xstream.spawn {
            do throws(BIOError) {
                try await store.write(
                    UnsafeRawBufferPointer(buffer.bytes), to: extents, durable: true)
                writing.finish(0, with: nil)
            } catch {
                writing.finish(0, with: error)
            }
        }
        return writing
    }

    /// Writes the cells as a checkpoint.
    func checkpoint(stream: BlockStream = .foreground) async throws {
        guard let store else { return }
        let sequence = store.appliedSequence
        let entries = cells.values.sorted { $0.cell < $1.cell }
        var bytes: [UInt8] = []
        for entry in entries {
            let record = entry.record
            bytes += [UInt8(record.count & 0xff), UInt8(record.count >> 8)] + record
        }
        let buffer = IOBuffer(count: max(1, (bytes.count + 4095) / 4096) * 4096)
        bytes.withUnsafeBytes { buffer.bytes.copyMemory(from: $0) }
        let extents = try store.allocator.reserve(
            blocks: UInt32(buffer.count / 4096), privileged: true, stream: stream)
        try await store.write(UnsafeRawBufferPointer(buffer.bytes), to: extents)
        try await store.publishCheckpoint(
            CheckpointRoot(
                extents: extents, byteCount: UInt64(bytes.count),
                checksum: bytes.withUnsafeBytes { CRC32C.checksum(of: $0) }, logSequence: sequence))
    }

    func close() async {
        await store?.close()
        store = nil
    }

    // MARK: - Recovery

    /// Damage that was found by a checksum of this layer.
    struct Damaged: Error {}

    /// Opens the store and compares everything with the truth. Throws when damage is reported.
    func recover(_ store: BlockStore) async throws {
        cells = [:]
        var last: UInt64 = 0
        if let root = store.checkpoint {
            try await load(root, store)
            last = root.logSequence
            #expect(cells == state(upTo: last), "the checkpoint at \(last)")
        }
        var extra = 0
        try await store.replay { sequence, record in
            #expect(sequence == last + 1)
            last = sequence
            let bytes = record.withUnsafeBytes { Array($0) }
            guard let entry = Entry(bytes) else {
                Issue.record("record \(sequence) is garbage")
                return
            }
            if let known = journal[sequence] {
                #expect(entry == known, "record \(sequence)")
            } else {
                #expect(submitted.contains(entry), "record \(sequence) was never submitted")
                extra += 1
            }
            cells[entry.cell] = entry
            journal[sequence] = entry
        }
        #expect(last >= acknowledged, "acknowledged records are lost")
        #expect(store.appliedSequence == last)
        recoveredUnacknowledged += extra
        for sequence in journal.keys where sequence > last { journal[sequence] = nil }
        acknowledged = last
        for entry in cells.values.sorted(by: { $0.cell < $1.cell }) {
            try store.allocator.markUsed(entry.extent)
        }
        store.allocator.checkInvariants()
        try await verifyBlocks(store)
        recoveries += 1
        self.store = store
    }

    private func load(_ root: CheckpointRoot, _ store: BlockStore) async throws {
        let blocks = root.extents.reduce(0) { $0 + Int($1.count) }
        let buffer = IOBuffer(count: blocks * 4096)
        try await store.read(into: buffer.bytes, from: root.extents)
        let bytes = buffer.array(0..<Int(root.byteCount))
        guard bytes.withUnsafeBytes({ CRC32C.checksum(of: $0) }) == root.checksum else {
            throw Damaged()
        }
        var place = 0
        while place < bytes.count {
            let length = Int(bytes[place]) | Int(bytes[place + 1]) << 8
            let entry = try #require(Entry(Array(bytes[place + 2..<place + 2 + length])))
            cells[entry.cell] = entry
            place += 2 + length
        }
    }

    private func verifyBlocks(_ store: BlockStore) async throws {
        for entry in cells.values.sorted(by: { $0.cell < $1.cell }) {
            let buffer = IOBuffer(count: Int(entry.extent.count) * 4096)
            try await store.read(into: buffer.bytes, from: [entry.extent])
            guard CRC32C.checksum(of: UnsafeRawBufferPointer(buffer.bytes)) == entry.checksum
            else { throw Damaged() }
        }
    }

    /// The cells after `sequence` records, by the journal.
    private func state(upTo sequence: UInt64) -> [UInt8: Entry] {
        var state: [UInt8: Entry] = [:]
        guard sequence > 0 else { return state }
        for number in 1...sequence {
            guard let entry = journal[number] else {
                Issue.record("the journal has no record \(number)")
                continue
            }
            state[entry.cell] = entry
        }
        return state
    }
}
