internal import DrayRuntime

/// A device that refuses every change, for tools that only look.
package final class ReadOnlyDevice: BlockDevice {
    private let device: BlockDevice

    /// Closes `device` when it is closed.
    package init(_ device: BlockDevice) {
        self.device = device
        super.init(name: device.name, size: device.size)
    }

    override package func read(
        into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64
    ) async throws(BIOError) {
        try unsafe await device.read(into: buffer, at: offset)
    }

    override package func write(
        _ buffer: UnsafeRawBufferPointer, at offset: UInt64, durable: Bool
    ) async throws(BIOError) { throw refusal }

    override package func flush() async throws(BIOError) { throw refusal }

    override package func discard(_ range: Range<UInt64>) async throws(BIOError) { throw refusal }

    override package func close() async { await device.close() }

    private var refusal: BIOError {
        .unusable(path: name, code: 0, message: "it is only read")
    }
}
