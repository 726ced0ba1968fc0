import DrayRuntime
import Testing

@testable import VOS

@Suite struct IndexKeyTests {
    static let names: [[UInt8]] = [
        [], [0], [0, 0], [0, 1], [0, 255], [1], [1, 0], [1, 1], [0, 1, 0], [254], [255], [255, 0],
        [255, 255], Array("a".utf8), Array("a\0".utf8), Array("a\0b".utf8), Array("ab".utf8),
        [UInt8](repeating: 0, count: 300), [UInt8](repeating: 255, count: 300),
    ]

    @Test func orderIsThatOfTheNames() {
        let object = IndexKey.object(Names.pool, Names.container, Names.object)
        for left in Self.names {
            for right in Self.names {
                let first = NamePath(object: object, dkey: left, akey: right).bytes
                for other in Self.names {
                    let second = NamePath(object: object, dkey: other, akey: left).bytes
                    let expected =
                        left == other
                        ? right.lexicographicallyPrecedes(left)
                        : left.lexicographicallyPrecedes(other)
                    #expect((IndexKey.compare(first, second) < 0) == expected)
                    #expect((IndexKey.compare(first, second) == 0) == (first == second))
                }
            }
        }
    }

    @Test(arguments: names)
    func namesComeBack(name: [UInt8]) throws {
        let object = IndexKey.object(Names.pool, Names.container, Names.object)
        let path = NamePath(object: object, dkey: name, akey: [1])
        let (read, end) = try #require(IndexKey.name(in: path.bytes, at: 49))
        #expect(read == name)
        #expect(end == path.dkeyEnd)
        #expect(path.bytes.count <= IndexKey.lengthMax)
    }

    @Test func successorIsAboveEverythingWithThePrefix() {
        for prefix in [[1], [1, 255], [255, 1, 255, 255]] as [[UInt8]] {
            let next = IndexKey.successor(ofPrefix: prefix)
            #expect(IndexKey.compare(prefix + [255, 255, 255], next) < 0)
            #expect(!IndexKey.hasPrefix(next, prefix))
        }
        let top = IndexKey.successor(ofPrefix: [255, 255])
        #expect(IndexKey.compare([255, 255] + [UInt8](repeating: 255, count: 100), top) < 0)
    }

    @Test func keysAreCutOffSafely() {
        for bytes in [[], [0], [1, 0], [1, 0, 7], [5, 5]] as [[UInt8]] {
            #expect(IndexKey.name(in: bytes, at: 0) == nil)
        }
    }
}
