public import DrayRuntime

/// Making and opening partitions.
extension BlockStore {
    /// How much of the beginning and of the end of a place must be zero for it to count as empty.
    private static let inspectedBytes: UInt64 = 1 << 20

    /// A part of another device, for the log and the blocks with metadata.
    public struct MetadataPartition {
        /// The device, which whoever opened it closes after the store.
        public var device: BlockDevice
        /// A range of bytes of it.
        public var partition: Range<UInt64>

        public init(device: BlockDevice, partition: Range<UInt64>) {
            self.device = device
            self.partition = partition
        }
    }

    /// Prepares `partition` (a range of bytes of the device) as an empty store; with `metadata`,
    /// one whose log and metadata are there.
    ///
    /// `logSize` is at least `logSizeMin`; bounds and sizes are multiples of the block size. The
    /// log is written with zeroes, so that appends find mapped extents. Throws `.foreign`, and
    /// changes nothing, when the first or last MiB holds anything but zeroes, unless `overwrite`
    /// says so. `salt` is any random number: it tells the log, and a pair of devices, from those of
    /// another format.
    public static func format(
        _ device: BlockDevice, partition: Range<UInt64>, identity: StoreIdentity, logSize: UInt64,
        salt: UInt64 = 0, overwrite: Bool = false, metadata: MetadataPartition? = nil
    ) async throws(BIOError) {
        let unit = UInt64(BlockDevice.blockSize)
        try checkBounds(partition, of: device)
        if let metadata { try checkBounds(metadata.partition, of: metadata.device) }
        guard logSize >= logSizeMin, logSize % unit == 0 else {
            throw .outOfRange("a log of \(logSize) bytes; expected blocks, at least \(logSizeMin)")
        }
        let superblocks = try layOut(
            partition, identity: identity, logBlocks: logSize / unit, salt: salt,
            metadata: metadata)
        let (main, label) = (superblocks.main, superblocks.label)
        let log = metadata?.device ?? device
        if !overwrite { try await requireEmpty(device, partition, metadata: metadata) }
        // The superblocks go first and come last: a format that is cut short leaves no store.
        if let label {
            try await zero(device, label.partition.lowerBound..<label.blocksOffset)
            try await device.flush()
        }
        try await zero(log, main.partition.lowerBound..<main.logOffset)
        try await log.flush()
        try await zero(log, main.logOffset..<main.blocksOffset)
        try await log.flush()
        try await writeSuperblocks(main, to: log)
        if let label { try await writeSuperblocks(label, to: device) }
    }

    /// The superblock that changes and, of a store on two devices, the one of the data device.
    private static func layOut(
        _ partition: Range<UInt64>, identity: StoreIdentity, logBlocks: UInt64, salt: UInt64,
        metadata: MetadataPartition?
    ) throws(BIOError) -> (main: Superblock, label: Superblock?) {
        let unit = UInt64(BlockDevice.blockSize)
        let place = metadata?.partition ?? partition
        let dataHead = Superblock.copies + (metadata == nil ? logBlocks : 0)
        let blocks = (partition.upperBound - partition.lowerBound) / unit
        let logPlaceBlocks = (place.upperBound - place.lowerBound) / unit
        let logHead = Superblock.copies + logBlocks
        guard blocks > dataHead, logPlaceBlocks > logHead else {
            let small = blocks > dataHead ? logPlaceBlocks : blocks
            throw .outOfRange(
                "a partition of \(small * unit) bytes has no room for data after a log of "
                    + "\(logBlocks * unit)")
        }
        // Both are numbered together, in 32 bits.
        let dataBlocks = UInt32(clamping: blocks - dataHead)
        var main = Superblock(
            identity: identity, partition: place, logBlocks: logBlocks, dataBlocks: dataBlocks,
            generation: salt ^ identity.engineID.low &* 31, tail: LogCursor())
        guard metadata != nil else { return (main, nil) }
        let pairID = UniqueID(
            high: salt ^ identity.engineID.high,
            low: identity.engineID.low ^ identity.clusterID.low &* 31 ^ UInt64(identity.target))
        let metadataBlocks = UInt32(
            clamping: min(logPlaceBlocks - logHead, UInt64(UInt32.max - dataBlocks)))
        main.role = .metadata
        main.partner = Partner(
            partition: partition, pairID: pairID, metadataBlocks: metadataBlocks)
        var label = main
        label.role = .data
        label.partition = partition
        label.partner?.partition = place
        return (main, label)
    }

    /// Opens the store in `partition` on the calling xstream, verifies its log, and repairs a
    /// damaged copy of the superblock. With an `identity`, throws `.mismatch` when the store
    /// belongs to another. Throws `.foreign` when there is no store, `.corrupt` when it is
    /// damaged; a torn end of the log is no damage.
    ///
    /// A store that was formatted with a metadata device is opened with it: throws `.mismatch` when
    /// it is missing, or is that of another store.
    ///
    /// Then read the checkpoint, mark its blocks in `allocator`, and `replay`. (The blocks of the
    /// checkpoint's root itself are marked already.)
    public static func open(
        _ device: BlockDevice, partition: Range<UInt64>, identity: StoreIdentity?,
        metadata: MetadataPartition? = nil, discard: DiscardPolicy = .automatic,
        on xstream: XStream
    ) async throws(BIOError) -> BlockStore {
        xstream.checkIsolated()
        try checkBounds(partition, of: device)
        if let metadata { try checkBounds(metadata.partition, of: metadata.device) }
        let first = try await checkedSuperblock(device, partition, identity)
        let superblock = try await mainSuperblock(first, device, metadata, identity)
        let places = StorePlaces(
            data: device, metadata: metadata?.device, superblock: superblock)
        var scan = LogScan(places: places, superblock: superblock, xstream: xstream)
        try await scan.run()
        if let checkpoint = superblock.checkpoint, scan.head.sequence <= checkpoint.logSequence {
            throw .corrupt(
                path: places.log.name, offset: superblock.logOffset,
                what: "the log ends before the checkpoint's record \(checkpoint.logSequence)")
        }
        let store = BlockStore(
            places: places, superblock: superblock, scan: scan, discard: discard,
            xstream: xstream)
        for extent in (superblock.checkpoint?.copies ?? []).joined() {
            try store.allocator.markUsed(extent)
        }
        return store
    }

    /// What the superblocks on a device say, which follow each other from its beginning. Ends at a
    /// partition that has none which is intact. Changes nothing.
    ///
    /// Throws what `open` throws when that is the first one.
    public static func labels(on device: BlockDevice) async throws(BIOError) -> [StoreLabel] {
        var labels: [StoreLabel] = []
        var offset: UInt64 = 0
        while offset < device.size, labels.count < DeviceContent.storesMax {
            do throws(BIOError) {
                let (superblock, stale) = try await readSuperblocks(device, offset..<device.size)
                guard superblock.partition.lowerBound == offset else {
                    throw .mismatch(
                        path: device.name, expected: "a partition that begins at byte \(offset)",
                        found: "one of \(superblock.partition)")
                }
                labels.append(StoreLabel(superblock, isIntact: stale.isEmpty))
                offset = superblock.partition.upperBound
            } catch {
                guard !labels.isEmpty else { throw error }
                break
            }
        }
        return labels
    }

    /// Returns a device to service that was declared faulty: takes the marks from the superblocks
    /// of all its stores, of which none may be open. Returns how many had one.
    public static func reinstate(_ device: BlockDevice) async throws(BIOError) -> Int {
        var count = 0
        for label in try await labels(on: device) where label.isFaulty {
            try await setFaulty(false, device, label.partition)
            count += 1
        }
        return count
    }

    /// Has the superblocks of a partition say whether the device was declared faulty.
    static func setFaulty(
        _ isFaulty: Bool, _ device: BlockDevice, _ partition: Range<UInt64>
    ) async throws(BIOError) {
        var superblock = try await readSuperblocks(device, partition).newest
        superblock.isFaulty = isFaulty
        superblock.sequence += 1
        try await replaceSuperblocks(with: superblock, on: device)
    }

    /// Writes both copies, that which is damaged or older first: the other may be the only one that
    /// is intact, and a crash may tear a write. When none can be read, there is none to spare.
    static func replaceSuperblocks(
        with superblock: Superblock, on device: BlockDevice
    ) async throws(BIOError) {
        let stale = (try? await readSuperblocks(device, superblock.partition))?.stale ?? []
        let current = (0..<Superblock.copies).filter { !stale.contains($0) }
        try await writeSuperblocks(superblock, to: device, copies: stale + current)
    }

    /// The superblock of a partition, which must be that partition's, and of `identity`. Rewrites
    /// the copy that is damaged or older, if there is one.
    private static func checkedSuperblock(
        _ device: BlockDevice, _ partition: Range<UInt64>, _ identity: StoreIdentity?
    ) async throws(BIOError) -> Superblock {
        let (superblock, stale) = try await readSuperblocks(device, partition)
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
        try await writeSuperblocks(superblock, to: device, copies: stale)
        return superblock
    }

    /// The superblock that changes, of a store whose data device has `first`.
    private static func mainSuperblock(
        _ first: Superblock, _ device: BlockDevice, _ metadata: MetadataPartition?,
        _ identity: StoreIdentity?
    ) async throws(BIOError) -> Superblock {
        switch (first.role, metadata) {
        case (.single, nil): return first
        case (.single, let metadata?):
            throw .mismatch(
                path: device.name, expected: "a store with a metadata device",
                found: "one that needs none, without anything on \(metadata.device.name)")
        case (.metadata, _):
            throw .mismatch(
                path: device.name, expected: "the data device of a store",
                found: "the metadata device of one")
        case (.data, nil):
            throw .mismatch(
                path: device.name,
                expected: "its metadata device as well (pair \(pairName(first)))",
                found: "no metadata device")
        case (.data, let metadata?):
            let main = try await checkedSuperblock(metadata.device, metadata.partition, identity)
            guard main.role == .metadata else {
                throw .mismatch(
                    path: metadata.device.name, expected: "a metadata device",
                    found: main.role == .data ? "a data device" : "a store of its own")
            }
            guard main.identity == first.identity, main.partner?.pairID == first.partner?.pairID,
                main.partner?.partition == first.partition,
                first.partner?.partition == main.partition,
                main.dataBlocks == first.dataBlocks, main.metadataBlocks == first.metadataBlocks
            else {
                throw .mismatch(
                    path: metadata.device.name,
                    expected: "the metadata device of \(device.name) (pair \(pairName(first)))",
                    found: "that of another data device (pair \(pairName(main)))")
            }
            return main
        }
    }

    private static func pairName(_ superblock: Superblock) -> String {
        superblock.partner.map { "\($0.pairID)" } ?? "none"
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

    /// Throws `.foreign` where `format` would, unless told to overwrite.
    public static func requireEmpty(
        _ device: BlockDevice, _ partition: Range<UInt64>, metadata: MetadataPartition? = nil
    ) async throws(BIOError) {
        if let metadata { try await requireEmpty(metadata.device, metadata.partition) }
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

    /// The newer of the two copies, and which of them are not like it: damaged or older.
    private static func readSuperblocks(
        _ device: BlockDevice, _ partition: Range<UInt64>
    ) async throws(BIOError) -> (newest: Superblock, stale: [UInt64]) {
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
                    path: device.name,
                    expected: "layout version \(Superblock.layoutVersion) or "
                        + "\(Superblock.pairedLayoutVersion)",
                    found: "version \(version)")
            }
        }
        if let newest = copies.map(\.superblock).max(by: { $0.sequence < $1.sequence }) {
            let current = copies.filter { $0.superblock == newest }.map(\.index)
            return (newest, (0..<Superblock.copies).filter { !current.contains($0) })
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
