import DrayPlacement
import DrayRuntime
import Testing

@Suite struct ObjectClassTests {
    /// Codes are in what is stored: changing one loses every object of its class.
    static let codes: [(String, UInt8)] = [
        ("S1", 1), ("S2", 2), ("S4", 4), ("S6", 6), ("S8", 8), ("S12", 12), ("S16", 16),
        ("S32", 32), ("SX", 0xff),
        ("RP_2G1", 0x40), ("RP_2G2", 0x41), ("RP_2G4", 0x42), ("RP_2G6", 0x43), ("RP_2G8", 0x44),
        ("RP_2G12", 0x45), ("RP_2G16", 0x46), ("RP_2G32", 0x47), ("RP_2GX", 0x48),
        ("RP_3G1", 0x50), ("RP_3G2", 0x51), ("RP_3G4", 0x52), ("RP_3G6", 0x53), ("RP_3G8", 0x54),
        ("RP_3G12", 0x55), ("RP_3G16", 0x56), ("RP_3G32", 0x57), ("RP_3GX", 0x58),
        ("RP_4G1", 0x60), ("RP_4G2", 0x61), ("RP_4G4", 0x62), ("RP_4G6", 0x63), ("RP_4G8", 0x64),
        ("RP_4G12", 0x65), ("RP_4G16", 0x66), ("RP_4G32", 0x67), ("RP_4GX", 0x68),
        ("RP_5G1", 0x70), ("RP_5G2", 0x71), ("RP_5G4", 0x72), ("RP_5G6", 0x73), ("RP_5G8", 0x74),
        ("RP_5G12", 0x75), ("RP_5G16", 0x76), ("RP_5G32", 0x77), ("RP_5GX", 0x78),
        ("RP_6G1", 0x80), ("RP_6G2", 0x81), ("RP_6G4", 0x82), ("RP_6G6", 0x83), ("RP_6G8", 0x84),
        ("RP_6G12", 0x85), ("RP_6G16", 0x86), ("RP_6G32", 0x87), ("RP_6GX", 0x88),
    ]

    @Test(arguments: codes)
    func namesAndCodesStay(name: String, code: UInt8) throws {
        let objectClass = try #require(ObjectClass(name))
        #expect(objectClass.description == name)
        #expect(objectClass.code == code)
        #expect(ObjectClass(code: code) == objectClass)
        #expect(ObjectClass(name.lowercased()) == objectClass)
    }

    @Test func thereAreNoOtherClasses() {
        #expect(ObjectClass.allCases.map(\.description) == ObjectClassTests.codes.map(\.0))
        let known = Set(ObjectClassTests.codes.map(\.1))
        for code in UInt8.min...UInt8.max where !known.contains(code) {
            #expect(ObjectClass(code: code) == nil)
        }
        for name in ["", "S", "S3", "S0", "SX ", "RP_1G1", "RP_7G1", "RP_3G3", "RP_3G", "RP_3X"] {
            #expect(ObjectClass(name) == nil)
        }
    }

    @Test func replicasAreCountedAndPaidFor() throws {
        #expect(ObjectClass.s1.replicaCount == 1)
        #expect(ObjectClass.sx.usable(raw: 600) == 600)
        #expect(ObjectClass.rp2g1.description == "RP_2G1")
        #expect(ObjectClass.rp3g1.description == "RP_3G1")
        #expect(ObjectClass.rp3gx.description == "RP_3GX")
        for replicas in 2...6 {
            let objectClass = try #require(ObjectClass("rp_\(replicas)g4"))
            #expect(objectClass.redundancy == .replicas(replicas))
            #expect(objectClass.groups == .count(4))
            #expect(objectClass.replicaCount == replicas)
            #expect(objectClass.usable(raw: 605) == 605 / UInt64(replicas))
        }
    }

    @Test(arguments: ObjectClass.allCases)
    func idsCarryTheClass(objectClass: ObjectClass) throws {
        let map = PoolMap(
            version: 1, engines: (0..<64).map { .init(rank: $0, targetCount: 4) })
        let object = try #require(
            ObjectID(objectClass: objectClass, in: map, random: (.max, .max)))
        #expect(object.objectClass == objectClass)
        #expect(object.low == .max)
        #expect(object.high & 0xffff_ffff == 0xffff_ffff)
        switch objectClass.groups {
        case .count(let count): #expect(object.groupCount == count)
        case .all: #expect(object.groupCount == 256 / objectClass.replicaCount)
        }
        let single = ObjectID(singleGroupOf: objectClass, random: (.max, .max))
        #expect(single.objectClass?.redundancy == objectClass.redundancy)
        #expect(single.groupCount == 1)
    }

    @Test func aNamedCountIsCapped() throws {
        let map = PoolMap(version: 1, engines: (0..<3).map { .init(rank: $0, targetCount: 4) })
        for (name, groups) in [
            ("S8", 8), ("S32", 12), ("SX", 12), ("RP_2G4", 4), ("RP_2G32", 6), ("RP_2GX", 6),
            ("RP_3G32", 4), ("RP_3GX", 4),
        ] {
            let objectClass = try #require(ObjectClass(name))
            #expect(objectClass.groupCount(in: map) == groups, "\(name)")
        }
        #expect(ObjectClass("RP_4G1")?.groupCount(in: map) == nil)
    }

    @Test func tooFewEnginesHaveNoIds() throws {
        for replicas in 2...6 {
            let objectClass = try #require(ObjectClass("RP_\(replicas)GX"))
            var engines = (1..<UInt32(replicas)).map {
                PoolMap.Engine(rank: $0, targetCount: 8)
            }
            engines.append(PoolMap.Engine(rank: 9, targetCount: 0))
            var map = PoolMap(version: 1, engines: engines)
            #expect(ObjectID(objectClass: objectClass, in: map, random: (0, 0)) == nil)
            map.engines[replicas - 1].targetCount = 1
            let object = try #require(ObjectID(objectClass: objectClass, in: map, random: (0, 0)))
            #expect(object.groupCount == 1)
        }
        let empty = PoolMap(version: 1, engines: [.init(rank: 0, targetCount: 0)])
        #expect(ObjectID(objectClass: .sx, in: empty, random: (0, 0)) == nil)
    }

    /// They are in ids that are stored: changing a code changes what keys mean.
    @Test func idsSayWhatKeysAre() throws {
        let map = PoolMap(version: 1, engines: [.init(rank: 0, targetCount: 4)])
        let table: [(KeyTypes, UInt64)] = [
            (KeyTypes(), 0), (KeyTypes(dkey: .integer), 1), (KeyTypes(akey: .integer), 2),
            (KeyTypes(dkey: .integer, akey: .integer), 3),
        ]
        for (types, code) in table {
            let id = try #require(
                ObjectID(objectClass: .sx, keys: types, in: map, random: (.max, 7)))
            #expect(id.high == 0xff << 56 | code << 48 | 4 << 32 | 0xffff_ffff)
            #expect(id.keyTypes == types)
            #expect(id.objectClass == .sx && id.groupCount == 4)
        }
    }

    @Test func integersAreOrderedKeys() {
        let numbers: [UInt64] = [0, 1, 255, 256, 1 << 32, .max - 1, .max]
        let keys = numbers.map(IntegerKey.bytes)
        #expect(keys == keys.sorted { $0.lexicographicallyPrecedes($1) })
        #expect(keys.map(IntegerKey.value) == numbers)
        #expect(IntegerKey.bytes(0x0102_0304_0506_0708) == [1, 2, 3, 4, 5, 6, 7, 8])
        #expect(IntegerKey.value([1, 2, 3]) == nil)
        for first in numbers {
            for last in numbers where first <= last {
                let range = KeyRange(integers: first...last)
                #expect(
                    numbers.filter { range.contains(IntegerKey.bytes($0)) }
                        == numbers.filter { $0 >= first && $0 <= last })
            }
        }
        #expect(KeyType.integer.problem(with: [1]) != nil)
        #expect(KeyType.integer.problem(with: keys[0]) == nil)
        #expect(KeyType.lexical.problem(with: [1]) == nil)
    }

    @Test func wideObjectsHaveSoManyShardsAtMost() throws {
        let map = PoolMap(
            version: 1, engines: (0..<100).map { .init(rank: $0, targetCount: 1_000) })
        #expect(ObjectClass.sx.groupCount(in: map) == ObjectLayout.shardsMax)
        #expect(ObjectClass.rp3gx.groupCount(in: map) == ObjectLayout.shardsMax / 3)
    }
}
