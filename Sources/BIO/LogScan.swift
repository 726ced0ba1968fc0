internal import DrayRuntime

/// Reads a log from its tail on, and finds where it ends.
///
/// The log ends at the first place where the next group of the chain is not intact. A group there
/// that is torn, or whose blocks do not hold what its checks say, was never durable and is dropped.
/// A later group is written only after the flush of the one before succeeded, so an intact group
/// of a later number proves that what is missing was durable: that is `.corrupt`.
struct LogScan {
    private let places: StorePlaces
    private let superblock: Superblock
    private let xstream: XStream
    private let window: IOBuffer
    private var windowStart: UInt64 = 0
    private var windowBlocks: UInt64 = 0

    /// The groups after the tail, in order.
    private(set) var groups: [LiveGroup] = []
    /// Where the next group goes.
    private(set) var head: LogCursor
    /// A dropped group's header stands at the head and must be overwritten before anything else.
    private(set) var headIsStale = false
    /// The last group has records, so nothing on the device says that it was durable.
    private(set) var lastIsUnsealed = false
    /// What the last group expects of blocks.
    private var lastChecks: [BlockCheck] = []

    private var device: BlockDevice { places.log }

    /// Blocks of one read, and the most that are read at once: four groups of the largest.
    private static let pieceBlocks: UInt64 = 64
    private static let windowBlocksMax = 4 * BlockStore.groupBlocksMax

    init(places: StorePlaces, superblock: Superblock, xstream: XStream) {
        self.places = places
        self.superblock = superblock
        self.xstream = xstream
        head = superblock.tail
        window = IOBuffer(
            count: Int(min(superblock.logBlocks, LogScan.windowBlocksMax)) * BlockDevice.blockSize)
    }

    private var end: UInt64 { superblock.tail.position + superblock.logBlocks }

    /// Follows the chain to its end and decides about the last group.
    mutating func run() async throws(BIOError) {
        while let (header, chain) = try await group(at: head) {
            lastChecks = []
            let offset = windowOffset(head.position)
            for index in 0..<Int(header.checkCount) {
                guard let check = header.check(index, in: window, at: offset),
                    superblock.holds(check.extent)
                else { throw corrupt(at: head.position, "a block check of group \(head.number)") }
                lastChecks.append(check)
            }
            let next = head.sequence + UInt64(header.recordCount)
            groups.append(LiveGroup(cursor: head, blocks: header.blocks, nextSequence: next))
            lastIsUnsealed = !header.isSeal
            head = LogCursor(
                position: head.position + header.blocks, number: head.number + 1, chain: chain,
                sequence: next)
        }
        try await refuseLaterGroups()
        if lastIsUnsealed, try await !lastChecksHold() {
            head = groups.removeLast().cursor
            headIsStale = true
            // The group before was durable when the dropped one was begun.
            lastIsUnsealed = false
        }
    }

    /// Calls `apply` with every record of `groups` after `sequence`.
    mutating func replay(
        after sequence: UInt64, _ apply: (UInt64, RawSpan) throws(BIOError) -> Void
    ) async throws(BIOError) {
        for group in groups {
            guard let (header, _) = try await self.group(at: group.cursor) else {
                throw corrupt(
                    at: group.cursor.position, "group \(group.cursor.number) changed while reading")
            }
            let offset = windowOffset(group.cursor.position)
            guard let ranges = header.records(in: window, at: offset) else {
                throw corrupt(at: group.cursor.position, "records of group \(group.cursor.number)")
            }
            var next = group.cursor.sequence
            for range in ranges {
                if next > sequence {
                    // SAFETY: the window lives, and is not refilled, during the call.
                    try unsafe apply(next, window.readable(range).bytes)
                }
                next += 1
            }
        }
    }

    // MARK: - Reading

    private func windowOffset(_ position: UInt64) -> Int {
        Int(position - windowStart) * BlockDevice.blockSize
    }

    /// Makes the window hold `blocks` blocks from `position` on.
    private mutating func fill(_ position: UInt64, blocks: UInt64) async throws(BIOError) {
        if position >= windowStart, position + blocks <= windowStart + windowBlocks { return }
        let unit = UInt64(BlockDevice.blockSize)
        let count = min(UInt64(window.count) / unit, end - position)
        precondition(blocks <= count)
        windowBlocks = 0
        var pieces: [(offset: UInt64, range: Range<Int>)] = []
        var done: UInt64 = 0
        while done < count {
            let place = (position + done) % superblock.logBlocks
            let run = min(count - done, superblock.logBlocks - place, LogScan.pieceBlocks)
            pieces.append(
                (superblock.logOffset + place * unit, Int(done * unit)..<Int((done + run) * unit)))
            done += run
        }
        try await read(pieces)
        windowStart = position
        windowBlocks = count
    }

    /// Reads pieces of the log into ranges of the window, all at once.
    private func read(_ pieces: [(offset: UInt64, range: Range<Int>)]) async throws(BIOError) {
        let gather = Gather<BIOError?>(count: pieces.count)
        let (device, window) = (device, window)
        for (index, piece) in pieces.enumerated() {
            xstream.spawn {
                do throws(BIOError) {
                    // SAFETY: the window lives until all have ended, and the ranges are apart.
                    try unsafe await device.read(
                        into: window.writable(piece.range), at: piece.offset)
                    gather.finish(index, with: nil)
                } catch {
                    gather.finish(index, with: error)
                }
            }
        }
        for case let error? in await gather.results() { throw error }
    }

    /// The group expected at `cursor`, wholly in the window; nil when it is not intact.
    private mutating func group(
        at cursor: LogCursor
    ) async throws(BIOError) -> (GroupHeader, chain: UInt32)? {
        guard cursor.position < end else { return nil }
        try await fill(cursor.position, blocks: 1)
        guard let found = GroupHeader.decode(window, at: windowOffset(cursor.position)) else {
            return nil
        }
        let header = found.0
        guard header.generation == superblock.generation, header.cursor == cursor,
            header.blocks
                <= min(end - cursor.position, UInt64(window.count / BlockDevice.blockSize))
        else { return nil }
        try await fill(cursor.position, blocks: header.blocks)
        let start = windowOffset(cursor.position) + GroupHeader.byteCount
        guard window.checksum(start..<start + Int(header.payloadBytes)) == header.payloadChecksum,
            header.records(in: window, at: windowOffset(cursor.position)) != nil
        else { return nil }
        return found
    }

    // MARK: - The end of the log

    /// Looks behind the head for proof that more was durable than was found.
    private mutating func refuseLaterGroups() async throws(BIOError) {
        var position = head.position
        while position < end {
            try await fill(position, blocks: 1)
            if let (header, _) = GroupHeader.decode(window, at: windowOffset(position)),
                header.generation == superblock.generation
            {
                if header.cursor.number > head.number {
                    throw corrupt(
                        at: head.position,
                        "group \(head.number) is damaged but group \(header.cursor.number) follows")
                }
                if position == head.position, header.cursor.number == head.number {
                    guard header.cursor == head else {
                        throw corrupt(at: position, "group \(head.number) does not follow the last")
                    }
                    headIsStale = true
                }
            }
            position += 1
        }
    }

    /// Whether the blocks of the last group hold what it says.
    private func lastChecksHold() async throws(BIOError) -> Bool {
        guard !lastChecks.isEmpty else { return true }
        let chunk = IOBuffer(count: 256 * BlockDevice.blockSize)
        for check in lastChecks {
            let (device, offset) = places.place(of: check.extent)
            var checksum: UInt32 = 0
            var done = 0
            while done < check.byteCount {
                let length = min(chunk.count, check.byteCount - done)
                let unit = BlockDevice.blockSize
                let blocks = (length + unit - 1) / unit * unit
                try unsafe await device.read(
                    into: chunk.writable(0..<blocks),
                    at: offset + UInt64(done))
                checksum = unsafe CRC32C.checksum(
                    of: chunk.readable(0..<length), continuing: checksum)
                done += length
            }
            if checksum != check.checksum { return false }
        }
        return true
    }

    private func corrupt(at position: UInt64, _ what: String) -> BIOError {
        .corrupt(
            path: device.name,
            offset: superblock.logOffset
                + position % superblock.logBlocks * UInt64(BlockDevice.blockSize),
            what: "log: " + what)
    }
}
