internal import BIO
internal import DrayRuntime

/// Which blocks the values of all tables take: so that a store opens without reading its tables.
///
/// In pages of one device block, of which the manifest says where they are. It changes only with
/// the manifest; pages that did not change stay where they are.
struct BlockMap {
    /// Where the two copies of a page are, and the CRC32C of its bytes; none: it is all zero.
    struct Page: Equatable {
        var copies: [UInt32] = []
        var checksum: UInt32 = 0
    }

    /// The blocks of one page.
    static let pageBlocks = BlockDevice.blockSize * 8

    private(set) var blocks: BlockSet
    private let totalBlocks: Int
    /// The pages that have changed since `setClean`.
    private(set) var dirty: Set<Int> = []

    init(totalBlocks: UInt32) {
        self.totalBlocks = Int(totalBlocks)
        blocks = BlockSet(totalBlocks: totalBlocks)
    }

    var pageCount: Int { (totalBlocks + BlockMap.pageBlocks - 1) / BlockMap.pageBlocks }

    /// False, and nothing has changed, when one of the blocks is marked, or is not there.
    mutating func mark(_ extent: BlockExtent) -> Bool {
        guard extent.end <= UInt64(totalBlocks), !blocks.touches(extent) else { return false }
        _ = blocks.insert(extent)
        touch(extent)
        return true
    }

    /// False, and nothing has changed, when one of the blocks is not marked.
    mutating func clear(_ extent: BlockExtent) -> Bool {
        guard extent.end <= UInt64(totalBlocks), blocks.contains(extent) else { return false }
        blocks.remove(extent)
        touch(extent)
        return true
    }

    private mutating func touch(_ extent: BlockExtent) {
        let first = Int(extent.start) / BlockMap.pageBlocks
        let last = Int(extent.end - 1) / BlockMap.pageBlocks
        dirty.formUnion(first...last)
    }

    mutating func setClean() { dirty = [] }

    /// The bytes of a page; nil when it is all zero.
    func page(_ index: Int) -> [UInt8]? {
        let words = blocks.words[wordRange(index)]
        guard words.contains(where: { $0 != 0 }) else { return nil }
        var bytes = [UInt8](repeating: 0, count: BlockDevice.blockSize)
        let page = words.map(\.littleEndian)
        unsafe page.withUnsafeBytes { page in
            unsafe bytes.withUnsafeMutableBytes { unsafe $0.copyMemory(from: page) }
        }
        return bytes
    }

    private func wordRange(_ page: Int) -> Range<Int> {
        let first = page * BlockMap.pageBlocks / 64
        return first..<min(blocks.words.count, first + BlockMap.pageBlocks / 64)
    }

    /// Sets a page, and returns the extents that it has. Throws when it marks what is not there.
    mutating func load(
        page index: Int, _ bytes: [UInt8]
    ) throws(MalformedBytes) -> [BlockExtent] {
        var reader = ByteReader(bytes)
        let range = wordRange(index)
        for word in range { blocks.set(try reader.quad(), at: word) }
        if totalBlocks % 64 != 0, range.upperBound == blocks.words.count,
            blocks.words[range.upperBound - 1] >> UInt64(totalBlocks % 64) != 0
        {
            throw MalformedBytes(what: "the block map marks blocks that are not there")
        }
        return blocks.runs(inWords: range)
    }
}
