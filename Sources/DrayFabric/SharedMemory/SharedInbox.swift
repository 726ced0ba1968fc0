internal import CSharedMemory
internal import Synchronization

/// Where senders say that they have written: one for each endpoint, made by it, mapped by all that
/// send to it.
///
/// | offset | what |
/// |---|---|
/// | 0 | not 0 while the endpoint sleeps, or is about to: ring its bell |
/// | 64 | a bit for each ring: the endpoint looks into it at every poll |
///
/// A sender writes its message, then looks at both; the endpoint changes one, then looks for
/// messages. All of that is sequentially consistent, so one of them sees the other. The senders
/// change no bit that is set and never the first number: one that is killed in between takes
/// nobody's wake-up with it.
@safe struct SharedInbox: ~Copyable {
    static let fileSize = 4096
    /// Rings at a time.
    static let ringsMax = 1024

    // SAFETY: mapped in `init`, unmapped in `deinit`.
    private let start: UnsafeMutableRawPointer

    /// Maps our own inbox, or after a check a peer's.
    init?(_ descriptor: Int32) {
        guard dray_shm_is_sound(descriptor, SharedInbox.fileSize) == 1,
            let start = unsafe dray_shm_map(descriptor, SharedInbox.fileSize, 1)
        else { return nil }
        unsafe self.start = start
    }

    deinit { unsafe dray_shm_unmap(start, SharedInbox.fileSize) }

    private static func wordOffset(_ ring: Int) -> Int { 64 + ring / 64 * 8 }

    // MARK: - The owner

    /// The bits of 64 rings from `64 * word` on.
    @inline(__always)
    func bits(_ word: Int) -> UInt64 {
        unsafe sharedNumber(start, at: 64 + word * 8).pointee.load(ordering: .acquiring)
    }

    /// The owner looks into the ring no more, unless its sender says so again. Look once more now.
    func forget(_ ring: Int) {
        unsafe sharedNumber(start, at: SharedInbox.wordOffset(ring)).pointee
            .bitwiseAnd(~(1 << UInt64(ring % 64)), ordering: .sequentiallyConsistent)
        atomicMemoryFence(ordering: .sequentiallyConsistent)
    }

    /// From now on senders ring the bell. Look once more before the sleep.
    func fallAsleep() {
        unsafe sharedNumber(start, at: 0).pointee.store(1, ordering: .sequentiallyConsistent)
        atomicMemoryFence(ordering: .sequentiallyConsistent)
    }

    func wakeUp() {
        unsafe sharedNumber(start, at: 0).pointee.store(0, ordering: .relaxed)
    }

    // MARK: - Senders

    /// There is a message in `ring`. Returns whether the bell has to be rung.
    @inline(__always)
    func announce(_ ring: Int) -> Bool {
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        mark(ring)
        let sleeps = unsafe sharedNumber(start, at: 0)
        return unsafe sleeps.pointee.load(ordering: .sequentiallyConsistent) != 0
    }

    /// Has the owner look into the ring.
    func mark(_ ring: Int) {
        let bit = UInt64(1) << UInt64(ring % 64)
        let word = unsafe sharedNumber(start, at: SharedInbox.wordOffset(ring))
        guard unsafe word.pointee.load(ordering: .relaxed) & bit == 0 else { return }
        unsafe word.pointee.bitwiseOr(bit, ordering: .sequentiallyConsistent)
    }
}
