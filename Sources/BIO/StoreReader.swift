package import DrayRuntime

/// Reads a closed store, and changes nothing: it does not repair a superblock, write a seal, or
/// take the log's word for a record that is torn. For tools; an engine uses `BlockStore`.
///
/// Goes on after damage, which is gathered in `damage`.
package final class StoreReader {
    /// Something that is not as it should be, and where.
    package struct Damage: Hashable, Sendable {
        package enum Part: Hashable, Sendable { case superblock, log }

        package var part: Part
        package var device: String
        package var offset: UInt64
        package var what: String
    }

    /// The log after the checkpoint.
    package struct Log: Hashable, Sendable {
        /// In bytes.
        package var size: UInt64 = 0
        package var used: UInt64 = 0
        package var groups = 0
        /// Those that the checkpoint does not include; the groups may begin with others.
        package var records: UInt64 = 0
        /// The number of the next record.
        package var next: UInt64 = 0
        /// Nothing after the last group says that it was durable: the store was neither closed nor
        /// idle.
        package var isUnsealed = false
        /// A group at the end was never durable; the next opening drops it.
        package var isTorn = false
    }

    package private(set) var damage: [Damage] = []
    /// What is remarkable, but no damage.
    package private(set) var notes: [String] = []
    package private(set) var log = Log()

    private let superblock: Superblock
    private let places: StorePlaces
    private var scan: LogScan

    private init(_ superblock: Superblock, _ places: StorePlaces, on xstream: XStream) {
        self.superblock = superblock
        self.places = places
        scan = LogScan(places: places, superblock: superblock, xstream: xstream)
    }

    /// Reads the superblocks and the log, on the calling xstream. Throws `.corrupt` or `.foreign`
    /// when there is no intact superblock, `.mismatch` when the devices do not belong together.
    package static func open(
        _ device: BlockDevice, partition: Range<UInt64>,
        metadata: BlockStore.MetadataPartition? = nil, on xstream: XStream
    ) async throws(BIOError) -> StoreReader {
        let first = try await Copies.read(device, partition)
        var all = [first]
        var main = first.newest
        switch (main.role, metadata) {
        case (.single, nil): break
        case (.data, let metadata?):
            let second = try await Copies.read(metadata.device, metadata.partition)
            guard second.newest.role == .metadata,
                second.newest.partner?.pairID == main.partner?.pairID
            else {
                throw .mismatch(
                    path: metadata.device.name, expected: "the metadata device of \(device.name)",
                    found: "another store")
            }
            all.append(second)
            main = second.newest
        case (.data, nil):
            throw .mismatch(
                path: device.name, expected: "its metadata device as well",
                found: "no metadata device")
        case (.metadata, _):
            throw .mismatch(
                path: device.name, expected: "the data device of a store",
                found: "the metadata device of one")
        case (.single, _?):
            throw .mismatch(
                path: device.name, expected: "a store with a metadata device",
                found: "one that needs none")
        }
        let reader = StoreReader(
            main, StorePlaces(data: device, metadata: metadata?.device, superblock: main),
            on: xstream)
        for copies in all {
            reader.damage += copies.damage
            reader.notes += copies.notes
        }
        await reader.scanLog()
        return reader
    }

    private func scanLog() async {
        let unit = UInt64(BlockDevice.blockSize)
        do throws(BIOError) {
            try await scan.run()
            if let checkpoint = superblock.checkpoint,
                scan.head.sequence <= checkpoint.logSequence
            {
                throw .corrupt(
                    path: places.log.name, offset: superblock.logOffset,
                    what: "the log ends before the checkpoint's record \(checkpoint.logSequence)")
            }
        } catch {
            note(error)
        }
        log.size = superblock.logBlocks * unit
        log.used = (scan.head.position - superblock.tail.position) * unit
        log.groups = scan.groups.count
        log.next = scan.head.sequence
        let included = superblock.checkpoint?.logSequence ?? 0
        let first = max(superblock.tail.sequence, included + 1)
        log.records = scan.head.sequence - min(first, scan.head.sequence)
        log.isUnsealed = scan.lastIsUnsealed
        log.isTorn = scan.headIsStale
    }

    /// Damage of the log, in the words of an error.
    private func note(_ error: BIOError) {
        let (offset, what) =
            switch error {
            case .corrupt(_, let offset, let what): (offset, what)
            case .failed(_, let offset, _, let message): (offset, message)
            default: (superblock.logOffset, "\(error)")
            }
        damage.append(
            Damage(part: .log, device: places.log.name, offset: offset, what: what))
    }

    /// Calls `body` with each record of the log that the checkpoint does not include.
    package func forEachRecord(_ body: (UInt64, RawSpan) -> Void) async {
        do throws(BIOError) {
            try await scan.replay(after: superblock.checkpoint?.logSequence ?? 0) {
                (sequence, bytes) throws(BIOError) in body(sequence, bytes)
            }
        } catch {
            note(error)
        }
    }

    // MARK: - What it is

    package var identity: StoreIdentity { superblock.identity }
    package var partition: Range<UInt64> { superblock.partition }
    /// How often the superblock was written.
    package var sequence: UInt64 { superblock.sequence }
    package var checkpoint: CheckpointRoot? { superblock.checkpoint }
    /// The number of blocks, those on a metadata device included.
    package var totalBlocks: UInt32 { superblock.totalBlocks }

    /// Whether there are such blocks.
    package func holds(_ extent: BlockExtent) -> Bool { superblock.holds(extent) }

    /// Where a block lies: the device, and the offset on it in bytes.
    package func place(of block: UInt32) -> (device: String, offset: UInt64) {
        let (device, offset) = places.place(of: BlockExtent(start: block, count: 1))
        return (device.name, offset)
    }

    /// Reads into `buffer`, whole blocks, from block number `firstBlock` of the blocks that
    /// `extents` name in order. Throws `.outOfRange` when there are no such blocks.
    package func read(
        into buffer: UnsafeMutableRawBufferPointer, from extents: [BlockExtent], firstBlock: Int = 0
    ) async throws(BIOError) {
        let unit = BlockDevice.blockSize
        var skip = firstBlock
        var done = 0
        for extent in extents where done < buffer.count {
            guard superblock.holds(extent) else {
                throw .outOfRange("blocks \(extent.start)..<\(extent.end)")
            }
            guard skip < Int(extent.count) else {
                skip -= Int(extent.count)
                continue
            }
            let (device, offset) = places.place(of: extent)
            let length = min(buffer.count - done, (Int(extent.count) - skip) * unit)
            // SAFETY: the caller keeps the buffer until this returns.
            try unsafe await device.read(
                into: UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + length]),
                at: offset + UInt64(skip * unit))
            skip = 0
            done += length
        }
        guard done == buffer.count else {
            throw .outOfRange("a read beyond the end of its extents")
        }
    }

    /// The superblocks of one partition.
    private struct Copies {
        var newest: Superblock
        var damage: [Damage] = []
        var notes: [String] = []

        static func read(
            _ device: BlockDevice, _ partition: Range<UInt64>
        ) async throws(BIOError) -> Copies {
            let block = IOBuffer(count: BlockDevice.blockSize)
            var found: [Superblock] = []
            var damage: [Damage] = []
            for copy in 0..<Superblock.copies {
                let offset = partition.lowerBound + copy * UInt64(BlockDevice.blockSize)
                var what: String
                do throws(BIOError) {
                    try unsafe await device.read(into: block.bytes, at: offset)
                    switch Superblock.decode(block) {
                    case .valid(let superblock) where superblock.partition == partition:
                        found.append(superblock)
                        continue
                    case .valid(let superblock):
                        what = "it is that of the partition \(superblock.partition)"
                    case .zero: what = "it is all zero"
                    case .damaged(let problem): what = problem
                    case .version(let version): what = "layout version \(version)"
                    case .foreign: what = "it does not begin as one"
                    }
                } catch .failed(_, _, _, let message) {
                    what = message
                }
                damage.append(
                    Damage(
                        part: .superblock, device: device.name, offset: offset,
                        what: "copy \(copy) of the superblock is damaged: \(what)"))
            }
            guard let newest = found.max(by: { $0.sequence < $1.sequence }) else {
                throw .corrupt(
                    path: device.name, offset: partition.lowerBound,
                    what: "there is no intact superblock (\(damage.map(\.what)))")
            }
            var copies = Copies(newest: newest, damage: damage)
            if let older = found.first(where: { $0 != newest }) {
                if older.sequence < newest.sequence {
                    copies.notes.append(
                        "one superblock on \(device.name) is older (\(older.sequence), not "
                            + "\(newest.sequence)): the store was not closed")
                } else {
                    copies.damage.append(
                        Damage(
                            part: .superblock, device: device.name,
                            offset: partition.lowerBound,
                            what: "the copies of the superblock contradict each other"))
                }
            }
            return copies
        }
    }
}
