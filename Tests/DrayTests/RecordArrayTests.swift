import Dray
import DrayPlacement
import DrayRuntime
import DraySimulator
import Testing

/// Arrays of records of any size, over the whole cluster: `RecordArray`.
@Suite struct RecordArrayTests {
    private static let mebibyte = 1 << 20

    private static func bytes(_ count: Int, seed: Int = 0) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: ($0 &+ seed) &* 2_654_435_761 >> 15) }
    }

    struct Case: Sendable {
        var recordSize: UInt32
        var records: Int
        var objectClass: ObjectClass
    }

    /// Written and read in one, around 1 MiB and beyond, and in pieces.
    @Test(arguments: [
        Case(recordSize: 1, records: 1_500_000, objectClass: .rp3g1),
        Case(recordSize: 3, records: 500_000, objectClass: .rp3g1),
        Case(recordSize: 24, records: 100_000, objectClass: .s1),
        Case(recordSize: 24, records: 5000, objectClass: .rp3gx),
        Case(recordSize: 4096, records: 600, objectClass: .rp3g1),
        Case(recordSize: 5 << 20, records: 2, objectClass: .s1),
        Case(recordSize: 5 << 20, records: 1, objectClass: .rp3g1),
    ]) func writesAndReads(_ test: Case) {
        ClusterRig.run(targets: 2, test.objectClass) { rig in
            let object = try await rig.makeObject()
            let array = try object.array(dkey: [1], akey: [2], recordSize: test.recordSize)
            let size = Int(test.recordSize)
            #expect(try await array.count() == 0)
            #expect(try await object.recordSize(dkey: [1], akey: [2]) == nil)
            let bytes = Self.bytes(size * test.records)
            // The callbacks come on this very xstream.
            nonisolated(unsafe) var parts: [Int] = []
            let buffer = IOBuffer(copying: bytes)
            try await array.write(buffer, range: 0..<bytes.count, at: 2) { parts.append($0) }
            #expect(parts.last == bytes.count)
            if size <= Self.mebibyte {
                #expect(parts.allSatisfy { $0 % size == 0 })
                let most = Self.mebibyte / size * size
                #expect(parts.count == (bytes.count + most - 1) / most)
            }
            #expect(try await array.count() == UInt64(test.records + 2))
            #expect(try await object.recordSize(dkey: [1], akey: [2]) == test.recordSize)
            #expect(try await array.read(2..<UInt64(test.records + 2)) == bytes)
            // A hole before, and behind the end.
            let first = try await array.read(1..<3)
            #expect(first == [UInt8](repeating: 0, count: size) + bytes[..<size])
            let end = UInt64(test.records) + 2
            #expect(try await array.read(end..<end + 1) == [UInt8](repeating: 0, count: size))
            let record = Self.bytes(size, seed: 77)
            try await array.write(record, at: 2)
            #expect(try await array.read(2..<3) == record)
            let report = try await object.verify()
            #expect(report.isEqual && report.values > 0)
        }
    }

    /// Whoever uses another size than the array has is refused.
    @Test(arguments: [.s1, .rp3g1] as [ObjectClass])
    func mismatches(objectClass: ObjectClass) {
        ClusterRig.run(objectClass) { rig in
            let object = try await rig.makeObject()
            let array = try object.array(dkey: [1], akey: [2], recordSize: 8)
            try await array.write(Self.bytes(64), at: 0)
            try await object.write(
                dkey: [1], akey: [3], offset: 0, buffer: IOBuffer(copying: [1, 2]), range: 0..<2)
            let buffer = IOBuffer(count: 64)
            let sixteen = try object.array(dkey: [1], akey: [2], recordSize: 16)
            let bytes = try object.array(dkey: [1], akey: [3], recordSize: 8)
            let mismatches: [() async throws -> Void] = [
                { try await sixteen.write(Self.bytes(16), at: 0) },
                { _ = try await sixteen.read(0..<1) },
                { _ = try await sixteen.read(100..<101) },
                { _ = try await sixteen.count() },
                { try await bytes.write(Self.bytes(8), at: 9) },
                { _ = try await bytes.read(0..<1) },
                { _ = try await bytes.read(7..<8) },
                { _ = try await bytes.count() },
                { _ = try await object.arrayEnd(dkey: [1], akey: [2]) },
                {
                    try await object.write(
                        dkey: [1], akey: [2], offset: 8, buffer: buffer, range: 0..<8)
                },
                {
                    try await object.read(
                        dkey: [1], akey: [2], offset: 8, into: buffer, range: 0..<8)
                },
                {
                    try await object.update([
                        .put(dkey: [1], akey: [2], value: [1]),
                        .write(dkey: [1], akey: [2], offset: 8, bytes: [1]),
                    ])
                },
                {
                    try await object.update([
                        .write(dkey: [1], akey: [2], recordSize: 4, at: 0, bytes: [1, 2, 3, 4])
                    ])
                },
                {
                    try await rig.container.transaction { transaction in
                        try await transaction.write(sixteen, at: 0, bytes: Self.bytes(16))
                    }
                },
                {
                    try await rig.container.transaction { transaction in
                        _ = try await transaction.read(
                            object, dkey: [1], akey: [2], range: 0..<8)
                    }
                },
            ]
            for (number, body) in mismatches.enumerated() {
                let (error, _) = try await rig.failure(body)
                #expect(error.code == .invalidArgument, "\(number): \(error)")
                #expect(error.message.contains("the array has records of"), "\(number): \(error)")
                #expect(!error.mayHaveHappened)
            }
            #expect(try await array.read(0..<8) == Self.bytes(64))
            #expect(try await object.get(dkey: [1], akey: [2]) == nil)
        }
    }

    /// What no array can have.
    @Test func badArguments() {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            let array = try object.array(dkey: [1], akey: [2], recordSize: 8)
            let buffer = IOBuffer(count: 64)
            let others: [() async throws -> Void] = [
                { _ = try object.array(dkey: [1], akey: [2], recordSize: 0) },
                { try await array.write(Self.bytes(12), at: 0) },
                { try await array.write(Self.bytes(8), at: .max) },
                { try await array.write(Self.bytes(8), at: 1 << 60) },
                { _ = try await array.read(0..<UInt64.max) },
                { try await array.read(into: buffer, range: 0..<12, at: 0) },
                { try await array.read(into: buffer, range: 0..<72, at: 0) },
                {
                    try await object.update([
                        .write(dkey: [1], akey: [2], recordSize: 8, at: .max, bytes: [1])
                    ])
                },
                {
                    try await object.update([
                        .write(dkey: [1], akey: [2], recordSize: 8, at: 0, bytes: [1])
                    ])
                },
                {
                    try await object.update([
                        .write(dkey: [1], akey: [9], recordSize: 0, at: 0, bytes: [1])
                    ])
                },
            ]
            for (number, body) in others.enumerated() {
                let (error, _) = try await rig.failure(body)
                #expect(error.code == .invalidArgument, "\(number): \(error)")
            }
            #expect(try await object.recordSize(dkey: [1], akey: [2]) == nil)
        }
    }

    /// Once it is gone an array may have other records; a snapshot shows what was.
    @Test(arguments: [.s1, .rp3g1, .rp3gx] as [ObjectClass])
    func anotherSizeAfterPunch(objectClass: ObjectClass) {
        ClusterRig.run(targets: 2, objectClass) { rig in
            let object = try await rig.makeObject()
            let eight = try object.array(dkey: [1], akey: [2], recordSize: 8)
            try await eight.write(Self.bytes(64), at: 0)
            let snapshot = try await rig.container.createSnapshot(label: "before")
            try await object.remove(dkey: [1], akey: [2])
            let three = try object.array(dkey: [1], akey: [2], recordSize: 3)
            #expect(try await three.count() == 0)
            try await three.write(Self.bytes(9), at: 5)
            #expect(try await three.count() == 8)
            let past = object.seen(in: rig.container.at(snapshot))
            #expect(try await past.recordSize(dkey: [1], akey: [2]) == 8)
            let old = try past.array(dkey: [1], akey: [2], recordSize: 8)
            #expect(try await old.read(0..<8) == Self.bytes(64))
            // At once, in a transaction.
            try await rig.container.transaction { transaction in
                #expect(try await transaction.read(three, records: 5..<8) == Self.bytes(9))
                try await transaction.remove(object, dkey: [1], akey: [2])
                try await transaction.write(eight, at: 1, bytes: Self.bytes(16))
            }
            #expect(try await eight.count() == 3)
            try await object.punch()
            try await object.update([
                .write(dkey: [1], akey: [2], recordSize: 2, at: 3, bytes: [1, 2])
            ])
            #expect(try await object.recordSize(dkey: [1], akey: [2]) == 2)
            #expect(try await object.verify().isEqual)
        }
    }

    /// Clients that choose at the same moment: one size wins on all replicas.
    @Test(arguments: 0..<6 as Range<UInt64>) func clientsChooseAtOnce(seed: UInt64) {
        ClusterRig.run(seed: seed, targets: 2, .rp3gx) { rig in
            let object = try await rig.makeObject()
            let other = object.seen(in: try await rig.container(ofClient: 1))
            // The callbacks come on this very xstream.
            nonisolated(unsafe) var winners: [UInt8: [UInt32]] = [:]
            var bodies: [() async throws -> Void] = []
            for key in 0..<6 as Range<UInt8> {
                for (place, size) in [(object, 1), (other, 8), (object, 24)]
                    as [(DrayObject, UInt32)]
                {
                    bodies.append {
                        let array = try place.array(dkey: [key], akey: [], recordSize: size)
                        do {
                            try await array.write(Self.bytes(Int(size) * 30), at: 1)
                            winners[key, default: []].append(size)
                        } catch let error as DrayError where error.code == .invalidArgument {
                            return
                        }
                    }
                }
            }
            try await rig.together(bodies)
            for key in 0..<6 as Range<UInt8> {
                let size = try await object.recordSize(dkey: [key], akey: [])
                #expect(winners[key]?.count == 1)
                #expect(size == winners[key]?.first)
            }
            #expect(try await object.verify().isEqual)
        }
    }
}
