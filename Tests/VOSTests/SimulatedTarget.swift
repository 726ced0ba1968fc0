import BIO
import DrayRuntime
import Glibc
import Testing
import VOS

/// A simulated process with one store on one simulated device, restarted by a test.
final class SimulatedTarget {
    static let path = "disk"
    static let identity = StoreIdentity(
        clusterID: UniqueID(high: 1, low: 2), engineID: UniqueID(high: 3, low: 4), target: 5)

    let simulation: Simulation
    let devices: SimulatedDeviceStore
    let options: VOSOptions
    let logBlocks: UInt64
    private(set) var incarnation = 0
    private(set) var xstream: XStream
    private(set) var world: World
    private(set) var store: BlockStore?
    private var device: BlockDevice?

    init(
        seed: UInt64, blocks: UInt64 = 2048, logBlocks: UInt64 = 64,
        options: VOSOptions = VOSOptions(), crash: CrashOutcome = .random
    ) {
        simulation = Simulation(seed: seed)
        devices = SimulatedDeviceStore(simulation: simulation)
        var faults = DeviceFaults()
        faults.crashOutcome = crash
        devices.setFaults(faults)
        self.options = options
        self.logBlocks = logBlocks
        world = simulation.world(node: 1)
        xstream = world.makeXStream(name: "x")
        do {
            try devices.create(path: Self.path, size: blocks * 4096)
        } catch {
            Issue.record("create: \(error)")
        }
        run { try await self.format() }
    }

    /// Kills the process, unless it is dead already, and starts the next one.
    func restart() {
        if !simulation.isDead(xstream.node) {
            simulation.kill(node: 1, incarnation: incarnation)
        }
        incarnation += 1
        world = simulation.world(node: 1, incarnation: incarnation)
        xstream = world.makeXStream(name: "x")
        store = nil
        device = nil
    }

    /// Runs `body` as a task of the process. Returns false when it did not end, because the
    /// process was killed.
    @discardableResult
    func run(_ body: @escaping () async throws -> Void) -> Bool {
        var done = false
        xstream.simulate {
            do {
                try await body()
            } catch {
                Issue.record("\(error)")
            }
            done = true
        }
        let xstream = xstream
        let simulation = simulation
        return simulation.run(
            for: .seconds(3600), until: { done || simulation.isDead(xstream.node) }) && done
    }

    private func format() async throws {
        let device = try devices.open(path: Self.path, on: xstream)
        try await BlockStore.format(
            device, partition: 0..<device.size, identity: Self.identity, logSize: logBlocks * 4096)
        await device.close()
    }

    func open() async throws -> VOS {
        let device = try devices.open(path: Self.path, on: xstream)
        self.device = device
        let store = try await BlockStore.open(
            device, partition: 0..<device.size, identity: Self.identity, on: xstream)
        self.store = store
        return try await VOS.open(store: store, world: world, on: xstream, options: options)
    }

    func close(_ vos: VOS) async {
        await vos.close()
        await device?.close()
        device = nil
    }
}

/// Names used by the tests.
enum Names {
    static let pool = UniqueID(high: 0xaa, low: 1)
    static let container = UniqueID(high: 0xbb, low: 2)
    static let object = ObjectID(high: 7 << 32, low: 3)
}

extension [UInt8] {
    /// `count` bytes that depend on `seed`.
    static func pattern(_ count: Int, seed: UInt64) -> [UInt8] {
        var entropy = Entropy(seed: seed)
        var words: [UInt64] = []
        while words.count < Swift.min(64, count / 8 + 1) { words.append(entropy.next()) }
        return [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            // The same 512 bytes again and again, but each time with another first byte.
            words.withUnsafeBytes { source in
                var start = 0
                while start < count {
                    let length = Swift.min(source.count, count - start)
                    memcpy(buffer.baseAddress! + start, source.baseAddress!, length)
                    buffer[start] &+= UInt8(truncatingIfNeeded: start >> 9)
                    start += length
                }
            }
            initialized = count
        }
    }
}

extension VOS {
    /// One operation with the bytes of an array, on the tests' object.
    func put(
        _ body: (ValueBytes) -> Operation.Body, _ bytes: [UInt8], epoch: UInt64,
        object: ObjectID = Names.object, container: UniqueID = Names.container,
        transaction: UniqueID = .zero, condition: Operation.Condition = .none,
        checksums: [UInt32]? = nil
    ) async throws(VOSError) {
        let buffer = IOBuffer(copying: bytes)
        let value = ValueBytes(
            UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<bytes.count]), checksums: checksums)
        try await update(
            Update(
                pool: Names.pool, container: container, object: object, epoch: epoch,
                transaction: transaction,
                operations: [Operation(body(value), condition: condition)]))
        withExtendedLifetime(buffer) {}
    }

    func putSingle(
        _ dkey: [UInt8], _ akey: [UInt8], _ bytes: [UInt8], epoch: UInt64,
        object: ObjectID = Names.object, container: UniqueID = Names.container,
        transaction: UniqueID = .zero, condition: Operation.Condition = .none,
        checksums: [UInt32]? = nil
    ) async throws(VOSError) {
        try await put(
            { .single(dkey: dkey, akey: akey, $0) }, bytes, epoch: epoch, object: object,
            container: container, transaction: transaction, condition: condition,
            checksums: checksums)
    }

    func putArray(
        _ dkey: [UInt8], _ akey: [UInt8], at offset: UInt64, _ bytes: [UInt8], epoch: UInt64,
        object: ObjectID = Names.object, recordSize: UInt32 = 1
    ) async throws(VOSError) {
        try await put(
            { .array(dkey: dkey, akey: akey, offset: offset, recordSize: recordSize, $0) }, bytes,
            epoch: epoch, object: object)
    }

    func getSingle(
        _ dkey: [UInt8], _ akey: [UInt8], epoch: UInt64 = .max, object: ObjectID = Names.object,
        container: UniqueID = Names.container
    ) async throws(VOSError) -> [UInt8]? {
        let fetch = Fetch(
            pool: Names.pool, container: container, object: object, dkey: dkey, akey: akey,
            epoch: epoch)
        let buffer = IOBuffer(count: 1 << 20)
        do {
            let result = try await fetchSingle(fetch, into: buffer.bytes)
            let bytes = buffer.array(0..<result.byteCount)
            #expect(result.size == UInt64(bytes.count))
            #expect(bytes.withUnsafeBytes { VOS.checksums(of: $0) } == result.checksums)
            return bytes
        } catch .notFound {
            return nil
        }
    }

    func getArray(
        _ dkey: [UInt8], _ akey: [UInt8], _ range: Range<UInt64>, epoch: UInt64 = .max,
        object: ObjectID = Names.object, room: Int = 4096
    ) async throws(VOSError) -> (bytes: [UInt8], size: UInt64) {
        let fetch = Fetch(
            pool: Names.pool, container: Names.container, object: object, dkey: dkey, akey: akey,
            epoch: epoch)
        let buffer = IOBuffer(count: max(1, range.count + room))
        let result = try await fetchArray(
            fetch, offset: range.lowerBound, length: range.count, into: buffer.bytes)
        let bytes = buffer.array(0..<result.byteCount)
        #expect(bytes.withUnsafeBytes { VOS.checksums(of: $0) } == result.checksums)
        return (bytes, result.size)
    }
}

extension VOS {
    /// How many entries the index has: versions and punches.
    var entryCount: Int {
        pools.reduce(0) { $0 + Int(usage(pool: $1).entries) }
    }
}

extension VOSOptions {
    /// So that a few kilobytes are an index of several levels.
    mutating func makeSmall() {
        indexBytes = 16 << 10
        memtableBytes = 2 << 10
        tableBytes = 4 << 10
    }
}
