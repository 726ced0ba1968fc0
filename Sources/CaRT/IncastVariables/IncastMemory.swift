/// Values that live in the memory of their owner, and end with it: what `load` and `store` of a
/// class need that has nothing behind it.
public struct IncastMemory<Key: Hashable, Value> {
    private var values: [Key: IncastVersioned<Value>] = [:]

    /// No values.
    public init() {}

    /// How many keys have a value.
    public var count: Int { values.count }

    /// What is stored; nil when nothing is.
    public subscript(key: Key) -> IncastVersioned<Value>? { values[key] }

    /// Stores the value, or, for an invalidation (nil), gives the old one a new version.
    ///
    /// - Returns: what is stored now; nil when there was nothing to invalidate.
    public mutating func store(
        _ value: Value?, for key: Key, version: UInt64
    ) -> IncastVersioned<Value>? {
        guard let value = value ?? values[key]?.value else { return nil }
        let stored = IncastVersioned(value, version: max(version, (values[key]?.version ?? 0) + 1))
        values[key] = stored
        return stored
    }

    /// Forgets a key.
    public mutating func remove(_ key: Key) { values[key] = nil }
}
