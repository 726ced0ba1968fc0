import DrayRuntime
import Testing

@testable import VOS

@Suite struct PaintingTests {
    @Test(arguments: 0..<60 as Range<UInt64>)
    func isLikePaintingBytes(seed: UInt64) {
        var entropy = Entropy(seed: seed)
        let size: UInt64 = 60
        var records: [IndexRecord] = []
        for _ in 0..<entropy.below(12) {
            let offset = entropy.below(size)
            let record = IndexRecord(
                kind: .extent, dkeyEnd: 1, akeyEnd: 2, epoch: 1 + entropy.below(5), offset: offset,
                byteCount: Int(1 + entropy.below(20)))
            record.stamp = UInt64(records.count)
            records.append(record)
        }
        let low = entropy.below(size)
        let range = low..<low + 1 + entropy.below(40)
        var bytes: [UInt64: IndexRecord] = [:]
        for record in records {
            for byte in record.offset..<record.end where range.contains(byte) {
                if let other = bytes[byte], other.isNewer(than: record) { continue }
                bytes[byte] = record
            }
        }
        var painted: [UInt64: IndexRecord] = [:]
        var end: UInt64 = 0
        for segment in Painting.visible(records, in: range) {
            #expect(segment.start >= end && segment.start < segment.end)
            end = segment.end
            for byte in segment.start..<segment.end { painted[byte] = segment.record }
        }
        #expect(painted.count == bytes.count)
        for byte in range { #expect(painted[byte] === bytes[byte]) }
    }
}
