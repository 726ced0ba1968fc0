import DrayRuntime
import Testing

/// Checks that nothing but the whole encoding of `sample` decodes without an error, and that no
/// change of it crashes the decoder.
func checkDecoding<Body: ByteCodable>(of sample: Body) {
    var random = Entropy(seed: 5)
    let good = sample.encoded()
    #expect((try? Body(decoding: good)) != nil)
    for length in 0..<good.count {
        #expect(throws: DecodingFailure.self) {
            _ = try Body(decoding: Array(good.prefix(length)))
        }
    }
    #expect(throws: DecodingFailure.self) { _ = try Body(decoding: good + [0]) }
    for _ in 0..<500 {
        var bytes = good
        for _ in 0..<(1 + random.below(4)) {
            bytes[Int(random.below(UInt64(bytes.count)))] = UInt8(random.below(256))
        }
        _ = try? Body(decoding: bytes)
    }
}
