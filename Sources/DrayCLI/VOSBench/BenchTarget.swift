internal import BIO
internal import DrayRuntime
internal import VOS

/// A store on the file of a benchmark, opened as an engine opens that of a target. Confined to its
/// xstream.
final class BenchTarget {
    let file: BenchFile
    let vos: VOS
    let clock: HybridLogicalClock
    /// How long each step of opening took.
    let opening: Opening
    private let device: BlockDevice

    struct Opening: Sendable {
        /// Reading the superblocks and finding the end of the log.
        var log: Duration
        /// What the store reads.
        var store: Duration
    }

    static let identity = StoreIdentity(
        clusterID: UniqueID(high: 0x6472_6179, low: 1), engineID: UniqueID(high: 0, low: 1),
        target: 0)

    private init(
        file: BenchFile, device: BlockDevice, vos: VOS, clock: HybridLogicalClock, opening: Opening
    ) {
        self.file = file
        self.device = device
        self.vos = vos
        self.clock = clock
        self.opening = opening
    }

    /// Makes the file an empty store.
    static func format(
        _ file: BenchFile, logSize: UInt64, world: World, on xstream: XStream
    ) async throws(CommandFailure) {
        var entropy = world.entropy.fork("format \(world.clock.wallNanoseconds)")
        try await onDevice(file.path) { () async throws(BIOError) in
            let device = try world.devices.open(path: file.name, on: xstream)
            do throws(BIOError) {
                try await BlockStore.format(
                    device, partition: file.range, identity: identity, logSize: logSize,
                    salt: entropy.next(), overwrite: true)
            } catch {
                await device.close()
                throw error
            }
            await device.close()
        }
    }

    /// Tells the device of memory that values go to and come from.
    func register(_ buffers: ArraySlice<IOBuffer>) {
        for buffer in buffers { device.register(buffer, sparingly: true) }
    }

    /// Opens the store.
    static func open(
        _ file: BenchFile, _ plan: VOSBenchPlan, world: World, on xstream: XStream
    ) async throws(CommandFailure) -> BenchTarget {
        let start = xstream.now
        let store = try await onDevice(file.path) { () async throws(BIOError) in
            let device = try world.devices.open(path: file.name, on: xstream)
            let store = try await BlockStore.open(
                device, partition: file.range, identity: identity, on: xstream)
            store.faults = world.faults
            return store
        }
        let middle = xstream.now
        var options = VOSOptions()
        options.cacheBytes = plan.cache
        options.indexBytes = plan.indexMemory
        options.retention = plan.retention.nanosecondsClamped
        do throws(VOSError) {
            let vos = try await VOS.open(store: store, world: world, on: xstream, options: options)
            let opening = Opening(log: middle.since(start), store: xstream.now.since(middle))
            let clock = HybridLogicalClock(clock: world.clock)
            clock.advance(past: vos.newestEpoch)
            vos.setStampFloor(clock.now())
            return BenchTarget(
                file: file, device: store.device, vos: vos, clock: clock, opening: opening)
        } catch {
            throw CommandFailure(error, file.path.text)
        }
    }

    /// What the store has asked of the device since it was opened.
    var statistics: DeviceStatistics { device.statistics }

    /// Starts what an engine runs beside requests. It ends with the store.
    func startBackground(on xstream: XStream) {
        let vos = vos
        xstream.spawn { await vos.runBackground() }
    }

    /// Applies changes of one object, durably.
    func update(
        _ values: BenchValues, _ object: ObjectID, _ operations: [Operation], id: UInt64
    ) async throws(VOSError) {
        let clock = clock
        let update = Update(
            pool: values.pool, container: values.container, object: object, epoch: 0,
            transaction: UniqueID(high: id, low: clock.now()), operations: operations)
        try await vos.update(update) { clock.now() }
    }

    /// Reads a value. `buffer` has room for it.
    func fetch(
        _ values: BenchValues, _ index: UInt64, into buffer: IOBuffer
    ) async throws(VOSError) {
        let fetch = values.fetch(index)
        if values.isArray {
            _ = try unsafe await vos.fetchArray(
                fetch, offset: 0, length: values.size, into: buffer.bytes, findingEnd: false)
        } else {
            _ = try unsafe await vos.fetchSingle(fetch, into: buffer.bytes)
        }
    }

    /// Ends what is under way, and closes store and device.
    func close() async {
        await vos.close()
        await device.close()
    }
}

extension CommandFailure {
    /// The failure that an error of a store means for `what`.
    init(_ error: VOSError, _ what: String) {
        switch error {
        case .device(let error): self.init(error, what)
        case .noSpace(let requested, let free):
            self.init(
                .noSpace, what,
                "the store is full: \(Size(bytes: requested)) wanted, \(Size(bytes: free)) free",
                advice: "choose a larger --device-size, fewer --keys, or a shorter --retention")
        default: self.init(what, "\(error)")
        }
    }
}
