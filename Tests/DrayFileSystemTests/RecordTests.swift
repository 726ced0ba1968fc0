import Dray
import DrayRuntime
import Testing

@testable import DrayFileSystem

@Suite struct RecordTests {
    static func randomInode(_ entropy: inout Entropy) -> Inode {
        func time(_ entropy: inout Entropy) -> Timestamp {
            Timestamp(
                seconds: Int64(bitPattern: entropy.next()),
                nanoseconds: UInt32(entropy.below(1_000_000_000)))
        }
        let attributes = FileAttributes(
            mode: UInt16(entropy.below(0o10000)),
            userID: UInt32(truncatingIfNeeded: entropy.next()),
            groupID: UInt32(truncatingIfNeeded: entropy.next()), accessed: time(&entropy),
            modified: time(&entropy))
        let id = ObjectID(high: entropy.next(), low: entropy.next())
        switch entropy.below(3) {
        case 0:
            return Inode(
                type: .file, attributes: attributes, changed: time(&entropy),
                size: entropy.next() >> 1, objectID: id, chunkSize: 1 << 20)
        case 1:
            return Inode(
                type: .directory, attributes: attributes, changed: time(&entropy), size: 0,
                objectID: id)
        default:
            let target = (0...entropy.below(200)).dropLast().map { _ in
                UInt8(1 + entropy.below(255))
            }
            let bytes = target.isEmpty ? [UInt8(ascii: "x")] : target
            return Inode(
                type: .symbolicLink, attributes: attributes, changed: time(&entropy),
                size: UInt64(bytes.count), objectID: id, target: bytes)
        }
    }

    @Test func recordsComeBack() throws {
        var entropy = Entropy(seed: 1)
        for _ in 0..<500 {
            let inode = RecordTests.randomInode(&entropy)
            #expect(try Inode(decoding: inode.encoded) == inode)
        }
    }

    /// The layout is on disks: a change of it needs a new version.
    @Test func layoutIsFixed() throws {
        let inode = Inode(
            type: .symbolicLink,
            attributes: FileAttributes(
                mode: 0o777, userID: 0x0102_0304, groupID: 0x0506_0708,
                accessed: Timestamp(seconds: 1, nanoseconds: 2),
                modified: Timestamp(seconds: -1, nanoseconds: 3)),
            changed: Timestamp(seconds: 5, nanoseconds: 6), size: 2,
            objectID: ObjectID(high: 0x11, low: 0x22), target: [0x61, 0xff])
        let expected: [UInt8] =
            [1, 3, 0xff, 0x01, 4, 3, 2, 1, 8, 7, 6, 5, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]
            + [0x11, 0, 0, 0, 0, 0, 0, 0, 0x22, 0, 0, 0, 0, 0, 0, 0]
            + [1, 0, 0, 0, 0, 0, 0, 0] + [UInt8](repeating: 0xff, count: 8)
            + [5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 6, 0, 0, 0, 2, 0, 0, 0, 0x61, 0xff]
        #expect(inode.encoded == expected)
    }

    @Test func everyTruncationIsRefused() throws {
        var entropy = Entropy(seed: 2)
        for _ in 0..<20 {
            let bytes = RecordTests.randomInode(&entropy).encoded
            for count in 0..<min(bytes.count, 200) {
                #expect(throws: FileSystemError.self) {
                    try Inode(decoding: Array(bytes[0..<count]))
                }
            }
            #expect(throws: FileSystemError.self) { try Inode(decoding: bytes + [0]) }
        }
    }

    /// Whatever the bytes are, decoding answers or throws; what it accepts encodes to the same.
    @Test func damagedRecordsNeverTrap() {
        var entropy = Entropy(seed: 3)
        var accepted = 0
        var refused = 0
        for _ in 0..<3_000 {
            var bytes = RecordTests.randomInode(&entropy).encoded
            for _ in 0...entropy.below(4) {
                bytes[Int(entropy.below(UInt64(min(bytes.count, 90))))] = UInt8(entropy.below(256))
            }
            if let inode = try? Inode(decoding: bytes) {
                accepted += 1
                #expect(inode.encoded == bytes)
            } else {
                refused += 1
            }
        }
        #expect(accepted > 300)
        #expect(refused > 300)
    }

    @Test func superblockComesBackAndRefusesDamage() throws {
        let superblock = Superblock(chunkSize: 1 << 20, rootID: ObjectID(high: 3, low: 4))
        let bytes = superblock.encoded
        #expect(try Superblock(decoding: bytes) == superblock)
        for count in 0..<bytes.count {
            #expect(throws: FileSystemError.self) {
                try Superblock(decoding: Array(bytes[0..<count]))
            }
        }
        for index in 0..<8 {
            var damaged = bytes
            damaged[index] ^= 1
            #expect(throws: FileSystemError.self) { try Superblock(decoding: damaged) }
        }
    }

    struct Cut: Sendable {
        var offset: UInt64
        var range: Range<Int>
        var count: Int
    }

    static let mebibyte = 1 << 20
    static let cuts: [Cut] = [
        Cut(offset: 0, range: 0..<0, count: 0),
        Cut(offset: 0, range: 0..<1, count: 1),
        Cut(offset: 0, range: 0..<mebibyte, count: 1),
        Cut(offset: 1, range: 0..<mebibyte, count: 2),
        Cut(offset: 1_048_575, range: 5..<6, count: 1),
        Cut(offset: 1_048_575, range: 5..<7, count: 2),
        Cut(offset: 7 << 30, range: 3..<3 * mebibyte, count: 3),
    ]

    @Test(arguments: cuts) func rangesAreCutAtChunks(cut: Cut) {
        let (offset, range, count) = (cut.offset, cut.range, cut.count)
        let pieces = File.pieces(offset: offset, range: range, chunkSize: 1 << 20)
        #expect(pieces.count == count)
        var position = offset
        var start = range.lowerBound
        for piece in pieces {
            #expect(piece.range.lowerBound == start)
            #expect(piece.chunk << 20 + piece.offset == position)
            #expect(piece.offset + UInt64(piece.range.count) <= 1 << 20)
            start = piece.range.upperBound
            position += UInt64(piece.range.count)
        }
        #expect(start == range.upperBound)
    }

    @Test func chunkKeysSortAsNumbers() {
        let numbers: [UInt64] = [0, 1, 255, 256, 65_535, 1 << 32, .max]
        let keys = numbers.map { [UInt8](bigEndian: $0) }
        for (left, right) in zip(keys, keys.dropFirst()) {
            #expect(left.lexicographicallyPrecedes(right))
        }
        #expect(keys[3] == [0, 0, 0, 0, 0, 0, 1, 0])
    }
}
