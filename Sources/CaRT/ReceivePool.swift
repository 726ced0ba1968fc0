internal import BasicContainers
internal import DequeModule
internal import DrayFabric
internal import DrayRuntime

/// The receives of a context: fixed buffers, each posted, or held by whoever reads its message.
///
/// A message that finds no posted receive stops its whole connection, so buffers are reposted
/// before the fabric is asked for more messages, and there are more of them where many are in use:
/// every buffer is used in turn, so that all of their memory is soon resident.
@safe struct ReceivePool: ~Copyable {
    /// Buffers that are made at a time.
    static let chunkSlots = 16

    private let endpoint: Endpoint
    private var chunks = UniqueArray<Registration>()
    // SAFETY: the chunks keep the memory.
    private var starts = unsafe UniqueArray<UnsafeMutableRawPointer>()
    let slotSize: Int
    let countMax: Int
    private var isPosted = UniqueArray<Bool>()
    /// Of each buffer that is not posted: messages in it that somebody reads.
    private var readers = UniqueArray<UInt16>()
    /// Buffers whose messages were read, and that nobody has posted again.
    private var free = UniqueArray<UInt32>()
    /// Buffers that the provider did not take yet.
    private var refused = Deque<UInt32>()
    private(set) var postedCount = 0

    init(endpoint: Endpoint, slotSize: Int, countMax: Int) {
        self.endpoint = endpoint
        self.slotSize = slotSize
        self.countMax = countMax
    }

    /// Buffers so far.
    var count: Int { isPosted.count }

    /// Makes the first buffers and posts them.
    mutating func open() throws(FabricError) {
        for index in try makeChunk() { try post(index) }
    }

    /// Makes more buffers, as far as there may be more; nobody has posted them yet.
    private mutating func makeChunk() throws(FabricError) -> Range<UInt32> {
        let more = min(ReceivePool.chunkSlots, countMax - count)
        let buffer = IOBuffer(count: slotSize * more)
        chunks.append(try Registration(buffer, at: endpoint, access: []))
        unsafe starts.append(buffer.bytes.baseAddress.unsafelyUnwrapped)
        let first = UInt32(count)
        for _ in 0..<more { isPosted.append(false) }
        for _ in 0..<more { readers.append(0) }
        return first..<first + UInt32(more)
    }

    /// Makes more buffers when few are left, or `events` at once show that few would do.
    mutating func growIfBusy(events: Int) {
        guard count < countMax, events * 2 > count || postedCount * 2 < count else { return }
        do throws(FabricError) {
            for index in try makeChunk() { offer(index) }
        } catch {
            // Memory cannot be registered: as if there were enough. It is tried again.
        }
    }

    /// Buffers that hold messages.
    var heldCount: Int { count - postedCount - refused.count - free.count }

    private mutating func post(_ index: UInt32) throws(FabricError) {
        precondition(!isPosted[Int(index)], "a receive was posted twice")
        do throws(FabricError) {
            try unsafe endpoint.postReceive(
                memory(index), in: registration(index).pointer.pointee,
                token: OperationToken(.receive, index).rawValue)
        } catch .tryAgain {
            refused.append(index)
            return
        }
        isPosted[Int(index)] = true
        postedCount += 1
    }

    /// One or more messages arrived in the buffer.
    mutating func arrived(_ index: UInt32) {
        precondition(isPosted[Int(index)], "a receive completed that was not posted")
        isPosted[Int(index)] = false
        postedCount -= 1
        readers[Int(index)] = 1
    }

    /// There is another message in the buffer.
    mutating func hold(_ index: UInt32) { readers[Int(index)] += 1 }

    /// A message was read. After the last one the buffer takes others, once it was posted.
    mutating func release(_ index: UInt32) {
        readers[Int(index)] -= 1
        if readers[Int(index)] == 0 { free.append(index) }
    }

    /// Whether there is something to post.
    var hasFree: Bool { !free.isEmpty }

    /// Posts the buffers whose messages were read.
    mutating func postFree() {
        while let index = free.popLast() { offer(index) }
    }

    /// An endpoint that is closing may refuse.
    private mutating func offer(_ index: UInt32) {
        do throws(FabricError) {
            try post(index)
        } catch {
            refused.append(index)
        }
    }

    /// Offers again what was refused. Returns how many were taken.
    mutating func retry() -> Int {
        var taken = 0
        for _ in 0..<refused.count {
            guard let index = refused.popFirst() else { break }
            let before = postedCount
            offer(index)
            taken += postedCount - before
        }
        return taken
    }

    var needsRetry: Bool { !refused.isEmpty }

    /// The memory of a buffer.
    func memory(_ index: UInt32) -> UnsafeMutableRawBufferPointer {
        let start = Int(index) % ReceivePool.chunkSlots * slotSize
        return unsafe UnsafeMutableRawBufferPointer(
            start: starts[Int(index) / ReceivePool.chunkSlots] + start, count: slotSize)
    }

    private func registration(_ index: UInt32) -> Registration {
        chunks[Int(index) / ReceivePool.chunkSlots]
    }

    mutating func close() {
        for index in chunks.indices { chunks[index].close(at: endpoint) }
    }
}

/// What an operation was, in the token that its completion carries.
struct OperationToken {
    enum Kind: UInt8 {
        case receive = 1
        case send = 2
        case bulk = 3
    }

    let rawValue: UInt64

    init(_ kind: Kind, _ index: UInt32) {
        rawValue = UInt64(kind.rawValue) << 56 | UInt64(index)
    }

    init(rawValue: UInt64) { self.rawValue = rawValue }

    var kind: Kind? { Kind(rawValue: UInt8(rawValue >> 56)) }
    var index: UInt32 { UInt32(truncatingIfNeeded: rawValue) }
}
