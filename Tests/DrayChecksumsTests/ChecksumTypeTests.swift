import DrayChecksums
import Testing

@Suite struct ChecksumTypeTests {
    /// What the authors of each say of some bytes.
    @Test(arguments: [
        (ChecksumType.crc32c, "123456789", "839206e3"),
        (.xxh64, "", "99e9d85137db46ef"),
        (.xxh64, "abc", "990977adf52cbc44"),
        (
            .sha256, "abc",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        ),
        (
            .sha256, "",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        ),
        (.off, "abc", ""),
    ])
    func knownAnswers(type: ChecksumType, text: String, bytes: String) {
        var words: [UInt32] = []
        Array(text.utf8).withUnsafeBytes { type.append(of: $0, to: &words) }
        // Little-endian, as they are stored and sent.
        let found = words.flatMap { word in
            (0..<4).map { UInt8(truncatingIfNeeded: word >> UInt32(8 * $0)) }
        }
        let digits = Array("0123456789abcdef")
        #expect(String(found.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }) == bytes)
        #expect(words.count == type.words && type.words <= ChecksumType.wordsMax)
    }

    @Test(arguments: ChecksumType.allCases)
    func chunks(type: ChecksumType) {
        let bytes = (0..<250).map { UInt8($0) }
        let words = bytes.withUnsafeBytes { type.checksums(of: $0, chunk: 100) }
        var expected: [UInt32] = []
        for part in [bytes[..<100], bytes[100..<200], bytes[200...]] {
            Array(part).withUnsafeBytes { type.append(of: $0, to: &expected) }
        }
        #expect(words == expected && words.count == 3 * type.words)
        #expect([UInt8]().withUnsafeBytes { type.checksums(of: $0, chunk: 100) } == [])
        for index in [0, 99, 100, 249] where type != .off {
            var changed = bytes
            changed[index] ^= 1
            #expect(changed.withUnsafeBytes { type.checksums(of: $0, chunk: 100) } != words)
        }
    }

    @Test func names() {
        for type in ChecksumType.allCases { #expect(ChecksumType(name: type.name) == type) }
        #expect(ChecksumType(name: "md5") == nil)
    }
}
