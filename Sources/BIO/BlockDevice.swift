public import DrayRuntime

/// A block device or file, opened by one xstream.
///
/// All offsets and lengths are multiples of `BlockDevice.blockSize`, and so are buffers' addresses
/// (`IOBuffer` is page-aligned). Reads and writes in flight at once are not ordered, and a write is
/// durable only when a `flush` that began after the write ended has succeeded (or when it was
/// written with `durable: true`). This base class is the seam: `FileDevice` (io_uring, or a thread
/// pool where io_uring is forbidden) and `SimulatedDevice` are its kinds.
open class BlockDevice {
    /// 4 KiB: the unit of transfers and of allocation.
    public static let blockSize = 4096

    /// The size in bytes, a multiple of the block size.
    public let size: UInt64

    /// What the device is called in messages: its path.
    public let name: String

    /// What was asked of it since it was opened. (A subclass elsewhere counts nothing.)
    @safe @exclusivity(unchecked) public internal(set) final var statistics = DeviceStatistics()

    /// What whoever else has it open in this process may find out about it; nil when nobody asks.
    @safe @exclusivity(unchecked) public final var health: DeviceHealth?

    public init(name: String, size: UInt64) {
        self.name = name
        self.size = size
    }

    /// Makes transfers from and to `buffer` cheaper, where the device can do that and the limit of
    /// locked memory allows. The device keeps the buffer until it is closed: register those that
    /// are used again and again. `sparingly`: only while a few MiB are registered. Returns whether
    /// the device has it; asking again costs little.
    @discardableResult
    open func register(_ buffer: IOBuffer, sparingly: Bool = false) -> Bool { false }

    /// Reads `buffer.count` bytes at `offset`.
    open func read(
        into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64
    ) async throws(BIOError) { abstract() }

    /// Writes `buffer` at `offset`. With `durable`, returns only when the bytes are on stable
    /// storage (RWF_DSYNC); that covers no other write.
    open func write(
        _ buffer: UnsafeRawBufferPointer, at offset: UInt64, durable: Bool
    ) async throws(BIOError) { abstract() }

    /// Writes `buffer` at `offset`, then flushes: it and everything that was written before is
    /// durable. What `write` and `flush` do, without a pause between them where the kernel can.
    open func writeAndFlush(
        _ buffer: UnsafeRawBufferPointer, at offset: UInt64
    ) async throws(BIOError) {
        try unsafe await write(buffer, at: offset, durable: false)
        try await flush()
    }

    /// Makes everything that was written before durable.
    open func flush() async throws(BIOError) { abstract() }

    /// Whether `discard` does anything.
    open var canDiscard: Bool { false }

    /// Whether blocks that are free should be discarded unless somebody says otherwise: where that
    /// helps the device and costs little.
    open var discardsByDefault: Bool { false }

    /// Gives the bytes of `range`, whole blocks, back to the device, which need not keep them:
    /// what a read finds there is undefined until they are written again. Must not meet a write to
    /// the same place.
    open func discard(_ range: Range<UInt64>) async throws(BIOError) {}

    /// The first part of `range` that has space and was never written, so that its first write
    /// costs more; nil when there is none, or when nobody knows. Does not wait for the device.
    open func firstUnwritten(in range: Range<UInt64>) -> Range<UInt64>? { nil }

    /// Ends the use of the device after what is in flight has ended.
    open func close() async { abstract() }

    private func abstract() -> Never {
        preconditionFailure("BlockDevice is abstract")
    }
}
