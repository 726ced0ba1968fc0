/// The first bytes of a key behind a prefix that it shares with its neighbours, as a number. Those
/// of several keys lie side by side, so that a search among them looks at few places in memory.
enum KeyHead {
    /// Eight bytes, most significant first; zeros stand for those that are not there. Keys of one
    /// order have heads of that order, or equal ones.
    @inline(__always)
    static func of(_ rest: UnsafeRawBufferPointer) -> UInt64 {
        if rest.count >= 8 { return unsafe IndexKey.word(rest, at: 0) }
        var head: UInt64 = 0
        for index in 0..<rest.count { head = unsafe head << 8 | UInt64(rest[index]) }
        return unsafe rest.isEmpty ? 0 : head << UInt64(64 - 8 * rest.count)
    }

    /// The first four of these bytes.
    @inline(__always)
    static func short(_ rest: UnsafeRawBufferPointer) -> UInt32 {
        UInt32(truncatingIfNeeded: unsafe of(rest) >> 32)
    }

    /// The first of `range`, in which heads ascend, at which there is none below `head`.
    @inline(__always)
    static func lowerBound<Head: FixedWidthInteger>(
        _ heads: UnsafePointer<Head>, _ range: Range<Int>, _ head: Head
    ) -> Int {
        var low = range.lowerBound
        var count = range.count
        while count > 0 {
            let half = (count + 1) / 2
            // Without a branch, which would be guessed wrong half the time.
            low += unsafe heads[low + half - 1] < head ? half : 0
            count -= half
        }
        return low
    }
}
