internal import Synchronization

/// What other threads send to an xstream, in order.
///
/// Ordering: a sender puts its mail under the lock, sets `filled`, then reads `sleeping`. The
/// xstream sets `sleeping`, then reads `filled`, then blocks. All four are sequentially
/// consistent, so at least one side sees the other: either the xstream does not block, or the
/// sender wakes it.
struct Mailbox: ~Copyable {
    enum Mail {
        case job(ReadyJob)
        case body(() -> Void)
    }

    private let mail = Mutex<[Mail]>([])
    private let filled = Atomic<Bool>(false)
    private let sleeping = Atomic<Bool>(false)

    /// Adds to the mailbox. Returns whether the caller must wake the xstream.
    func put(_ item: sending Mail) -> Bool {
        let carried = Confined(item)
        mail.withLock { $0.append(carried.value) }
        filled.store(true, ordering: .sequentiallyConsistent)
        // Of many senders only the first one pays for the system call.
        return sleeping.load(ordering: .sequentiallyConsistent)
            && sleeping.exchange(false, ordering: .sequentiallyConsistent)
    }

    var isEmpty: Bool { !filled.load(ordering: .sequentiallyConsistent) }

    /// Exchanges the mail for the empty array `spare`, which keeps its capacity in use.
    func take(into spare: inout [Mail]) {
        // The mail is taken after the flag is cleared: what comes in between sets it again.
        filled.store(false, ordering: .sequentiallyConsistent)
        let carried = Confined(spare)
        spare = []
        let taken = mail.withLock { current in
            let taken = Confined(current)
            current = carried.value
            return taken
        }
        spare = taken.value
    }

    /// Says that the xstream is about to block. Returns false when it must not.
    func fallAsleep() -> Bool {
        sleeping.store(true, ordering: .sequentiallyConsistent)
        if isEmpty { return true }
        sleeping.store(false, ordering: .sequentiallyConsistent)
        return false
    }

    func wakeUp() { sleeping.store(false, ordering: .sequentiallyConsistent) }
}
