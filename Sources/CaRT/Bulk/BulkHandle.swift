internal import DrayFabric

/// An exposure of memory to peers. Ends by `Context.withdraw`, or when the last reference goes,
/// and with the context; but not while it is quarantined.
///
/// Keeps the memory. Confined to the context's xstream.
public final class BulkHandle {
    /// What peers need; put it into a message.
    public let descriptor: BulkDescriptor

    let registration: Registration
    let range: Range<Int>
    /// Held as long as the exposure lasts: the buffer that the memory belongs to.
    let owner: AnyObject
    private let exposures: ExposureTable
    /// Calls that are over and whose peers have not answered for the memory.
    var quarantines = 0
    /// The user has given it back.
    var isWithdrawn = false

    /// Whether a peer may still use the memory, although the call that named it is over: its bytes
    /// may change, and be read, at any time. Do not use it for anything else meanwhile; dropping
    /// buffer and handle is fine, as the context keeps both. Never set after a call that returned,
    /// or failed by the peer's word.
    public var isQuarantined: Bool { quarantines > 0 }

    init(
        descriptor: BulkDescriptor, registration: Registration, range: Range<Int>,
        owner: AnyObject, exposures: ExposureTable
    ) {
        self.descriptor = descriptor
        self.registration = registration
        self.range = range
        self.owner = owner
        self.exposures = exposures
    }

    deinit {
        exposures.end(registration, key: descriptor.key)
    }
}

/// The exposures of a context, by key.
final class ExposureTable {
    private let endpoint: Endpoint
    private var byKey: [UInt64: Exposure] = [:]
    private(set) var isClosed = false

    /// What a transfer of the context with itself needs. Does not keep the memory: the handle does.
    struct Exposure {
        unowned let registration: Registration
        var range: Range<Int>
        var access: MemoryAccess
        var address: UInt64
    }

    init(endpoint: Endpoint) {
        self.endpoint = endpoint
    }

    var count: Int { byKey.count }

    func begin(_ registration: Registration, key: UInt64, range: Range<Int>, access: MemoryAccess) {
        byKey[key] = Exposure(
            registration: registration, range: range, access: access,
            address: unsafe registration.pointer.pointee.remoteAddress)
    }

    func end(_ registration: Registration, key: UInt64) {
        guard registration.isOpen else { return }
        byKey[key] = nil
        registration.close(at: endpoint)
    }

    func find(_ key: UInt64) -> Exposure? { byKey[key] }

    /// Deregisters everything. Handles that are left may be dropped later.
    func close() {
        isClosed = true
        // The order does not matter: deregistering is neither sent nor seen.
        for exposure in byKey.values { exposure.registration.close(at: endpoint) }
        byKey = [:]
    }
}
