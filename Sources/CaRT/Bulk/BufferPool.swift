internal import DrayFabric
internal import DrayRuntime

/// Registered memory by size class: powers of two from a page up.
///
/// Memory is kept for the next user until the pool holds more than its limit; what is larger than
/// the largest class is not kept. Registering costs system calls, hence the pool.
final class BufferPool {
    static let smallestShift = 12
    static let largestShift = 24

    private let endpoint: Endpoint
    private let freeBytesMax: Int
    /// By class.
    @safe @exclusivity(unchecked) private var free: [[Registration]]
    @safe @exclusivity(unchecked) private(set) var freeBytes = 0
    /// Everything lent out, so that closing can deregister it.
    @safe @exclusivity(unchecked) private var lent: [ObjectIdentifier: Registration] = [:]
    @safe @exclusivity(unchecked) private(set) var isClosed = false

    init(endpoint: Endpoint, freeBytesMax: Int) {
        self.endpoint = endpoint
        self.freeBytesMax = freeBytesMax
        free = Array(
            repeating: [], count: BufferPool.largestShift - BufferPool.smallestShift + 1)
    }

    /// Buffers that somebody has.
    var lentCount: Int { lent.count }

    /// The class of `count` bytes; nil when it is larger than any.
    static func sizeClass(of count: Int) -> Int? {
        let bits = count <= 1 ? 0 : Int.bitWidth - (count - 1).leadingZeroBitCount
        guard bits <= largestShift else { return nil }
        return max(0, bits - smallestShift)
    }

    /// What a buffer of `count` bytes takes of the memory.
    static func size(of count: Int) -> Int {
        sizeClass(of: count).map { 1 << ($0 + smallestShift) } ?? (count + 4095) & ~4095
    }

    /// Takes memory of at least `count` bytes.
    func take(count: Int) throws(RPCError) -> Registration {
        guard !isClosed else { throw .closed }
        let sizeClass = BufferPool.sizeClass(of: count)
        if let sizeClass, let registration = free[sizeClass].popLast() {
            freeBytes -= registration.buffer.count
            lent[ObjectIdentifier(registration)] = registration
            return registration
        }
        let size = BufferPool.size(of: count)
        do throws(FabricError) {
            var buffers = IOBuffer.forLargeTransfers(count: size)
            let registration = try Registration(buffers.removeLast(), at: endpoint, access: [])
            lent[ObjectIdentifier(registration)] = registration
            for buffer in buffers where freeBytes + size <= freeBytesMax {
                guard let other = try? Registration(buffer, at: endpoint, access: []) else { break }
                keep(other)
            }
            return registration
        } catch {
            throw RPCError(error)
        }
    }

    /// Takes memory back.
    func give(_ registration: Registration) {
        lent[ObjectIdentifier(registration)] = nil
        if !isClosed { keep(registration) }
    }

    private func keep(_ registration: Registration) {
        let count = registration.buffer.count
        if let sizeClass = BufferPool.sizeClass(of: count), freeBytes + count <= freeBytesMax {
            free[sizeClass].append(registration)
            freeBytes += count
        } else {
            registration.close(at: endpoint)
        }
    }

    /// Deregisters everything, lent memory too (which stays mapped until its last user goes).
    func close() {
        isClosed = true
        for registrations in free {
            for registration in registrations { registration.close(at: endpoint) }
        }
        // The order does not matter: deregistering is neither sent nor seen.
        for registration in lent.values { registration.close(at: endpoint) }
        free = Array(repeating: [], count: free.count)
        lent = [:]
    }
}
