public import DrayRuntime

/// Memory that is registered with a context's endpoint: pooled, or the user's own.
///
/// Confined to the context's xstream. Goes back to where it came from when the last reference goes.
public final class RegisteredBuffer {
    let registration: Registration
    private let origin: Origin
    /// Of a large reply that its caller may still fetch.
    var charge: ReplyCharge?

    private enum Origin {
        case pool(BufferPool)
        case cache(RegistrationCache)
    }

    /// The memory behind it, at least `count` bytes (for O_DIRECT and io_uring).
    public var buffer: IOBuffer { registration.buffer }

    /// Bytes asked for.
    public let count: Int

    /// The first `count` bytes. Valid as long as the buffer lives.
    public var bytes: UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[0..<count])
    }

    init(count: Int, pool: BufferPool) throws(RPCError) {
        registration = try pool.take(count: count)
        self.count = count
        origin = .pool(pool)
    }

    init(_ buffer: IOBuffer, cache: RegistrationCache) throws(RPCError) {
        registration = try cache.take(buffer)
        count = buffer.count
        origin = .cache(cache)
    }

    deinit {
        switch origin {
        case .pool(let pool): pool.give(registration)
        case .cache(let cache): cache.give(registration)
        }
    }
}
