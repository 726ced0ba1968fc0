/// A set of members of a transaction, by their places. Up to 64 of them take no memory of their
/// own.
public struct MemberSet: Hashable, Sendable, ExpressibleByArrayLiteral {
    private var first: UInt64 = 0
    private var rest: [UInt64] = []

    public init(arrayLiteral members: Int...) {
        for member in members { insert(member) }
    }

    public init(_ members: some Sequence<Int>) {
        for member in members { insert(member) }
    }

    /// The members of `range`.
    public init(_ range: Range<Int>) {
        if range.lowerBound >= 0, range.upperBound < 64 {
            first = (1 << UInt64(range.upperBound)) - (1 << UInt64(range.lowerBound))
        } else {
            for member in range { insert(member) }
        }
    }

    public var isEmpty: Bool { first == 0 && rest.allSatisfy { $0 == 0 } }

    /// Whether `member` is in it. O(1).
    public func contains(_ member: Int) -> Bool {
        guard member >= 64 else { return first >> UInt64(member) & 1 == 1 }
        let word = member / 64 - 1
        return word < rest.count && rest[word] >> UInt64(member % 64) & 1 == 1
    }

    /// Adds `member`, which is not negative.
    public mutating func insert(_ member: Int) {
        precondition(member >= 0, "members are counted from 0")
        guard member >= 64 else {
            first |= 1 << UInt64(member)
            return
        }
        let word = member / 64 - 1
        while rest.count <= word { rest.append(0) }
        rest[word] |= 1 << UInt64(member % 64)
    }

    /// Takes `member` out, if it is in it.
    public mutating func remove(_ member: Int) {
        guard member >= 64 else {
            first &= ~(1 << UInt64(member))
            return
        }
        let word = member / 64 - 1
        guard word < rest.count else { return }
        rest[word] &= ~(1 << UInt64(member % 64))
        // Equal sets look alike.
        while rest.last == 0 { rest.removeLast() }
    }

    /// The same without `member`.
    public func removing(_ member: Int) -> MemberSet {
        var result = self
        result.remove(member)
        return result
    }
}
