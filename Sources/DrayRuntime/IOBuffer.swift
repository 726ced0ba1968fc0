internal import CDrayRuntime

/// Page-aligned memory for transfers: what O_DIRECT, registration and remote access need.
///
/// A buffer owns its memory until it is released. It is confined to one xstream at a time; hand it
/// over, do not share it.
@safe public final class IOBuffer: @unchecked Sendable {
    // SAFETY: the memory is owned by this object alone and freed in `deinit`. `Sendable` is
    // unchecked because whoever holds the buffer must be its only user at any time (the contract
    // above); nothing here is mutated but the bytes.
    private let base: UnsafeMutableRawPointer
    /// Whose memory it is, if not its own.
    private let whole: IOBuffer?

    /// The size in bytes, as asked for.
    public let count: Int

    /// Allocates `count` zeroed bytes, aligned to the page size. `count` must be positive.
    public init(count: Int) {
        precondition(count > 0, "a buffer needs at least one byte")
        guard let memory = unsafe dray_map_memory(UInt64(count)) else {
            preconditionFailure("out of memory: \(count) bytes for a transfer buffer")
        }
        unsafe self.base = memory
        self.count = count
        whole = nil
    }

    /// Memory for transfers of at least this many bytes is worth huge pages.
    public static let largeTransferMin = 256 << 10

    /// Buffers of `count` bytes each for transfers that a device shall take as they are. It is told
    /// of every page, and some take 254 pages at a time: a transfer of 1 MiB becomes two, one after
    /// the other. So the memory is in huge pages, where the system gives them; up to half of one,
    /// several buffers share it, and it is freed with the last of them. Less than
    /// `largeTransferMin` is one ordinary buffer.
    public static func forLargeTransfers(count: Int) -> [IOBuffer] {
        guard count >= largeTransferMin else { return [IOBuffer(count: count)] }
        let page = Int(DRAY_HUGE_PAGE)
        let pages = IOBuffer(hugePages: (count + page - 1) / page)
        var piece = largeTransferMin
        while piece < count { piece *= 2 }
        return stride(from: 0, through: max(0, page - piece), by: piece).map {
            IOBuffer(count: count, at: $0, of: pages)
        }
    }

    private init(hugePages: Int) {
        let count = hugePages * Int(DRAY_HUGE_PAGE)
        guard let memory = unsafe dray_map_huge_pages(UInt64(count)) else {
            preconditionFailure("out of memory: \(count) bytes for a transfer buffer")
        }
        unsafe base = memory
        self.count = count
        whole = nil
    }

    private init(count: Int, at offset: Int, of whole: IOBuffer) {
        unsafe base = whole.base + offset
        self.count = count
        self.whole = whole
    }

    /// Allocates a buffer that holds a copy of `bytes` (at least one byte long).
    public convenience init(copying bytes: [UInt8]) {
        self.init(count: max(1, bytes.count))
        unsafe bytes.withUnsafeBytes { source in
            unsafe UnsafeMutableRawBufferPointer(rebasing: self.bytes[0..<source.count])
                .copyMemory(from: source)
        }
    }

    deinit {
        if whole == nil { unsafe dray_unmap_memory(base, UInt64(count)) }
    }

    /// The memory. Valid as long as the buffer lives.
    public var bytes: UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(start: base, count: count)
    }

    /// A copy of the bytes in `range`.
    public func array(_ range: Range<Int>) -> [UInt8] {
        precondition(range.lowerBound >= 0 && range.upperBound <= count)
        return unsafe [UInt8](copying: UnsafeRawBufferPointer(rebasing: bytes[range]))
    }
}
