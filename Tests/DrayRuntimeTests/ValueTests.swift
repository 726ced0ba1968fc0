import DrayRuntime
import Testing

@Suite struct ChecksumTests {
    /// RFC 3720, appendix B.4, and the check value of the CRC catalogue.
    static let vectors: [([UInt8], UInt32)] = [
        ([], 0),
        (Array("123456789".utf8), 0xe306_9283),
        (Array(repeating: 0, count: 32), 0x8a91_36aa),
        (Array(repeating: 0xff, count: 32), 0x62a8_ab43),
        (Array(0..<32), 0x46dd_794e),
        (Array((0..<32).reversed()), 0x113f_db5c),
    ]

    @Test(arguments: vectors) func knownVectors(bytes: [UInt8], checksum: UInt32) {
        #expect(CRC32C.checksum(of: bytes.span.bytes) == checksum)
    }

    @Test func partsContinue() {
        var entropy = Entropy(seed: 1)
        let bytes = (0..<1_000).map { _ in UInt8(truncatingIfNeeded: entropy.next()) }
        let whole = CRC32C.checksum(of: bytes.span.bytes)
        for cut in [0, 1, 7, 8, 9, 500, 999, 1_000] {
            let first = CRC32C.checksum(of: Array(bytes[..<cut]).span.bytes)
            let both = CRC32C.checksum(of: Array(bytes[cut...]).span.bytes, continuing: first)
            #expect(both == whole)
        }
    }

    /// Every flipped bit shows.
    @Test func everyBitCounts() {
        var bytes = [UInt8](0..<64)
        let checksum = CRC32C.checksum(of: bytes.span.bytes)
        for bit in 0..<512 {
            bytes[bit / 8] ^= 1 << (bit % 8)
            #expect(CRC32C.checksum(of: bytes.span.bytes) != checksum)
            bytes[bit / 8] ^= 1 << (bit % 8)
        }
    }
}

@Suite struct EntropyTests {
    /// xoshiro256** seeded by SplitMix64 from 0, as other implementations give it.
    @Test func knownStream() {
        var entropy = Entropy(seed: 0)
        #expect(entropy.next() == 0x99ec_5f36_cb75_f2b4)
        #expect(entropy.next() == 0xbf6e_1f78_4956_452a)
    }

    @Test func forksDependOnSeedAndLabelOnly() {
        var drawn = Entropy(seed: 5)
        for _ in 0..<10 { _ = drawn.next() }
        var (early, late) = (Entropy(seed: 5).fork("a"), drawn.fork("a"))
        #expect(early.next() == late.next())
        var streams: Set<UInt64> = []
        for seed in 0..<10 as Range<UInt64> {
            for label in ["", "a", "b", "ab", "ba"] {
                var fork = Entropy(seed: seed).fork(label)
                streams.insert(fork.next())
            }
        }
        #expect(streams.count == 50)
    }

    @Test(arguments: [1, 2, 3, 10, 1 << 40, .max] as [UInt64]) func belowStaysBelow(bound: UInt64) {
        var entropy = Entropy(seed: bound)
        for _ in 0..<1_000 { #expect(entropy.below(bound) < bound) }
    }

    @Test func belowIsEven() {
        var entropy = Entropy(seed: 77)
        var counts = [Int](repeating: 0, count: 10)
        for _ in 0..<100_000 { counts[Int(entropy.below(10))] += 1 }
        #expect(counts.allSatisfy { (9_500...10_500).contains($0) }, "\(counts)")
    }

    @Test func chances() {
        var entropy = Entropy(seed: 78)
        #expect((0..<1_000).allSatisfy { _ in !entropy.chance(0, in: 5) })
        #expect((0..<1_000).allSatisfy { _ in entropy.chance(5, in: 5) })
        let quarter = (0..<100_000).count { _ in entropy.chance(1, in: 4) }
        #expect((24_000...26_000).contains(quarter))
    }
}

@Suite struct InstantTests {
    static let second: UInt64 = 1_000_000_000

    @Test(
        arguments: [
            (0, Duration.seconds(1), second),
            (5, .zero, 5),
            (5, .seconds(-3), 5),
            (5, .nanoseconds(-1), 5),
            (.max - 1, .nanoseconds(1), .max),
            (.max - 1, .seconds(1), .max),
            (.max, .nanoseconds(1), .max),
            (1, .seconds(Int64.max), .max),
            (7, .microseconds(3), 3_007),
        ] as [(UInt64, Duration, UInt64)])
    func addition(start: UInt64, duration: Duration, end: UInt64) {
        #expect(Instant(nanoseconds: start) + duration == Instant(nanoseconds: end))
    }

    @Test func difference() {
        let (early, late) = (Instant(nanoseconds: 10), Instant(nanoseconds: 25))
        #expect(late.since(early) == .nanoseconds(15))
        #expect(early.since(late) == .zero)
        #expect(early.since(early) == .zero)
        #expect(Instant.never.since(early) == .nanoseconds(Int64.max))
        #expect(early < late)
        #expect(late < .never)
    }

    @Test(
        arguments: [
            (Duration.zero, 0), (.nanoseconds(1), 1), (.seconds(-1), 0),
            (.milliseconds(1_500), 1_500_000_000),
            (.seconds(Int64.max), .max),
            (Duration(secondsComponent: 0, attosecondsComponent: 999_999_999), 0),
        ] as [(Duration, UInt64)])
    func nanoseconds(of duration: Duration, expected: UInt64) {
        #expect(duration.nanosecondsClamped == expected)
    }
}

@Suite struct HybridLogicalClockTests {
    @Test func stampsRise() {
        let simulation = Simulation(seed: 1)
        let clock = HybridLogicalClock(clock: simulation.world(node: 1).clock)
        var last: UInt64 = 0
        for step in 0..<1_000 {
            // Physical time stands still most of the time, and steps back now and then.
            if step % 100 == 0 { simulation.run(for: .microseconds(1)) }
            if step % 250 == 0 { simulation.stepWallClock(node: 1, by: -1_000_000) }
            let stamp = clock.now()
            #expect(stamp > last)
            last = stamp
        }
    }

    @Test func followsPhysicalTime() {
        let simulation = Simulation(seed: 1)
        let world = simulation.world(node: 1)
        let clock = HybridLogicalClock(clock: world.clock)
        _ = clock.now()
        simulation.run(for: .seconds(5))
        #expect(clock.now() == world.clock.wallNanoseconds)
    }

    @Test func movesAheadOfWhatItObserves() {
        let simulation = Simulation(seed: 1)
        let world = simulation.world(node: 1)
        let clock = HybridLogicalClock(clock: world.clock)
        let ahead = world.clock.wallNanoseconds + 500_000_000
        #expect(clock.observe(ahead))
        #expect(clock.now() == ahead + 1)
        // The past changes nothing.
        #expect(clock.observe(5))
        #expect(clock.now() == ahead + 2)
    }

    @Test func refusesStampsFromTheFarFuture() {
        let simulation = Simulation(seed: 1)
        let world = simulation.world(node: 1)
        let clock = HybridLogicalClock(clock: world.clock)
        let limit =
            world.clock.wallNanoseconds + HybridLogicalClock.uncertaintyMax.nanosecondsClamped
        #expect(!clock.observe(limit + 1))
        #expect(!clock.observe(.max))
        #expect(clock.now() < limit)
        #expect(clock.observe(limit))
        #expect(clock.now() == limit + 1)
    }

    /// Causality across clocks that disagree: a stamp received is before every stamp made after.
    @Test(arguments: 1...10) func causality(seed: UInt64) {
        let simulation = Simulation(seed: seed)
        var entropy = simulation.entropy.fork("test")
        let clocks = (1...4).map { node in
            HybridLogicalClock(
                clock: simulation.world(node: node, wallOffset: Int64(node) * 20_000_000).clock)
        }
        for _ in 0..<1_000 {
            let (from, to) = (Int(entropy.below(4)), Int(entropy.below(4)))
            let sent = clocks[from].now()
            #expect(clocks[to].observe(sent))
            #expect(clocks[to].now() > sent)
            simulation.run(for: .microseconds(Int(entropy.below(100))))
        }
    }

    @Test func threadsGetDifferentStamps() async {
        let clock = HybridLogicalClock(clock: World.real().clock)
        let stamps = await withTaskGroup(of: [UInt64].self) { group in
            for _ in 0..<4 { group.addTask { (0..<5_000).map { _ in clock.now() } } }
            return await group.reduce(into: []) { $0 += $1 }
        }
        #expect(Set(stamps).count == 20_000)
    }
}

@Suite struct IOBufferTests {
    @Test(arguments: [4096, 256 << 10, 300_000, 1 << 20, 2 << 20, 5_000_000])
    func buffersForLargeTransfersAreApart(count: Int) {
        let hugePage = 2 << 20
        var buffers = IOBuffer.forLargeTransfers(count: count)
        let number =
            switch count {
            case 4096: 1
            case 256 << 10: 8
            case 300_000: 4
            case 1 << 20: 2
            default: 1
            }
        #expect(buffers.count == number)
        for (index, buffer) in buffers.enumerated() {
            #expect(buffer.count == count)
            let address = unsafe UInt(bitPattern: buffer.bytes.baseAddress!)
            #expect(address % 4096 == 0)
            if count >= IOBuffer.largeTransferMin {
                #expect(address % UInt(hugePage) == UInt(index * hugePage / number))
            }
            #expect(buffer.array(count - 3..<count) == [0, 0, 0])
            unsafe buffer.bytes.initializeMemory(as: UInt8.self, repeating: UInt8(index + 1))
        }
        // The memory is there as long as one of them is.
        let last = buffers.removeLast()
        buffers = []
        #expect(last.array(0..<2) == [UInt8(number), UInt8(number)])
        #expect(last.array(count - 2..<count) == [UInt8(number), UInt8(number)])
    }

    @Test(arguments: [1, 4_095, 4_096, 4_097, 1 << 20]) func isAlignedAndZeroed(count: Int) {
        let buffer = IOBuffer(count: count)
        #expect(buffer.count == count)
        #expect(buffer.bytes.count == count)
        #expect(UInt(bitPattern: buffer.bytes.baseAddress) % 4_096 == 0)
        #expect(buffer.bytes.allSatisfy { $0 == 0 })
        buffer.bytes[count - 1] = 7
        #expect(buffer.array(count - 1..<count) == [7])
    }

    @Test func copies() {
        let buffer = IOBuffer(copying: [1, 2, 3, 4, 5])
        #expect(buffer.array(1..<4) == [2, 3, 4])
        #expect(buffer.array(2..<2) == [])
        #expect(IOBuffer(copying: []).count == 1)
    }

    @Test func rejectsRangesOutside() async {
        await #expect(processExitsWith: .failure) { _ = IOBuffer(count: 8).array(4..<9) }
        await #expect(processExitsWith: .failure) { _ = IOBuffer(count: 0) }
    }
}

@Suite struct FastHashTests {
    /// Equal identities are found again; those that differ in one bit, or in time only, spread
    /// over a table's buckets as random ones would, or better.
    @Test func spreads() {
        var entropy = Entropy(seed: 1)
        let first = entropy.next()
        let kinds: [(String, (UInt64) -> UniqueID)] = [
            ("times", { UniqueID(high: first, low: 1_767_225_600_000_000_000 + $0) }),
            ("rounded times", { UniqueID(high: first, low: $0 << 16) }),
            ("high words", { UniqueID(high: $0, low: first) }),
            ("high words of zero", { UniqueID(high: $0, low: 0) }),
            ("low words of zero", { UniqueID(high: 0, low: $0) }),
            ("equal words", { UniqueID(high: $0, low: $0) }),
        ]
        for (name, identity) in kinds {
            // 4,096 into as many buckets, by the low bits as a dictionary does: 63 % are hit.
            var buckets = Set<Int>()
            var found: [UniqueID: UInt64] = [:]
            for number in 0..<4096 as Range<UInt64> {
                let value = identity(number)
                #expect(value._rawHashValue(seed: 7) == identity(number)._rawHashValue(seed: 7))
                buckets.insert(value._rawHashValue(seed: 7) & 4095)
                found[value] = number
            }
            #expect(buckets.count >= 2400, "\(name): \(buckets.count)")
            #expect(found.count == 4096)
            for number in 0..<4096 as Range<UInt64> { #expect(found[identity(number)] == number) }
        }
    }
}

@Suite struct KeyRangeTests {
    @Test func prefixesAreRanges() {
        let keys: [[UInt8]] = [
            [], [0], [0, 0], [0, 255], [1], [1, 0], [254, 255], [255], [255, 0], [255, 255],
            [255, 255, 0],
        ]
        for prefix in keys {
            let range = KeyRange(prefix: prefix)
            for key in keys {
                #expect(range.contains(key) == key.starts(with: prefix), "\(prefix) \(key)")
            }
        }
        #expect(KeyRange(prefix: [1, 255, 255]).upper == [2])
        #expect(KeyRange(prefix: [255]).upper == nil)
    }

    @Test func rangesAreNarrowed() {
        let bounds: [[UInt8]?] = [nil, [1], [2], [3]]
        let keys: [[UInt8]] = [[0], [1], [1, 1], [2], [2, 5], [3], [4]]
        for lower in bounds {
            for upper in bounds {
                let other = KeyRange(from: lower, upTo: upper)
                for bound in bounds {
                    for range in [KeyRange(from: bound), KeyRange(upTo: bound).reversed] {
                        let narrowed = range.narrowed(to: other)
                        #expect(narrowed.isReversed == range.isReversed)
                        for key in keys {
                            let isInBoth = range.contains(key) && other.contains(key)
                            #expect(narrowed.contains(key) == isInBoth)
                        }
                    }
                }
            }
        }
        #expect(KeyRange.all.precedes([1], [2]) && !KeyRange.all.precedes([2], [1]))
        #expect(KeyRange.all.reversed.precedes([2], [1]))
        #expect(!KeyRange.all.precedes([1], [1]) && !KeyRange.all.reversed.precedes([1], [1]))
    }
}
