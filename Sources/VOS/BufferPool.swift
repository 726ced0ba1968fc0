internal import BIO
internal import DrayRuntime

/// Aligned buffers for what cannot go between the caller's memory and the device directly.
final class BufferPool {
    /// Free buffers by size: 4 KiB shifted left by the index.
    @safe @exclusivity(unchecked) private var free: [[IOBuffer]] = Array(repeating: [], count: 10)
    /// The most buffers of one size that are kept.
    private static let keptMax = 16

    /// A buffer of at least `count` bytes, at most 2 MiB. Its contents are arbitrary.
    func take(_ count: Int) -> IOBuffer {
        var level = 0
        while BlockDevice.blockSize << level < count { level += 1 }
        precondition(level < free.count, "a buffer of \(count) bytes")
        if let buffer = free[level].popLast() { return buffer }
        var made = IOBuffer.forLargeTransfers(count: BlockDevice.blockSize << level)
        defer { free[level] += made }
        return made.removeLast()
    }

    func give(_ buffer: IOBuffer) {
        let level = (buffer.count / BlockDevice.blockSize).trailingZeroBitCount
        if free[level].count < BufferPool.keptMax { free[level].append(buffer) }
    }
}
