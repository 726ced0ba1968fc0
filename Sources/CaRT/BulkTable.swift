internal import DequeModule
internal import DrayFabric
internal import DrayRuntime

/// One remote read or write.
struct BulkOperation {
    enum Kind { case read, write }

    var kind = Kind.read
    var peer: Int32 = -1
    var remote = RemoteMemory(address: 0, key: 0)
    /// Keeps the local memory until the fabric is done with it, even if the caller is not there.
    var buffer: RegisteredBuffer?
    var range = 0..<0
    var deadline: UInt64 = .max
    /// Nil when nobody waits (any more).
    var waiter: SuspendedTask?
    var error: RPCError?
    var isDone = false
}

/// The bulk transfers of a context.
struct BulkTable {
    /// Transfers at a time.
    static let operationsMax = 1 << 16

    var operations: [BulkOperation] = []
    private var free: [UInt32] = []
    /// Operations that the provider did not take yet.
    var refused = Deque<UInt32>()
    /// No transfer's deadline is earlier; may itself be too early.
    private(set) var nextDeadline: UInt64 = .max

    var hasRefused: Bool { !refused.isEmpty }

    /// Transfers under way.
    var count: Int { operations.count - free.count }

    mutating func open(_ operation: BulkOperation) -> UInt32? {
        nextDeadline = min(nextDeadline, operation.deadline)
        if let index = free.popLast() {
            operations[Int(index)] = operation
            return index
        }
        guard operations.count < BulkTable.operationsMax else { return nil }
        operations.append(operation)
        return UInt32(operations.count - 1)
    }

    /// The transfer is over for the fabric and for its caller.
    mutating func close(_ index: UInt32) {
        operations[Int(index)] = BulkOperation()
        free.append(index)
    }

    /// Waiting transfers whose deadline has passed; works out the next deadline.
    mutating func expired(now: UInt64) -> [UInt32] {
        guard nextDeadline <= now else { return [] }
        nextDeadline = .max
        var expired: [UInt32] = []
        for index in operations.indices {
            guard operations[index].waiter != nil else { continue }
            if operations[index].deadline <= now {
                expired.append(UInt32(index))
            } else {
                nextDeadline = min(nextDeadline, operations[index].deadline)
            }
        }
        return expired
    }
}
