public import DrayFabric
public import DrayRuntime

/// Names several pieces of exposed memory of one process as if they were one: a scatter-gather
/// list.
///
/// Travels in messages. A third process that was handed one goes straight to the owner.
public struct BulkVector: Message, Hashable {
    /// One piece.
    public struct Segment: Hashable, Sendable {
        /// Where it begins, as the owner's fabric names it.
        public var address: UInt64 = 0
        /// Bytes; at least one.
        public var length: UInt64 = 0
        /// What allows access. Unguessable.
        public var key: UInt64 = 0
    }

    /// The context that exposed the memory.
    public private(set) var owner = FabricAddress()
    /// Which instance of that context: a restarted process is another.
    public private(set) var instance: UInt64 = 0
    /// What the owner allows for all segments.
    public private(set) var access: MemoryAccess = []
    /// In order; none is empty.
    public internal(set) var segments: [Segment] = []

    /// The most segments of a vector.
    public static let segmentsMax = 1024

    /// No memory at all; for decoding into.
    public init() {}

    /// The memory of `handles`, one after another. All belong to one context; at most
    /// `segmentsMax`.
    public init(_ handles: [BulkHandle]) {
        precondition(handles.count <= BulkVector.segmentsMax, "too many segments")
        guard let first = handles.first?.descriptor else { return }
        owner = first.owner
        instance = first.instance
        access = [.remoteRead, .remoteWrite]
        for handle in handles {
            let descriptor = handle.descriptor
            precondition(
                descriptor.instance == instance, "a vector is of the memory of one context")
            access.formIntersection(descriptor.access)
            segments.append(
                Segment(
                    address: descriptor.address, length: descriptor.length, key: descriptor.key))
        }
    }

    /// Bytes of all segments. O(segments).
    public var length: UInt64 { segments.reduce(0) { $0 + $1.length } }

    public mutating func code(with coder: inout ByteCoder) throws(DecodingFailure) {
        try coder.code(&owner)
        try coder.code(&instance)
        try coder.code(&access)
        try coder.code(&segments, max: BulkVector.segmentsMax, default: Segment()) {
            (coder, segment) throws(DecodingFailure) in
            try coder.code(&segment.address)
            try coder.code(&segment.length)
            try coder.code(&segment.key)
        }
        guard coder.isDecoding else { return }
        guard access.isSubset(of: [.remoteRead, .remoteWrite]) else { throw .invalidValue }
        var total: UInt64 = 0
        for segment in segments {
            let (sum, overflow) = total.addingReportingOverflow(segment.length)
            guard segment.length > 0, !overflow, sum <= UInt64(Int.max),
                !segment.address.addingReportingOverflow(segment.length).overflow
            else { throw .invalidValue }
            total = sum
        }
    }

    func descriptor(_ segment: Int) -> BulkDescriptor {
        var descriptor = BulkDescriptor()
        descriptor.owner = owner
        descriptor.instance = instance
        descriptor.access = access
        descriptor.address = segments[segment].address
        descriptor.length = segments[segment].length
        descriptor.key = segments[segment].key
        return descriptor
    }

    /// A run of bytes that lies in one segment and in one local part.
    struct Piece: Hashable {
        var segment: Int
        /// In the segment.
        var offset: Int
        var part: Int
        /// From the part's first byte on.
        var range: Range<Int>
    }

    /// How parts of these sizes lie over the segments from `offset` on, in pieces of at most
    /// `sizeMax` bytes; nil when they reach beyond the end.
    func pieces(offset: Int, parts: [Int], sizeMax: Int = .max) -> [Piece]? {
        var pieces: [Piece] = []
        var segment = 0
        var position = offset
        guard offset >= 0 else { return nil }
        for (part, count) in parts.enumerated() {
            var start = 0
            while start < count {
                while segment < segments.count, position >= Int(segments[segment].length) {
                    position -= Int(segments[segment].length)
                    segment += 1
                }
                guard segment < segments.count else { return nil }
                let length = min(count - start, Int(segments[segment].length) - position, sizeMax)
                pieces.append(
                    Piece(
                        segment: segment, offset: position, part: part,
                        range: start..<start + length))
                start += length
                position += length
            }
        }
        return UInt64(offset) <= length ? pieces : nil
    }
}

/// Local memory of a scatter-gather transfer.
public struct BulkPart {
    /// Memory of the context that transfers.
    public var buffer: RegisteredBuffer
    /// The bytes of it that are copied.
    public var range: Range<Int>

    /// `range` of `buffer`; all of it when nil.
    public init(_ buffer: RegisteredBuffer, range: Range<Int>? = nil) {
        self.buffer = buffer
        self.range = range ?? 0..<buffer.count
        precondition(self.range.lowerBound >= 0 && self.range.upperBound <= buffer.count)
    }
}

extension Context {
    /// Pieces of one vector that are under way at a time.
    private static let piecesMax = 16

    /// Copies from a peer's exposed memory, starting at `offset` of it, into `parts`, one after
    /// another.
    ///
    /// Otherwise as `bulkGet` of one descriptor. When it fails, some of the parts may be filled.
    public func bulkGet(
        _ vector: BulkVector, offset: Int = 0, into parts: [BulkPart],
        deadline: Deadline = .standard, for request: RequestContext? = nil
    ) async throws(RPCError) {
        try await transfer(.read, vector, offset, parts, deadline, request)
    }

    /// Copies `parts`, one after another, to a peer's exposed memory, starting at `offset` of it.
    ///
    /// Otherwise as `bulkPut` to one descriptor. When it fails, some of the memory may be filled.
    public func bulkPut(
        _ vector: BulkVector, offset: Int = 0, from parts: [BulkPart],
        deadline: Deadline = .standard, for request: RequestContext? = nil
    ) async throws(RPCError) {
        try await transfer(.write, vector, offset, parts, deadline, request)
    }

    private func transfer(
        _ kind: BulkOperation.Kind, _ vector: BulkVector, _ offset: Int, _ parts: [BulkPart],
        _ deadline: Deadline, _ request: RequestContext?
    ) async throws(RPCError) {
        let begun = xstream.now.nanoseconds
        let end = times(of: deadline, now: begun).0
        defer { noteBulk(for: request, since: begun) }
        if faults.isArmed { try await pass(.cartBulk) }
        let counts = parts.map(\.range.count)
        guard
            let pieces = vector.pieces(
                offset: offset, parts: counts, sizeMax: endpoint.transferSizeMax)
        else { throw .fabric(.badKey) }
        var underWay: [UInt32] = []
        var next = 0
        var failure: RPCError?
        // The oldest is waited for first; a failure waits for the others to end.
        var oldest = 0
        while oldest < underWay.count || (next < pieces.count && failure == nil) {
            do throws(RPCError) {
                while next < pieces.count, failure == nil,
                    underWay.count - oldest < Context.piecesMax
                {
                    let piece = pieces[next]
                    next += 1
                    let start = parts[piece.part].range.lowerBound
                    let begun = try begin(
                        kind, vector.descriptor(piece.segment), piece.offset,
                        parts[piece.part].buffer,
                        start + piece.range.lowerBound..<start + piece.range.upperBound,
                        deadline: end)
                    if let begun { underWay.append(begun) }
                }
                guard oldest < underWay.count else { continue }
                oldest += 1
                try await finish(underWay[oldest - 1])
            } catch {
                failure = failure ?? error
            }
        }
        if let failure { throw failure }
    }
}
