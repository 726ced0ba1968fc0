internal import DequeModule
internal import DrayFabric
internal import DrayRuntime

/// What its sender is told of a large reply that is not needed any more.
struct SpillRelease {
    var session: SessionID
    var number: UInt64
    /// Our request that it answers, if a call was fetching it.
    var request: UInt64?
}

/// One remote read or write.
struct BulkOperation {
    enum Kind { case read, write }

    var kind = Kind.read
    var peer: Int32 = -1
    /// The life of the peer whose memory it is.
    var instance: UInt64 = 0
    var remote = RemoteMemory(address: 0, key: 0)
    /// Keeps the local memory until the fabric is done with it, even if the caller is not there.
    var buffer: RegisteredBuffer?
    var range = 0..<0
    var deadline: UInt64 = .max
    var waiter: SuspendedTask?
    /// Why it failed, or why its caller gave up.
    var error: RPCError?
    /// The fabric is done with it, or never had it.
    var isDone = false
    /// The caller looks no more: the end of the transfer is the end of the entry.
    var isAbandoned = false
    /// The peer was taken for gone meanwhile.
    var isPeerGone = false
    /// A reply that its sender may forget when an abandoned read is over.
    var release: SpillRelease?
    /// Which use of its place in the table this is.
    var generation: UInt32 = 0
}

/// The bulk transfers of a context.
struct BulkTable {
    /// Transfers at a time.
    static let operationsMax = 1 << 16

    var operations: [BulkOperation] = []
    private var free: [UInt32] = []
    /// Operations that the provider did not take yet.
    var refused = Deque<UInt32>()
    /// Operations that wait for others to end, oldest first.
    var queued = Deque<UInt32>()
    /// Operations that are with the provider, or refused by it.
    var inFlight = 0
    /// Reads whose callers look no more.
    var abandonedReads = 0
    /// Requests whose callers wait for the end of such reads, and what they will be told.
    var heldFailures: [(RequestContext, RPCError)] = []
    /// Operations whose peers were taken for gone meanwhile.
    private(set) var goneCount = 0
    /// No transfer's deadline is earlier; may itself be too early.
    private(set) var nextDeadline: UInt64 = .max

    var hasRefused: Bool { !refused.isEmpty }

    /// Transfers under way.
    var count: Int { operations.count - free.count }

    mutating func open(_ operation: BulkOperation) -> UInt32? {
        nextDeadline = min(nextDeadline, operation.deadline)
        if let index = free.popLast() {
            let generation = operations[Int(index)].generation
            operations[Int(index)] = operation
            operations[Int(index)].generation = generation
            return index
        }
        guard operations.count < BulkTable.operationsMax else { return nil }
        operations.append(operation)
        return UInt32(operations.count - 1)
    }

    /// The transfer is over for the fabric and for its caller.
    mutating func close(_ index: UInt32) {
        if operations[Int(index)].isPeerGone { goneCount -= 1 }
        let generation = operations[Int(index)].generation
        operations[Int(index)] = BulkOperation()
        operations[Int(index)].generation = generation &+ 1
        free.append(index)
    }

    /// The peer of a transfer is taken for gone, and the fabric is not done with it.
    mutating func peerIsGone(_ index: Int) {
        guard !operations[index].isPeerGone else { return }
        operations[index].isPeerGone = true
        goneCount += 1
    }

    /// Whether the fabric is not done with a transfer with a peer that was taken for gone, in this
    /// life of it. O(transfers) while there are such.
    func isBusyWithGone(_ instance: UInt64) -> Bool {
        goneCount > 0
            && operations.contains { $0.instance == instance && $0.isPeerGone && !$0.isDone }
    }

    /// Whether its caller still hopes for it.
    func isWanted(_ index: Int) -> Bool {
        operations[index].peer >= 0 && !operations[index].isDone && operations[index].error == nil
    }

    /// Whether the fabric still reads memory of this life of a peer for nobody. O(transfers).
    func hasAbandonedRead(of instance: UInt64) -> Bool {
        operations.contains { $0.isAbandoned && $0.kind == .read && $0.instance == instance }
    }

    /// A read from memory with this key that the fabric is not done with, and whose caller looks no
    /// more; not one at whose end a reply is released already. O(transfers).
    func abandonedRead(_ key: UInt64, from peer: Int32) -> Int? {
        operations.indices.first {
            operations[$0].peer == peer && operations[$0].kind == .read
                && operations[$0].remote.key == key && operations[$0].isAbandoned
                && operations[$0].release == nil
        }
    }

    /// Transfers whose deadline has passed; works out the next deadline.
    mutating func expired(now: UInt64) -> [UInt32] {
        guard nextDeadline <= now else { return [] }
        nextDeadline = .max
        var expired: [UInt32] = []
        for index in operations.indices {
            guard isWanted(index) else { continue }
            if operations[index].deadline <= now {
                expired.append(UInt32(index))
            } else {
                nextDeadline = min(nextDeadline, operations[index].deadline)
            }
        }
        return expired
    }
}
