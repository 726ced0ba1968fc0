import DrayRuntime
import Testing

@testable import CaRT

@Suite struct RankSetTests {
    static func random(_ seed: UInt64) -> Set<UInt32> {
        var entropy = Entropy(seed: seed)
        let span = 1 + entropy.below(500)
        let rate = 1 + entropy.below(100)
        let start = UInt32(truncatingIfNeeded: entropy.next()) % 1_000_000
        return Set(
            (0..<UInt32(span)).filter { _ in entropy.chance(rate, in: 100) }.map { start + $0 })
    }

    @Test(arguments: 1...100)
    func agreesWithASet(seed: UInt64) throws {
        let model = Self.random(seed)
        let set = RankSet(model)
        let sorted = model.sorted()
        #expect(set.count == model.count)
        #expect(set.ranks == sorted)
        for (position, rank) in sorted.enumerated() {
            #expect(set.rank(at: position) == rank)
            #expect(set.position(of: rank) == position)
        }
        for rank in (sorted.first ?? 5) - 2..<(sorted.last ?? 5) + 3 {
            #expect(set.contains(rank) == model.contains(rank))
        }
        #expect(try RankSet(decoding: set.encoded()) == set)
    }

    @Test func travelsCompactly() {
        #expect(RankSet(0..<10_000).encoded().count == 13)
        let even = RankSet((0..<5000).map { UInt32($0 * 2) })
        #expect(even.encoded().count == 1 + 4 + 4 + 1250)
        // Far apart: as ranges.
        #expect(RankSet([1, 4_000_000_000]).encoded().count == 1 + 4 + 2 * 8)
        #expect(RankSet().encoded().count == 5)
        #expect(RankSet([3, 1, 2, 2]) == RankSet(1..<4))
    }

    @Test func refusesWhatCannotBe() {
        func ranges(_ list: (UInt32, UInt32)...) -> [UInt8] {
            var bytes: [UInt8] = [0, UInt8(list.count), 0, 0, 0]
            for (start, length) in list {
                for value in [start, length] {
                    bytes += (0..<4).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
                }
            }
            return bytes
        }
        #expect((try? RankSet(decoding: ranges((1, 2), (4, 1))))?.ranks == [1, 2, 4])
        let bad = [
            ranges((1, 0)), ranges((1, 2), (3, 1)), ranges((4, 1), (1, 2)), ranges((1, 2), (2, 1)),
            ranges((.max, 1)), ranges((0, 2_000_000)), ranges((.max - 5, 10)), [2, 0, 0, 0, 0],
            [1, 0, 0, 0, 0, 1, 0, 0, 0, 0], [1, 255, 255, 255, 255, 1, 0, 0, 0, 1],
            [0, 255, 255, 255, 255],
        ]
        for bytes in bad {
            #expect(throws: DecodingFailure.self) { try RankSet(decoding: bytes) }
        }
    }

    /// No input crashes the decoders, and what they accept is encoded to the same again.
    @Test(arguments: 1...200)
    func decodesNoise(seed: UInt64) {
        var entropy = Entropy(seed: seed)
        var request = CollectiveRequest()
        request.ranks = RankSet(Self.random(seed).prefix(200))
        request.tree = .kAry(3)
        request.bulk = CollectiveBulk()
        request.bulk?.chunkSize = 4096
        request.bulk?.memory.length = 100
        request.body = [1, 2, 3]
        var answer = CollectiveAnswer()
        answer.failures.add(3, .application(code: 4, message: "no"))
        answer.failures.add(5..<500, .timedOut)
        for original in [request.encoded(), answer.encoded()] {
            for _ in 0..<50 {
                var bytes = original
                for _ in 0..<1 + entropy.below(4) {
                    bytes[Int(entropy.below(UInt64(bytes.count)))] = UInt8(entropy.below(256))
                }
                if entropy.chance(1, in: 3) {
                    bytes.removeLast(Int(entropy.below(UInt64(bytes.count))))
                }
                if let decoded = try? CollectiveRequest(decoding: bytes) {
                    #expect(Int(decoded.position) < decoded.ranks.count)
                    #expect((try? CollectiveRequest(decoding: decoded.encoded())) != nil)
                }
                _ = try? CollectiveAnswer(decoding: bytes)
            }
        }
        if request.ranks.count > 0 {
            #expect((try? CollectiveRequest(decoding: request.encoded())) != nil)
        }
        #expect((try? CollectiveAnswer(decoding: answer.encoded()))?.failures == answer.failures)
    }
}
