public import DrayRuntime

/// Making and opening partitions.
extension BlockStore {
    /// How much of the beginning and of the end of a place must be zero for it to count as empty.
    private static let inspectedBytes: UInt64 = 1 << 20

    /// Prepares `partition` (a range of bytes of the device) as an empty store.
    ///
    /// `logSize` is at least `logSizeMin`; bounds and sizes are multiples of the block size. The
    /// log is written with zeroes, so that appends find mapped extents. Throws `.foreign`, and
    /// changes nothing, when the first or last MiB holds anything but zeroes, unless `overwrite`
    /// says so. `salt` is any random number: it tells the log from that of another format.
    public static func format(
        _ device: BlockDevice, partition: Range<UInt64>, identity: StoreIdentity, logSize: UInt64,
        salt: UInt64 = 0, overwrite: Bool = false
    ) async throws(BIOError) {
        let unit = UInt64(BlockDevice.blockSize)
        try checkBounds(partition, of: device)
        guard logSize >= logSizeMin, logSize % unit == 0 else {
            throw .outOfRange("a log of \(logSize) bytes; expected blocks, at least \(logSizeMin)")
        }
        let blocks = (partition.upperBound - partition.lowerBound) / unit
        let logBlocks = logSize / unit
        guard blocks > Superblock.copies, blocks - Superblock.copies > logBlocks else {
            throw .outOfRange(
                "a partition of \(blocks * unit) bytes has no room for data after a log of "
                    + "\(logSize)")
        }
        let dataBlocks = UInt32(clamping: blocks - Superblock.copies - logBlocks)
        if !overwrite { try await requireEmpty(device, partition) }
        let superblock = Superblock(
            identity: identity, partition: partition, logBlocks: logBlocks,
            dataBlocks: dataBlocks, generation: salt ^ identity.engineID.low &* 31,
            tail: LogCursor())
        // The superblocks go first and come last: a format that is cut short leaves no store.
        try await zero(device, partition.lowerBound..<superblock.logOffset)
        try await device.flush()
        try await zero(device, superblock.logOffset..<superblock.dataOffset)
        try await device.flush()
        try await writeSuperblocks(superblock, to: device)
    }

    /// Opens the store in `partition` on the calling xstream, verifies its log, and repairs a
    /// damaged copy of the superblock. With an `identity`, throws `.mismatch` when the store
    /// belongs to another. Throws `.foreign` when there is no store, `.corrupt` when it is
    /// damaged; a torn end of the log is no damage.
    ///
    /// Then read the checkpoint, mark its blocks in `allocator`, and `replay`. (The blocks of the
    /// checkpoint's root itself are marked already.)
    public static func open(
        _ device: BlockDevice, partition: Range<UInt64>, identity: StoreIdentity?,
        on xstream: XStream
    ) async throws(BIOError) -> BlockStore {
        xstream.checkIsolated()
        try checkBounds(partition, of: device)
        let superblock = try await readSuperblocks(device, partition)
        guard superblock.partition == partition else {
            throw .mismatch(
                path: device.name, expected: "a partition of bytes \(partition)",
                found: "one of \(superblock.partition)")
        }
        if let identity, identity != superblock.identity {
            throw .mismatch(
                path: device.name, expected: identity.description,
                found: superblock.identity.description)
        }
        var scan = LogScan(device: device, superblock: superblock)
        try await scan.run()
        if let checkpoint = superblock.checkpoint, scan.head.sequence <= checkpoint.logSequence {
            throw .corrupt(
                path: device.name, offset: superblock.logOffset,
                what: "the log ends before the checkpoint's record \(checkpoint.logSequence)")
        }
        let store = BlockStore(
            device: device, superblock: superblock, scan: scan, xstream: xstream)
        for extent in superblock.checkpoint?.extents ?? [] {
            try store.allocator.markUsed(extent)
        }
        return store
    }

    /// Writes the copies (both, unless told otherwise), one after the other, durably.
    static func writeSuperblocks(
        _ superblock: Superblock, to device: BlockDevice, copies: [UInt64] = [0, 1]
    ) async throws(BIOError) {
        let block = IOBuffer(count: BlockDevice.blockSize)
        superblock.encode(into: block)
        for copy in copies {
            // SAFETY: the buffer lives until the write has ended.
            try unsafe await device.write(
                UnsafeRawBufferPointer(block.bytes),
                at: superblock.partition.lowerBound + copy * UInt64(BlockDevice.blockSize),
                durable: true)
        }
    }

    private static func checkBounds(
        _ partition: Range<UInt64>, of device: BlockDevice
    ) throws(BIOError) {
        let unit = UInt64(BlockDevice.blockSize)
        guard partition.lowerBound % unit == 0, partition.upperBound % unit == 0,
            partition.upperBound <= device.size, !partition.isEmpty
        else {
            throw .outOfRange(
                "a partition of bytes \(partition) on \(device.name) of \(device.size); expected "
                    + "multiples of \(unit)")
        }
    }

    private static func requireEmpty(
        _ device: BlockDevice, _ partition: Range<UInt64>
    ) async throws(BIOError) {
        let size = partition.upperBound - partition.lowerBound
        let length = min(size, inspectedBytes)
        let buffer = IOBuffer(count: Int(length))
        for offset in [partition.lowerBound, partition.upperBound - length] {
            try unsafe await device.read(into: buffer.bytes, at: offset)
            if buffer.isZero(0..<buffer.count) { continue }
            var found = "data in the bytes from \(offset) on"
            if case .valid(let superblock) = Superblock.decode(buffer) {
                found = "a store of \(superblock.identity)"
            }
            throw .foreign(path: device.name, found: found)
        }
    }

    private static func zero(_ device: BlockDevice, _ range: Range<UInt64>) async throws(BIOError) {
        let buffer = IOBuffer(count: Int(min(inspectedBytes, range.upperBound - range.lowerBound)))
        var offset = range.lowerBound
        while offset < range.upperBound {
            let length = Int(min(UInt64(buffer.count), range.upperBound - offset))
            try unsafe await device.write(buffer.readable(0..<length), at: offset, durable: false)
            offset += UInt64(length)
        }
    }

    /// The newer of the two copies; rewrites the other one when it is damaged or older.
    private static func readSuperblocks(
        _ device: BlockDevice, _ partition: Range<UInt64>
    ) async throws(BIOError) -> Superblock {
        let block = IOBuffer(count: BlockDevice.blockSize)
        var copies: [(index: UInt64, superblock: Superblock)] = []
        var damage: [String] = []
        var foreign = false
        var zeroes = 0
        for copy in 0..<Superblock.copies {
            let offset = partition.lowerBound + copy * UInt64(BlockDevice.blockSize)
            guard offset < partition.upperBound else { break }
            do throws(BIOError) {
                try unsafe await device.read(into: block.bytes, at: offset)
            } catch .failed(_, _, _, let message) {
                damage.append(message)
                continue
            }
            switch Superblock.decode(block) {
            case .valid(let superblock): copies.append((copy, superblock))
            case .zero: zeroes += 1
            case .damaged(let what): damage.append(what)
            case .foreign: foreign = true
            case .version(let version):
                throw .mismatch(
                    path: device.name, expected: "layout version \(Superblock.layoutVersion)",
                    found: "version \(version)")
            }
        }
        if let newest = copies.map(\.superblock).max(by: { $0.sequence < $1.sequence }) {
            let current = copies.filter { $0.superblock == newest }.map(\.index)
            let stale = (0..<Superblock.copies).filter { !current.contains($0) }
            try await writeSuperblocks(newest, to: device, copies: stale)
            return newest
        }
        if let what = damage.first {
            throw .corrupt(
                path: device.name, offset: partition.lowerBound,
                what: "both superblocks are damaged (\(what))")
        }
        throw .foreign(
            path: device.name, found: foreign ? "data that is no store" : "no store (all zeroes)")
    }
}
