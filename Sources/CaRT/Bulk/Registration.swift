internal import DrayFabric
internal import DrayRuntime

/// Keeps a memory region at a fixed place, so that it can be lent to the endpoint, and the memory
/// under it mapped.
///
/// Ends by `close(at:)`; the endpoint must still be open.
@safe final class Registration {
    // SAFETY: initialised in `init`, moved from in `close`, which also forgets the pointer.
    private var storage: UnsafeMutablePointer<MemoryRegion>?

    private let isSimulated: Bool

    /// The memory that is registered.
    let buffer: IOBuffer

    init(_ buffer: IOBuffer, range: Range<Int>? = nil, at endpoint: Endpoint, access: MemoryAccess)
        throws(FabricError)
    {
        self.buffer = buffer
        isSimulated = endpoint.address.provider == "sim"
        let memory = unsafe UnsafeMutableRawBufferPointer(
            rebasing: buffer.bytes[range ?? 0..<buffer.count])
        let region = try unsafe endpoint.register(memory, access: access)
        let storage = UnsafeMutablePointer<MemoryRegion>.allocate(capacity: 1)
        unsafe storage.initialize(to: region)
        unsafe self.storage = unsafe storage
    }

    deinit {
        guard let storage = unsafe storage else { return }
        // A simulated process that was killed closes nothing, and nobody reaches its memory.
        precondition(isSimulated, "a registration was dropped before its end")
        _ = unsafe storage.move().take()
        unsafe storage.deallocate()
    }

    var isOpen: Bool { unsafe storage != nil }

    /// The region, for one call of the endpoint.
    var pointer: UnsafeMutablePointer<MemoryRegion> {
        guard let storage = unsafe storage else {
            preconditionFailure("a registration was used after its end")
        }
        return unsafe storage
    }

    /// Deregisters the memory. Harmless when done before.
    func close(at endpoint: Endpoint) {
        guard let storage = unsafe storage else { return }
        endpoint.deregister(unsafe storage.move())
        unsafe storage.deallocate()
        unsafe self.storage = nil
    }
}
