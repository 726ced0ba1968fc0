internal import CSharedMemory
internal import Synchronization

/// One direction between two endpoints of shared memory, in memory that its sender made.
///
/// Messages stand one behind the other, each at a multiple of 64 bytes: 8 bytes that are zero until
/// the message is there, then its length with the highest bit set; 8 bytes unused; the message. The
/// sender alone writes messages, the receiver alone how far it has read. So neither ever waits for
/// the other, and whatever a process was doing when it was killed, the other goes on: a message
/// that was not finished is not there.
///
/// Neither end trusts the other: positions are kept in memory of one's own, and what the other
/// has written is checked.
enum SharedRing {
    /// Before the messages: how far the receiver has read, in bytes since the beginning.
    static let headSize = 4096
    /// A power of two. All of it is soon resident, in each direction of each pair.
    static let size = 256 << 10
    static let fileSize = headSize + size
    static let mappedSize = headSize + 2 * size
    static let messageSizeMax = 128 << 10
    static let messageHead = 16
    static let isThere: UInt64 = 1 << 63

    /// What a message takes.
    static func room(for length: Int) -> Int { (messageHead + length + 63) & ~63 }
}

/// A number that processes share.
@inline(__always)
func sharedNumber(
    _ start: UnsafeMutableRawPointer, at offset: Int
) -> UnsafeMutablePointer<Atomic<UInt64>> {
    unsafe (start + offset).assumingMemoryBound(to: Atomic<UInt64>.self)
}

/// The sender's end of a ring.
@safe struct SharedRingWriter: ~Copyable {
    // SAFETY: mapped in `init`, unmapped in `deinit`.
    private let start: UnsafeMutableRawPointer
    /// Where the next message begins, in bytes since the beginning.
    private var position: UInt64 = 0
    /// How far the receiver had read when we looked last.
    private var taken: UInt64 = 0

    /// Maps memory that `dray_shm_make` made; nil when there is no room for it.
    init?(_ descriptor: Int32) {
        guard
            let start = unsafe dray_shm_map_ring(
                descriptor, SharedRing.headSize, SharedRing.size)
        else { return nil }
        unsafe self.start = start
    }

    deinit { unsafe dray_shm_unmap(start, SharedRing.mappedSize) }

    /// Adds a message of at most `SharedRing.messageSizeMax` bytes; false when there is no room.
    mutating func write(_ bytes: UnsafeRawBufferPointer) -> Bool {
        let room = UInt64(SharedRing.room(for: bytes.count))
        // The first 8 bytes behind the message must be free, too: they say that there is no other.
        guard position &+ room &+ 64 &- taken <= UInt64(SharedRing.size) || look(for: room) else {
            return false
        }
        let message = SharedRing.headSize + Int(position % UInt64(SharedRing.size))
        if let source = bytes.baseAddress {
            unsafe (start + message + SharedRing.messageHead)
                .copyMemory(from: source, byteCount: bytes.count)
        }
        unsafe sharedNumber(start, at: message + Int(room)).pointee.store(0, ordering: .relaxed)
        unsafe sharedNumber(start, at: message).pointee
            .store(UInt64(bytes.count) | SharedRing.isThere, ordering: .releasing)
        position &+= room
        return true
    }

    /// Asks how far the receiver has read. What cannot be is taken for nothing.
    private mutating func look(for room: UInt64) -> Bool {
        let told = unsafe sharedNumber(start, at: 0).pointee.load(ordering: .acquiring)
        guard told >= taken, told <= position else { return false }
        taken = told
        return position &+ room &+ 64 &- taken <= UInt64(SharedRing.size)
    }
}

/// The receiver's end of a ring.
@safe struct SharedRingReader: ~Copyable {
    // SAFETY: mapped in `init`, unmapped in `deinit`.
    private let start: UnsafeMutableRawPointer
    private var position: UInt64 = 0
    /// What the message under way takes.
    private var room: UInt64 = 0

    /// What there is to read.
    // SAFETY: the bytes are mapped until `consume`.
    @safe enum Next {
        case nothing
        /// The sender may change the bytes at any time: copy first, then look.
        case message(UnsafeRawBufferPointer)
        /// The sender has written what makes no sense.
        case broken
    }

    /// Maps a ring that a peer made; nil when it is none.
    init?(_ descriptor: Int32) {
        guard dray_shm_is_sound(descriptor, SharedRing.fileSize) == 1,
            let start = unsafe dray_shm_map_ring(
                descriptor, SharedRing.headSize, SharedRing.size)
        else { return nil }
        unsafe self.start = start
    }

    deinit { unsafe dray_shm_unmap(start, SharedRing.mappedSize) }

    private var offset: Int { SharedRing.headSize + Int(position % UInt64(SharedRing.size)) }

    /// Whether there is something to read.
    var isFilled: Bool {
        unsafe sharedNumber(start, at: offset).pointee.load(ordering: .acquiring) != 0
    }

    /// The next message. It is there until `consume`.
    @inline(__always)
    mutating func next() -> Next {
        let head = unsafe sharedNumber(start, at: offset).pointee.load(ordering: .acquiring)
        guard head != 0 else { return .nothing }
        let length = head & ~SharedRing.isThere
        guard head & SharedRing.isThere != 0, length <= UInt64(SharedRing.messageSizeMax) else {
            return .broken
        }
        room = UInt64(SharedRing.room(for: Int(length)))
        return unsafe .message(
            UnsafeRawBufferPointer(
                start: start + offset + SharedRing.messageHead, count: Int(length)))
    }

    /// The message was read; its place may be written again.
    mutating func consume() {
        position &+= room
        unsafe sharedNumber(start, at: 0).pointee.store(position, ordering: .releasing)
    }
}
