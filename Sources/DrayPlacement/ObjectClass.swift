/// How an object is protected and over how many redundancy groups it is spread, in DAOS's terms.
///
/// `S1`, `S2`, … spread over that many targets without redundancy; `SX` over all of them.
public struct ObjectClass: Hashable, Sendable, CustomStringConvertible {
    /// How one redundancy group protects its data.
    public enum Redundancy: Hashable, Sendable {
        /// One shard a group: a lost target loses its part.
        case none
    }

    /// The number of redundancy groups.
    public enum Groups: Hashable, Sendable {
        case count(Int)
        /// As many as the pool has targets for, when the object is made (`X`).
        case all
    }

    public let redundancy: Redundancy
    public let groups: Groups

    private init(redundancy: Redundancy, groups: Groups) {
        self.redundancy = redundancy
        self.groups = groups
    }

    public static var s1: ObjectClass { ObjectClass(redundancy: .none, groups: .count(1)) }
    public static var s2: ObjectClass { ObjectClass(redundancy: .none, groups: .count(2)) }
    public static var sx: ObjectClass { ObjectClass(redundancy: .none, groups: .all) }

    /// The group counts that have a name, as in DAOS.
    static let groupCounts = [1, 2, 4, 6, 8, 12, 16, 32]

    /// Every class there is.
    public static var allCases: [ObjectClass] {
        groupCounts.map { ObjectClass(redundancy: .none, groups: .count($0)) } + [.sx]
    }

    /// Parses a name such as `S2` or `sx`. Nil when there is no such class.
    public init?(_ name: String) {
        guard
            let found = ObjectClass.allCases.first(where: {
                $0.description == name.uppercased()
            })
        else { return nil }
        self = found
    }

    public var description: String {
        switch groups {
        case .count(let count): "S\(count)"
        case .all: "SX"
        }
    }

    /// The number that stands for the class on the wire and in object ids; stable for ever.
    public var code: UInt8 {
        switch groups {
        case .count(let count): UInt8(count)
        case .all: 0xff
        }
    }

    /// The class with this number. Nil when there is none.
    public init?(code: UInt8) {
        guard let found = ObjectClass.allCases.first(where: { $0.code == code }) else {
            return nil
        }
        self = found
    }

    /// How many bytes of data fit into `raw` bytes of devices.
    public func usable(raw: UInt64) -> UInt64 {
        switch redundancy {
        case .none: raw
        }
    }
}
