/// A part of an extent that is visible: bytes `start ..< end` of the array.
struct VisibleSegment {
    let record: IndexRecord
    let start: UInt64
    let end: UInt64
}

/// Decides which extents of an array are visible where they overlap.
enum Painting {
    /// The visible parts of `records` within `range`, in ascending order; what no record covers is
    /// a hole and left out. The newest wins. O(n log n) for n records that overlap little.
    static func visible(_ records: [IndexRecord], in range: Range<UInt64>) -> [VisibleSegment] {
        if records.count == 1 {
            let record = records[0]
            let start = max(record.offset, range.lowerBound)
            let end = min(record.end, range.upperBound)
            return start < end ? [VisibleSegment(record: record, start: start, end: end)] : []
        }
        var gaps = [range]
        var segments: [VisibleSegment] = []
        for record in records.sorted(by: { $0.isNewer(than: $1) }) {
            cover(record, range: record.offset..<record.end, gaps: &gaps, segments: &segments)
            if gaps.isEmpty { break }
        }
        segments.sort { $0.start < $1.start }
        return segments
    }

    /// Fills what `record` covers of the gaps, which are in ascending order and disjoint.
    private static func cover(
        _ record: IndexRecord, range: Range<UInt64>, gaps: inout [Range<UInt64>],
        segments: inout [VisibleSegment]
    ) {
        var low = 0
        var high = gaps.count
        while low < high {
            let middle = (low + high) / 2
            if gaps[middle].upperBound <= range.lowerBound {
                low = middle + 1
            } else {
                high = middle
            }
        }
        var last = low
        var rest: [Range<UInt64>] = []
        while last < gaps.count, gaps[last].lowerBound < range.upperBound {
            let gap = gaps[last]
            let start = max(gap.lowerBound, range.lowerBound)
            let end = min(gap.upperBound, range.upperBound)
            segments.append(VisibleSegment(record: record, start: start, end: end))
            if gap.lowerBound < start { rest.append(gap.lowerBound..<start) }
            if end < gap.upperBound { rest.append(end..<gap.upperBound) }
            last += 1
        }
        if last > low { gaps.replaceSubrange(low..<last, with: rest) }
    }
}
