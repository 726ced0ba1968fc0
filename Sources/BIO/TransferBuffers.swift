package import DrayRuntime

/// Aligned buffers for what cannot go between the caller's memory and the device directly, and for
/// what need not: those that are kept are registered, as far as that goes.
package final class TransferBuffers {
    /// The most bytes of a buffer that is kept for the next one who wants it.
    package static let keptBytesMax = 2 << 20
    /// The most buffers of one size that are kept, if they are not registered.
    private static let keptMax = 16

    /// Registers a buffer; false when the devices take none.
    private let register: (IOBuffer) -> Bool
    /// Free buffers by size: 4 KiB shifted left by the index. Those that are registered come last,
    /// and are taken first.
    @safe @exclusivity(unchecked) private var free: [[IOBuffer]] = Array(repeating: [], count: 10)
    /// The device keeps these in any case.
    @safe @exclusivity(unchecked) private var registered: Set<ObjectIdentifier> = []

    init(register: @escaping (IOBuffer) -> Bool) { self.register = register }

    /// A buffer of at least `count` bytes. Its contents are arbitrary.
    package func take(_ count: Int) -> IOBuffer {
        guard count <= TransferBuffers.keptBytesMax else { return IOBuffer(count: count) }
        var level = 0
        while BlockDevice.blockSize << level < count { level += 1 }
        if let buffer = free[level].popLast() { return buffer }
        var made = IOBuffer.forLargeTransfers(count: BlockDevice.blockSize << level)
        for buffer in made where register(buffer) { registered.insert(ObjectIdentifier(buffer)) }
        let buffer = made.removeLast()
        for other in made { give(other) }
        return buffer
    }

    /// Gives back what was taken.
    package func give(_ buffer: IOBuffer) {
        guard buffer.count <= TransferBuffers.keptBytesMax else { return }
        let level = (buffer.count / BlockDevice.blockSize).trailingZeroBitCount
        if registered.contains(ObjectIdentifier(buffer)) {
            free[level].append(buffer)
        } else if free[level].count < TransferBuffers.keptMax {
            free[level].insert(buffer, at: 0)
        }
    }
}
