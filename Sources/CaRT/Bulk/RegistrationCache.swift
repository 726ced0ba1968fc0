internal import DrayFabric
public import DrayRuntime

/// Registrations of the user's own memory, kept for the next transfer: registering costs system
/// calls, and on RDMA pins every page.
///
/// Cached memory stays mapped until its registration is given up: when the cache holds more than
/// its limit (the longest unused first), or with the context.
final class RegistrationCache {
    private struct Entry {
        var registration: Registration
        /// Registered buffers that use it.
        var users = 0
        /// When it was last used, in uses of the cache.
        var lastUsed: UInt64
    }

    private let endpoint: Endpoint
    private let bytesMax: Int
    private var entries: [ObjectIdentifier: Entry] = [:]
    private var clock: UInt64 = 0
    private(set) var bytes = 0
    private(set) var isClosed = false
    /// Uses that found their registration here, and that did not.
    private(set) var hits = 0
    private(set) var misses = 0
    /// Registrations that were given up for want of room.
    private(set) var evictions = 0

    init(endpoint: Endpoint, bytesMax: Int) {
        self.endpoint = endpoint
        self.bytesMax = bytesMax
    }

    /// Registered buffers that somebody has.
    var usersCount: Int { entries.values.reduce(0) { $0 + $1.users } }

    /// A registration of all of `buffer`, until `give`.
    func take(_ buffer: IOBuffer) throws(RPCError) -> Registration {
        guard !isClosed else { throw .closed }
        clock += 1
        // The entry keeps the buffer, so the identifier is its own.
        let key = ObjectIdentifier(buffer)
        if let registration = entries[key]?.registration {
            hits += 1
            entries[key]?.users += 1
            entries[key]?.lastUsed = clock
            return registration
        }
        misses += 1
        do throws(FabricError) {
            let registration = try Registration(buffer, at: endpoint, access: [])
            entries[key] = Entry(registration: registration, users: 1, lastUsed: clock)
            bytes += buffer.count
            trim()
            return registration
        } catch {
            throw RPCError(error)
        }
    }

    /// Ends one use.
    func give(_ registration: Registration) {
        guard !isClosed else { return }
        entries[ObjectIdentifier(registration.buffer)]?.users -= 1
        trim()
    }

    private func trim() {
        while bytes > bytesMax {
            // No two have the same time, so the order of the dictionary does not matter.
            let idle = entries.filter { $0.value.users == 0 }
            guard let oldest = idle.min(by: { $0.value.lastUsed < $1.value.lastUsed }) else {
                return
            }
            entries[oldest.key] = nil
            evictions += 1
            bytes -= oldest.value.registration.buffer.count
            oldest.value.registration.close(at: endpoint)
        }
    }

    /// Deregisters everything.
    func close() {
        isClosed = true
        // The order does not matter: deregistering is neither sent nor seen.
        for entry in entries.values { entry.registration.close(at: endpoint) }
        entries = [:]
        bytes = 0
    }
}

extension Context {
    /// Memory of the user's own for transfers. Its registration is kept for the next time, and with
    /// it the memory: see `ContextOptions.cachedRegistrationBytesMax`.
    public func makeBuffer(_ buffer: IOBuffer) throws(RPCError) -> RegisteredBuffer {
        try RegisteredBuffer(buffer, cache: registrations)
    }
}
