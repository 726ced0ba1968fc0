internal import BasicContainers
internal import DrayFabric
internal import DrayRuntime

/// What a sent message was, for its completion.
struct SendPurpose {
    enum Kind: UInt8 {
        /// Of a request, hello, cancel or release: `owner` is the peer, `generation` its
        /// connection.
        case toPeer
        /// Of a reply: `owner` and `generation` are the session.
        case reply
        /// Of any other message to a caller: nobody waits for the outcome.
        case toCaller
        /// Of a session's last message: `handle` is removed after it.
        case goodbye
    }

    var kind: Kind
    var owner: UInt32
    var generation: UInt32

    /// Whether it is to a caller, who is there still.
    var isToCaller: Bool { kind == .reply || kind == .toCaller }

    /// The session of a message to a caller.
    var session: SessionID { SessionID(index: owner, generation: generation) }
}

/// Messages that are being sent: fixed slots of registered memory, in chunks made on demand.
@safe struct SendPool: ~Copyable {
    static let chunkSlots = 32
    /// More than this many messages at a time that the fabric has not taken are refused.
    static let slotsMax = 4096

    struct Slot {
        var purpose = SendPurpose(kind: .toCaller, owner: 0, generation: 0)
        var length = 0
        /// When it is given up if the provider keeps refusing it, in monotonic nanoseconds.
        var expires: UInt64 = .max
        /// Nil for a message to ourselves.
        var handle: Peer?
        var isBusy = false
        /// Whether it waits for the end of the round, and more messages may be added.
        var isOpen = false
        /// The most bytes that it may hold.
        var room = 0
        /// The messages in it.
        var messages = 0
    }

    private let endpoint: Endpoint
    let slotSize: Int
    private var chunks = UniqueArray<Registration>()
    // SAFETY: the chunks keep the memory.
    private var starts = unsafe UniqueArray<UnsafeMutableRawPointer>()
    private var free = UniqueArray<UInt32>()
    var slots = UniqueArray<Slot>()

    init(endpoint: Endpoint, slotSize: Int) {
        self.endpoint = endpoint
        self.slotSize = slotSize
    }

    /// Slots in use.
    var busyCount: Int { slots.count - free.count }

    /// Takes a slot; nil when there are too many, or memory cannot be registered.
    mutating func take() -> UInt32? {
        if free.isEmpty { grow() }
        guard let slot = free.popLast() else { return nil }
        slots[Int(slot)].isBusy = true
        return slot
    }

    private mutating func grow() {
        guard slots.count < SendPool.slotsMax else { return }
        do throws(FabricError) {
            let buffer = IOBuffer(count: slotSize * SendPool.chunkSlots)
            chunks.append(try Registration(buffer, at: endpoint, access: []))
            unsafe starts.append(buffer.bytes.baseAddress.unsafelyUnwrapped)
        } catch {
            // As if the pool were at its limit: the caller says `.overloaded`.
            return
        }
        let first = UInt32(slots.count)
        for _ in 0..<SendPool.chunkSlots { slots.append(Slot()) }
        // The first slot is taken first: its memory is likelier to be in the cache.
        for index in (0..<UInt32(SendPool.chunkSlots)).reversed() { free.append(first + index) }
    }

    /// Gives a slot back.
    mutating func give(_ slot: UInt32) {
        precondition(slots[Int(slot)].isBusy, "a send slot was freed twice")
        slots[Int(slot)].isBusy = false
        free.append(slot)
    }

    /// The memory of a slot.
    func memory(_ slot: UInt32) -> UnsafeMutableRawBufferPointer {
        let chunk = Int(slot) / SendPool.chunkSlots
        let start = Int(slot) % SendPool.chunkSlots * slotSize
        return unsafe UnsafeMutableRawBufferPointer(start: starts[chunk] + start, count: slotSize)
    }

    /// The registration of a slot's memory.
    func registration(_ slot: UInt32) -> Registration {
        chunks[Int(slot) / SendPool.chunkSlots]
    }

    mutating func close() {
        for index in chunks.indices { chunks[index].close(at: endpoint) }
    }
}
