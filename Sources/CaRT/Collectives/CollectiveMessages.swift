internal import DrayRuntime

/// Names a collective: the context that began it, and when by its hybrid logical clock.
struct CollectiveID: Hashable, ByteCodable {
    var initiator: UInt64 = 0
    var stamp: UInt64 = 0

    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&initiator)
        try coder.code(&stamp)
    }
}

/// Where a rank gets the bulk data of a collective from.
struct CollectiveBulk: Hashable, ByteCodable {
    var memory = BulkDescriptor()
    var chunkSize: UInt32 = 0
    /// Whether all of it is there already: that of the initiator is.
    var isWhole = false

    static let chunkSizes = 4096...(1 << 30)

    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&memory)
        try coder.code(&chunkSize)
        try coder.code(&isWhole)
        guard coder.isDecoding else { return }
        guard CollectiveBulk.chunkSizes.contains(Int(chunkSize)), memory.length > 0
        else { throw .invalidValue }
    }
}

/// What a parent asks a child.
struct CollectiveRequest: Message {
    var id = CollectiveID()
    var tree = TreeTopology.flat
    var isFailFast = false
    /// Ranks that know another version of the group take part, too.
    var isForAnyVersion = false
    var ranks = RankSet()
    /// Positions in `ranks`: of the root of the tree, and of the child.
    var root: UInt32 = 0
    var position: UInt32 = 0
    var bulk: CollectiveBulk?
    /// The encoded request of the layer above; passed on as it is.
    var body: [UInt8] = []

    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&id)
        try coder.code(&tree)
        var flags: UInt8 = (isFailFast ? 1 : 0) | (isForAnyVersion ? 2 : 0)
        try coder.code(&flags)
        try coder.code(&ranks)
        try coder.code(&root)
        try coder.code(&position)
        try coder.code(&bulk)
        try coder.code(&body, max: Int(Int32.max))
        guard coder.isDecoding else { return }
        guard Int(root) < ranks.count, Int(position) < ranks.count, flags < 4
        else { throw .invalidValue }
        isFailFast = flags & 1 != 0
        isForAnyVersion = flags & 2 != 0
    }
}

/// What became of a child and all below it.
struct CollectiveAnswer: Message, Hashable {
    var succeeded: UInt32 = 0
    var failures = CollectiveFailures()
    /// The encoded reply of those that succeeded.
    var reply: [UInt8]?

    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&succeeded)
        try failures.code(with: &coder)
        try coder.code(&reply, default: []) { (coder, bytes) throws(DecodingFailure) in
            try coder.code(&bytes, max: Int(Int32.max))
        }
        guard coder.isDecoding else { return }
        guard (succeeded > 0) == (reply != nil) else { throw .invalidValue }
    }

    /// About how much memory it takes.
    var size: Int { 128 + (reply?.count ?? 0) + failures.listed.count * 64 }
}

extension CollectiveFailures: ByteCodable {
    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        var list = coder.isDecoding ? [] : listed
        var count = UInt32(coder.isDecoding ? 0 : total)
        try coder.code(&count)
        try coder.code(
            &list, max: CollectiveFailures.listedMax, default: Failure(position: 0, error: .noReply)
        ) { (coder, failure) throws(DecodingFailure) in
            try failure.code(with: &coder)
        }
        guard coder.isDecoding else { return }
        guard list.count <= Int(count) else { throw .invalidValue }
        self = CollectiveFailures(listed: list, total: Int(count))
    }
}

extension CollectiveFailures.Failure {
    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        var place = UInt32(coder.isDecoding ? 0 : position)
        let (code, text) = error.wire
        var (status, body) = (code.rawValue, text)
        try coder.code(&place)
        try coder.code(&status)
        try coder.code(&body)
        guard coder.isDecoding else { return }
        position = Int(place)
        let bytes = body?.encoded() ?? []
        error = unsafe bytes.withUnsafeBytes { unsafe RPCError(status: status, body: $0) }
    }
}

/// A child asks its parent how much of the bulk data there is, once that is more than it has.
struct ChunkQuestion: Message {
    /// Of the parent's memory.
    var key: UInt64 = 0
    var have: UInt64 = 0

    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&key)
        try coder.code(&have)
    }
}

/// Bytes, from the first on, that may be read.
struct ChunkAnswer: Message {
    var available: UInt64 = 0

    mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&available)
    }
}

/// CaRT's own procedures for collectives.
enum CollectiveProtocol {
    static let id = ProtocolID(reserved: 0xf5, version: 1)
    static let chunks = Procedure<ChunkQuestion, ChunkAnswer>(id, index: 1, name: "cart.chunks")
}
