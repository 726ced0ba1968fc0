internal import DequeModule
internal import DrayRuntime

/// The bytes of values that are read again and again: such a read needs no device. What the device
/// holds is not looked at then: who wants to know reads with `Fetch.readsDevice`.
///
/// A value is known by its first block, until that is free again. It comes in when it is read from
/// the device for the second time, so that one long scan does not drive out what is in use. The one
/// that goes is the oldest that was not read since it was looked at last (CLOCK).
struct ValueCache {
    /// The longest value that is kept, in bytes.
    static let valueMax = 64 << 10
    /// So many bytes that are kept for each value that is remembered because it was read once. Of
    /// twice as many as the cache holds when they have 4 KiB: what is read again later than that
    /// would have left the cache meanwhile, and would only drive out others.
    private static let bytesPerSeen = 2_048

    private final class Value {
        private(set) var block: UInt32
        private(set) var bytes: [UInt8]
        var wasRead = false
        var isKept = true

        init(block: UInt32, bytes: UnsafeRawBufferPointer) {
            self.block = block
            self.bytes = unsafe [UInt8](copying: bytes)
        }

        /// Takes the place of one that has left the cache, in its memory; as many bytes.
        func become(block: UInt32, bytes: UnsafeRawBufferPointer) {
            self.block = block
            unsafe self.bytes.withUnsafeMutableBytes { unsafe $0.copyMemory(from: bytes) }
            wasRead = false
            isKept = true
        }
    }

    let bytesMax: Int
    /// Of the values that are kept.
    private(set) var bytes = 0
    private var values: [UInt32: Value] = [:]
    /// In the order they came. Some have left the cache.
    private var queue = Deque<Value>()
    private let seenCount: Int
    /// First blocks of values that were read once, one more than the number, in places by the
    /// remainder.
    private var seen: [UInt32] = []

    init(bytesMax: Int) {
        self.bytesMax = bytesMax
        seenCount = max(256, bytesMax / ValueCache.bytesPerSeen)
    }

    var count: Int { values.count }

    /// Calls `body` with the value that begins in `block`; false when it is not here.
    func withValue(at block: UInt32, _ body: (UnsafeRawBufferPointer) -> Void) -> Bool {
        guard let value = values[block] else { return false }
        value.wasRead = true
        unsafe value.bytes.withUnsafeBytes { unsafe body($0) }
        return true
    }

    /// The value that begins in `block`, all of it and verified, was read from the device.
    mutating func didRead(at block: UInt32, _ value: UnsafeRawBufferPointer) {
        guard value.count <= min(ValueCache.valueMax, bytesMax), values[block] == nil else {
            return
        }
        if seen.isEmpty { seen = Array(repeating: 0, count: seenCount) }
        let place = Int(block) % seenCount
        guard seen[place] == block &+ 1 else {
            seen[place] = block &+ 1
            return
        }
        var evicted: Value?
        while bytes + value.count > bytesMax { evicted = evictOne() ?? evicted }
        let kept: Value
        if let evicted, evicted.bytes.count == value.count {
            // Nothing but its place in the queue referred to it.
            unsafe evicted.become(block: block, bytes: value)
            kept = evicted
        } else {
            kept = unsafe Value(block: block, bytes: value)
        }
        values[block] = kept
        bytes += value.count
        queue.append(kept)
        if queue.count > 2 * count + 64 { queue.removeAll { !$0.isKept } }
    }

    /// The block is free: whatever began there is no more.
    mutating func remove(block: UInt32) {
        if !seen.isEmpty { seen[Int(block) % seenCount] = 0 }
        if let value = values[block] { remove(value) }
    }

    private mutating func remove(_ value: Value) {
        guard value.isKept else { return }
        value.isKept = false
        values[value.block] = nil
        bytes -= value.bytes.count
    }

    /// Looks at the oldest, and returns it if it has left the cache.
    private mutating func evictOne() -> Value? {
        guard let value = queue.popFirst() else {
            preconditionFailure("bytes are counted that no value has")
        }
        if value.isKept, value.wasRead {
            value.wasRead = false
            queue.append(value)
            return nil
        }
        remove(value)
        return value
    }

    /// The first blocks of the values that are kept, without order.
    var blocks: some Collection<UInt32> { values.keys }

    /// Traps when the counts are wrong. For tests.
    func checkInvariants() {
        precondition(bytes == values.values.reduce(0) { $0 + $1.bytes.count })
        precondition(values.allSatisfy { $0.key == $0.value.block && $0.value.isKept })
        precondition(queue.count { $0.isKept } == values.count)
    }
}
