extension ObjectClass {
    // The codes, in hexadecimal. They are on wires, in object ids and in containers' records.
    //
    //     01 02 04 06 08 0c 10 20   S1 S2 S4 S6 S8 S12 S16 S32: the group count
    //     40 … 48                   RP_2G1, G2, G4, G6, G8, G12, G16, G32, GX
    //     50 … 58                   RP_3…, and so on in steps of 10
    //     80 … 88                   RP_6…
    //     ff                        SX
    private static let replicatedBase: UInt8 = 0x40
    private static let allGroupsCode: UInt8 = 0xff

    /// The number that stands for the class on the wire and in object ids; stable for ever.
    ///
    /// Without redundancy the group count, 0xff for `SX`. With replicas, 0x40 + 16 · (replicas
    /// - 2) + the index of the group count in 1, 2, 4, 6, 8, 12, 16, 32, `X`.
    public var code: UInt8 {
        switch redundancy {
        case .none:
            switch groups {
            case .count(let count): UInt8(count)
            case .all: ObjectClass.allGroupsCode
            }
        case .replicas(let replicas):
            ObjectClass.replicatedBase + UInt8(replicas - 2) << 4 + groups.index
        }
    }

    /// The class with this number. Nil when there is none. O(1), allocates nothing: every request
    /// decodes one.
    public init?(code: UInt8) {
        switch code {
        case 1, 2, 4, 6, 8, 12, 16, 32:
            self.init(redundancy: .none, groups: .count(Int(code)))
        case 0x40...0x8f:
            guard let groups = Groups(index: code & 0xf) else { return nil }
            let replicas = Int((code - ObjectClass.replicatedBase) >> 4) + 2
            self.init(redundancy: .replicas(replicas), groups: groups)
        case ObjectClass.allGroupsCode:
            self = .sx
        default:
            return nil
        }
    }
}

extension ObjectClass.Groups {
    /// The index in 1, 2, 4, 6, 8, 12, 16, 32, `X`.
    fileprivate var index: UInt8 {
        switch self {
        case .count(1): 0
        case .count(2): 1
        case .count(4): 2
        case .count(6): 3
        case .count(8): 4
        case .count(12): 5
        case .count(16): 6
        case .count(32): 7
        case .count(let count): preconditionFailure("no class has \(count) groups")
        case .all: 8
        }
    }

    fileprivate init?(index: UInt8) {
        switch index {
        case 0: self = .count(1)
        case 1: self = .count(2)
        case 2: self = .count(4)
        case 3: self = .count(6)
        case 4: self = .count(8)
        case 5: self = .count(12)
        case 6: self = .count(16)
        case 7: self = .count(32)
        case 8: self = .all
        default: return nil
        }
    }
}
