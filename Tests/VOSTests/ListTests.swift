import DrayRuntime
import Testing

@testable import VOS

/// Lists of keys: ranges, both directions, anchors, against sorting what there is.
@Suite struct ListTests {
    /// Keys that are near each other, prefixes of each other, and hard to escape.
    private static func key(_ entropy: inout Entropy) -> [UInt8] {
        let bytes: [UInt8] = [0, 1, 2, 254, 255]
        return (0..<entropy.below(5)).map { _ in bytes[Int(entropy.below(5))] }
    }

    private static func range(_ entropy: inout Entropy) -> KeyRange {
        let isReversed = entropy.below(2) == 0
        let lower = entropy.below(2) == 0 ? nil : key(&entropy)
        let upper = entropy.below(2) == 0 ? nil : key(&entropy)
        return entropy.below(4) == 0
            ? KeyRange(prefix: key(&entropy), isReversed: isReversed)
            : KeyRange(from: lower, upTo: upper, isReversed: isReversed)
    }

    /// Distribution keys, or the attribute keys of one of them.
    private struct Level {
        var dkey: [UInt8]?

        func list(
            _ vos: VOS, _ range: KeyRange, after anchor: [UInt8]?, limit: Int,
            bytesMax: Int = .max, epoch: UInt64
        ) async throws -> (keys: [[UInt8]], next: [UInt8]?) {
            guard let dkey else {
                return try await vos.listDkeys(
                    pool: Names.pool, container: Names.container, object: Names.object, in: range,
                    after: anchor, limit: limit, bytesMax: bytesMax, epoch: epoch)
            }
            return try await vos.listAkeys(
                pool: Names.pool, container: Names.container, object: Names.object, dkey: dkey,
                in: range, after: anchor, limit: limit, bytesMax: bytesMax, epoch: epoch)
        }

        func put(_ vos: VOS, _ key: [UInt8], epoch: UInt64, isArray: Bool) async throws {
            let (dkey, akey) = dkey.map { ($0, key) } ?? (key, [7])
            if isArray {
                try await vos.putArray(dkey, akey, at: 5, [1, 2], epoch: epoch)
            } else {
                try await vos.putSingle(dkey, akey, [1], epoch: epoch)
            }
        }

        func punch(_ vos: VOS, _ key: [UInt8], epoch: UInt64) async throws {
            try await vos.punch(
                pool: Names.pool, container: Names.container, object: Names.object,
                dkey: dkey ?? key, akey: dkey == nil ? nil : key, epoch: epoch)
        }

        func punchAll(_ vos: VOS, epoch: UInt64) async throws {
            try await vos.punch(
                pool: Names.pool, container: Names.container, object: Names.object, dkey: dkey,
                epoch: epoch)
        }
    }

    private static func expected(_ names: Set<[UInt8]>, _ range: KeyRange) -> [[UInt8]] {
        names.filter { range.contains($0) }.sorted { range.precedes($0, $1) }
    }

    /// Random changes; each list, page by page and from any anchor, is what the obvious way gives
    /// at any epoch.
    @Test(arguments: 0..<12 as Range<UInt64>)
    func listsAreWhatThereIs(seed: UInt64) {
        var options = VOSOptions()
        if seed % 2 == 0 { options.makeSmall() }
        let target = SimulatedTarget(seed: seed, blocks: 4096, options: options)
        let level = Level(dkey: seed % 3 == 0 ? [0, 255] : nil)
        let finished = target.run {
            let vos = try await target.open()
            var entropy = Entropy(seed: seed).fork("lists")
            var history: [Set<[UInt8]>] = [[]]
            for epoch in 1...300 as ClosedRange<UInt64> {
                var names = history[Int(epoch) - 1]
                let key = Self.key(&entropy)
                switch entropy.below(40) {
                case 0:
                    try await level.punchAll(vos, epoch: epoch)
                    names = []
                case 1..<10:
                    try await level.punch(vos, key, epoch: epoch)
                    names.remove(key)
                default:
                    try await level.put(vos, key, epoch: epoch, isArray: entropy.below(3) == 0)
                    names.insert(key)
                }
                history.append(names)
                guard epoch % 3 == 0 else { continue }
                let past = entropy.below(3) == 0 ? entropy.below(epoch) + 1 : epoch
                let range = Self.range(&entropy)
                let all = Self.expected(history[Int(past)], range)
                let limit = 1 + Int(entropy.below(6))
                var found: [[UInt8]] = []
                var anchor: [UInt8]?
                repeat {
                    let page = try await level.list(
                        vos, range, after: anchor, limit: limit, epoch: past)
                    #expect(page.keys.count <= limit)
                    #expect(page.next == nil || page.next == page.keys.last)
                    found += page.keys
                    anchor = page.next
                } while anchor != nil
                #expect(found == all, "\(range) at \(past)")
                // An anchor need not be there.
                let start = Self.key(&entropy)
                let rest = try await level.list(vos, range, after: start, limit: 100, epoch: past)
                #expect(rest.keys == all.filter { range.precedes(start, $0) }, "after \(start)")
                let short = try await level.list(
                    vos, range, after: nil, limit: 100, bytesMax: 3, epoch: past)
                #expect(short.keys == Array(all.prefix(short.keys.count)))
                #expect(short.keys.dropLast().reduce(0) { $0 + $1.count } < 3)
                #expect((short.next == nil) == (short.keys.count == all.count))
            }
            try await vos.checkInvariants()
        }
        #expect(finished)
    }

    /// What is there all the while is listed once, whatever comes and goes between the pages.
    @Test(arguments: [false, true]) func listsGoOnWhileOthersWrite(isReversed: Bool) {
        var options = VOSOptions()
        options.makeSmall()
        let target = SimulatedTarget(seed: 1, blocks: 4096, options: options)
        let finished = target.run {
            let vos = try await target.open()
            let level = Level(dkey: nil)
            var entropy = Entropy(seed: 9)
            var epoch: UInt64 = 0
            for number in 0..<100 as Range<UInt8> {
                epoch += 1
                try await level.put(vos, [number, 0], epoch: epoch, isArray: false)
            }
            var found: [[UInt8]] = []
            var anchor: [UInt8]?
            repeat {
                let page = try await level.list(
                    vos, KeyRange(isReversed: isReversed), after: anchor, limit: 7, epoch: .max)
                found += page.keys
                anchor = page.next
                for _ in 0..<20 {
                    epoch += 1
                    let key = [UInt8(entropy.below(100)), UInt8(1 + entropy.below(3))]
                    if entropy.below(2) == 0 {
                        try await level.put(vos, key, epoch: epoch, isArray: false)
                    } else {
                        try await level.punch(vos, key, epoch: epoch)
                    }
                }
            } while anchor != nil
            #expect(Set(found).count == found.count)
            let steady = (0..<100 as Range<UInt8>).map { [$0, 0] }
            #expect(
                found.filter { $0[1] == 0 } == (isReversed ? steady.reversed() : steady))
        }
        #expect(finished)
    }

    private static func objects(
        _ vos: VOS, from lower: UInt64? = nil, upTo upper: UInt64? = nil,
        isReversed: Bool = false, after anchor: UInt64? = nil, limit: Int = 100,
        epoch: UInt64 = .max, patience: Instant? = nil
    ) async throws -> (objects: [UInt64], next: UInt64?) {
        func object(_ low: UInt64?) -> ObjectID? { low.map { ObjectID(high: 5, low: $0) } }
        let page = try await vos.listObjects(
            pool: Names.pool, container: Names.container, from: object(lower),
            upTo: object(upper), isReversed: isReversed, after: object(anchor), limit: limit,
            epoch: epoch, patience: patience)
        return (page.objects.map(\.low), page.next?.low)
    }

    @Test func objectsInRangesAndBothDirections() {
        let target = SimulatedTarget(seed: 1)
        let finished = target.run {
            let vos = try await target.open()
            let other = UniqueID(high: 0xbb, low: 3)
            for low in [0, 1, 2, 255, 256, 1 << 40] as [UInt64] {
                let object = ObjectID(high: 5, low: low)
                try await vos.putSingle([1], [1], [1], epoch: 10, object: object)
                try await vos.putSingle([1], [1], [1], epoch: 10, object: object, container: other)
            }
            try await vos.punch(
                pool: Names.pool, container: Names.container, object: ObjectID(high: 5, low: 2),
                epoch: 20)
            for flush in [false, true] {
                if flush { try await vos.checkpoint() }
                let all: [UInt64] = [0, 1, 255, 256, 1 << 40]
                #expect(try await Self.objects(vos).objects == all)
                #expect(try await Self.objects(vos, isReversed: true).objects == all.reversed())
                #expect(try await Self.objects(vos, epoch: 10).objects.count == 6)
                let some = try await Self.objects(vos, from: 1, upTo: 256)
                #expect(some.objects == [1, 255] && some.next == nil)
                let back = try await Self.objects(
                    vos, from: 1, upTo: 300, isReversed: true, limit: 2)
                #expect(back.objects == [256, 255] && back.next == 255)
                let rest = try await Self.objects(
                    vos, from: 1, upTo: 300, isReversed: true, after: 255)
                #expect(rest.objects == [1] && rest.next == nil)
                #expect(try await Self.objects(vos, after: 2).objects == [255, 256, 1 << 40])
            }
        }
        #expect(finished)
    }

    /// What a list did not show must not have been there later.
    @Test func aListOfObjectsWaitsForUpdates() {
        let target = SimulatedTarget(seed: 1)
        let finished = target.run {
            let vos = try await target.open()
            let object = ObjectID(high: 5, low: 7)
            let dtx = try await vos.prepare(
                .dtx(1), [.single([1], [1], object: object)], epoch: 20)
            // Another container's, which stays undecided.
            try await vos.prepare(
                .dtx(2),
                [.single([1], [1], object: object, container: UniqueID(high: 0xbb, low: 3))],
                epoch: 21)
            let now = target.xstream.now
            #expect(try await Self.objects(vos, epoch: 19).objects == [])
            #expect(target.xstream.now == now)
            await #expect(throws: VOSError.undecided) {
                _ = try await Self.objects(vos, epoch: 20, patience: now + .milliseconds(5))
            }
            target.xstream.schedule(at: target.xstream.now + .milliseconds(20)) {
                vos.commit(dtx)
            }
            #expect(try await Self.objects(vos).objects == [7])
            #expect(target.xstream.now >= now + .milliseconds(20))
            try await vos.flushOutcomes()
        }
        #expect(finished)
    }

    @Test func keysOfAnyLength() {
        let target = SimulatedTarget(seed: 1, blocks: 4096, logBlocks: 512)
        let finished = target.run {
            let vos = try await target.open()
            let lengths = [0, 1, 4096, 65_535, VOSLimits.keyLengthMax]
            let keys = lengths.map { [UInt8](repeating: 0, count: $0) }
            for (index, key) in keys.enumerated() {
                try await vos.putSingle(key, key, [UInt8(index)], epoch: UInt64(index + 1))
            }
            for flush in [false, true] {
                if flush { try await vos.checkpoint() }
                for isReversed in [false, true] {
                    let range = KeyRange(isReversed: isReversed)
                    let expected = isReversed ? keys.reversed() : keys
                    let found = try await Level().list(
                        vos, range, after: nil, limit: 9, epoch: .max)
                    #expect(found.keys == expected)
                    let rest = try await Level().list(
                        vos, range, after: expected[2], limit: 9, epoch: .max)
                    #expect(rest.keys == Array(expected[3...]))
                }
                let akeys = try await Level(dkey: keys[4]).list(
                    vos, KeyRange(prefix: keys[2]), after: nil, limit: 9, epoch: .max)
                #expect(akeys.keys == [keys[4]])
            }
            let long = [UInt8](repeating: 0, count: VOSLimits.keyLengthMax + 1)
            for range in [KeyRange(from: long), KeyRange(upTo: long)] {
                await #expect(throws: VOSError.keyTooLong(length: 65_537, maximum: 65_536)) {
                    _ = try await Level().list(vos, range, after: nil, limit: 9, epoch: .max)
                }
            }
        }
        #expect(finished)
    }
}
