import DrayRuntime
import Testing

@Suite struct ByteCoderTests {
    enum Colour: UInt16 { case red = 3, green = 9 }

    struct Sample: ByteCodable, Equatable {
        var flag = false
        var small: UInt8 = 0
        var large: UInt64 = 0
        var signed: Int32 = 0
        var real = 0.0
        var colour = Colour.red
        var bytes: [UInt8] = []
        var text = ""
        var number: UInt32?
        var numbers: [UInt16] = []
        var keys: [[UInt8]] = []
        var children: [Child] = []
        var child: Child?

        struct Child: ByteCodable, Equatable {
            var name = ""

            mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
                try coder.code(&name, max: 8)
            }
        }

        mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
            try coder.code(&flag)
            try coder.code(&small)
            try coder.code(&large)
            try coder.code(&signed)
            try coder.code(&real)
            try coder.code(&colour)
            try coder.code(&bytes, max: 100)
            try coder.code(&text, max: 20)
            try coder.code(&number)
            try coder.code(&numbers, max: 5)
            try coder.code(&keys, max: 3, bytesMax: 4)
            try coder.code(&children, max: 4)
            try coder.code(&child)
        }
    }

    static let full = Sample(
        flag: true, small: 1, large: .max - 1, signed: -5, real: -0.5, colour: .green,
        bytes: [9, 8, 7], text: "grün", number: 77, numbers: [1, 65_535], keys: [[], [1, 2]],
        children: [.init(name: "a"), .init(name: "")], child: .init(name: "c"))

    @Test(arguments: [Sample(), full])
    func comesBackAsItWas(sample: Sample) throws {
        #expect(try Sample(decoding: sample.encoded()) == sample)
    }

    @Test func everyPrefixIsRefused() {
        let bytes = Self.full.encoded()
        for length in 0..<bytes.count {
            #expect(throws: DecodingFailure.self) {
                _ = try Sample(decoding: Array(bytes.prefix(length)))
            }
        }
        #expect(throws: DecodingFailure.trailingBytes) {
            _ = try Sample(decoding: bytes + [0])
        }
    }

    @Test func nothingCrashesTheDecoder() {
        var random = Entropy(seed: 2)
        let bytes = Self.full.encoded()
        for _ in 0..<5000 {
            var changed = bytes
            for _ in 0..<(1 + random.below(3)) {
                changed[Int(random.below(UInt64(changed.count)))] = UInt8(random.below(256))
            }
            _ = try? Sample(decoding: changed)
        }
    }

    @Test func limitsHold() {
        struct Bytes: ByteCodable {
            var bytes: [UInt8] = []
            mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
                try coder.code(&bytes, max: 1 << 40)
            }
        }
        // Four gigabytes announced, none there.
        #expect(throws: DecodingFailure.truncated) {
            _ = try Bytes(decoding: [0xff, 0xff, 0xff, 0xff, 1])
        }
        var sample = Self.full.encoded()
        sample[0] = 2
        #expect(throws: DecodingFailure.invalidValue) { _ = try Sample(decoding: sample) }
        struct Text: ByteCodable {
            var text = ""
            mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
                try coder.code(&text, max: 4)
            }
        }
        #expect(throws: DecodingFailure.tooLong) {
            _ = try Text(decoding: [5, 0, 0, 0, 65, 65, 65, 65, 65])
        }
        #expect(throws: DecodingFailure.invalidValue) {
            _ = try Text(decoding: [2, 0, 0, 0, 0xc0, 0x80])
        }
    }

    @Test func countsWhatDoesNotFit() throws {
        var sample = Self.full
        let needed = sample.encoded().count
        for size in [0, 1, 10, needed - 1, needed] {
            var memory = [UInt8](repeating: 0xee, count: needed + 8)
            let count = try memory.withUnsafeMutableBytes { buffer in
                var coder = ByteCoder(
                    encodingInto: UnsafeMutableRawBufferPointer(rebasing: buffer[0..<size]))
                try sample.code(with: &coder)
                #expect(coder.fits == (size == needed))
                return coder.count
            }
            #expect(count == needed)
            #expect(memory[size...].allSatisfy { $0 == 0xee })
        }
    }
}
