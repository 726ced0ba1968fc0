internal import BIO
internal import DrayRuntime

/// The manifest with its chunks, and the block map.
extension Scrubber {
    /// Bytes with a checksum in blocks of their own.
    private struct Piece: Equatable {
        var part: StoreFinding.Part
        var extents: [BlockExtent]
        var byteCount: Int
        var checksum: UInt32
    }

    /// What the store has of this now.
    private var pieces: [Piece] {
        var pieces: [Piece] = []
        if let root = vos.store.checkpoint {
            pieces.append(
                Piece(
                    part: .manifest, extents: root.extents,
                    byteCount: Int(clamping: root.byteCount), checksum: root.checksum))
        }
        for chunk in vos.manifest.chunks {
            pieces.append(
                Piece(
                    part: .manifest, extents: chunk.extents, byteCount: chunk.byteCount,
                    checksum: chunk.checksum))
        }
        for page in vos.manifest.pages {
            guard let block = page.block else { continue }
            pieces.append(
                Piece(
                    part: .blockMap, extents: [BlockExtent(start: block, count: 1)],
                    byteCount: BlockDevice.blockSize, checksum: page.checksum))
        }
        return pieces
    }

    func checkManifest() async throws(End) {
        for piece in pieces {
            var work = Work()
            try await reading {
                if await problem(of: piece) != nil { await confirm(piece) }
            }
            work.bytes = piece.byteCount
            try await pause(after: work)
        }
    }

    /// Nothing keeps a piece from being replaced while it is read, and its blocks from being used
    /// for something else. So what seems to be damaged is read again while nobody can do that.
    private func confirm(_ piece: Piece) async {
        await vos.manifestLock.withLock {
            guard pieces.contains(piece), let problem = await problem(of: piece) else { return }
            let what = piece.part == .blockMap ? "a page of the block map" : "the manifest"
            let start = piece.extents.first?.start
            if let start, problem == Scrubber.mismatch { vos.store.noteDamage(at: start) }
            add(piece.part, "\(what) \(problem)", start)
        }
    }

    private static let mismatch = "does not match its checksum"

    private func problem(of piece: Piece) async -> String? {
        let size = VOS.blockCount(piece.byteCount) * BlockDevice.blockSize
        guard size > 0 else { return nil }
        let buffer = IOBuffer(count: size)
        do throws(BIOError) {
            try unsafe await vos.store.read(into: buffer.bytes, from: piece.extents)
        } catch {
            return "cannot be read: \(StoreInspector.words(error))"
        }
        let bytes = unsafe UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<piece.byteCount])
        let isIntact = unsafe CRC32C.checksum(of: bytes) == piece.checksum
        return isIntact ? nil : Scrubber.mismatch
    }
}
