public import DrayRuntime

/// Layouts that were computed before. When there are too many, all are forgotten.
public struct LayoutCache {
    private struct Key: Hashable {
        var pool: UniqueID
        var object: ObjectID
        var mapVersion: UInt32
    }

    /// The most layouts that are remembered.
    public static let countMax = 8192

    private var layouts: [Key: ObjectLayout] = [:]

    public init() {}

    /// The layout of `object` in the map of `pool`; nil when the id does not fit the map.
    public mutating func layout(
        of object: ObjectID, pool: UniqueID, in map: PoolMap
    ) -> ObjectLayout? {
        let key = Key(pool: pool, object: object, mapVersion: map.version)
        if let known = layouts[key] { return known }
        guard let layout = ObjectLayout(of: object, in: map) else { return nil }
        if layouts.count >= LayoutCache.countMax { layouts.removeAll(keepingCapacity: true) }
        layouts[key] = layout
        return layout
    }
}
