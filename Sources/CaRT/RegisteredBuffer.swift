public import DrayRuntime

/// Pooled memory that is registered with a context's endpoint.
///
/// Confined to the context's xstream. Goes back to the pool when the last reference goes.
public final class RegisteredBuffer {
    /// The memory behind it, at least `count` bytes (for O_DIRECT and io_uring).
    public let buffer: IOBuffer

    /// Bytes asked for.
    public let count: Int

    /// The first `count` bytes. Valid as long as the buffer lives.
    public var bytes: UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[0..<count])
    }

    init() { preconditionFailure("to come") }
}

/// An exposure of memory to peers. Ends by `Context.withdraw`, or when dropped.
public final class BulkHandle {
    /// What peers need; put it into a message.
    public let descriptor: BulkDescriptor

    init() { preconditionFailure("to come") }
}
