internal import BIO
internal import DrayRuntime

/// A part of the manifest that is read by itself: bytes with a checksum, in two copies.
struct ManifestPiece: Equatable {
    /// In words.
    var name: String
    var part: StoreFinding.Part
    /// Where each copy is.
    var copies: [[BlockExtent]]
    var byteCount: Int
    var checksum: UInt32

    init(_ root: CheckpointRoot) {
        name = "the manifest"
        part = .manifest
        copies = root.copies
        byteCount = Int(clamping: root.byteCount)
        checksum = root.checksum
    }

    init(chunk: Manifest.Chunk, index: Int) {
        name = "chunk \(index) of the manifest"
        part = .manifest
        copies = [chunk.extents, chunk.mirror]
        byteCount = chunk.byteCount
        checksum = chunk.checksum
    }

    /// Nil for a page that is all zero.
    init?(page: BlockMap.Page, index: Int) {
        guard !page.copies.isEmpty else { return nil }
        name = "page \(index) of the block map"
        part = .blockMap
        copies = page.copies.map { [BlockExtent(start: $0, count: 1)] }
        byteCount = BlockDevice.blockSize
        checksum = page.checksum
    }

    /// Reads one copy, in whole blocks. Throws `.device` when that cannot be read, `.damaged` when
    /// it is not what was written.
    func read(copy: Int, from store: BlockStore) async throws(VOSError) -> IOBuffer {
        let buffer = IOBuffer(count: VOS.blockCount(byteCount) * BlockDevice.blockSize)
        do throws(BIOError) {
            try unsafe await store.read(into: buffer.bytes, from: copies[copy])
        } catch {
            throw .device(error)
        }
        let bytes = unsafe UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<byteCount])
        guard unsafe CRC32C.checksum(of: bytes) == checksum else {
            throw .damaged(
                what: "copy \(copy) of \(name) does not match its checksum"
                    + store.placeText(copies[copy], 0))
        }
        return buffer
    }

    /// Writes one copy again, durably, where it is. It was damaged before, and the other one stays
    /// as it is: so a crash in between makes nothing worse.
    func mend(
        copy: Int, with buffer: IOBuffer, in store: BlockStore
    ) async throws(VOSError) {
        do throws(BIOError) {
            try unsafe await store.write(
                UnsafeRawBufferPointer(buffer.bytes), to: copies[copy], durable: true)
        } catch {
            throw .device(error)
        }
    }
}

extension Manifest {
    /// Everything that is read by itself, but the manifest.
    var pieces: [ManifestPiece] {
        chunks.enumerated().map { ManifestPiece(chunk: $1, index: $0) }
            + pages.enumerated().compactMap { ManifestPiece(page: $1, index: $0) }
    }
}
