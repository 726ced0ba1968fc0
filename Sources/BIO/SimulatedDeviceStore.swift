public import DrayRuntime
internal import Synchronization

/// The devices of a simulation: their contents outlive the processes that use them, except for
/// what a crash makes of writes that were not flushed.
///
/// One store serves all nodes of a simulation; paths are global, so give each node its own. When a
/// device is opened and its last user was killed, the crash is applied first: each write that was
/// in flight, or completed and not flushed, is lost, kept or torn as `DeviceFaults.crashOutcome`
/// says. Latency, faults and damage come from the simulation's seed.
public final class SimulatedDeviceStore: DeviceStore {
    let simulation: Simulation
    private let state = Mutex(State())

    private struct State {
        var disks: [String: SimulatedDisk] = [:]
        var defaults = DeviceFaults()
        var boundaries = 0
        var crashAt: Int?
        var boundaryHook: (@Sendable (Int, DeviceBoundary) -> Void)?
    }

    public init(simulation: Simulation) {
        self.simulation = simulation
    }

    public func create(path: String, size: UInt64) throws(BIOError) {
        let unit = UInt64(BlockDevice.blockSize)
        guard size > 0, size % unit == 0 else {
            throw .outOfRange("a device of \(size) bytes; expected a multiple of \(unit)")
        }
        try state.withLock { state throws(BIOError) in
            guard state.disks[path] == nil else {
                throw .foreign(path: path, found: "a file")
            }
            state.disks[path] = SimulatedDisk(
                path: path, size: size, faults: state.defaults,
                entropy: simulation.entropy.fork("disk \(path)"))
        }
    }

    public func open(path: String, on xstream: XStream) throws(BIOError) -> BlockDevice {
        precondition(xstream.simulation === simulation, "an xstream of another world")
        let disk = try disk(path)
        try disk.acquire(node: xstream.node, simulation: simulation)
        return SimulatedDevice(disk: disk, store: self, on: xstream)
    }

    private func disk(_ path: String) throws(BIOError) -> SimulatedDisk {
        guard let disk = state.withLock({ $0.disks[path] }) else { throw .missing(path: path) }
        return disk
    }

    /// Traps when there is no such device: for tests' own calls.
    private func existing(_ path: String) -> SimulatedDisk {
        guard let disk = state.withLock({ $0.disks[path] }) else {
            preconditionFailure("no simulated device \(path)")
        }
        return disk
    }

    // MARK: - Health

    public func mayHaveHealth(_ path: String) -> Bool {
        state.withLock { $0.disks[path] }?.contents.withLock { $0.health != nil } ?? false
    }

    public func health(of path: String, on xstream: XStream) async -> NVMeHealth? {
        xstream.checkIsolated()
        guard let disk = state.withLock({ $0.disks[path] }) else { return nil }
        let (health, delay) = disk.contents.withLock { contents in
            contents.healthRequests += 1
            return (contents.health, contents.healthDelay)
        }
        if delay > .zero { await xstream.sleep(for: delay) }
        return health
    }

    /// Sets what the device says of its health, after `delay`, from now on. None does at first.
    public func setHealth(_ health: NVMeHealth?, delay: Duration = .zero, path: String) {
        existing(path).contents.withLock { contents in
            contents.health = health
            contents.healthDelay = delay
        }
    }

    /// How often the device was asked for its health.
    public func healthRequests(path: String) -> Int {
        existing(path).contents.withLock { $0.healthRequests }
    }

    // MARK: - Faults

    /// Sets the faults of all devices, those created later included.
    public func setFaults(_ faults: DeviceFaults) {
        let disks = state.withLock { state in
            state.defaults = faults
            return state.disks.values.map { $0 }
        }
        for disk in disks { disk.contents.withLock { $0.faults = faults } }
    }

    /// Sets the faults of one device.
    public func setFaults(_ faults: DeviceFaults, path: String) {
        existing(path).contents.withLock { $0.faults = faults }
    }

    /// What the device has done wrong so far.
    public func faultCounts(path: String) -> DeviceFaultCounts {
        existing(path).contents.withLock { $0.counts }
    }

    /// The sum over all devices.
    public var faultCountTotal: Int {
        let disks = state.withLock { state in state.disks.values.map { $0 } }
        return disks.reduce(0) { sum, disk in sum + disk.contents.withLock { $0.counts.total } }
    }

    /// Changes bits of the byte at `offset`, behind everybody's back.
    public func damage(path: String, at offset: UInt64, mask: UInt8 = 1) {
        existing(path).contents.withLock { $0.medium.damage(at: offset, mask: mask) }
    }

    /// Lets one in `period` of the blocks that were ever written in `area` rot: half of them have
    /// a bit changed, half hold what another of them should (a misdirected write). Returns how
    /// many.
    public func rot(path: String, in area: Range<UInt64>, oneIn period: UInt64) -> Int {
        existing(path).contents.withLock { contents in
            let blocks = contents.medium.blocks(in: area)
            var count = 0
            for block in blocks where contents.faultEntropy.chance(1, in: period) {
                count += 1
                let place = block + contents.faultEntropy.below(UInt64(BlockDevice.blockSize))
                if contents.faultEntropy.chance(1, in: 2) {
                    contents.medium.damage(at: place, mask: 1 << UInt8(place % 8))
                } else {
                    let other = blocks[Int(contents.faultEntropy.below(UInt64(blocks.count)))]
                    contents.medium.copy(from: block, to: other)
                }
            }
            return count
        }
    }

    /// Makes the sector at `offset` fail to read until it is written again.
    public func makeUnreadable(path: String, at offset: UInt64) {
        existing(path).contents.withLock { $0.medium.makeUnreadable(at: offset) }
    }

    // MARK: - Crashes

    /// Applies a power failure to every device that `node` (an `XStream.node`) has open. Done by
    /// `open` anyway; kill the process first.
    public func crash(node: Int) {
        precondition(simulation.isDead(node), "a crash of a process that lives")
        let disks = state.withLock { state in
            state.disks.keys.sorted().compactMap { state.disks[$0] }
        }
        for disk in disks { disk.applyCrash(of: node, simulation: simulation) }
    }

    /// Kills the process that reaches the `boundary`-th device boundary from now on (0 is the
    /// next one) at that moment; nil for none. Counting starts anew.
    public func crash(atBoundary boundary: Int?) {
        state.withLock { state in
            state.boundaries = 0
            state.crashAt = boundary
        }
    }

    /// Device boundaries passed since `crash(atBoundary:)` or the beginning.
    public var boundaryCount: Int { state.withLock { $0.boundaries } }

    /// Calls `hook` at every boundary with its number and kind.
    public func onBoundary(_ hook: (@Sendable (Int, DeviceBoundary) -> Void)?) {
        state.withLock { $0.boundaryHook = hook }
    }

    func reached(_ boundary: DeviceBoundary, node: Int) {
        let (number, crash, hook) = state.withLock { state in
            defer { state.boundaries += 1 }
            return (state.boundaries, state.crashAt == state.boundaries, state.boundaryHook)
        }
        hook?(number, boundary)
        if crash, !simulation.isDead(node) {
            simulation.kill(node: node >> 16, incarnation: node & 0xffff)
        }
    }

    // MARK: - Contents

    /// A copy of everything on a device, durable or not.
    public func image(path: String) -> DeviceImage {
        DeviceImage(medium: existing(path).contents.withLock { $0.medium })
    }

    /// Puts a copy back, creating the device where needed. Nobody alive may have it open.
    public func restore(_ image: DeviceImage, path: String) {
        let disk = state.withLock { state in
            let disk =
                state.disks[path]
                ?? SimulatedDisk(
                    path: path, size: image.medium.size, faults: state.defaults,
                    entropy: simulation.entropy.fork("disk \(path)"))
            state.disks[path] = disk
            return disk
        }
        disk.contents.withLock { contents in
            contents.holder = nil
            contents.openCount = 0
            contents.medium = image.medium
        }
    }
}

/// A copy of what a simulated device held at some moment.
public struct DeviceImage: Sendable {
    var medium: SimulatedMedium

    /// Whether everything in it is durable: then a crash changes nothing.
    public var isClean: Bool { medium.isClean }

    /// What a power failure at that moment leaves. `seed` draws, where `outcome` leaves a choice.
    public func crashed(_ outcome: CrashOutcome, seed: UInt64) -> DeviceImage {
        var image = self
        var entropy = Entropy(seed: seed)
        _ = image.medium.crash(outcome, entropy: &entropy)
        return image
    }

    /// Whether some of its sectors cannot be read.
    public var hasUnreadable: Bool { medium.hasUnreadable }

    /// Two clean images with the same contents have the same, others hardly ever.
    public var fingerprint: UInt64 { medium.fingerprint }

    /// Puts `bytes` at `offset`, durably, behind everybody's back.
    public mutating func overwrite(at offset: UInt64, with bytes: [UInt8]) {
        medium.overwrite(at: offset, with: bytes)
    }

    /// What a read of `count` bytes at `offset` would see.
    public func bytes(at offset: UInt64, count: Int) -> [UInt8] {
        medium.bytes(at: offset, count: count)
    }

    /// The sector at `offset` fails to read until it is written again.
    public mutating func makeUnreadable(at offset: UInt64) { medium.makeUnreadable(at: offset) }
}

/// One simulated device, shared by those who have it open.
final class SimulatedDisk: Sendable {
    let path: String
    let size: UInt64
    let contents: Mutex<Contents>

    struct Contents {
        var medium: SimulatedMedium
        var faults: DeviceFaults
        var counts = DeviceFaultCounts()
        var latencyEntropy: Entropy
        var faultEntropy: Entropy
        var crashEntropy: Entropy
        var health: NVMeHealth?
        var healthDelay = Duration.zero
        var healthRequests = 0
        /// The process that has it open.
        var holder: Int?
        var openCount = 0

        mutating func strikes(_ chance: UInt64) -> Bool {
            chance > 0 && faultEntropy.chance(chance, in: 1_000_000)
        }

        mutating func latency() -> Duration {
            let spread = (faults.latencyMax - faults.latencyMin).nanosecondsClamped
            var duration =
                faults.latencyMin
                + .nanoseconds(Int64(clamping: latencyEntropy.below(spread + 1)))
            if strikes(faults.stallChance) {
                counts.stalls += 1
                duration += faults.stall
            }
            return duration
        }
    }

    init(path: String, size: UInt64, faults: DeviceFaults, entropy: Entropy) {
        self.path = path
        self.size = size
        contents = Mutex(
            Contents(
                medium: SimulatedMedium(size: size), faults: faults,
                latencyEntropy: entropy.fork("latency"), faultEntropy: entropy.fork("faults"),
                crashEntropy: entropy.fork("crash")))
    }

    func acquire(node: Int, simulation: Simulation) throws(BIOError) {
        let holder = contents.withLock { $0.holder }
        if let holder, holder != node {
            guard simulation.isDead(holder) else { throw .busy(path: path) }
            applyCrash(of: holder, simulation: simulation)
        }
        contents.withLock { contents in
            contents.holder = node
            contents.openCount += 1
        }
    }

    func release(node: Int) {
        contents.withLock { contents in
            guard contents.holder == node else { return }
            contents.openCount -= 1
            if contents.openCount == 0 { contents.holder = nil }
        }
    }

    func applyCrash(of node: Int, simulation: Simulation) {
        let lost = contents.withLock { contents -> Int? in
            guard contents.holder == node else { return nil }
            contents.holder = nil
            contents.openCount = 0
            guard !contents.medium.isClean else { return 0 }
            let lost = contents.medium.crash(
                contents.faults.crashOutcome, entropy: &contents.crashEntropy)
            contents.counts.lossyCrashes += 1
            contents.counts.blocksLost += lost
            return lost
        }
        if let lost { simulation.record("disk crash", UInt64(lost)) }
    }
}
