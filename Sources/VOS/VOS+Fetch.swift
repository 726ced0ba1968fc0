internal import BIO
internal import DrayChecksums
internal import DrayRuntime
internal import Logging

extension VOS {
    /// Reads a single value into `buffer`, verified against its checksums.
    ///
    /// When the value is longer than the buffer, nothing is read and `byteCount` is 0; `size` tells
    /// how much room it needs. Page-aligned buffers with room for whole blocks are filled by the
    /// device; others by a copy. What lies behind the value in the buffer, up to the end of the
    /// block, may be overwritten.
    ///
    /// Throws `.notFound`, `.corrupt`, `.epochTooOld`, `.undecided`, `.conflict`, `.device`,
    /// `.keyTooLong`, `.closed`.
    public func fetchSingle(
        _ fetch: Fetch, into buffer: UnsafeMutableRawBufferPointer
    ) async throws(VOSError) -> FetchResult {
        guard let result = try unsafe await findSingle(fetch, into: buffer) else {
            throw .notFound
        }
        return result
    }

    /// The same, but nil when there is no such value: `.notFound` says that the condition of the
    /// fetch does not hold.
    public func findSingle(
        _ fetch: Fetch, into buffer: UnsafeMutableRawBufferPointer
    ) async throws(VOSError) -> FetchResult? {
        let path = try path(of: fetch)
        if let known = try unsafe fetchKnown(path, 0..<0, fetch, into: buffer) { return known }
        try begin()
        defer { end() }
        try await settle(path, fetch)
        // Kept to the end, and with it the blocks of what it has.
        let view = makeView()
        defer { withExtendedLifetime(view) {} }
        let changes = records.changes
        let found = try await visibleSingle(path, epoch: fetch.epoch, view)
        guard let record = found.record else {
            try await checkCondition(of: fetch, path, view)
            return nil
        }
        let count = Int(record.byteCount)
        var result = FetchResult(
            size: UInt64(count), byteCount: 0, checksums: [], epoch: record.epoch)
        guard count <= buffer.count else { return result }
        let piece = ReadPiece(
            record: record, first: 0, count: count, position: 0, room: buffer.count - count)
        let wasInMemory = try unsafe await readWhole(piece, into: buffer, fetch: fetch)
        if wasInMemory, found.isNewest { remember(path, 0..<0, record, changes) }
        result.byteCount = count
        result.checksums =
            record.checksumType == fetch.checksumType
            ? record.checksums()
            : unsafe VOS.checksums(
                of: UnsafeRawBufferPointer(rebasing: buffer[0..<count]), fetch.checksumType)
        return result
    }

    /// Reads bytes `offset ..< offset + length` of an array into `buffer`, verified against their
    /// checksums. Holes, and what lies behind the end, read as zeros. An array that is not there
    /// has the size 0; that is no error unless the fetch has a condition. What lies behind `length`
    /// in the buffer, up to the end of the block, may be overwritten: room there saves a copy.
    ///
    /// Without `findingEnd`, which costs a search, the result's `size` is 0.
    ///
    /// `length` may be 0, to learn the size, and is at most `VOSLimits.fetchLengthMax`. Throws
    /// `.notFound` for a condition that does not hold, `.recordSizeMismatch`, `.corrupt`,
    /// `.epochTooOld`, `.undecided`, `.conflict`, `.device`, `.keyTooLong`, `.badArgument`,
    /// `.closed`.
    public func fetchArray(
        _ fetch: Fetch, offset: UInt64, length: Int, into buffer: UnsafeMutableRawBufferPointer,
        findingEnd: Bool = true
    ) async throws(VOSError) -> FetchResult {
        let path = try path(of: fetch)
        guard length >= 0, length <= VOSLimits.fetchLengthMax, length <= buffer.count,
            offset <= UInt64.max - UInt64(length)
        else {
            throw .badArgument(
                "\(length) bytes at \(offset) into a buffer of \(buffer.count)")
        }
        let range = offset..<offset + UInt64(length)
        if !findingEnd, length > 0,
            let known = try unsafe fetchKnown(path, range, fetch, into: buffer)
        {
            return known
        }
        try begin()
        defer { end() }
        try await settle(path, fetch)
        // Kept to the end, and with it the blocks of what it has.
        let view = makeView()
        defer { withExtendedLifetime(view) {} }
        var result = FetchResult(size: 0, byteCount: length, checksums: [], epoch: 0)
        if findingEnd || length == 0 {
            let shape = try await visibleShape(path, epoch: fetch.epoch, view)
            if findingEnd { result.size = shape.end }
            result.recordSize = shape.recordSize
        }
        guard length > 0 else {
            try await check(fetch, path, result.recordSize, view)
            return result
        }
        let changes = records.changes
        let (segments, isNewest) = try await visibleSegments(
            path, range: range, epoch: fetch.epoch, view)
        if let first = segments.first {
            result.recordSize = first.record.recordSize
        } else if !findingEnd, fetch.recordSize > 1 || mayHaveRecords(fetch.containerName) {
            result.recordSize = try await recordSize(of: path, at: fetch.epoch, view) ?? 0
        }
        try await check(fetch, path, result.recordSize, view)
        // The usual case: one record has all of it.
        if let first = segments.first, first.start == range.lowerBound,
            first.end == range.upperBound
        {
            let whole = first.record
            let piece = ReadPiece(first, of: range, room: buffer.count - length)
            let wasInMemory = try unsafe await readWhole(piece, into: buffer, fetch: fetch)
            if wasInMemory, isNewest { remember(path, range, whole, changes) }
            result.epoch = whole.epoch
            let filled = unsafe UnsafeRawBufferPointer(rebasing: buffer[0..<length])
            result.checksums = unsafe VOS.resultChecksums(piece, filled, fetch.checksumType)
            return result
        }
        try unsafe await read(segments, of: range, into: buffer, fetch: fetch, &result)
        return result
    }

    /// What is in memory and known to be all that a fetch sees, while nobody changes it: without
    /// waiting, and so without what that takes. Nil when it is not so; then nothing was done.
    private func fetchKnown(
        _ path: NamePath, _ range: Range<UInt64>, _ fetch: Fetch,
        into buffer: UnsafeMutableRawBufferPointer
    ) throws(VOSError) -> FetchResult? {
        guard !isClosed, !fetch.readsDevice, locks.isSettled(path),
            let record = records.record(path, range, at: fetch.epoch)
        else { return nil }
        let isSingle = record.kind == .single
        let count = isSingle ? Int(record.byteCount) : range.count
        guard count <= buffer.count else { return nil }
        try VOS.check(fetch, isSingle ? 0 : record.recordSize)
        let piece = ReadPiece(
            record: record, first: isSingle ? 0 : Int(range.lowerBound - record.offset),
            count: count, position: 0, room: buffer.count - count)
        let isVerified = piece.hasChecksums(fetch.checksumType)
        guard
            try unsafe copyFromMemory(piece, into: buffer, fetch: fetch, isVerified: isVerified)
        else { return nil }
        noteRead(path, fetch)
        try checkRead(path, fetch)
        let filled = unsafe UnsafeRawBufferPointer(rebasing: buffer[0..<count])
        return FetchResult(
            size: isSingle ? UInt64(count) : 0, byteCount: count,
            checksums: unsafe VOS.resultChecksums(piece, filled, fetch.checksumType),
            epoch: record.epoch, recordSize: isSingle ? 0 : record.recordSize)
    }

    /// Reads the visible parts of an array; what lies between them is zeros.
    private func read(
        _ segments: [VisibleSegment], of range: Range<UInt64>,
        into buffer: UnsafeMutableRawBufferPointer, fetch: Fetch, _ result: inout FetchResult
    ) async throws(VOSError) {
        let (offset, length) = (range.lowerBound, range.count)
        var pieces: [ReadPiece] = []
        pieces.reserveCapacity(segments.count)
        var covered = offset
        for segment in segments {
            unsafe VOS.zero(buffer, from: covered, to: segment.start, base: offset)
            covered = segment.end
            result.epoch = max(result.epoch, segment.record.epoch)
            let room = segment.end == range.upperBound ? buffer.count - length : 0
            pieces.append(ReadPiece(segment, of: range, room: room))
        }
        unsafe VOS.zero(buffer, from: covered, to: range.upperBound, base: offset)
        try unsafe await read(pieces, into: buffer, fetch: fetch)
        let filled = unsafe UnsafeRawBufferPointer(rebasing: buffer[0..<length])
        result.checksums = unsafe VOS.checksums(of: filled, fetch.checksumType)
    }

    /// `record` is all that is visible, and the newest, as a search that began after so many
    /// `changes` has found.
    private func remember(
        _ path: NamePath, _ range: Range<UInt64>, _ record: IndexRecord, _ changes: UInt64
    ) {
        // What is destroyed goes, though nothing hides it.
        guard !destroyed.contains(where: { $0.contains(path.bytes) }) else { return }
        records.insert(path, range, record, changes: changes)
    }

    /// The end of an array: one past its last byte; 0 when it is not there.
    public func arrayEnd(_ fetch: Fetch) async throws(VOSError) -> UInt64 {
        try await arrayShape(fetch).end
    }

    /// The end and the record size of an array.
    public func arrayShape(_ fetch: Fetch) async throws(VOSError) -> ArrayShape {
        let path = try path(of: fetch)
        try begin()
        defer { end() }
        try await settle(path, fetch)
        let view = makeView()
        let shape = try await visibleShape(path, epoch: fetch.epoch, view)
        try await check(fetch, path, shape.recordSize, view)
        return shape
    }

    /// Throws when a fetch is about another record size than an array has, or its condition does
    /// not hold. `stored` is 0 when nothing of the array was found.
    private func check(
        _ fetch: Fetch, _ path: NamePath, _ stored: UInt32, _ view: ReadView
    ) async throws(VOSError) {
        try VOS.check(fetch, stored)
        if stored == 0 { try await checkCondition(of: fetch, path, view) }
    }

    /// Throws when the condition of a fetch does not hold that has found nothing: what it finds
    /// exists.
    private func checkCondition(
        of fetch: Fetch, _ path: NamePath, _ view: ReadView
    ) async throws(VOSError) {
        let prefix: IndexKey.Bytes
        switch fetch.condition {
        case .none: return
        case .dkeyExists: prefix = IndexKey.Bytes(path.bytes[0..<path.dkeyEnd])
        case .akeyExists: prefix = path.bytes
        }
        guard try await hasVisibleValue(prefix, isName: true, epoch: fetch.epoch, view) else {
            throw .notFound
        }
    }

    /// Throws when a fetch is about another record size than an array has.
    private static func check(_ fetch: Fetch, _ stored: UInt32) throws(VOSError) {
        guard fetch.recordSize > 0, stored > 0, stored != fetch.recordSize else { return }
        throw .recordSizeMismatch(stored: stored, given: fetch.recordSize)
    }

    /// Lets the updates that are under way become visible: what was not seen at an epoch must not
    /// appear there later.
    func settle(_ path: NamePath, _ fetch: Fetch) async throws(VOSError) {
        noteRead(path, fetch)
        guard await locks.waitForUpdates(of: path, until: fetch.patience) else { throw .undecided }
        // Aggregation may have gone on meanwhile.
        try checkEpoch(fetch.epoch, in: fetch.containerName)
        try checkRead(path, fetch)
    }

    private func noteRead(_ path: NamePath, _ fetch: Fetch) {
        guard fetch.isolation != .none else { return }
        noteRead(
            KeyLocks.object(path.bytes), KeyLocks.dkey(path.bytes, length: path.dkeyEnd),
            at: fetch.epoch, fetch.isolation)
    }

    private func checkRead(_ path: NamePath, _ fetch: Fetch) throws(VOSError) {
        guard fetch.isolation == .serializable else { return }
        try checkRead(
            KeyLocks.object(path.bytes), KeyLocks.dkey(path.bytes, length: path.dkeyEnd),
            at: fetch.epoch, fetch.isolation)
    }

    func path(of fetch: Fetch) throws(VOSError) -> NamePath {
        try checkEpoch(fetch.epoch, in: fetch.containerName)
        try checkKey(fetch.dkey)
        try checkKey(fetch.akey)
        return NamePath(fetch)
    }

    /// What was visible before the aggregated epoch may be gone, unless a snapshot of the container
    /// holds it.
    func checkEpoch(_ epoch: UInt64, in name: ContainerName? = nil) throws(VOSError) {
        guard
            epoch >= aggregatedEpoch
                || name.map({ snapshots.epochs(of: $0).contains(epoch) }) ?? false
        else {
            throw .epochTooOld(epoch: epoch, oldest: aggregatedEpoch)
        }
    }

    private static func zero(
        _ buffer: UnsafeMutableRawBufferPointer, from: UInt64, to: UInt64, base: UInt64
    ) {
        guard from < to else { return }
        unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[Int(from - base)..<Int(to - base)])
            .initializeMemory(as: UInt8.self, repeating: 0)
    }

    /// The checksums of what was read of one value. Where they are the stored ones they cover the
    /// way through this process too.
    private static func resultChecksums(
        _ piece: ReadPiece, _ bytes: UnsafeRawBufferPointer, _ type: ChecksumType
    ) -> [UInt32] {
        guard piece.hasChecksums(type) else { return unsafe checksums(of: bytes, type) }
        return piece.record.checksums(from: piece.first / VOSLimits.checksumChunk)
    }
}

/// Bytes of one stored value, and where in the caller's buffer they belong.
struct ReadPiece {
    let record: IndexRecord
    /// The first byte within the value.
    let first: Int
    let count: Int
    /// The first byte within the buffer.
    let position: Int
    /// How many bytes of the buffer behind the piece may be overwritten.
    let room: Int

    var end: Int { first + count }
}

extension ReadPiece {
    /// Whether stored checksums of this type cover it, and nothing else.
    fileprivate func hasChecksums(_ type: ChecksumType) -> Bool {
        record.checksumType == type && first % VOSLimits.checksumChunk == 0
            && end == Int(record.byteCount)
    }

    /// The bytes of the value that checksums must cover which cover all of the piece.
    fileprivate var chunks: Range<Int> {
        let chunk = VOSLimits.checksumChunk
        return first / chunk * chunk..<min((end + chunk - 1) / chunk * chunk, Int(record.byteCount))
    }

    /// Longer pieces are read in parts: while one is verified, others are on their way.
    fileprivate static let partBytes = 256 << 10

    /// The piece in parts of whole chunks, but for the last, or as it is when it begins within one.
    fileprivate var parts: [ReadPiece] {
        guard count > ReadPiece.partBytes, first % VOSLimits.checksumChunk == 0 else {
            return [self]
        }
        return stride(from: 0, to: count, by: ReadPiece.partBytes).map { start in
            let isLast = count - start <= ReadPiece.partBytes
            return ReadPiece(
                record: record, first: first + start,
                count: isLast ? count - start : ReadPiece.partBytes, position: position + start,
                room: isLast ? room : 0)
        }
    }

    /// What is visible of a value, for a buffer with the bytes of `range`.
    fileprivate init(_ segment: VisibleSegment, of range: Range<UInt64>, room: Int) {
        self.init(
            record: segment.record, first: Int(segment.start - segment.record.offset),
            count: Int(segment.end - segment.start),
            position: Int(segment.start - range.lowerBound), room: room)
    }
}

/// The state that the readers of one fetch share.
@safe private final class ReadGroup {
    var next = 0
    var running = 0
    var failure: VOSError?
    var waiter: UnsafeContinuation<Void, Never>?
}

extension VOS {
    /// The most pieces of one fetch that are read at once.
    static let readersMax = 16

    /// Reads and verifies a piece that is all that is asked for. Returns whether it was in memory.
    fileprivate func readWhole(
        _ piece: ReadPiece, into buffer: UnsafeMutableRawBufferPointer, fetch: Fetch
    ) async throws(VOSError) -> Bool {
        let isVerified = piece.hasChecksums(fetch.checksumType)
        if try unsafe copyFromMemory(piece, into: buffer, fetch: fetch, isVerified: isVerified) {
            return true
        }
        // Most are short, and need no list.
        if piece.count > ReadPiece.partBytes {
            try unsafe await readStored(piece.parts, into: buffer, fetch: fetch)
        } else {
            try unsafe await read(piece, into: buffer, fetch: fetch)
        }
        return false
    }

    /// Copies a piece that stands in the index or the cache; false when it does not.
    /// `isVerified`: whoever gets it gets the stored checksums with it.
    private func copyFromMemory(
        _ piece: ReadPiece, into buffer: UnsafeMutableRawBufferPointer, fetch: Fetch,
        isVerified: Bool
    ) throws(VOSError) -> Bool {
        guard !piece.record.hasBlocks else {
            return unsafe !fetch.readsDevice && copyCached(piece, into: buffer, isVerified)
        }
        try unsafe copyInline(piece, into: buffer, fetch: fetch)
        return true
    }

    /// Reads and verifies all pieces. The caller keeps the view that they come from.
    fileprivate func read(
        _ pieces: [ReadPiece], into buffer: UnsafeMutableRawBufferPointer, fetch: Fetch
    ) async throws(VOSError) {
        var stored: [ReadPiece] = []
        for piece in pieces {
            // What is given with all of them is made of what is copied here.
            if try unsafe !copyFromMemory(
                piece, into: buffer, fetch: fetch, isVerified: false)
            {
                stored += piece.parts
            }
        }
        if !stored.isEmpty { try unsafe await readStored(stored, into: buffer, fetch: fetch) }
    }

    /// Reads and verifies pieces, several at once.
    private func readStored(
        _ pieces: [ReadPiece], into buffer: UnsafeMutableRawBufferPointer, fetch: Fetch
    ) async throws(VOSError) {
        if pieces.count == 1 {
            try unsafe await read(pieces[0], into: buffer, fetch: fetch)
            return
        }
        let group = ReadGroup()
        group.running = min(VOS.readersMax, pieces.count)
        for _ in 0..<group.running {
            xstream.spawn { [self] in
                unsafe await readNext(pieces, group, into: buffer, fetch: fetch)
            }
        }
        unsafe await withUnsafeContinuation { unsafe group.waiter = $0 }
        if let failure = group.failure { throw failure }
    }

    /// One of the readers of a fetch: takes the next piece until there is none.
    private func readNext(
        _ pieces: [ReadPiece], _ group: ReadGroup, into buffer: UnsafeMutableRawBufferPointer,
        fetch: Fetch
    ) async {
        while group.next < pieces.count, group.failure == nil {
            let piece = pieces[group.next]
            group.next += 1
            do throws(VOSError) {
                try unsafe await read(piece, into: buffer, fetch: fetch)
            } catch {
                if group.failure == nil { group.failure = error }
            }
        }
        group.running -= 1
        if group.running == 0 { unsafe group.waiter?.resume() }
    }

    /// Copies a piece that the cache has. What it copies was verified when it was read; if nobody
    /// verifies it again, it is verified here, and what has changed in memory is not used.
    private func copyCached(
        _ piece: ReadPiece, into buffer: UnsafeMutableRawBufferPointer, _ isVerified: Bool
    ) -> Bool {
        var isIntact = true
        let block = piece.record.firstBlocks.start
        let isCached = unsafe cache.withValue(at: block) { bytes in
            guard piece.count > 0 else { return }
            if !isVerified {
                let covered = unsafe UnsafeRawBufferPointer(rebasing: bytes[piece.chunks])
                let chunk = piece.first / VOSLimits.checksumChunk
                isIntact = unsafe piece.record.firstDamagedChunk(covered, from: chunk) == nil
                guard isIntact else { return }
            }
            unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[piece.position...])
                .copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[piece.first..<piece.end]))
        }
        if !isIntact {
            log.error("a value in memory does not match its checksum; it is read from the device")
            cache.remove(block: block)
        }
        return isCached && isIntact
    }

    private func copyInline(
        _ piece: ReadPiece, into buffer: UnsafeMutableRawBufferPointer, fetch: Fetch
    ) throws(VOSError) {
        guard piece.count > 0 else { return }
        let intact = unsafe piece.record.inline.withUnsafeBytes { bytes in
            guard unsafe piece.record.firstDamagedChunk(bytes) == nil else {
                return false
            }
            unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[piece.position...])
                .copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[piece.first..<piece.end]))
            return true
        }
        guard intact else {
            throw corrupt(piece.record, fetch, what: "it does not match its checksum")
        }
    }

    /// Reads a piece from its blocks: whole chunks straight into the buffer where that is possible,
    /// the rest through a buffer of our own, because checksums cover whole chunks.
    private func read(
        _ piece: ReadPiece, into buffer: UnsafeMutableRawBufferPointer, fetch: Fetch
    ) async throws(VOSError) {
        let chunk = VOSLimits.checksumChunk
        let base = unsafe buffer.baseAddress.map { unsafe UnsafeRawPointer($0) + piece.position }
        var first = piece.first
        // A value may end within a chunk and a block; then the block must fit into the buffer.
        let padded = VOS.blockCount(piece.end) * BlockDevice.blockSize
        let isWhole =
            piece.end == Int(piece.record.byteCount) && padded - piece.end <= piece.room
        let direct = isWhole ? padded : piece.end / chunk * chunk
        if unsafe VOS.isAligned(base), first % chunk == 0, direct > first {
            let target = unsafe UnsafeMutableRawBufferPointer(
                rebasing: buffer[piece.position..<piece.position + direct - first])
            try unsafe await readChunks(piece.record, from: first, into: target, fetch: fetch)
            first = min(direct, piece.end)
        }
        while first < piece.end {
            let start = first / chunk * chunk
            let limit = min(Int(piece.record.byteCount), start + (1 << 20))
            let end = min(limit, (piece.end + chunk - 1) / chunk * chunk)
            let size = VOS.blockCount(end - start) * BlockDevice.blockSize
            let bounce = store.buffers.take(size)
            defer { store.buffers.give(bounce) }
            let target = unsafe UnsafeMutableRawBufferPointer(rebasing: bounce.bytes[0..<size])
            try unsafe await readChunks(piece.record, from: start, into: target, fetch: fetch)
            let last = min(end, piece.end)
            unsafe UnsafeMutableRawBufferPointer(
                rebasing: buffer[(piece.position + first - piece.first)...]
            ).copyMemory(
                from: UnsafeRawBufferPointer(rebasing: target[first - start..<last - start]))
            first = last
        }
        guard piece.count == Int(piece.record.byteCount), !fetch.readsDevice else { return }
        unsafe cache.didRead(
            at: piece.record.firstBlocks.start,
            UnsafeRawBufferPointer(rebasing: buffer[piece.position..<piece.position + piece.count]))
    }

    /// Reads chunks of a value from byte `first` on, the first of a chunk, into memory of whole
    /// blocks, and verifies them.
    private func readChunks(
        _ record: IndexRecord, from first: Int, into target: UnsafeMutableRawBufferPointer,
        fetch: Fetch
    ) async throws(VOSError) {
        do throws(BIOError) {
            try unsafe await store.read(
                into: target, from: record.blocks, firstBlock: first / BlockDevice.blockSize)
        } catch {
            throw VOS.error(error)
        }
        let count = min(target.count, Int(record.byteCount) - first)
        let bytes = unsafe UnsafeRawBufferPointer(rebasing: target[0..<count])
        let chunk = first / VOSLimits.checksumChunk
        if let bad = unsafe record.firstDamagedChunk(bytes, from: chunk) {
            unsafe target.initializeMemory(as: UInt8.self, repeating: 0)
            noteDamage(record, chunk: bad)
            throw corrupt(
                record, fetch, chunk: bad, what: "chunk \(bad) does not match its checksum")
        }
    }

    private func corrupt(
        _ record: IndexRecord, _ fetch: Fetch, chunk: Int = 0, what: String
    ) -> VOSError {
        let place = place(of: record, chunk: chunk)
        let location = ValueLocation(
            pool: fetch.pool, container: fetch.container, object: fetch.object, dkey: fetch.dkey,
            akey: fetch.akey, offset: record.offset, byteCount: Int(record.byteCount),
            epoch: record.epoch, device: place.device, deviceOffset: place.offset)
        log.error("\(what): \(location)")
        return .corrupt(location, what: what)
    }
}
