public import DrayRuntime

/// A set of ranks in ascending order, each of which also has a position: its place in that order.
///
/// Ranges of consecutive ranks are kept and sent as such, so that a whole group of thousands is a
/// few bytes; a set with many holes travels as a bitmap.
public struct RankSet: Hashable, Sendable {
    /// Ascending; neither empty nor touching.
    private var ranges: [Range<UInt32>] = []
    /// The position of the first rank of each range.
    private var starts: [Int] = []

    /// How many ranks there are.
    public private(set) var count = 0

    /// The most ranks of a set.
    public static let countMax = TreeTopology.countMax

    /// The most ranks that a bitmap may span.
    private static let bitmapBitsMax = 1 << 21

    /// The empty set.
    public init() {}

    /// The set of `ranks`, in any order; one that occurs twice is in it once. At most `countMax`.
    public init(_ ranks: some Sequence<UInt32>) {
        for rank in ranks.sorted() where ranges.last?.contains(rank) != true {
            precondition(rank < UInt32.max, "no process has that rank")
            append(rank..<rank + 1)
        }
        precondition(count <= RankSet.countMax, "too many ranks")
    }

    /// Adds ranks behind all others.
    private mutating func append(_ range: Range<UInt32>) {
        if let last = ranges.last, last.upperBound == range.lowerBound {
            ranges[ranges.count - 1] = last.lowerBound..<range.upperBound
        } else {
            starts.append(count)
            ranges.append(range)
        }
        count += range.count
    }

    /// The rank at a position. O(log ranges).
    public func rank(at position: Int) -> UInt32 {
        precondition((0..<count).contains(position))
        let index = last(in: starts.count) { starts[$0] <= position }
        return ranges[index].lowerBound + UInt32(position - starts[index])
    }

    /// Where a rank stands; nil when it is not in the set. O(log ranges).
    public func position(of rank: UInt32) -> Int? {
        guard let first = ranges.first, first.lowerBound <= rank else { return nil }
        let index = last(in: ranges.count) { ranges[$0].lowerBound <= rank }
        guard ranges[index].contains(rank) else { return nil }
        return starts[index] + Int(rank - ranges[index].lowerBound)
    }

    /// Whether the rank is in the set. O(log ranges).
    public func contains(_ rank: UInt32) -> Bool { position(of: rank) != nil }

    /// All ranks, ascending.
    public var ranks: [UInt32] { ranges.flatMap { Array($0) } }

    /// The last index that `holds`, which the first one does.
    private func last(in count: Int, _ holds: (Int) -> Bool) -> Int {
        var (low, high) = (0, count)
        while high - low > 1 {
            let middle = (low + high) / 2
            if holds(middle) { low = middle } else { high = middle }
        }
        return low
    }
}

extension RankSet: ByteCodable {
    private enum Form: UInt8 {
        case ranges = 0
        case bitmap = 1
    }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        let first = ranges.first?.lowerBound ?? 0
        let span = Int((ranges.last?.upperBound ?? 0) - first)
        let isSparse = span <= RankSet.bitmapBitsMax && span / 8 < ranges.count * 8
        var form = isSparse ? Form.bitmap : .ranges
        try coder.code(&form)
        switch form {
        case .ranges: try codeRanges(&coder)
        case .bitmap: try codeBitmap(&coder, first: first, span: span)
        }
    }

    private mutating func codeRanges(_ coder: inout ByteCoder) throws(DecodingFailure) {
        let known = ranges
        let total = try coder.codeCount(known.count, max: RankSet.countMax)
        var set = RankSet()
        for index in 0..<total {
            var (start, length) = (UInt32(0), UInt32(0))
            if !coder.isDecoding {
                start = known[index].lowerBound
                length = UInt32(known[index].count)
            }
            try coder.code(&start)
            try coder.code(&length)
            guard coder.isDecoding else { continue }
            let (end, overflow) = start.addingReportingOverflow(length)
            let isBehind = set.ranges.last.map { $0.upperBound < start } ?? true
            guard length > 0, !overflow, isBehind else { throw .invalidValue }
            guard Int(length) <= RankSet.countMax - set.count else { throw .tooLong }
            set.append(start..<end)
        }
        if coder.isDecoding { self = set }
    }

    private mutating func codeBitmap(
        _ coder: inout ByteCoder, first: UInt32, span: Int
    ) throws(DecodingFailure) {
        var first = first
        var bits: [UInt8] = []
        if !coder.isDecoding {
            bits = Array(repeating: 0, count: (span + 7) / 8)
            for range in ranges {
                for rank in range { bits[Int(rank - first) / 8] |= 1 << UInt8((rank - first) % 8) }
            }
        }
        try coder.code(&first)
        try coder.code(&bits, max: RankSet.bitmapBitsMax / 8)
        guard coder.isDecoding else { return }
        guard bits.last != 0, UInt64(first) + UInt64(bits.count * 8) < UInt64(UInt32.max)
        else { throw .invalidValue }
        var set = RankSet()
        for index in bits.indices where bits[index] != 0 {
            for bit in 0..<8 where bits[index] & 1 << UInt8(bit) != 0 {
                let rank = first + UInt32(index * 8 + bit)
                set.append(rank..<rank + 1)
            }
        }
        guard set.count <= RankSet.countMax else { throw .tooLong }
        self = set
    }
}
