internal import DequeModule

/// The bytes of values that are read again and again, beside their records: such a read needs no
/// device. What the device holds is not looked at then: who wants to know reads with
/// `Fetch.readsDevice`.
///
/// A value comes in when it is read from the device for the second time, so that one long scan
/// does not drive out what is in use. The one that goes is the oldest that was not read since it
/// was looked at last (CLOCK).
struct ValueCache {
    /// The longest value that is kept, in bytes.
    static let valueMax = 64 << 10

    let bytesMax: Int
    /// Of the values that are kept.
    private(set) var bytes = 0
    private(set) var count = 0
    /// In the order they came. Some have left the cache.
    private var queue = Deque<IndexRecord>()

    init(bytesMax: Int) { self.bytesMax = bytesMax }

    /// `value`, all of it and verified, was read from the device.
    mutating func didRead(_ record: IndexRecord, _ value: UnsafeRawBufferPointer) {
        guard value.count <= min(ValueCache.valueMax, bytesMax), record.cached == nil,
            !record.isRemoved
        else { return }
        guard record.wasRead else {
            record.wasRead = true
            return
        }
        while bytes + value.count > bytesMax { evictOne() }
        record.cached = unsafe [UInt8](value)
        record.wasRead = false
        bytes += value.count
        count += 1
        queue.append(record)
        if queue.count > 2 * count + 64 { queue.removeAll { $0.cached == nil } }
    }

    /// The record has left the index.
    mutating func remove(_ record: IndexRecord) {
        guard let cached = record.cached else { return }
        record.cached = nil
        bytes -= cached.count
        count -= 1
    }

    private mutating func evictOne() {
        guard let record = queue.popFirst() else {
            preconditionFailure("bytes are counted that no value has")
        }
        if record.cached != nil, record.wasRead {
            record.wasRead = false
            queue.append(record)
        } else {
            remove(record)
        }
    }
}
