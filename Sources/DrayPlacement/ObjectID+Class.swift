public import DrayRuntime

extension ObjectID {
    // The upper 32 bits of `high`: object class (8), key types (8), group count (16). The count is
    // fixed when the object is made, so that its layout outlives an extension of the pool.

    /// Makes the id of a new object. Nil when the pool has too few engines for the class.
    ///
    /// - Parameters:
    ///   - keys: what its keys are.
    ///   - map: the pool as it is now: says how many groups the object gets.
    ///   - random: 96 bits that make the object unique; the upper 32 of `high` are ignored.
    public init?(
        objectClass: ObjectClass, keys: KeyTypes = KeyTypes(), in map: PoolMap,
        random: (high: UInt64, low: UInt64)
    ) {
        guard let groups = objectClass.groupCount(in: map) else { return nil }
        self.init(objectClass, keys, groupCount: groups, random: random)
    }

    /// Makes the id of an object with one group that is protected as `objectClass` says: the same
    /// id whatever the pool, so that the object is found without a directory.
    public init(
        singleGroupOf objectClass: ObjectClass, random: (high: UInt64, low: UInt64)
    ) {
        let single = ObjectClass(redundancy: objectClass.redundancy, groups: .count(1))
        self.init(single, KeyTypes(), groupCount: 1, random: random)
    }

    private init(
        _ objectClass: ObjectClass, _ keys: KeyTypes, groupCount: Int,
        random: (high: UInt64, low: UInt64)
    ) {
        let type =
            UInt64(objectClass.code) << 56 | UInt64(keys.code) << 48
            | UInt64(UInt16(groupCount)) << 32
        self.init(high: type | random.high & 0xffff_ffff, low: random.low)
    }

    /// The class of the object. Nil when the id was not made by Dray. O(1).
    public var objectClass: ObjectClass? {
        ObjectClass(code: UInt8(high >> 56))
    }

    /// What its keys are. O(1).
    public var keyTypes: KeyTypes { KeyTypes(code: UInt8(truncatingIfNeeded: high >> 48)) }

    /// The number of redundancy groups. 0 when the id was not made by Dray.
    public var groupCount: Int {
        Int(high >> 32 & 0xffff)
    }
}
