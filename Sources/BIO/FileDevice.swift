internal import CUring
internal import DequeModule
internal import DrayRuntime
internal import Glibc

/// A file or block device through io_uring, with a ring of its own on its xstream.
///
/// Transfers are queued, and given to the kernel once per round of the xstream. A transfer costs
/// no allocation beyond its task's frames.
@safe final class FileDevice: BlockDevice, PollSource {
    /// Transfers in the kernel at once; more wait for their turn.
    static let inFlightMax = 256
    /// So many queued transfers are given to the kernel at once. Fewer wait for more to come while
    /// others are under way, for a few rounds: that is a moment when the xstream has nothing else
    /// to do, and when it has, telling the device costs more than the waiting (in a virtual
    /// machine: an exit to the host each time).
    static let batchGoal = 8
    static let roundsQueuedMax = 3
    /// How often one transfer is tried again after EINTR, EAGAIN or no progress.
    static let retriesMax = 16
    /// The most bytes of one submission: a length of 32 bits, in whole blocks.
    static let submissionBytesMax = 1 << 30

    @safe @exclusivity(unchecked) private var file: OpenFile?
    // SAFETY: made in `init`, destroyed once, in `close` or `deinit`, when nothing is in flight.
    private var ring: OpaquePointer?
    private let xstream: XStream
    /// Who waits for the transfer in each slot.
    @safe @exclusivity(unchecked) private var waiters: [Waiter<Int32>?]
    @safe @exclusivity(unchecked) private var freeSlots: [Int]
    @safe @exclusivity(unchecked) private var slotQueue = Deque<Waiter<Int>>()
    @safe @exclusivity(unchecked) private var completions: [dray_ring_completion]
    /// Rounds since something was queued that the kernel has not been given.
    @safe @exclusivity(unchecked) private var roundsQueued = 0
    @safe @exclusivity(unchecked) private var registered = RegisteredBuffers()
    @safe @exclusivity(unchecked) private var closed = false
    @safe @exclusivity(unchecked) private var closing: Waiter<Void>?

    /// Throws an errno when the kernel gives no ring.
    init(file: OpenFile, on xstream: XStream) throws(RingError) {
        precondition(xstream.isCurrent, "a device is opened on its xstream")
        var ring: OpaquePointer?
        let code = unsafe dray_ring_create(
            UInt32(FileDevice.inFlightMax * 2), file.descriptor, &ring)
        guard code == 0 else { throw RingError(code: code) }
        unsafe self.ring = unsafe ring
        self.file = file
        self.xstream = xstream
        waiters = Array(repeating: nil, count: FileDevice.inFlightMax)
        freeSlots = Array((0..<FileDevice.inFlightMax).reversed())
        completions = Array(repeating: dray_ring_completion(), count: FileDevice.inFlightMax)
        super.init(name: file.path, size: file.size)
        xstream.addSource(self)
    }

    deinit {
        if let ring = unsafe ring {
            precondition(inFlight == 0, "a device was dropped with transfers under way")
            unsafe dray_ring_destroy(ring)
        }
    }

    struct RingError: Error { var code: Int32 }

    private var inFlight: Int { FileDevice.inFlightMax - freeSlots.count }

    override func register(_ buffer: IOBuffer) -> Bool {
        precondition(!closed, "a closed device was used")
        // SAFETY: the table keeps the buffer until the ring is gone.
        guard let number = registered.next,
            unsafe dray_ring_register(
                ring, number, buffer.bytes.baseAddress!, UInt64(buffer.count)) == 0
        else {
            // Not tried again: what is refused once costs a call each time.
            registered.isFull = true
            return false
        }
        registered.add(buffer)
        return true
    }

    override func read(
        into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64
    ) async throws(BIOError) {
        try unsafe checkTransfer(UnsafeRawBufferPointer(buffer), at: offset)
        try await measured(.read, bytes: buffer.count, on: xstream) { () async throws(BIOError) in
            try unsafe await transfer(into: buffer, at: offset)
        }
    }

    private func transfer(
        into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64
    ) async throws(BIOError) {
        let number = unsafe registered.number(of: buffer.baseAddress, count: buffer.count)
        var progress = TransferProgress(name: name, count: buffer.count, offset: offset)
        while progress.remaining > 0 {
            let slot = await takeSlot()
            let done = progress.done
            let length = UInt32(min(progress.remaining, FileDevice.submissionBytesMax))
            progress.add(
                await Waiter<Int32>.suspend { waiter in
                    waiters[slot] = waiter
                    // SAFETY: the caller keeps the buffer until this returns.
                    let queued = unsafe dray_ring_read(
                        ring, buffer.baseAddress! + done, length, offset + UInt64(done), number,
                        UInt64(slot))
                    precondition(queued, "more submissions than slots")
                })
            try progress.check()
        }
    }

    override func write(
        _ buffer: UnsafeRawBufferPointer, at offset: UInt64, durable: Bool
    ) async throws(BIOError) {
        try unsafe checkTransfer(buffer, at: offset)
        try await measured(
            durable ? .durableWrite : .write, bytes: buffer.count, on: xstream
        ) { () async throws(BIOError) in
            try unsafe await transfer(buffer, at: offset, durable: durable)
        }
    }

    private func transfer(
        _ buffer: UnsafeRawBufferPointer, at offset: UInt64, durable: Bool
    ) async throws(BIOError) {
        let number = unsafe registered.number(of: buffer.baseAddress, count: buffer.count)
        var progress = TransferProgress(name: name, count: buffer.count, offset: offset)
        while progress.remaining > 0 {
            let slot = await takeSlot()
            let done = progress.done
            let length = UInt32(min(progress.remaining, FileDevice.submissionBytesMax))
            progress.add(
                await Waiter<Int32>.suspend { waiter in
                    waiters[slot] = waiter
                    // SAFETY: the caller keeps the buffer until this returns.
                    let queued = unsafe dray_ring_write(
                        ring, buffer.baseAddress! + done, length, offset + UInt64(done), number,
                        durable, UInt64(slot))
                    precondition(queued, "more submissions than slots")
                })
            try progress.check()
        }
    }

    override func writeAndFlush(
        _ buffer: UnsafeRawBufferPointer, at offset: UInt64
    ) async throws(BIOError) {
        if file?.durableWritesFlush == true {
            // The same with one call, and no thread of the kernel that waits for the flush.
            return try unsafe await write(buffer, at: offset, durable: true)
        }
        try unsafe checkTransfer(buffer, at: offset)
        try await measured(
            .durableWrite, bytes: buffer.count, on: xstream
        ) { () async throws(BIOError) in
            try unsafe await transferAndSync(buffer, at: offset)
        }
    }

    private func transferAndSync(
        _ buffer: UnsafeRawBufferPointer, at offset: UInt64
    ) async throws(BIOError) {
        if buffer.count > 0, buffer.count <= FileDevice.submissionBytesMax {
            let number = unsafe registered.number(of: buffer.baseAddress, count: buffer.count)
            let slot = await takeSlot()
            let result = await Waiter<Int32>.suspend { waiter in
                waiters[slot] = waiter
                // SAFETY: the caller keeps the buffer until this returns.
                let queued = unsafe dray_ring_write_and_flush(
                    ring, buffer.baseAddress!, UInt32(buffer.count), offset, number,
                    UInt64(slot))
                precondition(queued, "more submissions than slots")
            }
            // Cancelled: the write failed or was short, and no flush has been tried.
            if result != -ECANCELED { return try checkFlush(result) }
        }
        try unsafe await transfer(buffer, at: offset, durable: false)
        try await sync()
    }

    override func flush() async throws(BIOError) {
        try await measured(.flush, bytes: 0, on: xstream) { () async throws(BIOError) in
            try await sync()
        }
    }

    private func sync() async throws(BIOError) {
        let slot = await takeSlot()
        let result = await Waiter<Int32>.suspend { waiter in
            waiters[slot] = waiter
            let queued = unsafe dray_ring_flush(ring, UInt64(slot))
            precondition(queued, "more submissions than slots")
        }
        try checkFlush(result)
    }

    /// A flush is not tried again, whatever its error: the kernel may have dropped what failed.
    private func checkFlush(_ result: Int32) throws(BIOError) {
        guard result >= 0 else {
            throw .failed(path: name, offset: 0, code: -result, message: BIOError.message(-result))
        }
    }

    override func firstUnwritten(in range: Range<UInt64>) -> Range<UInt64>? {
        file?.firstUnwritten(in: range)
    }

    override func close() async {
        precondition(!closed, "a device was closed twice")
        closed = true
        if inFlight > 0 { await Waiter.suspend { closing = $0 } }
        xstream.removeSource(self)
        unsafe dray_ring_destroy(ring)
        unsafe ring = nil
        registered = RegisteredBuffers()
        file = nil
    }

    private func takeSlot() async -> Int {
        precondition(!closed, "a closed device was used")
        if let slot = freeSlots.popLast() { return slot }
        return await Waiter.suspend { slotQueue.append($0) }
    }

    // MARK: - PollSource

    func poll() -> Int {
        guard inFlight > 0 else { return 0 }
        var events = 0
        let queued = unsafe Int(dray_ring_queued(ring))
        if queued > 0 {
            roundsQueued += 1
            if unsafe queued >= FileDevice.batchGoal || roundsQueued > FileDevice.roundsQueuedMax
                || queued == inFlight || dray_ring_has_work(ring)
            {
                events += submit()
            }
        }
        let count = unsafe Int(
            dray_ring_reap(ring, &completions, UInt32(FileDevice.inFlightMax)))
        for index in 0..<count {
            let completion = completions[index]
            let slot = Int(completion.slot)
            guard let waiter = waiters[slot] else {
                preconditionFailure("a completion that nobody waits for")
            }
            waiters[slot] = nil
            waiter.resume(returning: completion.result)
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
