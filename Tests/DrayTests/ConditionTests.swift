import Dray
import DrayPlacement
import DrayRuntime
import DraySimulator
import Testing

/// What is read, written and removed on the condition that there is something, or is not.
@Suite struct ConditionTests {
    private static let conditions: [DrayObject.ReadCondition] = [.dkeyExists, .akeyExists]

    /// Everything that reads an akey, in short pieces and long ones.
    private func reads(
        _ object: DrayObject, _ dkey: String, _ akey: String,
        _ condition: DrayObject.ReadCondition
    ) throws -> [() async throws -> Void] {
        let (dkey, akey) = (dkey.bytes, akey.bytes)
        let records = try object.array(dkey: dkey, akey: akey, recordSize: 1)
        return [
            { _ = try await object.get(dkey: dkey, akey: akey, condition: condition) },
            { _ = try await object.arrayEnd(dkey: dkey, akey: akey, condition: condition) },
            { _ = try await records.count(condition: condition) },
            { _ = try await records.read(3..<9, condition: condition) },
            {
                let count = 100_000
                try await object.read(
                    dkey: dkey, akey: akey, offset: 5, into: IOBuffer(count: count),
                    range: 0..<count, condition: condition)
            },
        ]
    }

    /// Expects that all reads of an akey succeed, or that none does.
    private func expect(
        _ isThere: Bool, _ rig: ClusterRig, _ object: DrayObject, _ dkey: String, _ akey: String,
        _ condition: DrayObject.ReadCondition, location: SourceLocation = #_sourceLocation
    ) async throws {
        for (index, read) in try reads(object, dkey, akey, condition).enumerated() {
            guard !isThere else {
                try await read()
                continue
            }
            let (error, _) = try await rig.failure(location: location, read)
            #expect(
                error.code == .notFound, "read \(index): \(error)", sourceLocation: location)
        }
    }

    @Test(arguments: [.s1, .rp3gx] as [ObjectClass])
    func readsOfWhatIsThereAndOfWhatIsNot(objectClass: ObjectClass) {
        ClusterRig.run(targets: 2, objectClass) { rig in
            let object = try await rig.makeObject()
            try await object.put("a", "1")
            let array = try object.array(dkey: "b".bytes, akey: "c".bytes, recordSize: 1)
            try await array.write([UInt8](repeating: 7, count: 200_000), at: 0)
            for (dkey, akey) in [("a", "text"), ("b", "c")] {
                for condition in Self.conditions {
                    try await expect(true, rig, object, dkey, akey, condition)
                    try await expect(false, rig, object, "missing", akey, condition)
                }
                try await expect(true, rig, object, dkey, "missing", .none)
                try await expect(true, rig, object, dkey, "missing", .dkeyExists)
                try await expect(false, rig, object, dkey, "missing", .akeyExists)
            }
            #expect(
                try await object.get(dkey: "a".bytes, akey: textKey, condition: .akeyExists)
                    == "1".bytes)
            #expect(try await array.read(7..<9, condition: .akeyExists) == [7, 7])
            // What was there at an epoch is there then.
            let past = object.seen(
                in: rig.container.at(try await rig.container.createSnapshot(label: "before")))
            try await object.remove(dkey: "b".bytes)
            for condition in Self.conditions {
                try await expect(false, rig, object, "b", "c", condition)
                try await expect(true, rig, past, "b", "c", condition)
            }
        }
    }

    /// Writes of arrays, in one part and in several: the first part decides.
    @Test(arguments: [100, 2_500_000]) func writesOfArrays(count: Int) {
        ClusterRig.run(.rp3g1) { rig in
            let object = try await rig.makeObject()
            let buffer = IOBuffer(count: count)
            func write(_ akey: String, _ condition: DrayObject.Condition) async throws {
                try await object.write(
                    dkey: "a".bytes, akey: akey.bytes, offset: 0, buffer: buffer, range: 0..<count,
                    condition: condition)
            }
            func refusal(
                _ akey: String, _ condition: DrayObject.Condition
            ) async throws -> DrayError.Code {
                let (error, _) = try await rig.failure { try await write(akey, condition) }
                #expect(!error.mayHaveHappened)
                return error.code
            }
            #expect(try await refusal("1", .update) == .notFound)
            #expect(try await refusal("1", .updateDkey) == .notFound)
            try await write("1", .insertDkey)
            #expect(try await refusal("1", .insert) == .exists)
            #expect(try await refusal("2", .insertDkey) == .exists)
            #expect(try await refusal("2", .update) == .notFound)
            #expect(try await object.listAkeys(dkey: "a".bytes).keys == ["1".bytes])
            try await write("1", .update)
            try await write("2", .updateDkey)
            try await write("3", .insert)
            for akey in ["1", "2", "3"] {
                let end = try await object.arrayEnd(dkey: "a".bytes, akey: akey.bytes)
                #expect(end == UInt64(count))
            }
        }
    }

    /// Conditions of single values and of removals on the dkey, alone and together.
    @Test func conditionsOnTheDkey() {
        ClusterRig.run(.rp3g1) { rig in
            let object = try await rig.makeObject()
            func refusal(_ body: () async throws -> Void) async throws -> DrayError.Code {
                try await rig.failure(body).error.code
            }
            #expect(try await refusal { try await object.put("a", "1", .updateDkey) } == .notFound)
            try await object.put("a", "1", .insertDkey)
            #expect(try await refusal { try await object.put("a", "2", .insertDkey) } == .exists)
            try await object.update([
                .put("a", "2", .updateDkey),
                .write(
                    dkey: "b".bytes, akey: [], offset: 0, bytes: [1], condition: .insertDkey),
            ])
            #expect(try await object.get("a") == "2")
            try await object.remove(
                dkey: "a".bytes, akey: "other".bytes, condition: .updateDkey)
            #expect(
                try await refusal {
                    try await object.remove(
                        dkey: "c".bytes, akey: "other".bytes, condition: .updateDkey)
                } == .notFound)
            for condition in [.insert, .insertDkey] as [DrayObject.Condition] {
                #expect(
                    try await refusal {
                        try await object.remove(dkey: "a".bytes, condition: condition)
                    } == .invalidArgument)
                #expect(
                    try await refusal {
                        try await object.update([.remove(dkey: "a".bytes, condition: condition)])
                    } == .invalidArgument)
            }
            #expect(try await object.get("a") == "2")
        }
    }

    /// An object exists when anything of it does, in whichever redundancy group.
    @Test(arguments: [.s1, .rp3gx] as [ObjectClass])
    func removingAnObjectThatIsThere(objectClass: ObjectClass) {
        ClusterRig.run(targets: 2, objectClass) { rig in
            let object = try await rig.makeObject()
            for key in ["a", "b", "c"] {
                let (error, _) = try await rig.failure {
                    try await object.punch(condition: .update)
                }
                #expect(error.code == .notFound, "\(error)")
                try await object.put(key, "1")
                try await object.punch(condition: .update)
                #expect(try await object.listDkeys().keys == [])
            }
            for condition in [.insert, .insertDkey, .updateDkey] as [DrayObject.Condition] {
                let (error, _) = try await rig.failure {
                    try await object.punch(condition: condition)
                }
                #expect(error.code == .invalidArgument, "\(error)")
            }
        }
    }

    /// That there was nothing is part of what a transaction has read.
    @Test(arguments: conditions, [false, true])
    func aRefusedReadOfATransaction(condition: DrayObject.ReadCondition, isArray: Bool) {
        ClusterRig.run { rig in
            let other = try await rig.container(ofClient: 1)
            let object = try await rig.makeObject()
            var runs = 0
            let found = try await rig.container.transaction { transaction in
                runs += 1
                let (dkey, akey) = ("a".bytes, textKey)
                var isFound = true
                do {
                    if isArray {
                        _ = try await transaction.read(
                            object, dkey: dkey, akey: akey, range: 0..<5, condition: condition)
                    } else {
                        _ = try await transaction.get(
                            object, dkey: dkey, akey: akey, condition: condition)
                    }
                } catch let error as DrayError where error.code == .notFound {
                    isFound = false
                }
                if runs == 1 { try await object.seen(in: other).put("a", "1") }
                try await transaction.put(object, "b", "2")
                return isFound
            }
            #expect(found && runs == 2)
            #expect(try await object.get("b") == "2")
        }
    }

    /// A transaction knows its own single values. What else it has changed it cannot ask about.
    @Test func ownChangesOfATransaction() {
        ClusterRig.run { rig in
            let object = try await rig.makeObject()
            try await object.put("a", "1")
            try await rig.container.transaction { transaction in
                func code(
                    _ key: String, akey: [UInt8], _ condition: DrayObject.ReadCondition
                ) async throws -> DrayError.Code {
                    try await rig.failure {
                        _ = try await transaction.get(
                            object, dkey: key.bytes, akey: akey, condition: condition)
                    }.error.code
                }
                try await transaction.put(object, "b", "2")
                for condition in Self.conditions {
                    let own = try await transaction.get(
                        object, dkey: "b".bytes, akey: textKey, condition: condition)
                    #expect(own == "2".bytes)
                    #expect(
                        try await code("b", akey: "other".bytes, condition) == .invalidArgument)
                    #expect(try await code("c", akey: textKey, condition) == .notFound)
                }
                try await transaction.remove(object, dkey: "a".bytes, akey: textKey)
                #expect(try await transaction.get(object, "a") == nil)
                #expect(try await code("a", akey: textKey, .akeyExists) == .invalidArgument)
            }
        }
    }
}
