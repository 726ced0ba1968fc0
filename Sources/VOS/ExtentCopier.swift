internal import BIO
internal import DrayRuntime

/// Copies what is left of extents that are hidden in part, so that their own blocks are free.
///
/// A part is an extent with the epoch and the stamp of the one it is of: it is seen where that was
/// seen, and hides what that hid there.
struct ExtentCopier {
    enum Outcome {
        case copied([IndexRecord])
        /// It would take more than may be taken.
        case noRoom
        /// The value cannot be read, or does not match its checksums.
        case unreadable
    }

    private let store: BlockStore
    private let inlineThreshold: Int
    /// How much more the copies may weigh.
    private var weightLeft: UInt64
    /// The blocks of all copies.
    private(set) var extents: [BlockExtent] = []

    init(store: BlockStore, inlineThreshold: Int, weightMax: UInt64) {
        self.store = store
        self.inlineThreshold = inlineThreshold
        weightLeft = weightMax
    }

    /// Copies parts of an extent of an array, which are in ascending order. Throws `.device` when
    /// they cannot be written.
    mutating func copy(
        _ parts: [Range<UInt64>], of record: IndexRecord
    ) async throws(VOSError) -> Outcome {
        let weight = parts.reduce(0) {
            $0 + EntryHead.weight($1.count, hasBlocks: $1.count >= inlineThreshold)
        }
        guard weight <= weightLeft else { return .noRoom }
        let places = parts.map {
            Int($0.lowerBound - record.offset)..<Int($0.upperBound - record.offset)
        }
        let buffer = record.hasBlocks ? store.buffers.take(VOSLimits.valueLengthMax) : nil
        defer { if let buffer { store.buffers.give(buffer) } }
        guard await read(places, of: record, into: buffer) else { return .unreadable }
        let before = extents.count
        var copies: [IndexRecord] = []
        copies.reserveCapacity(parts.count)
        for place in places {
            guard let copy = try await write(place, of: record, in: buffer) else {
                store.allocator.cancel(Array(extents[before...]))
                extents.removeSubrange(before...)
                return .noRoom
            }
            copies.append(copy)
        }
        weightLeft -= weight
        return .copied(copies)
    }

    /// Reads the chunks that have parts of a value, and verifies them. False when that fails: who
    /// reads the value, or scrubs, is told why.
    private func read(
        _ parts: [Range<Int>], of record: IndexRecord, into buffer: IOBuffer?
    ) async -> Bool {
        guard let buffer else {
            return unsafe record.inline.withUnsafeBytes {
                unsafe record.firstDamagedChunk($0) == nil
            }
        }
        let (chunk, unit) = (VOSLimits.checksumChunk, BlockDevice.blockSize)
        var end = 0
        for part in parts {
            let first = max(end, part.lowerBound / chunk * chunk)
            end = min(Int(record.byteCount), (part.upperBound + chunk - 1) / chunk * chunk)
            guard first < end else { continue }
            let target = unsafe UnsafeMutableRawBufferPointer(
                rebasing: buffer.bytes[first..<first + VOS.blockCount(end - first) * unit])
            do throws(BIOError) {
                try unsafe await store.read(
                    into: target, from: record.blocks, firstBlock: first / unit)
            } catch {
                return false
            }
            let bytes = unsafe UnsafeRawBufferPointer(rebasing: target[0..<end - first])
            guard unsafe record.firstDamagedChunk(bytes, from: first / chunk) == nil else {
                return false
            }
        }
        return true
    }

    /// Writes a part of the value that was read into `buffer`, or stands in its record; nil when
    /// there are no blocks for it.
    private mutating func write(
        _ part: Range<Int>, of record: IndexRecord, in buffer: IOBuffer?
    ) async throws(VOSError) -> IndexRecord? {
        let bytes = buffer?.array(part) ?? Array(record.inline[part])
        precondition(bytes.count == part.count, "a part of a value that was not read")
        var blocks: [BlockExtent] = []
        if bytes.count >= inlineThreshold {
            do throws(BIOError) {
                blocks = try store.allocator.reserve(
                    blocks: UInt32(VOS.blockCount(bytes.count)), privileged: true,
                    stream: .aggregation)
            } catch {
                return nil
            }
            extents += blocks
            try await write(bytes, to: blocks)
        }
        let copy = IndexRecord(
            kind: .extent, dkeyEnd: Int(record.dkeyEnd), akeyEnd: Int(record.akeyEnd),
            epoch: record.epoch, offset: record.offset + UInt64(part.lowerBound),
            byteCount: bytes.count, inline: blocks.isEmpty ? bytes : [], blocks: blocks,
            recordSize: record.recordSize, checksumType: record.checksumType,
            checksums: unsafe bytes.withUnsafeBytes {
                unsafe VOS.checksums(of: $0, record.checksumType)
            })
        copy.stamp = record.stamp
        return copy
    }

    private func write(_ bytes: [UInt8], to blocks: [BlockExtent]) async throws(VOSError) {
        let size = VOS.blockCount(bytes.count) * BlockDevice.blockSize
        let buffer = store.buffers.take(size)
        defer { store.buffers.give(buffer) }
        let padded = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[0..<size])
        unsafe padded.copyBytes(from: bytes)
        unsafe UnsafeMutableRawBufferPointer(rebasing: padded[bytes.count...])
            .initializeMemory(as: UInt8.self, repeating: 0)
        do throws(BIOError) {
            try unsafe await store.write(UnsafeRawBufferPointer(padded), to: blocks)
        } catch {
            throw VOS.error(error)
        }
    }
}
