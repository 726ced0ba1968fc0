internal import CSharedMemory
internal import Synchronization

/// What memory an endpoint exposes, where its peers can look it up, and change nothing.
///
/// Peers read and write the memory by themselves, through the kernel, after they have looked. That
/// is a matter of manners between processes of one user, who may do so anyway.
///
/// A table of entries of 32 bytes: key, address, length, access. A key stands in one of 32 places
/// that follow each other, the first of which it names by its lowest bits; 0 is none.
enum SharedRegions {
    static let headSize = 4096
    static let count = 1 << 16
    static let window = 32
    static let entrySize = 32
    static let fileSize = headSize + count * entrySize

    /// Where the `index`th place of a key is.
    @inline(__always)
    static func offset(of key: UInt64, _ index: Int) -> Int {
        headSize + (Int(truncatingIfNeeded: key) &+ index) & (count - 1) * entrySize
    }
}

/// The owner's view.
@safe struct OwnSharedRegions: ~Copyable {
    // SAFETY: mapped in `init`, unmapped in `deinit`.
    private let start: UnsafeMutableRawPointer

    init?(_ descriptor: Int32) {
        guard let start = unsafe dray_shm_map(descriptor, SharedRegions.fileSize, 1) else {
            return nil
        }
        unsafe self.start = start
    }

    deinit { unsafe dray_shm_unmap(start, SharedRegions.fileSize) }

    /// Exposes memory under `key`. Returns a handle for `remove`, or nil when all places of the key
    /// are taken: try another.
    func add(_ memory: UnsafeMutableRawBufferPointer, key: UInt64, access: MemoryAccess) -> UInt? {
        for index in 0..<SharedRegions.window {
            let offset = SharedRegions.offset(of: key, index)
            guard unsafe sharedNumber(start, at: offset).pointee.load(ordering: .relaxed) == 0
            else { continue }
            let address = UInt64(UInt(bitPattern: memory.baseAddress))
            unsafe sharedNumber(start, at: offset + 8).pointee.store(address, ordering: .relaxed)
            unsafe sharedNumber(start, at: offset + 16).pointee
                .store(UInt64(memory.count), ordering: .relaxed)
            unsafe sharedNumber(start, at: offset + 24).pointee
                .store(UInt64(access.rawValue), ordering: .relaxed)
            unsafe sharedNumber(start, at: offset).pointee.store(key, ordering: .releasing)
            return UInt(offset)
        }
        return nil
    }

    /// Whoever looks from now on finds it no more.
    func remove(_ handle: UInt) {
        unsafe sharedNumber(start, at: Int(handle)).pointee
            .store(0, ordering: .sequentiallyConsistent)
    }
}

/// A peer's view.
@safe struct PeerSharedRegions: ~Copyable {
    // SAFETY: mapped in `init`, unmapped in `deinit`. Only read.
    private let start: UnsafeMutableRawPointer

    init?(_ descriptor: Int32) {
        guard dray_shm_is_sound(descriptor, SharedRegions.fileSize) == 1,
            let start = unsafe dray_shm_map(descriptor, SharedRegions.fileSize, 0)
        else { return nil }
        unsafe self.start = start
    }

    deinit { unsafe dray_shm_unmap(start, SharedRegions.fileSize) }

    /// Whether the peer exposes `count` bytes at `remote` to such an access.
    func allows(_ remote: RemoteMemory, count: Int, _ access: MemoryAccess) -> Bool {
        guard remote.key != 0 else { return false }
        for index in 0..<SharedRegions.window {
            let offset = SharedRegions.offset(of: remote.key, index)
            let key = unsafe sharedNumber(start, at: offset)
            guard unsafe key.pointee.load(ordering: .acquiring) == remote.key else { continue }
            let address = unsafe sharedNumber(start, at: offset + 8).pointee
                .load(ordering: .relaxed)
            let length = unsafe sharedNumber(start, at: offset + 16).pointee
                .load(ordering: .relaxed)
            let rights = unsafe sharedNumber(start, at: offset + 24).pointee
                .load(ordering: .acquiring)
            // The place may have become another's meanwhile.
            guard unsafe key.pointee.load(ordering: .relaxed) == remote.key else { return false }
            return MemoryAccess(rawValue: UInt8(truncatingIfNeeded: rights)).contains(access)
                && remote.address >= address && remote.address &- address <= length
                && UInt64(count) <= length &- (remote.address &- address)
        }
        return false
    }
}
