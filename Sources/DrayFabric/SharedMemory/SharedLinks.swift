internal import CSharedMemory
internal import Glibc

/// What the two ends say to each other, once: the sender with its ring, then the receiver with its
/// inbox, its regions and its bell.
struct SharedGreeting {
    static let size = 16
    private static let magic: UInt64 = 0x3130_4d48_5359_5244
    /// What there is beside the magic number: a sender's is 0, a receiver's the number of the ring.
    var number: UInt64

    /// Sends it; false when the other end is gone.
    func send(over socket: Int32, _ descriptors: [Int32]) -> Bool {
        let words = (SharedGreeting.magic, number)
        return unsafe withUnsafeBytes(of: words) { bytes in
            unsafe dray_shm_send(
                socket, bytes.baseAddress, bytes.count, descriptors, Int32(descriptors.count)) == 0
        }
    }

    enum Received {
        case nothing
        case greeting(SharedGreeting, [Int32])
        /// The other end is gone, or says something else.
        case end
    }

    /// What the other end says, with `count` descriptors, which the caller closes.
    static func receive(over socket: Int32, count: Int) -> Received {
        var words: (UInt64, UInt64) = (0, 0)
        var descriptors = [Int32](repeating: -1, count: Int(DRAY_SHM_DESCRIPTORS_MAX))
        var found: Int32 = 0
        let length = unsafe withUnsafeMutableBytes(of: &words) { bytes in
            unsafe dray_shm_receive(socket, bytes.baseAddress, bytes.count, &descriptors, &found)
        }
        if length == -Int(EAGAIN) || length == -Int(EINTR) { return .nothing }
        descriptors.removeSubrange(Int(max(0, found))...)
        guard length == size, words.0 == magic, descriptors.count == count else {
            for descriptor in descriptors { dray_shm_close(descriptor) }
            return .end
        }
        return .greeting(SharedGreeting(number: words.1), descriptors)
    }
}

/// A peer, and our ring to it.
struct SharedPeer: ~Copyable {
    /// How often it was inserted; 0: the place is free.
    var uses = 0
    var name = ""
    /// The connection that the ring was handed over by; -1 without one.
    var socket: Int32 = -1
    var process: pid_t = 0
    var ring: SharedRingWriter?
    /// The peer's, from its answer on.
    var inbox: SharedInbox?
    var regions: PeerSharedRegions?
    var bell: Int32 = -1
    /// What the peer calls our ring.
    var number = 0

    var isReady: Bool { bell >= 0 }
    var isConnecting: Bool { socket >= 0 && bell < 0 }

    init() {}

    deinit { closeDescriptors() }

    private borrowing func closeDescriptors() {
        if socket >= 0 { dray_shm_close(socket) }
        if bell >= 0 { dray_shm_close(bell) }
    }

    /// Ends the connection; the next message makes another one.
    mutating func disconnect() {
        closeDescriptors()
        (socket, bell, process, number) = (-1, -1, 0, 0)
        ring = nil
        inbox = nil
        regions = nil
    }

    /// Connects to whoever has the name, and offers a ring. Returns 0 or a negative error number.
    mutating func connect() -> Int32 {
        let descriptor = unsafe dray_shm_connect(name)
        guard descriptor >= 0 else { return descriptor }
        socket = descriptor
        var user: uid_t = 0
        guard unsafe dray_shm_peer(descriptor, &process, &user) == 0,
            user == geteuid() || geteuid() == 0
        else {
            disconnect()
            return -EACCES
        }
        let memory = dray_shm_make(SharedRing.fileSize)
        guard memory >= 0 else {
            disconnect()
            return memory
        }
        defer { dray_shm_close(memory) }
        ring = SharedRingWriter(memory)
        guard ring != nil else {
            disconnect()
            return -ENOMEM
        }
        guard SharedGreeting(number: 0).send(over: descriptor, [memory]) else {
            disconnect()
            return -ECONNREFUSED
        }
        return 0
    }

    /// Takes the peer's answer; false when there is none, and never will be.
    mutating func takeAnswer() -> Bool {
        switch SharedGreeting.receive(over: socket, count: 3) {
        case .nothing: return true
        case .end: return false
        case .greeting(let greeting, let descriptors):
            inbox = SharedInbox(descriptors[0])
            regions = PeerSharedRegions(descriptors[1])
            let isSound =
                inbox != nil && regions != nil && greeting.number < SharedInbox.ringsMax
            for descriptor in descriptors.prefix(isSound ? 2 : 3) { dray_shm_close(descriptor) }
            // The connection counts as being made until there is a bell.
            guard isSound else { return false }
            bell = descriptors[2]
            number = Int(greeting.number)
            return true
        }
    }

    /// Whether the peer exposes `count` bytes at `remote` to such an access.
    func allows(_ remote: RemoteMemory, count: Int, _ access: MemoryAccess) -> Bool {
        switch regions {
        case .some(let regions): regions.allows(remote, count: count, access)
        case nil: false
        }
    }

    /// Writes a message; false when there is no room.
    @inline(__always)
    mutating func send(_ message: UnsafeRawBufferPointer) -> Bool {
        guard unsafe ring!.write(message) else { return false }
        if inbox!.announce(number) { dray_shm_ring(bell) }
        return true
    }
}

/// A ring that somebody sends to us through.
struct SharedSender: ~Copyable {
    /// The connection that the ring came by; -1 when the sender is gone.
    var socket: Int32
    /// Nil until the sender has greeted, and in a free place.
    var ring: SharedRingReader?
    /// Looks in a row that have found nothing.
    var emptyLooks = 0

    /// Looks until a ring is looked into only when its sender says so.
    static let emptyLooksMax = 4096

    init(socket: Int32) { self.socket = socket }

    var isFree: Bool { socket < 0 && ring == nil }

    /// Whether it has written what was not read.
    var isFilled: Bool {
        switch ring {
        case .some(let ring): ring.isFilled
        case nil: false
        }
    }

    /// The sender is gone, or not to be listened to. What it has written stays.
    mutating func hangUp() {
        if socket >= 0 { dray_shm_close(socket) }
        socket = -1
    }
}
