internal import CUring
internal import DrayRuntime

/// The buffers that a ring knows, and which of them holds a transfer.
struct RegisteredBuffers {
    /// What is registered sparingly leaves room for what the store cannot do without: the limit of
    /// locked memory is shared by everything that the user runs.
    static let sparingBytesMax = 8 << 20
    static let sparingCountMax = Int(DRAY_RING_BUFFERS) - 16

    /// A registered buffer: where it begins and ends, and its number.
    private struct Entry {
        var range: Range<UInt>
        var number: Int32
    }

    private var buffers: [IOBuffer] = []
    /// In the order of their addresses.
    private var entries: [Entry] = []
    private var bytes = 0
    /// The kernel has refused one. Not tried again: what is refused once costs a call each time.
    private var isFull = false
    private var isSparinglyFull = false

    /// The number that a buffer of `count` bytes would have; nil when no more are taken.
    func next(count: Int, sparingly: Bool) -> Int32? {
        guard !isFull, buffers.count < Int(DRAY_RING_BUFFERS) else { return nil }
        if sparingly {
            guard !isSparinglyFull, buffers.count < RegisteredBuffers.sparingCountMax,
                bytes + count <= RegisteredBuffers.sparingBytesMax
            else { return nil }
        }
        return Int32(buffers.count)
    }

    /// The kernel takes no more.
    mutating func refused(sparingly: Bool) {
        if sparingly { isSparinglyFull = true } else { isFull = true }
    }

    /// `buffer` is registered under the number that `next` was.
    mutating func add(_ buffer: IOBuffer) {
        let start = unsafe UInt(bitPattern: buffer.bytes.baseAddress)
        let entry = Entry(range: start..<start + UInt(buffer.count), number: Int32(buffers.count))
        entries.insert(entry, at: position(after: start))
        buffers.append(buffer)
        bytes += buffer.count
    }

    /// The number of the buffer that holds all of a transfer, or that of none.
    func number(of address: UnsafeRawPointer?, count: Int) -> Int32 {
        let start = UInt(bitPattern: address)
        let position = position(after: start)
        guard position > 0, start + UInt(count) <= entries[position - 1].range.upperBound else {
            return Int32(DRAY_RING_NO_BUFFER)
        }
        return entries[position - 1].number
    }

    /// How many begin at or before an address.
    private func position(after start: UInt) -> Int {
        var (low, high) = (0, entries.count)
        while low < high {
            let middle = (low + high) / 2
            if entries[middle].range.lowerBound <= start { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
