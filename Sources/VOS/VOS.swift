public import BIO
internal import DequeModule
public import DrayRuntime
internal import Logging

/// The versioned object store of one target: objects of one or more pools, their distribution and
/// attribute keys, and the versions of their values, on a `BlockStore`.
///
/// An update is one record of the log; it becomes visible when that is durable. Every value is
/// kept at its epoch until a newer one, or a punch, has been there for the retention time and
/// aggregation has dropped it. The index is a log-structured merge tree: what was logged lately is
/// in memory, the rest in tables on the device; its memory is bounded by `VOSOptions.indexBytes`.
///
/// Confined to its xstream. Updates of different keys run in parallel.
@safe public final class VOS {
    let store: BlockStore
    let world: World
    let faults: FaultTable
    let xstream: XStream
    let options: VOSOptions
    let log: Logger

    /// What was logged since the last flush began.
    @safe @exclusivity(unchecked) var active = Memtable()
    /// What is being flushed, or could not be.
    @safe @exclusivity(unchecked) var frozen: FrozenMemtable?
    /// Memtables that were flushed, and are not freed yet.
    var retired: [Memtable] = []
    /// The tables.
    @safe @exclusivity(unchecked) var version = IndexVersion()
    /// What stands on the device: without what `version`, `tableUsages` and `blockMap` tell.
    @safe @exclusivity(unchecked) var manifest = Manifest()
    /// What the tables hold.
    @safe @exclusivity(unchecked) var tableUsages = UsageTable()
    @safe @exclusivity(unchecked) var blockMap: BlockMap
    @safe @exclusivity(unchecked) var nextTable: UInt64 = 1
    let blockCache: BlockCache
    @safe @exclusivity(unchecked) var snapshots = SnapshotTable()
    /// What is garbage and may still be in the index, oldest first.
    @safe @exclusivity(unchecked) var destroyed: [DestroyedRange] = []
    /// The last of these when the background last looked.
    @safe @exclusivity(unchecked) var destroyedMark: DestroyedRange?
    /// Held while a manifest is written, and while tables are merged.
    let manifestLock = AsyncLock()
    let mergeLock = AsyncLock()
    @safe @exclusivity(unchecked) var isMerging = false
    /// Blocks of aborted transactions, and the log records of the aborts. A merge's manifest still
    /// has what the last flush knew, so these are free only with the next flush.
    @safe @exclusivity(unchecked) var abortedBlocks: [AbortedBlocks] = []
    /// When merging, aggregating and flushing are tried again by themselves after they have failed.
    @safe @exclusivity(unchecked) var mergeRetry = RetryPause()
    @safe @exclusivity(unchecked) var aggregationRetry = RetryPause()
    @safe @exclusivity(unchecked) var flushRetry = RetryPause()
    /// Whether tables are merged as they come. Not so only for measuring what that costs.
    @safe @exclusivity(unchecked) package var mergesTables = true
    /// How many extents parts have taken the place of since the store was opened. For tests.
    @safe @exclusivity(unchecked) package internal(set) var extentsCut = 0
    /// What was put into memtables weighs so much.
    @safe @exclusivity(unchecked) var weightApplied: UInt64 = 0
    /// The same when aggregation last dealt with everything, and what it was then.
    @safe @exclusivity(unchecked) var aggregatedWeight: UInt64 = 0
    @safe @exclusivity(unchecked) var aggregated: AggregationState?
    /// The newest epoch when the background last aggregated.
    @safe @exclusivity(unchecked) var aggregationMark: UInt64 = 0
    /// Until then somebody wants space.
    @safe @exclusivity(unchecked) var pressedUntil: Instant?
    /// How much was written up to which epochs, oldest first, while the background aggregates a
    /// small index.
    @safe @exclusivity(unchecked) var writtenUntil: [(epoch: UInt64, weight: UInt64)] = []

    let transactions: TransactionTable
    let locks: KeyLocks
    @safe @exclusivity(unchecked) var stamps = KeyStamps()
    let scrub = ScrubState()
    @safe @exclusivity(unchecked) var cache: ValueCache
    @safe @exclusivity(unchecked) var records: RecordCache

    /// Transactions that are being applied.
    @safe @exclusivity(unchecked) var inProgress: Set<UniqueID> = []
    /// Distributed transactions under way, or undecided.
    @safe @exclusivity(unchecked) var dtxs: [UniqueID: DTX] = [:]
    /// Committed ones that others may not know of yet.
    @safe @exclusivity(unchecked) var completions: [UniqueID: Completion] = [:]
    /// Decisions that go into the log with whatever goes there next.
    @safe @exclusivity(unchecked) var outcomes: [DTXOutcome] = []
    /// Log records of decisions that are not durable yet.
    @safe @exclusivity(unchecked) var outcomesUnderWay = 0
    /// Bytes of the records of what is prepared.
    @safe @exclusivity(unchecked) var preparedBytes = 0
    @safe @exclusivity(unchecked) var blockedHandler: ((DTX) -> Void)?
    /// Called with transactions whose commit has come to stable storage.
    @safe @exclusivity(unchecked) public var onCommitsDurable: (([UniqueID]) -> Void)?
    /// The epochs of updates under way: aggregation stays below them.
    @safe @exclusivity(unchecked) var epochsInFlight = ContiguousArray<UInt64>()
    /// Snapshots that are being taken, and epochs that are being discarded: each holds an epoch
    /// meanwhile.
    var epochsHeld = 0
    /// Versions that nobody can see from this epoch on may be gone. Updates must be above it.
    @safe @exclusivity(unchecked) public internal(set) var aggregatedEpoch: UInt64 = 0
    /// The last record that was applied.
    @safe @exclusivity(unchecked) var lastSequence: UInt64 = 0
    @safe @exclusivity(unchecked) var checkpointWaiters: [CheckpointWaiter] = []
    @safe @exclusivity(unchecked) var isCheckpointing = false

    /// Operations under way, for `close`.
    @safe @exclusivity(unchecked) var operations = 0
    @safe @exclusivity(unchecked) var isClosed = false
    @safe @exclusivity(unchecked) var isAggregating = false
    var closeWaiter: UnsafeContinuation<Void, Never>?

    init(store: BlockStore, world: World, on xstream: XStream, options: VOSOptions) {
        self.store = store
        self.world = world
        faults = world.faults
        self.xstream = xstream
        self.options = options
        log = world.log.logger(.vos)
        locks = KeyLocks(xstream: xstream)
        cache = ValueCache(bytesMax: options.cacheBytes)
        records = RecordCache(bytesMax: max(8 << 10, options.indexBytes / 16))
        blockCache = BlockCache(bytesMax: max(128 << 10, options.indexBytes / 2))
        blockMap = BlockMap(totalBlocks: store.allocator.totalBlocks)
        transactions = TransactionTable(
            countMax: options.transactionsMax, age: options.transactionAge)
    }

    /// Opens what `store` holds: loads its checkpoint and applies the log after it.
    ///
    /// The store belongs to the result, which closes it. Throws `.damaged` when what is stored
    /// contradicts itself. Costs a microsecond or two for every entry of the log, of which there
    /// are no more than `VOSOptions.replayTimeMax` allows.
    public static func open(
        store: BlockStore, world: World, on xstream: XStream, options: VOSOptions = VOSOptions()
    ) async throws(VOSError) -> VOS {
        precondition(xstream.isCurrent, "open a store on its own xstream")
        precondition(
            (0...VOSLimits.inlineThresholdMax).contains(options.inlineThreshold),
            "the inline threshold is out of range")
        let vos = VOS(store: store, world: world, on: xstream, options: options)
        try await vos.recover()
        return vos
    }

    /// Waits for what is under way, and closes the store. Nothing may be started any more.
    public func close() async {
        guard !isClosed else { return }
        isClosed = true
        if operations > 0 {
            unsafe await withUnsafeContinuation { unsafe closeWaiter = $0 }
        }
        await store.close()
    }

    /// Marks the beginning of an operation that `close` waits for.
    func begin() throws(VOSError) {
        guard !isClosed else { throw .closed }
        operations += 1
    }

    /// Marks its end.
    func end() {
        operations -= 1
        if operations == 0, let waiter = unsafe closeWaiter {
            unsafe closeWaiter = nil
            unsafe waiter.resume()
        }
    }

    /// The epoch of a transaction that was applied and is still remembered.
    public func transactionOutcome(_ transaction: UniqueID) -> UInt64? {
        transactions.outcome(transaction)
    }

    /// Transactions of epochs up to this one may have been forgotten.
    public var transactionHorizon: UInt64 { transactions.horizon }

    /// The newest epoch of the transactions that are remembered or prepared, and of the snapshots.
    /// After a restart the clock must be ahead of it.
    public var newestEpoch: UInt64 {
        let decided = max(transactions.newest, snapshots.newest)
        return dtxs.values.reduce(decided) { max($0, $1.epoch) }
    }

    /// What a pool holds here.
    public func usage(pool: UniqueID) -> VOSUsage {
        var sum = tableUsages.usage(pool: pool)
        sum.add(active.usages.usage(pool: pool))
        if let frozen { sum.add(frozen.memtable.usages.usage(pool: pool)) }
        return sum
    }

    /// What a container holds here.
    public func usage(pool: UniqueID, container: UniqueID) -> VOSUsage {
        let name = ContainerName(pool: pool, container: container)
        var sum = tableUsages.usage(of: name)
        sum.add(active.usages.usage(of: name))
        if let frozen { sum.add(frozen.memtable.usages.usage(of: name)) }
        return sum
    }

    private var containerNames: Set<ContainerName> {
        var names = Set(tableUsages.names)
        names.formUnion(active.usages.names)
        if let frozen { names.formUnion(frozen.memtable.usages.names) }
        return names
    }

    /// The pools that have anything here, in order.
    public var pools: [UniqueID] { Set(containerNames.map(\.pool)).sorted() }

    /// The containers of a pool that have anything here, in order.
    public func containers(pool: UniqueID) -> [UniqueID] {
        containerNames.filter { $0.pool == pool }.map(\.container).sorted()
    }

    /// The size of the device's data area, and how much of it is free, in bytes.
    public var space: (total: UInt64, free: UInt64) {
        let unit = UInt64(BlockDevice.blockSize)
        let aborted = abortedBlocks.flatMap(\.blocks).reduce(0) { $0 + UInt64($1.count) }
        return (
            UInt64(store.allocator.totalBlocks) * unit,
            (UInt64(store.allocator.freeBlocks) + aborted) * unit
        )
    }

    /// The index as it is now.
    func makeView() -> ReadView {
        ReadView(
            active: active, frozen: frozen?.memtable, version: version,
            limit: (lastSequence + 1) * VOSLimits.stampsPerRecord,
            destroyed: DestroyedRanges(destroyed, on: xstream))
    }

    /// How much a memtable may take before it is flushed.
    var memtableBytesMax: Int { options.memtableBytes ?? max(64 << 10, options.indexBytes / 4) }

    /// How large a table is.
    var tableBytesMax: Int {
        let share = Int(store.allocator.totalBlocks) * BlockDevice.blockSize / 128
        return options.tableBytes ?? min(16 << 20, max(256 << 10, share))
    }

    /// How many checksums a value has.
    static func chunkCount(_ byteCount: Int) -> Int {
        (byteCount + VOSLimits.checksumChunk - 1) / VOSLimits.checksumChunk
    }

    /// How many blocks a value takes.
    static func blockCount(_ byteCount: Int) -> Int {
        (byteCount + BlockDevice.blockSize - 1) / BlockDevice.blockSize
    }

    /// Lets everything else on the xstream have its turn: jobs, timers and poll sources.
    func giveWay() async {
        await xstream.sleep(until: xstream.now)
    }

    static func error(_ error: BIOError) -> VOSError {
        if case .full(let requested, let free) = error {
            return .noSpace(requested: requested, free: free)
        }
        return .device(error)
    }
}
