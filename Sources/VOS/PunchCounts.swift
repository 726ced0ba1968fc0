internal import DrayRuntime

/// How many punches the index holds at or below each object that has any.
struct PunchCounts {
    /// The prefix of an object's keys.
    private struct ObjectName: Hashable {
        let pool: UniqueID
        let container: UniqueID
        let object: ObjectID

        init(_ key: IndexKey.Bytes) {
            pool = UniqueID(high: key.word(at: 0), low: key.word(at: 8))
            container = UniqueID(high: key.word(at: 16), low: key.word(at: 24))
            object = ObjectID(high: key.word(at: 32), low: key.word(at: 40))
        }
    }

    private var counts: [ObjectName: Int] = [:]

    /// Punches of all objects. O(n) in the objects that have any.
    var total: Int { counts.values.reduce(0, +) }

    /// Whether there is a punch at or below the object of `key`.
    func hasAny(for key: IndexKey.Bytes) -> Bool {
        !counts.isEmpty && counts[ObjectName(key)] != nil
    }

    mutating func add(_ key: IndexKey.Bytes) {
        counts[ObjectName(key), default: 0] += 1
    }

    mutating func remove(_ key: IndexKey.Bytes) {
        let name = ObjectName(key)
        guard let count = counts[name] else {
            preconditionFailure("a punch was removed that was not counted")
        }
        counts[name] = count > 1 ? count - 1 : nil
    }
}
