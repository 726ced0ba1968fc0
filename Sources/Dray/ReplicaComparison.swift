internal import DrayPlacement
internal import DrayProtocol
internal import DrayRuntime

/// Compares what the replicas of one redundancy group have, a page of dkeys at a time.
///
/// A synchronous machine: pages in, differences out.
struct ReplicaComparison {
    /// A value or an extent. In the order in which targets list them.
    private struct Key: Hashable, Comparable {
        var dkey: [UInt8]
        var akey: [UInt8]
        /// Nil for a single value.
        var extent: Range<UInt64>?
        /// Of an array: those of two sizes are two different things.
        var recordSize: UInt32

        init(_ value: InspectedValue) {
            dkey = value.dkey
            akey = value.akey
            recordSize = value.recordSize
            let (end, overflow) = value.offset.addingReportingOverflow(value.length)
            extent = value.isArray ? value.offset..<(overflow ? .max : end) : nil
        }

        static func < (left: Key, right: Key) -> Bool {
            if left.dkey != right.dkey { return left.dkey.lexicographicallyPrecedes(right.dkey) }
            if left.akey != right.akey { return left.akey.lexicographicallyPrecedes(right.akey) }
            guard let (one, other) = both(left.extent, right.extent) else {
                return left.extent == nil && right.extent != nil
            }
            return (one.lowerBound, one.upperBound, left.recordSize)
                < (other.lowerBound, other.upperBound, right.recordSize)
        }

        private static func both<Value>(_ left: Value?, _ right: Value?) -> (Value, Value)? {
            guard let left, let right else { return nil }
            return (left, right)
        }
    }

    /// What was found in some dkeys.
    struct Result {
        /// Distinct values and extents, and their bytes.
        var values: UInt64 = 0
        var bytes: UInt64 = 0
        var differences: [VerificationDifference] = []
    }

    private let object: ObjectID
    private let group: Int
    private let members: [TargetAddress]

    init(_ object: ObjectID, group: Int, members: [TargetAddress]) {
        self.object = object
        self.group = group
        self.members = members
    }

    /// The last dkey that every page reaches; nil when all reach the end.
    static func bound(_ pages: [ObjectInspectReply]) -> [UInt8]? {
        pages.compactMap(\.next).min { $0.lexicographicallyPrecedes($1) }
    }

    /// Compares the pages of all members up to the dkey `bound`.
    func compare(_ pages: [ObjectInspectReply], through bound: [UInt8]?) -> Result {
        precondition(pages.count == members.count, "a page of each member")
        var result = Result()
        var positions = [Int](repeating: 0, count: pages.count)
        while true {
            let heads = zip(pages, positions).map { page, position -> InspectedValue? in
                guard position < page.values.count else { return nil }
                let value = page.values[position]
                if let bound, bound.lexicographicallyPrecedes(value.dkey) { return nil }
                return value
            }
            let keys = heads.map { $0.map { Key($0) } }
            guard let first = keys.compactMap({ $0 }).min() else { return result }
            let states = zip(heads, keys).map { head, key -> VerificationDifference.State in
                guard let head, key == first else { return .missing }
                return ReplicaComparison.state(head)
            }
            result.values += 1
            result.bytes += states.reduce(0) { max($0, $1.byteCount) }
            if states.contains(where: { $0 != states[0] || $0.isDamaged }) {
                result.differences.append(difference(first, states))
            }
            for index in pages.indices where keys[index] == first { positions[index] += 1 }
        }
    }

    private func difference(
        _ key: Key, _ states: [VerificationDifference.State]
    ) -> VerificationDifference {
        VerificationDifference(
            object: object, group: group, dkey: key.dkey, akey: key.akey, extent: key.extent,
            replicas: zip(members, states).map {
                VerificationDifference.Replica(target: $0, state: $1)
            })
    }

    private static func state(_ value: InspectedValue) -> VerificationDifference.State {
        value.isCorrupt
            ? .corrupt(byteCount: value.length, epoch: value.epoch)
            : .present(byteCount: value.length, epoch: value.epoch, checksum: value.checksum)
    }
}

extension VerificationDifference.State {
    fileprivate var byteCount: UInt64 {
        switch self {
        case .missing: 0
        case .present(let count, _, _): count
        case .corrupt(let count, _): count
        }
    }

    fileprivate var isDamaged: Bool {
        switch self {
        case .corrupt: true
        case .missing, .present: false
        }
    }
}
