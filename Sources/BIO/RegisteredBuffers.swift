internal import CUring
internal import DrayRuntime

/// The buffers that a ring knows, and which of them holds a transfer.
struct RegisteredBuffers {
    private var buffers: [IOBuffer] = []
    /// Where each begins and ends.
    private var ranges: [Range<UInt>] = []
    /// No more are taken: the kernel has refused one.
    var isFull = false

    /// The number of the next one; nil when no more are taken.
    var next: Int32? {
        isFull || buffers.count == Int(DRAY_RING_BUFFERS) ? nil : Int32(buffers.count)
    }

    /// `buffer` is registered under the number that `next` was.
    mutating func add(_ buffer: IOBuffer) {
        buffers.append(buffer)
        let start = unsafe UInt(bitPattern: buffer.bytes.baseAddress)
        ranges.append(start..<start + UInt(buffer.count))
    }

    /// The number of the buffer that holds all of a transfer, or that of none.
    func number(of address: UnsafeRawPointer?, count: Int) -> Int32 {
        let start = UInt(bitPattern: address)
        for index in ranges.indices
        where ranges[index].lowerBound <= start
            && start + UInt(count) <= ranges[index].upperBound
        {
            return Int32(index)
        }
        return Int32(DRAY_RING_NO_BUFFER)
    }

    /// For the mutable kind.
    func number(of address: UnsafeMutableRawPointer?, count: Int) -> Int32 {
        unsafe number(of: UnsafeRawPointer(address), count: count)
    }
}
