internal import BIO
internal import DrayRuntime

/// Which blocks the values of all tables take: so that a store opens without reading its tables.
///
/// One bit a block, in pages of one device block, of which the manifest says where they are. It
/// changes only with the manifest; pages that did not change stay where they are.
struct BlockMap {
    /// Where a page is, and the CRC32C of its bytes; no block: it is all zero.
    struct Page: Equatable {
        var block: UInt32?
        var checksum: UInt32
    }

    /// The blocks of one page.
    static let pageBlocks = BlockDevice.blockSize * 8

    private(set) var words: [UInt64]
    private let totalBlocks: Int
    private(set) var dirty: Set<Int> = []

    init(totalBlocks: UInt32) {
        self.totalBlocks = Int(totalBlocks)
        words = [UInt64](repeating: 0, count: (Int(totalBlocks) + 63) / 64)
    }

    var pageCount: Int { (totalBlocks + BlockMap.pageBlocks - 1) / BlockMap.pageBlocks }

    /// How many blocks are marked. O(n).
    var markedCount: Int { words.reduce(0) { $0 + $1.nonzeroBitCount } }

    mutating func mark(_ extent: BlockExtent) {
        forEachWord(extent) { words, index, mask in
            precondition(words[index] & mask == 0, "a block has two values: \(extent)")
            words[index] |= mask
        }
    }

    mutating func clear(_ extent: BlockExtent) {
        forEachWord(extent) { words, index, mask in
            precondition(words[index] & mask == mask, "a value's block was not marked: \(extent)")
            words[index] &= ~mask
        }
    }

    func isMarked(_ extent: BlockExtent) -> Bool {
        (Int(extent.start)..<Int(extent.end)).allSatisfy {
            words[$0 / 64] >> UInt64($0 % 64) & 1 == 1
        }
    }

    private mutating func forEachWord(
        _ extent: BlockExtent, _ body: (inout [UInt64], Int, UInt64) -> Void
    ) {
        precondition(extent.end <= UInt64(totalBlocks))
        var block = Int(extent.start)
        let end = Int(extent.end)
        while block < end {
            let bit = block % 64
            let length = min(64 - bit, end - block)
            let mask = (length == 64 ? UInt64.max : (1 << UInt64(length)) - 1) << UInt64(bit)
            body(&words, block / 64, mask)
            dirty.insert(block / BlockMap.pageBlocks)
            block += length
        }
    }

    /// The bytes of a page; nil when it is all zero.
    func page(_ index: Int) -> [UInt8]? {
        let range = wordRange(index)
        guard words[range].contains(where: { $0 != 0 }) else { return nil }
        var bytes = [UInt8](repeating: 0, count: BlockDevice.blockSize)
        let page = words[range].map(\.littleEndian)
        unsafe page.withUnsafeBytes { page in
            unsafe bytes.withUnsafeMutableBytes { unsafe $0.copyMemory(from: page) }
        }
        return bytes
    }

    private func wordRange(_ page: Int) -> Range<Int> {
        let first = page * BlockMap.pageBlocks / 64
        return first..<min(words.count, first + BlockMap.pageBlocks / 64)
    }

    mutating func setClean() { dirty = [] }

    /// Sets a page, and returns the extents that it has. Throws when it marks what is not there.
    mutating func load(
        page index: Int, _ bytes: [UInt8]
    ) throws(MalformedBytes) -> [BlockExtent] {
        var reader = ByteReader(bytes)
        for word in wordRange(index) { words[word] = try reader.quad() }
        if totalBlocks % 64 != 0, wordRange(index).upperBound == words.count,
            words[words.count - 1] >> UInt64(totalBlocks % 64) != 0
        {
            throw MalformedBytes(what: "the block map marks blocks that are not there")
        }
        return extents(in: wordRange(index))
    }

    /// Runs of marked blocks.
    private func extents(in range: Range<Int>) -> [BlockExtent] {
        var extents: [BlockExtent] = []
        for index in range where words[index] != 0 {
            var bit = 0
            while bit < 64 {
                let rest = words[index] >> UInt64(bit)
                guard rest != 0 else { break }
                let start = bit + rest.trailingZeroBitCount
                let run = (~(words[index] >> UInt64(start))).trailingZeroBitCount
                let length = min(64 - start, run)
                let block = UInt32(index * 64 + start)
                if let last = extents.last, last.end == UInt64(block) {
                    extents[extents.count - 1].count += UInt32(length)
                } else {
                    extents.append(BlockExtent(start: block, count: UInt32(length)))
                }
                bit = start + length
            }
        }
        return extents
    }
}
