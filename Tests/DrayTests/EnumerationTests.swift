import Dray
import DrayPlacement
import DrayRuntime
import DraySimulator
import Testing

/// Lists of keys, over the shards of objects.
@Suite struct EnumerationTests {
    private func page(
        _ object: DrayObject, _ dkey: [UInt8]?, _ range: KeyRange, after anchor: [UInt8]?,
        limit: Int
    ) async throws -> (keys: [[UInt8]], more: Bool) {
        guard let dkey else {
            return try await object.listDkeys(in: range, after: anchor, limit: limit)
        }
        return try await object.listAkeys(dkey: dkey, in: range, after: anchor, limit: limit)
    }

    /// Random keys and ranges, whatever the page size: what sorting gives.
    @Test(arguments: [.sx, .rp3gx, .s1] as [ObjectClass])
    func rangesInBothDirections(objectClass: ObjectClass) {
        ClusterRig.run(targets: 2, objectClass) { rig in
            let object = try await rig.makeObject()
            var entropy = Entropy(seed: 5)
            let bytes: [UInt8] = [0, 1, 97, 255]
            let makeKey = { (0..<entropy.below(5)).map { _ in bytes[Int(entropy.below(4))] } }
            for dkey in [nil, [97]] as [[UInt8]?] {
                var keys: Set<[UInt8]> = dkey == nil ? [] : [[1, 2, 3]]
                if let dkey { try await object.put(dkey: dkey, akey: [1, 2, 3], value: [1]) }
                for _ in 0..<60 {
                    let key = makeKey()
                    keys.insert(key)
                    let akey = dkey == nil ? [] : key
                    try await object.put(dkey: dkey ?? key, akey: akey, value: [1])
                }
                for key in keys.sorted(by: { $0.lexicographicallyPrecedes($1) }).prefix(5) {
                    keys.remove(key)
                    try await object.remove(dkey: dkey ?? key, akey: dkey == nil ? nil : key)
                }
                if dkey == nil { keys.remove([97]) }
                try await object.remove(dkey: [97], akey: dkey == nil ? nil : [])
                if dkey != nil { keys.remove([]) }
                for round in 0..<40 {
                    let isReversed = round % 2 == 0
                    let range =
                        round % 4 < 2
                        ? KeyRange(prefix: makeKey(), isReversed: isReversed)
                        : KeyRange(
                            from: round % 3 == 0 ? nil : makeKey(),
                            upTo: round % 5 == 0 ? nil : makeKey(), isReversed: isReversed)
                    let expected = keys.filter { range.contains($0) }
                        .sorted { range.precedes($0, $1) }
                    var found: [[UInt8]] = []
                    var anchor: [UInt8]?
                    var hasMore = true
                    while hasMore {
                        let limit = 1 + Int(entropy.below(9))
                        let next = try await page(
                            object, dkey, range, after: anchor, limit: limit)
                        #expect(next.keys.count <= limit)
                        #expect(!next.more || !next.keys.isEmpty)
                        found += next.keys
                        anchor = next.keys.last
                        hasMore = next.more
                    }
                    #expect(found == expected, "\(range)")
                }
            }
        }
    }

    /// Keys that are there all the while are listed once each, in order, beside changes.
    @Test(arguments: [false, true]) func listsGoOnWhileOthersWrite(isReversed: Bool) {
        ClusterRig.run(targets: 2, .rp3gx) { rig in
            let object = try await rig.makeObject()
            let steady = (0..<40).map { "key \(10 + $0)" }
            for key in steady { try await object.put(key, "1") }
            var isOver = false
            try await rig.together([
                {
                    defer { isOver = true }
                    for _ in 0..<3 {
                        var found: [[UInt8]] = []
                        var next: (keys: [[UInt8]], more: Bool) = ([], true)
                        while next.more {
                            next = try await object.listDkeys(
                                in: KeyRange(isReversed: isReversed), after: next.keys.last,
                                limit: 5)
                            found += next.keys
                            await rig.sleep(.milliseconds(2))
                        }
                        #expect(Set(found).count == found.count)
                        let range = KeyRange(isReversed: isReversed)
                        #expect(found == found.sorted { range.precedes($0, $1) })
                        let kept = found.filter { !$0.contains(0x21) }
                        let expected = steady.map(\.bytes)
                        #expect(kept == (isReversed ? expected.reversed() : expected))
                    }
                },
                {
                    var number = 0
                    while !isOver {
                        number += 1
                        let key = "key \(10 + number * 7 % 40)!\(number % 3)"
                        try await object.put(key, "2")
                        try await object.remove(dkey: "key \(10 + number * 11 % 40)!1".bytes)
                    }
                },
            ])
        }
    }

    /// Keys of the greatest length go everywhere; longer ones are refused.
    @Test(arguments: [.s1, .rp3g1] as [ObjectClass])
    func longKeys(objectClass: ObjectClass) {
        ClusterRig.run(objectClass) { rig in
            let object = try await rig.makeObject()
            let keys = [1, 4096, 4097, 65_535, 65_536].map { [UInt8](repeating: 0, count: $0) }
            for (index, key) in keys.enumerated() {
                try await object.put(dkey: key, akey: key, value: [UInt8(index)])
                try await object.put(dkey: [1], akey: key, value: [UInt8(index)])
                let buffer = IOBuffer(copying: [UInt8(index)])
                try await object.write(
                    dkey: key, akey: [1], offset: 9, buffer: buffer, range: 0..<1)
            }
            for (index, key) in keys.enumerated() {
                #expect(try await object.get(dkey: key, akey: key) == [UInt8(index)])
                #expect(try await object.listAkeys(dkey: key).keys == [key, [1]])
                #expect(try await object.arrayEnd(dkey: key, akey: [1]) == 10)
            }
            #expect(try await object.listDkeys().keys == keys + [[1]])
            #expect(try await object.listAkeys(dkey: [1]).keys == keys)
            let long = KeyRange(prefix: keys[3])
            #expect(try await object.listDkeys(in: long).keys == [keys[3], keys[4]])
            try await rig.container.transaction { transaction in
                #expect(try await transaction.get(object, dkey: keys[4], akey: keys[4]) == [4])
                try await transaction.put(object, dkey: keys[4], akey: keys[4], value: [9])
                try await transaction.put(object, dkey: keys[3], akey: keys[4], value: [9])
            }
            #expect(try await object.get(dkey: keys[4], akey: keys[4]) == [9])
            #expect(try await object.verify().isEqual)
            // More keys than one page may carry.
            let many = (1...8).map { [UInt8](repeating: UInt8($0), count: 65_000) }
            let other = try await rig.makeObject()
            for key in many { try await other.put(dkey: key, akey: [], value: [1]) }
            var found: [[UInt8]] = []
            var next: (keys: [[UInt8]], more: Bool) = ([], true)
            while next.more {
                next = try await other.listDkeys(in: .all.reversed, after: next.keys.last)
                found += next.keys
            }
            #expect(found == many.reversed())
            let tooLong = [UInt8](repeating: 0, count: 65_537)
            let (error, _) = try await rig.failure {
                try await object.put(dkey: tooLong, akey: [], value: [])
            }
            #expect(error.code == .invalidArgument && error.message.contains("65537"), "\(error)")
            let (refusal, _) = try await rig.failure {
                _ = try await object.listDkeys(in: KeyRange(from: tooLong))
            }
            #expect(refusal.code == .invalidArgument, "\(refusal)")
        }
    }
}
