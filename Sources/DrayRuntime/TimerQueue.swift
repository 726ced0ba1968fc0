internal import HeapModule

/// A timer of an xstream. Cancelling is O(1); confined to its xstream.
public final class Timer {
    let deadline: Instant
    var body: (() -> Void)?

    init(deadline: Instant, body: @escaping () -> Void) {
        self.deadline = deadline
        self.body = body
    }

    /// The timer will not fire. Harmless when it already has.
    public func cancel() {
        body = nil
    }
}

/// The pending timers of one xstream, ordered by deadline, then by the order they were added in.
struct TimerQueue {
    private struct Entry: Comparable {
        let timer: Timer
        let sequence: UInt64

        static func < (left: Entry, right: Entry) -> Bool {
            (left.timer.deadline, left.sequence) < (right.timer.deadline, right.sequence)
        }

        static func == (left: Entry, right: Entry) -> Bool {
            left.sequence == right.sequence
        }
    }

    private var heap = Heap<Entry>()
    private var sequence: UInt64 = 0

    mutating func add(deadline: Instant, _ body: @escaping () -> Void) -> Timer {
        let timer = Timer(deadline: deadline, body: body)
        sequence += 1
        heap.insert(Entry(timer: timer, sequence: sequence))
        return timer
    }

    /// When the next timer is due; cancelled ones at the front are dropped.
    var next: Instant? {
        mutating get {
            while let first = heap.min {
                if first.timer.body != nil { return first.timer.deadline }
                _ = heap.popMin()
            }
            return nil
        }
    }

    /// Runs every timer that is due at `time`, and returns how many.
    mutating func fire(until time: Instant) -> Int {
        var due: [Timer] = []
        while let first = heap.min, first.timer.body == nil || first.timer.deadline <= time {
            _ = heap.popMin()
            due.append(first.timer)
        }
        var count = 0
        for timer in due {
            guard let body = timer.body else { continue }
            timer.body = nil
            body()
            count += 1
        }
        return count
    }
}
