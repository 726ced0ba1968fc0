public import DrayRuntime

/// A plain key-value map in a container: one object whose dkeys are the keys.
public struct KeyValue: Sendable {
    /// The object that holds the pairs.
    public let object: DrayObject

    private static let akey: [UInt8] = Array("value".utf8)

    /// The container's default map, or the map in `objectID`.
    public init(container: Container, objectID: ObjectID? = nil) {
        object = container.object(objectID ?? container.wellKnownObjectID(1))
    }

    /// Stores `value` under `key`; with `.insert` or `.update`, only if the key is absent or
    /// present. Throws `exists` or `notFound` when it is not.
    public func put(
        _ key: [UInt8], _ value: [UInt8], condition: DrayObject.Condition = .none
    ) async throws(DrayError) {
        try await object.put(
            dkey: key, akey: KeyValue.akey, value: value, condition: condition)
    }

    /// The value of `key`, or nil.
    public func get(_ key: [UInt8]) async throws(DrayError) -> [UInt8]? {
        try await object.get(dkey: key, akey: KeyValue.akey)
    }

    /// Removes `key`. Throws `notFound` when it is absent.
    public func remove(_ key: [UInt8]) async throws(DrayError) {
        try await object.remove(dkey: key, condition: .update)
    }

    /// At most `limit` keys of a range, in its order, after `key`, and whether there are more.
    public func list(
        in range: KeyRange = .all, after key: [UInt8]? = nil, limit: Int = 1000
    ) async throws(DrayError) -> (keys: [[UInt8]], more: Bool) {
        try await object.listDkeys(in: range, after: key, limit: limit)
    }
}
