/// A message that somebody reads, and the memory it lies in.
@safe struct HeldMessage {
    enum Source {
        /// A posted receive; the memory goes back to the fabric.
        case receive(UInt32)
        /// A send slot: the message was for ourselves.
        case loopback(UInt32)
        /// Memory that was filled by bulk transfer.
        case buffer(RegisteredBuffer)
    }

    var source: Source
    /// The first byte behind the header.
    // SAFETY: valid until the context releases the message; whoever holds it releases it once.
    var start: UnsafeRawPointer
    var bodyLength: Int
    var payloadLength: Int

    var body: UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(start: start, count: bodyLength)
    }

    var payload: UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(start: start + bodyLength, count: payloadLength)
    }

    /// Body and payload.
    var content: UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(start: start, count: bodyLength + payloadLength)
    }
}
