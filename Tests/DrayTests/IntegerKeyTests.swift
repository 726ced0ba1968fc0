import Dray
import DrayPlacement
import DrayRuntime
import DraySimulator
import Testing

/// Objects whose keys are integers.
@Suite struct IntegerKeyTests {
    private func values(_ keys: [[UInt8]]) -> [UInt64?] { keys.map(IntegerKey.value) }

    /// In the order of the numbers, over all shards.
    @Test(arguments: [.sx, .rp3gx] as [ObjectClass])
    func integersAreInOrder(objectClass: ObjectClass) {
        ClusterRig.run(targets: 2, objectClass) { rig in
            let id = try await rig.container.makeObjectID(
                keys: KeyTypes(dkey: .integer, akey: .integer))
            #expect(id.keyTypes == KeyTypes(dkey: .integer, akey: .integer))
            #expect(id.objectClass == objectClass)
            let object = rig.container.object(id)
            let numbers: [UInt64] = [0, 1, 9, 10, 255, 256, 1000, 65_536, 1 << 40, .max]
            for number in numbers.reversed() {
                try await object.put(
                    dkey: IntegerKey.bytes(number), akey: IntegerKey.bytes(number),
                    value: Array("\(number)".utf8))
                try await object.put(
                    dkey: IntegerKey.bytes(9), akey: IntegerKey.bytes(number), value: [])
            }
            #expect(values(try await object.listDkeys().keys) == numbers)
            let backwards = try await object.listDkeys(in: .all.reversed).keys
            #expect(values(backwards) == numbers.reversed())
            #expect(
                values(try await object.listDkeys(in: KeyRange(integers: 10...1000)).keys)
                    == [10, 255, 256, 1000])
            #expect(
                values(try await object.listDkeys(in: KeyRange(integers: 1001 ... .max)).keys)
                    == [65_536, 1 << 40, .max])
            #expect(
                values(try await object.listAkeys(dkey: IntegerKey.bytes(9)).keys) == numbers)
            let key = IntegerKey.bytes(256)
            #expect(try await object.get(dkey: key, akey: key) == Array("256".utf8))
        }
    }

    @Test func otherLengthsAreRefused() {
        ClusterRig.run { rig in
            let eight = IntegerKey.bytes(5)
            let seven = Array(eight.dropFirst())
            let buffer = IOBuffer(count: 10)
            for types in [KeyTypes(dkey: .integer), KeyTypes(akey: .integer)] {
                let object = rig.container.object(
                    try await rig.container.makeObjectID(keys: types))
                let isDkey = types.dkey == .integer
                let (dkey, akey) = isDkey ? (seven, eight) : (eight, seven)
                let uses: [() async throws -> Void] = [
                    { try await object.put(dkey: dkey, akey: akey, value: []) },
                    { _ = try await object.get(dkey: dkey, akey: akey) },
                    { try await object.remove(dkey: dkey, akey: akey) },
                    {
                        try await object.write(
                            dkey: dkey, akey: akey, offset: 0, buffer: buffer, range: 0..<10)
                    },
                    {
                        try await object.read(
                            dkey: dkey, akey: akey, offset: 0, into: buffer, range: 0..<10)
                    },
                    { _ = try await object.arrayEnd(dkey: dkey, akey: akey) },
                    { try await object.update([.put(dkey: dkey, akey: akey, value: [])]) },
                    {
                        try await rig.container.transaction { transaction in
                            try await transaction.put(object, dkey: dkey, akey: akey, value: [])
                        }
                    },
                ]
                for (index, use) in uses.enumerated() {
                    let (error, _) = try await rig.failure { try await use() }
                    #expect(error.code == .invalidArgument, "\(index): \(error)")
                    #expect(error.message.contains("8 bytes, this one 7"), "\(index): \(error)")
                }
                // The other level takes any bytes.
                try await object.put(
                    dkey: isDkey ? eight : "text".bytes, akey: isDkey ? [] : eight, value: [1])
                if isDkey {
                    let (error, _) = try await rig.failure { try await object.remove(dkey: dkey) }
                    #expect(error.code == .invalidArgument, "\(error)")
                    let (refusal, _) = try await rig.failure {
                        _ = try await object.listAkeys(dkey: dkey)
                    }
                    #expect(refusal.code == .invalidArgument, "\(refusal)")
                }
                try await object.punch()
                #expect(try await object.listDkeys().keys == [])
            }
        }
    }
}
