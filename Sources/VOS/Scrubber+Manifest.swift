internal import BIO
internal import DrayRuntime

/// The manifest with its chunks, and the block map.
extension Scrubber {
    /// What the store has of this now.
    private var pieces: [ManifestPiece] {
        (vos.store.checkpoint.map { [ManifestPiece($0)] } ?? []) + vos.manifest.pieces
    }

    func checkManifest() async throws(End) {
        for piece in pieces {
            for copy in piece.copies.indices {
                var work = Work()
                try await reading {
                    if await problem(of: piece, copy) != nil { await confirm(piece, copy) }
                }
                work.bytes = piece.byteCount
                try await pause(after: work)
            }
        }
    }

    /// Nothing keeps a piece from being replaced while it is read, and its blocks from being used
    /// for something else. So what seems to be damaged is read again while nobody can do that, and
    /// written again from another copy that is not.
    private func confirm(_ piece: ManifestPiece, _ copy: Int) async {
        await vos.manifestLock.withLock {
            guard pieces.contains(piece), let problem = await problem(of: piece, copy) else {
                return
            }
            let start = piece.copies[copy].first?.start
            if let start, problem == Scrubber.mismatch { vos.store.noteDamage(at: start) }
            let end = await mend(piece, copy) ? "; it was written again from the other" : ""
            add(piece.part, "copy \(copy) of \(piece.name) \(problem)\(end)", start)
        }
    }

    private static let mismatch = "does not match its checksum"

    private func problem(of piece: ManifestPiece, _ copy: Int) async -> String? {
        do throws(VOSError) {
            _ = try await piece.read(copy: copy, from: vos.store)
            return nil
        } catch {
            guard case .device(let error) = error else { return Scrubber.mismatch }
            return "cannot be read: \(StoreInspector.words(error))"
        }
    }

    /// False when no copy is intact, or the device refuses.
    private func mend(_ piece: ManifestPiece, _ copy: Int) async -> Bool {
        for other in piece.copies.indices where other != copy {
            do throws(VOSError) {
                let buffer = try await piece.read(copy: other, from: vos.store)
                try await piece.mend(copy: copy, with: buffer, in: vos.store)
                return true
            } catch {
                continue
            }
        }
        return false
    }
}
