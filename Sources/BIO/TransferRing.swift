internal import CUring
internal import DequeModule
internal import DrayRuntime

/// A ring of io_uring on its xstream: queues operations on one open file, gives them to the kernel
/// in batches, and resumes who waits for them.
///
/// An operation costs no allocation beyond its task's frames.
@safe final class TransferRing: PollSource {
    /// Operations in the kernel at once; more wait for their turn.
    static let inFlightMax = 256
    /// So many queued operations are given to the kernel at once, or more, half of those under way:
    /// the device works on them while the xstream prepares the next ones. Fewer wait for more to
    /// come while others are under way, for a few rounds: that is a moment when the xstream has
    /// nothing else to do, and when it has, telling the device costs more than the waiting (in a
    /// virtual machine: an exit to the host each time).
    static let batchGoal = 8
    static let roundsQueuedMax = 3

    /// Who waits for an operation: one task for it alone, or for several together.
    private enum User {
        case alone(Waiter<Int32>)
        case part(Batch, Int)
    }

    /// Operations that one task waits for together.
    final class Batch {
        /// What each has come to.
        fileprivate(set) var results: [Int32] = []
        fileprivate var left = 0
        fileprivate var waiter: Waiter<Void>?
    }

    // SAFETY: made in `init`, destroyed once, in `close` or `deinit`, when nothing is in flight.
    private var ring: OpaquePointer?
    private let xstream: XStream
    @safe @exclusivity(unchecked) private var users: [User?]
    @safe @exclusivity(unchecked) private var freeSlots: [Int]
    @safe @exclusivity(unchecked) private var slotQueue = Deque<Waiter<Int>>()
    @safe @exclusivity(unchecked) private var completions: [dray_ring_completion]
    /// Rounds since something was queued that the kernel has not been given.
    @safe @exclusivity(unchecked) private var roundsQueued = 0
    @safe @exclusivity(unchecked) private var registered = RegisteredBuffers()
    @safe @exclusivity(unchecked) private var closed = false
    @safe @exclusivity(unchecked) private var closing: Waiter<Void>?

    struct RingError: Error { var code: Int32 }

    /// A ring for the open file; with `commands`, one whose operations are commands of NVMe.
    /// Throws an errno when the kernel gives none.
    init(descriptor: Int32, commands: Bool = false, on xstream: XStream) throws(RingError) {
        precondition(xstream.isCurrent, "a device is opened on its xstream")
        var ring: OpaquePointer?
        let code = unsafe dray_ring_create(
            UInt32(TransferRing.inFlightMax * 2), descriptor, commands, &ring)
        guard code == 0 else { throw RingError(code: code) }
        unsafe self.ring = unsafe ring
        self.xstream = xstream
        users = Array(repeating: nil, count: TransferRing.inFlightMax)
        freeSlots = Array((0..<TransferRing.inFlightMax).reversed())
        completions = Array(repeating: dray_ring_completion(), count: TransferRing.inFlightMax)
        xstream.addSource(self)
    }

    deinit {
        if let ring = unsafe ring {
            precondition(inFlight == 0, "a device was dropped with transfers under way")
            unsafe dray_ring_destroy(ring)
        }
    }

    private var inFlight: Int { TransferRing.inFlightMax - freeSlots.count }

    // MARK: - Operations

    /// Has `queue` put an operation into the ring, and returns what becomes of it: bytes, or a
    /// negative errno, or what else the operation says. `atOnce`: the kernel gets it now, with
    /// what else is queued, and not when the xstream has nothing else to do.
    func perform(
        atOnce: Bool = false, _ queue: (OpaquePointer, _ slot: UInt64) -> Bool
    ) async -> Int32 {
        let slot = await takeSlot()
        return await Waiter<Int32>.suspend { waiter in
            users[slot] = .alone(waiter)
            unsafe add(slot, queue)
            if atOnce || isBatchFull { _ = submit() }
        }
    }

    /// Performs one operation for each call of `queue` with a number below `count`, all at once.
    func perform(
        count: Int, _ queue: (OpaquePointer, _ index: Int, _ slot: UInt64) -> Bool
    ) async -> [Int32] {
        let batch = Batch()
        batch.results = Array(repeating: 0, count: count)
        batch.left = count
        for index in 0..<count {
            let slot = await takeSlot()
            users[slot] = .part(batch, index)
            unsafe add(slot) { ring, slot in unsafe queue(ring, index, slot) }
            if isBatchFull { _ = submit() }
        }
        if batch.left > 0 { await Waiter.suspend { batch.waiter = $0 } }
        return batch.results
    }

    private var isBatchFull: Bool {
        unsafe Int(dray_ring_queued(ring)) >= max(TransferRing.batchGoal, inFlight / 2)
    }

    private func add(_ slot: Int, _ queue: (OpaquePointer, UInt64) -> Bool) {
        guard let ring = unsafe ring else { preconditionFailure("an open device has a ring") }
        let queued = unsafe queue(ring, UInt64(slot))
        precondition(queued, "more submissions than slots")
    }

    private func takeSlot() async -> Int {
        precondition(!closed, "a closed device was used")
        if let slot = freeSlots.popLast() { return slot }
        return await Waiter.suspend { slotQueue.append($0) }
    }

    // MARK: - Buffers

    /// Registers a buffer, as long as the kernel takes any. The ring keeps it.
    func register(_ buffer: IOBuffer, sparingly: Bool) -> Bool {
        precondition(!closed, "a closed device was used")
        if unsafe number(of: UnsafeRawBufferPointer(buffer.bytes)) != DRAY_RING_NO_BUFFER {
            return true
        }
        guard let number = registered.next(count: buffer.count, sparingly: sparingly) else {
            return false
        }
        // SAFETY: the table keeps the buffer until the ring is gone.
        let code = unsafe dray_ring_register(
            ring, number, buffer.bytes.baseAddress!, UInt64(buffer.count))
        guard code == 0 else {
            registered.refused(sparingly: sparingly)
            return false
        }
        registered.add(buffer)
        return true
    }

    /// The number of the registered buffer that holds all of a transfer, or that of none.
    func number(of buffer: UnsafeRawBufferPointer) -> Int32 {
        unsafe registered.number(of: buffer.baseAddress, count: buffer.count)
    }

    /// Ends its use when what is in flight has ended.
    func close() async {
        precondition(!closed, "a device was closed twice")
        closed = true
        if inFlight > 0 { await Waiter.suspend { closing = $0 } }
        xstream.removeSource(self)
        unsafe dray_ring_destroy(ring)
        unsafe ring = nil
        registered = RegisteredBuffers()
    }

    // MARK: - PollSource

    func poll() -> Int {
        guard inFlight > 0 else { return 0 }
        var events = 0
        let queued = unsafe Int(dray_ring_queued(ring))
        if queued > 0 {
            roundsQueued += 1
            if unsafe isBatchFull || roundsQueued > TransferRing.roundsQueuedMax
                || queued == inFlight || dray_ring_has_work(ring)
            {
                events += submit()
            }
        }
        let count = unsafe Int(
            dray_ring_reap(ring, &completions, UInt32(TransferRing.inFlightMax)))
        for index in 0..<count {
            let completion = completions[index]
            let slot = Int(completion.slot)
            guard let user = users[slot] else {
                preconditionFailure("a completion that nobody waits for")
            }
            users[slot] = nil
            ended(user, completion.result)
            if let next = slotQueue.popFirst() {
                next.resume(returning: slot)
            } else {
                freeSlots.append(slot)
            }
        }
        if inFlight == 0, let waiter = closing {
            closing = nil
            waiter.resume()
        }
        return events + count
    }

    private func ended(_ user: User, _ result: Int32) {
        switch user {
        case .alone(let waiter): waiter.resume(returning: result)
        case .part(let batch, let index):
            batch.results[index] = result
            batch.left -= 1
            guard batch.left == 0, let waiter = batch.waiter else { return }
            batch.waiter = nil
            waiter.resume()
        }
    }

    /// Refused (EAGAIN, EBUSY): it stays queued and is tried again in the next round.
    private func submit() -> Int {
        roundsQueued = 0
        return unsafe max(0, Int(dray_ring_submit(ring)))
    }

    func prepareToBlock() -> BlockReadiness {
        guard inFlight > 0 else { return .idle }
        if unsafe dray_ring_queued(ring) > 0, submit() > 0 { return .busy }
        guard unsafe dray_ring_queued(ring) == 0 else { return .pause }
        let descriptor = unsafe dray_ring_arm(ring)
        return descriptor < 0 ? .busy : .descriptor(descriptor)
    }
}
