internal import HeapModule

/// A timer of an xstream. Cancelling is O(1); confined to its xstream.
public final class Timer {
    let deadline: Instant
    private var body: (() -> Void)?
    private let cancellations: TimerQueue.Cancellations

    init(deadline: Instant, cancellations: TimerQueue.Cancellations, body: @escaping () -> Void) {
        self.deadline = deadline
        self.cancellations = cancellations
        self.body = body
    }

    /// Whether it may still fire.
    public var isPending: Bool { body != nil }

    /// The timer will not fire, and what it captured is released. Harmless when it already has.
    public func cancel() {
        guard body != nil else { return }
        body = nil
        cancellations.count += 1
    }

    /// Runs the body, once; returns whether there was one.
    func fire() -> Bool {
        guard let body else { return false }
        self.body = nil
        body()
        return true
    }
}

/// The pending timers of one xstream, ordered by deadline, then by the order they were added in.
///
/// Most timers of a busy server are deadlines that never come. Cancelled ones are swept out when
/// they are the majority, so memory follows the number of pending timers, at O(1) amortised.
struct TimerQueue {
    /// How many timers in the heap were cancelled.
    final class Cancellations {
        var count = 0
    }

    private struct Entry: Comparable {
        let deadline: Instant
        let sequence: UInt64
        let timer: Timer

        static func < (left: Entry, right: Entry) -> Bool {
            left.deadline == right.deadline
                ? left.sequence < right.sequence : left.deadline < right.deadline
        }

        static func == (left: Entry, right: Entry) -> Bool {
            left.sequence == right.sequence
        }
    }

    /// Fewer cancelled timers than this are not worth a sweep.
    static let sweepMinimum = 64

    private var heap = Heap<Entry>()
    private var sequence: UInt64 = 0
    private let cancellations = Cancellations()

    /// Entries in memory, cancelled ones included.
    var entryCount: Int { heap.count }

    /// No timer is due before this. `.never` without timers.
    private(set) var earliest = Instant.never

    mutating func add(deadline: Instant, _ body: @escaping () -> Void) -> Timer {
        sweep()
        let timer = Timer(deadline: deadline, cancellations: cancellations, body: body)
        sequence += 1
        heap.insert(Entry(deadline: deadline, sequence: sequence, timer: timer))
        earliest = min(earliest, deadline)
        return timer
    }

    /// When the next timer is due; cancelled ones at the front are dropped.
    var next: Instant? {
        mutating get {
            while let first = heap.min, !first.timer.isPending { removeFirst() }
            earliest = heap.min?.deadline ?? .never
            return heap.isEmpty ? nil : earliest
        }
    }

    /// Moves the timers that are due at `time` to `due`, in order. The caller fires them: a body
    /// may add timers, which wait for the next call, or cancel those that are due with it.
    mutating func takeDue(at time: Instant, into due: inout [Timer]) {
        while let first = heap.min, !first.timer.isPending || first.deadline <= time {
            removeFirst()
            if first.timer.isPending { due.append(first.timer) }
        }
        earliest = heap.min?.deadline ?? .never
    }

    private mutating func removeFirst() {
        guard let first = heap.popMin() else { return }
        if !first.timer.isPending { cancellations.count -= 1 }
    }

    private mutating func sweep() {
        guard cancellations.count >= TimerQueue.sweepMinimum,
            cancellations.count * 2 > heap.count
        else { return }
        heap = Heap(heap.unordered.filter { $0.timer.isPending })
        cancellations.count = 0
    }
}
