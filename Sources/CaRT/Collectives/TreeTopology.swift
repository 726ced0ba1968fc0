public import DrayRuntime

/// The shape of a tree over a row of positions, as collective requests take it.
///
/// Who is whose parent follows from the position, the count and the root alone; no tree is ever
/// built. Any position may be the root: the row is turned so that the root comes first.
///
/// ```swift
/// let tree = TreeTopology.kNomial(4)
/// tree.children(of: 0, count: 64)             // 16, 32, 48, 4, 8, 12, 1, 2, 3
/// tree.parent(of: 13, count: 64)              // 12
/// tree.depth(count: 10_000)                   // 7
/// ```
public struct TreeTopology: Hashable, Sendable {
    /// How positions are joined.
    public enum Shape: UInt8, Sendable, CaseIterable {
        /// All others are children of the root.
        case flat
        /// Each has up to `ratio` children, level by level, as in a heap.
        case kAry
        /// Written in base `ratio`, a position's parent is the one without its last digit that is
        /// not zero. The root sends to whole subtrees at once, so that with messages that leave
        /// one after another all have theirs after the fewest steps.
        case kNomial
    }

    /// How positions are joined.
    public private(set) var shape: Shape

    /// The base: of a flat tree always 2, which means nothing there.
    public private(set) var ratio: Int

    /// What a ratio may be.
    public static let ratios = 2...64

    /// The most positions of a tree.
    public static let countMax = 1 << 20

    /// All others are children of the root.
    public static let flat = TreeTopology(shape: .flat, ratio: 2)

    /// Up to `ratio` children for each; 2 to 64.
    public static func kAry(_ ratio: Int) -> TreeTopology {
        TreeTopology(shape: .kAry, ratio: ratio)
    }

    /// A k-nomial tree; the ratio is 2 (a binomial tree) to 64.
    public static func kNomial(_ ratio: Int) -> TreeTopology {
        TreeTopology(shape: .kNomial, ratio: ratio)
    }

    private init(shape: Shape, ratio: Int) {
        precondition(TreeTopology.ratios.contains(ratio), "the ratio of a tree is 2 to 64")
        self.shape = shape
        self.ratio = ratio
    }

    // MARK: - Relations

    /// The children of a position; those with the most positions below them first.
    /// O(children + log count).
    public func children(of position: Int, count: Int, root: Int = 0) -> [Int] {
        let turn = Turn(count: count, root: root)
        let own = turn.relative(position)
        var children: [Int] = []
        switch shape {
        case .flat:
            if own == 0, count > 1 { children = (1..<count).map(turn.absolute) }
        case .kAry:
            let first = own * ratio + 1
            if first < count {
                children = (first..<min(first + ratio, count)).map(turn.absolute)
            }
        case .kNomial:
            var weight = 1
            let limit = own == 0 ? count : lastWeight(own)
            while weight * ratio < limit { weight *= ratio }
            while weight > 0, limit > 1 {
                // All with the same weight have as many below them, but for the last.
                for digit in 1..<ratio where own + digit * weight < count {
                    children.append(turn.absolute(own + digit * weight))
                }
                weight /= ratio
            }
        }
        return children
    }

    /// The parent of a position; nil for the root. O(log count).
    public func parent(of position: Int, count: Int, root: Int = 0) -> Int? {
        let turn = Turn(count: count, root: root)
        let own = turn.relative(position)
        guard own > 0 else { return nil }
        switch shape {
        case .flat: return turn.absolute(0)
        case .kAry: return turn.absolute((own - 1) / ratio)
        case .kNomial:
            let weight = lastWeight(own)
            return turn.absolute(own - own / weight % ratio * weight)
        }
    }

    /// A position and all below it, as ranges. O(log count).
    public func subtree(of position: Int, count: Int, root: Int = 0) -> [Range<Int>] {
        let turn = Turn(count: count, root: root)
        let own = turn.relative(position)
        if own == 0 { return [0..<count] }
        var ranges: [Range<Int>] = []
        switch shape {
        case .flat: turn.append(own..<own + 1, to: &ranges)
        case .kAry:
            var level = own..<own + 1
            while level.lowerBound < count {
                turn.append(level.clamped(to: 0..<count), to: &ranges)
                level = level.lowerBound * ratio + 1..<level.upperBound * ratio + 1
            }
        case .kNomial:
            turn.append(own..<min(own + lastWeight(own), count), to: &ranges)
        }
        return ranges
    }

    /// The most steps from the root to any position. O(log count).
    public func depth(count: Int) -> Int {
        precondition((1...TreeTopology.countMax).contains(count))
        switch shape {
        case .flat: return count > 1 ? 1 : 0
        case .kAry:
            var (depth, last) = (0, count - 1)
            while last > 0 {
                last = (last - 1) / ratio
                depth += 1
            }
            return depth
        case .kNomial:
            // The most digits that are not zero in any position up to the last: that of the last
            // itself, or of one that agrees with it up to a digit that is smaller.
            var (depth, lower, rest) = (0, 0, count - 1)
            while rest > 0 {
                var above = 0
                var upper = rest / ratio
                while upper > 0 {
                    if upper % ratio > 0 { above += 1 }
                    upper /= ratio
                }
                let digit = rest % ratio
                if lower == 0 { depth = above + (digit > 0 ? 1 : 0) }
                if digit > 0 { depth = max(depth, above + (digit > 1 ? 1 : 0) + lower) }
                lower += 1
                rest /= ratio
            }
            return depth
        }
    }

    /// The weight of the last digit that is not zero.
    private func lastWeight(_ position: Int) -> Int {
        var weight = 1
        while position / weight % ratio == 0 { weight *= ratio }
        return weight
    }

    /// Turns the row so that the root comes first, and back.
    private struct Turn {
        let count: Int
        let root: Int

        init(count: Int, root: Int) {
            precondition((1...TreeTopology.countMax).contains(count))
            precondition((0..<count).contains(root))
            self.count = count
            self.root = root
        }

        func relative(_ position: Int) -> Int {
            precondition((0..<count).contains(position))
            return position >= root ? position - root : position - root + count
        }

        func absolute(_ position: Int) -> Int {
            position < count - root ? position + root : position + root - count
        }

        /// Adds the positions of a relative range: two ranges where it crosses the end of the row.
        func append(_ range: Range<Int>, to ranges: inout [Range<Int>]) {
            let split = count - root
            let head = range.clamped(to: 0..<split)
            let tail = range.clamped(to: split..<count)
            if !head.isEmpty { ranges.append(head.lowerBound + root..<head.upperBound + root) }
            if !tail.isEmpty { ranges.append(tail.lowerBound - split..<tail.upperBound - split) }
        }
    }
}

extension TreeTopology: ByteCodable {
    /// A flat tree.
    public init() { self = .flat }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&shape)
        var size = UInt8(ratio)
        try coder.code(&size)
        guard coder.isDecoding else { return }
        guard TreeTopology.ratios.contains(Int(size)) else { throw .invalidValue }
        ratio = Int(size)
    }
}
