public import DrayRuntime

/// Pooled memory that is registered with a context's endpoint.
///
/// Confined to the context's xstream. Goes back to the pool when the last reference goes.
public final class RegisteredBuffer {
    let registration: Registration
    private let pool: BufferPool

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
        self.pool = pool
    }

    deinit {
        pool.give(registration)
    }
}
