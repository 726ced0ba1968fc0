internal import DrayRuntime
internal import Glibc
internal import Synchronization

/// A device of a `SimulatedDeviceStore`, opened by one xstream.
final class SimulatedDevice: BlockDevice {
    private let disk: SimulatedDisk
    private let store: SimulatedDeviceStore
    private let xstream: XStream
    private var node: Int { xstream.node }
    private var inFlight = 0
    private var closed = false
    private var closing: Waiter<Void>?

    private var simulation: Simulation { store.simulation }

    init(disk: SimulatedDisk, store: SimulatedDeviceStore, on xstream: XStream) {
        self.disk = disk
        self.store = store
        self.xstream = xstream
        super.init(name: disk.path, size: disk.size)
    }

    override func read(
        into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64
    ) async throws(BIOError) {
        unsafe try check(UnsafeRawBufferPointer(buffer), offset)
        let fails = disk.contents.withLock { contents in
            let fails = contents.strikes(contents.faults.readErrorChance)
            if fails { contents.counts.readErrors += 1 }
            return fails
        }
        let disk = disk
        try await perform(.read, bytes: buffer.count) {
            let done =
                !fails
                && disk.contents.withLock {
                    unsafe $0.medium.read(into: buffer, at: offset)
                }
            return done ? nil : self.error(EIO, at: offset)
        }
    }

    override func write(
        _ buffer: UnsafeRawBufferPointer, at offset: UInt64, durable: Bool
    ) async throws(BIOError) {
        unsafe try check(buffer, offset)
        simulation.record("disk write", offset)
        unsafe simulation.record("disk bytes", bytes: buffer)
        let id =
            simulation.isDead(node)
            ? 0 : disk.contents.withLock { unsafe $0.medium.begin(buffer, at: offset) }
        store.reached(.writeBegins, node: node)
        try await perform(durable ? .durableWrite : .write, bytes: buffer.count) {
            let error = unsafe self.endWrite(id, buffer, at: offset, durable: durable)
            self.store.reached(.writeEnds, node: self.node)
            return error
        }
    }

    private func endWrite(
        _ id: UInt64, _ buffer: UnsafeRawBufferPointer, at offset: UInt64, durable: Bool
    ) -> BIOError? {
        let failed = disk.contents.withLock { contents in
            precondition(
                unsafe contents.medium.isUnchanged(id, buffer),
                "a buffer was changed while it was being written")
            if contents.strikes(contents.faults.writeErrorChance) {
                contents.counts.writeErrors += 1
                contents.medium.abandon(id)
                return true
            }
            var shift: UInt64 = 0
            if contents.strikes(contents.faults.misdirectedWriteChance) {
                contents.counts.misdirectedWrites += 1
                shift = 1 + contents.faultEntropy.below(7)
            }
            contents.medium.end(id, durable: durable, shift: shift)
            let place = offset + contents.faultEntropy.below(UInt64(buffer.count))
            if contents.strikes(contents.faults.bitRotChance) {
                contents.counts.rottenBits += 1
                contents.medium.damage(at: place, mask: 1 << UInt8(place % 8))
            }
            if contents.strikes(contents.faults.latentErrorChance) {
                contents.counts.latentErrors += 1
                contents.medium.makeUnreadable(at: place)
            }
            return false
        }
        return failed ? error(EIO, at: offset) : nil
    }

    override func flush() async throws(BIOError) {
        unsafe try check(UnsafeRawBufferPointer(start: nil, count: 0), 0)
        simulation.record("disk flush", 0)
        store.reached(.flushBegins, node: node)
        let mark = disk.contents.withLock { $0.medium.flushMark }
        try await perform(.flush, bytes: 0) {
            let failed = self.disk.contents.withLock { contents in
                if contents.strikes(contents.faults.flushErrorChance) {
                    contents.counts.flushErrors += 1
                    return true
                }
                if contents.strikes(contents.faults.lyingFlushChance) {
                    contents.counts.lyingFlushes += 1
                } else {
                    contents.medium.flush(upTo: mark)
                }
                return false
            }
            self.store.reached(.flushEnds, node: self.node)
            return failed ? self.error(EIO, at: 0) : nil
        }
    }

    override var canDiscard: Bool { true }

    override func discard(_ range: Range<UInt64>) async throws(BIOError) {
        precondition(!closed, "a closed device was used")
        try checkDiscard(range)
        guard !range.isEmpty else { return }
        simulation.record("disk discard", range.lowerBound)
        let id =
            simulation.isDead(node)
            ? 0 : disk.contents.withLock { $0.medium.beginDiscard(range) }
        store.reached(.writeBegins, node: node)
        try await perform(.discard, bytes: range.count) {
            self.disk.contents.withLock { $0.medium.end(id, durable: false) }
            self.store.reached(.writeEnds, node: self.node)
            return nil
        }
    }

    override func close() async {
        precondition(!closed, "a device was closed twice")
        closed = true
        if inFlight > 0 {
            await Waiter.suspend { closing = $0 }
        }
        disk.release(node: node)
    }

    private func perform(
        _ kind: DeviceStatistics.Kind, bytes: Int, _ body: @escaping () -> BIOError?
    ) async throws(BIOError) {
        try await measured(kind, bytes: bytes, on: xstream) { () async throws(BIOError) in
            try await perform(body)
        }
    }

    /// Runs `body` after the device's latency, and returns when it has; never when the process
    /// is killed before.
    private func perform(_ body: @escaping () -> BIOError?) async throws(BIOError) {
        let latency = disk.contents.withLock { $0.latency() }
        inFlight += 1
        let error = await Waiter<BIOError?>.suspend { waiter in
            simulation.schedule(at: simulation.now + latency) {
                guard !self.simulation.isDead(self.node) else { return }
                let error = body()
                guard !self.simulation.isDead(self.node) else { return }
                waiter.resume(returning: error)
            }
        }
        inFlight -= 1
        if inFlight == 0, closed, let waiter = closing { waiter.resume() }
        if let error { throw error }
    }

    private func check(_ buffer: UnsafeRawBufferPointer, _ offset: UInt64) throws(BIOError) {
        precondition(!closed, "a closed device was used")
        try unsafe checkTransfer(buffer, at: offset)
    }

    private func error(_ code: Int32, at offset: UInt64) -> BIOError {
        .failed(path: name, offset: offset, code: code, message: BIOError.message(code))
    }
}
