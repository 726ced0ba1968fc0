internal import DequeModule
public import DrayRuntime
internal import Glibc

/// One target's partition of a device: superblocks, a write-ahead log, and data blocks.
///
/// A store may have a metadata device beside its data device, a faster one: then the log is there,
/// and blocks for metadata (`BlockStream.metadata`), which are numbered after the others.
///
/// An update writes its data to reserved blocks, then appends a log record; when `append` returns,
/// both are durable. Appends that arrive while a flush is under way share the next one (group
/// commit). A checkpoint of the layer above frees the log up to where it was taken.
///
/// After an error of the device on a write or flush, nothing can be known about what is on it: the
/// store goes out of service, and stays so until it is opened again. Stores whose devices share a
/// `DeviceHealth` go together, also when too much of a device cannot be read any more. Confined to
/// its xstream.
public final class BlockStore {
    /// The most bytes of one group, and so the most of one record, in blocks.
    static let groupBlocksMax: UInt64 = 256
    /// A log to which nothing was appended for so long is sealed.
    static let sealDelay = Duration.milliseconds(10)
    /// The smallest log: 64 KiB.
    public static let logSizeMin: UInt64 = 16 * UInt64(BlockDevice.blockSize)
    /// Log blocks that appends leave for the seals of an idle log, of `close` and of `replay`.
    static let logBlocksKept: UInt64 = 4

    /// The device with the data blocks. Whoever opened it closes it, after the store.
    public var device: BlockDevice { places.data }
    /// The device with the log and blocks for metadata, if it is another. Closed likewise.
    public var metadataDevice: BlockDevice? { places.metadata }
    /// Faults to inject into its reads and writes.
    public var faults: FaultTable?
    /// Which data blocks are in use.
    public let allocator: BlockAllocator
    /// Memory for transfers.
    package let buffers: TransferBuffers

    let xstream: XStream
    let places: StorePlaces
    @safe @exclusivity(unchecked) var superblock: Superblock
    @safe @exclusivity(unchecked) var scan: LogScan?
    @safe @exclusivity(unchecked) var live: Deque<LiveGroup> = []
    @safe @exclusivity(unchecked) var head: LogCursor
    @safe @exclusivity(unchecked) var pending: Deque<PendingRecord> = []
    /// Groups that are durable and not yet visible.
    @safe @exclusivity(unchecked) var durable: [PendingGroup] = []
    /// Bytes that the pending records and their checks take in groups.
    @safe @exclusivity(unchecked) var pendingBytes = 0
    @safe @exclusivity(unchecked) var committing = false
    @safe @exclusivity(unchecked) var publishing = false
    /// Superblocks that are being marked, and those that were.
    @safe @exclusivity(unchecked) private var marks: [Gather<Void>] = []
    @safe @exclusivity(unchecked) var lastIsUnsealed = false
    /// Looks whether the log is idle; nil when it is sealed, or somebody commits.
    @safe @exclusivity(unchecked) var sealTimer: Timer?
    @safe @exclusivity(unchecked) var commitWaiters: [Waiter<Void>] = []
    @safe @exclusivity(unchecked) var failure: BIOError?
    @safe @exclusivity(unchecked) var phase = Phase.opened
    /// The last record whose `apply` ran.
    @safe @exclusivity(unchecked) public internal(set) var appliedSequence: UInt64
    let groupBuffer: IOBuffer
    /// Calls of `write` that have not returned.
    @safe @exclusivity(unchecked) public private(set) var writesUnderWay = 0
    private let gatherer: WriteGatherer
    private let preparer: BlockPreparer
    private let discarder: BlockDiscarder

    enum Phase { case opened, ready, closed }

    struct PendingRecord {
        let record: [UInt8]
        let checks: [BlockCheck]
        /// What writes the blocks that `checks` name, durably, if that may go on meanwhile.
        let writing: Gather<BIOError?>?
        let apply: (UInt64) -> Void
        /// Nil when nobody waits.
        let waiter: Waiter<BIOError?>?

        var byteCount: Int {
            GroupHeader.recordPrefix + record.count + checks.count * GroupHeader.checkBytes
        }
    }

    /// Records that become durable together.
    struct PendingGroup {
        private(set) var entries: [PendingRecord] = []
        private(set) var checks: [BlockCheck] = []

        mutating func add(_ entry: PendingRecord) {
            entries.append(entry)
            checks += entry.checks
        }

        /// Whether blocks that `isThere` were written and need a flush.
        func hasVolatile(where isThere: (BlockExtent) -> Bool) -> Bool {
            entries.contains { entry in
                entry.writing == nil && entry.checks.contains { isThere($0.extent) }
            }
        }
    }

    init(
        places: StorePlaces, superblock: Superblock, scan: LogScan, discard: DiscardPolicy,
        xstream: XStream
    ) {
        self.places = places
        self.superblock = superblock
        self.scan = scan
        self.xstream = xstream
        head = scan.head
        live = Deque(scan.groups)
        allocator = BlockAllocator(
            totalBlocks: superblock.totalBlocks, metadataBlocks: superblock.metadataBlocks)
        appliedSequence =
            superblock.checkpoint?.logSequence ?? superblock.tail.sequence - 1
        groupBuffer = IOBuffer(
            count: Int(BlockStore.groupBlocks(logBlocks: superblock.logBlocks))
                * BlockDevice.blockSize)
        places.log.register(groupBuffer)
        buffers = TransferBuffers { places.register($0) }
        gatherer = WriteGatherer(
            device: places.data, dataOffset: superblock.dataOffset, xstream: xstream)
        preparer = BlockPreparer(
            device: places.data, allocator: allocator, dataOffset: superblock.dataOffset,
            xstream: xstream)
        discarder = BlockDiscarder(
            places: places, allocator: allocator, policy: discard, xstream: xstream)
    }

    /// The most blocks of one group in a log of `logBlocks`.
    static func groupBlocks(logBlocks: UInt64) -> UInt64 {
        min(groupBlocksMax, logBlocks / 4)
    }

    // MARK: - What it is

    /// Whose data this is.
    public var identity: StoreIdentity { superblock.identity }

    /// The last checkpoint that was published. Its blocks are marked in use by `open`.
    public var checkpoint: CheckpointRoot? { superblock.checkpoint }

    /// The size of the log in bytes.
    public var logSize: UInt64 { superblock.logBlocks * UInt64(BlockDevice.blockSize) }

    /// Bytes of the log that hold groups after the checkpoint, or are about to.
    public var logUsed: UInt64 {
        (head.position - superblock.tail.position + pendingBlocksMax(adding: 0))
            * UInt64(BlockDevice.blockSize)
    }

    /// Groups written to the log since it was formatted, seals included.
    public var groupCount: UInt64 { head.number }

    /// The most bytes that a record and its checks (16 bytes each) may have together.
    public var recordBytesMax: Int {
        groupBuffer.count - GroupHeader.byteCount - GroupHeader.recordPrefix
    }

    /// Whether no record is on its way, so that one that is appended now waits for nobody.
    public var isLogQuiet: Bool { !committing && pending.isEmpty }

    /// Whether an error took the store out of service.
    public var isOutOfService: Bool { failure != nil || failedDevice != nil }

    /// The device that an error of another store took out of service.
    private var failedDevice: BlockDevice? {
        if device.health?.isOutOfService == true { return device }
        if let metadataDevice, metadataDevice.health?.isOutOfService == true {
            return metadataDevice
        }
        return nil
    }

    /// What is said while it is out of service.
    var outOfService: BIOError { .outOfService(path: (failedDevice ?? device).name) }

    func checkService() throws(BIOError) {
        xstream.checkIsolated()
        precondition(phase != .closed, "a closed store was used")
        if isOutOfService { throw outOfService }
    }

    func fail(_ error: BIOError) {
        if failure == nil { failure = error }
        switch error {
        case .failed(let path, _, _, _), .unusable(let path, _, _):
            if path == device.name { device.health?.fail(error) }
            if let metadataDevice, path == metadataDevice.name {
                metadataDevice.health?.fail(error)
            }
        default: break
        }
    }

    /// An injected fault.
    private func pass(_ point: FaultPoint, at offset: UInt64) async throws(BIOError) {
        switch faults?.strike(point) {
        case nil: break
        case .wait(let delay): await xstream.sleep(for: delay)
        case .fail(let fault):
            let code =
                switch fault {
                case .timedOut: ETIMEDOUT
                case .noSpace: ENOSPC
                case .lost, .tryAgain, .unreachable, .overloaded, .noReply, .staleGroup,
                    .groupVersion, .badKey, .noMemory, .busy, .staleMap, .aborted, .inputOutput:
                    EIO
                }
            throw .failed(
                path: device.name, offset: offset, code: code,
                message: BIOError.message(code) + " (injected)")
        }
    }

    // MARK: - Data blocks

    /// Makes transfers between data blocks and `buffer` cheaper (`BlockDevice.register`), as long
    /// as there is room for it: for memory that is used again and again, as that of a pool.
    public func register(_ buffer: IOBuffer) {
        if phase != .closed { _ = places.register(buffer) }
    }

    /// Writes `buffer`, a whole number of blocks from a page-aligned address, to `extents` in
    /// order; it must fill them exactly. Unless `durable`, that is not on stable storage until a
    /// record that names them was appended. Small writes that come together become one where their
    /// blocks are neighbours.
    public func write(
        _ buffer: UnsafeRawBufferPointer, to extents: [BlockExtent], durable: Bool = false
    ) async throws(BIOError) {
        try checkService()
        writesUnderWay += 1
        defer { writesUnderWay -= 1 }
        let total = extents.reduce(0) { $0 + $1.byteCount }
        precondition(total == UInt64(buffer.count), "the buffer does not fill its extents")
        var done = 0
        for extent in extents {
            let (device, offset) = try place(of: extent)
            let length = Int(extent.byteCount)
            do throws(BIOError) {
                // SAFETY: the caller keeps the buffer until this returns.
                let part = unsafe UnsafeRawBufferPointer(rebasing: buffer[done..<done + length])
                if faults?.isArmed == true { try await pass(.bioWrite, at: offset) }
                if !durable, length <= WriteGatherer.pieceBytesMax, device === places.data {
                    preparer.advance()
                    try unsafe await gatherer.write(part, to: extent.start)
                } else {
                    try unsafe await device.write(part, at: offset, durable: durable)
                }
            } catch {
                fail(error)
                throw error
            }
            done += length
        }
    }

    /// Reads into `buffer`, a whole number of blocks at a page-aligned address, from block number
    /// `firstBlock` of the blocks that `extents` name in order.
    public func read(
        into buffer: UnsafeMutableRawBufferPointer, from extents: [BlockExtent], firstBlock: Int = 0
    ) async throws(BIOError) {
        xstream.checkIsolated()
        precondition(phase != .closed, "a closed store was used")
        let unit = BlockDevice.blockSize
        precondition(buffer.count % unit == 0 && firstBlock >= 0, "reads are of whole blocks")
        var skip = firstBlock
        var done = 0
        for extent in extents where done < buffer.count {
            let (device, offset) = try place(of: extent)
            guard skip < Int(extent.count) else {
                skip -= Int(extent.count)
                continue
            }
            let length = min(buffer.count - done, (Int(extent.count) - skip) * unit)
            let start = offset + UInt64(skip * unit)
            do throws(BIOError) {
                if faults?.isArmed == true { try await pass(.bioRead, at: start) }
                // SAFETY: the caller keeps the buffer until this returns.
                try unsafe await device.read(
                    into: UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + length]),
                    at: start)
            } catch {
                noteUnreadable(device, start..<start + UInt64(length), error)
                throw error
            }
            skip = 0
            done += length
        }
        guard done == buffer.count else {
            throw .outOfRange("a read of \(buffer.count) bytes beyond the end of its extents")
        }
    }

    /// Tells the device's health where it could not be read.
    private func noteUnreadable(_ device: BlockDevice, _ range: Range<UInt64>, _ error: BIOError) {
        guard case .failed = error, let health = device.health else { return }
        let noted = health.addUnreadable(range, path: device.name)
        if noted != .known { device.statistics.unreadablePlaces += 1 }
        if noted == .tooMany { markFaulty(device) }
    }

    /// Tells the health of the device that has a block that what is there does not match its
    /// checksum. Too many such places take the device out of service.
    public func noteDamage(at block: UInt32) {
        let extent = BlockExtent(start: block, count: 1)
        guard superblock.holds(extent) else { return }
        let (device, offset) = places.place(of: extent)
        guard let health = device.health else { return }
        let noted = health.addDamaged(offset..<offset + extent.byteCount, path: device.name)
        if noted != .known { device.statistics.damagedPlaces += 1 }
        if noted == .tooMany { markFaulty(device) }
    }

    /// Has the superblocks of this store on a device say that it was declared faulty: whoever
    /// starts the next process shall know. They are written no more otherwise, once a checkpoint
    /// that is being published has ended. If that fails, only the device's count of failed writes
    /// says it.
    private func markFaulty(_ device: BlockDevice) {
        let partition = places.partition(on: device, superblock)
        let mark = Gather<Void>(count: 1)
        marks.append(mark)
        xstream.spawn { [self] in
            while publishing { await xstream.sleep(for: .milliseconds(1)) }
            try? await BlockStore.setFaulty(true, device, partition)
            mark.finish(0, with: ())
        }
    }

    private func place(
        of extent: BlockExtent
    ) throws(BIOError) -> (device: BlockDevice, offset: UInt64) {
        guard superblock.holds(extent) else {
            throw .outOfRange(
                "blocks \(extent.start)..<\(extent.end) of \(superblock.totalBlocks)")
        }
        return places.place(of: extent)
    }

    /// The name of the device that has a block, and the byte where that begins there; nil when the
    /// store has no such block.
    public func location(of block: UInt32) -> (device: String, offset: UInt64)? {
        let extent = BlockExtent(start: block, count: 1)
        guard superblock.holds(extent) else { return nil }
        let (device, offset) = places.place(of: extent)
        return (device.name, offset)
    }

    /// Makes all blocks durable that were written before, on both devices.
    public func flush() async throws(BIOError) {
        try checkService()
        do throws(BIOError) {
            try await flushDevices()
        } catch {
            fail(error)
            throw error
        }
    }

    func flushDevices() async throws(BIOError) {
        try await places.data.flush()
        if let metadata = places.metadata { try await metadata.flush() }
    }

    /// Has freed blocks discarded that nobody has taken again. Cheap.
    func discardFreed() {
        if phase == .ready, !isOutOfService { discarder.advance() }
    }

    /// When freed blocks are worth a discard.
    package var discardLimits: DiscardLimits {
        get { discarder.limits }
        set { discarder.limits = newValue }
    }

    /// Whether free blocks may be taken for a moment, to be discarded.
    package var isDiscarding: Bool { discarder.isRunning }

    /// Ends the use of the store as a kill would, but for what is under way: for tests.
    func abandon() async {
        await waitForCommits()
        cancelSeal()
        await preparer.stop()
        await discarder.stop()
        for mark in marks { _ = await mark.results() }
        phase = .closed
    }

    /// Waits for the appends under way and seals the log, so that the last records need no
    /// checking at the next open. The device stays open.
    public func close() async {
        precondition(phase != .closed, "a store was closed twice")
        await waitForCommits()
        cancelSeal()
        await preparer.stop()
        await discarder.stop()
        for mark in marks { _ = await mark.results() }
        let wasReady = phase == .ready
        phase = .closed
        if wasReady, !isOutOfService, lastIsUnsealed {
            do throws(BIOError) { try await writeSeal() } catch { fail(error) }
        }
    }
}
