internal import DrayRuntime

/// A bounded number of transfer buffers: whoever wants one when all are out waits its turn.
///
/// Confined to the xstream of the work. It bounds both the memory and the requests in flight.
final class BufferPool {
    private let bufferSize: Int
    private var unmade: Int
    private var free: [IOBuffer] = []
    private var waiting: [CheckedContinuation<IOBuffer, Never>] = []

    init(count: Int, bufferSize: Int) {
        precondition(count > 0)
        unmade = count
        self.bufferSize = bufferSize
    }

    /// A buffer, whose bytes are whatever was in it. Give it back.
    func take() async -> IOBuffer {
        if let buffer = free.popLast() { return buffer }
        if unmade > 0 {
            unmade -= 1
            return IOBuffer(count: bufferSize)
        }
        return await withCheckedContinuation { waiting.append($0) }
    }

    func give(_ buffer: IOBuffer) {
        precondition(buffer.count == bufferSize)
        if waiting.isEmpty {
            free.append(buffer)
        } else {
            waiting.removeFirst().resume(returning: buffer)
        }
    }
}

/// Waits for a number of tasks to end. Confined to an xstream.
final class TaskCounter {
    private var count = 0
    private var waiter: CheckedContinuation<Void, Never>?

    /// Starts `body` as a task of `xstream` and counts it until it ends.
    func spawn(on xstream: XStream, _ body: @escaping () async -> Void) {
        count += 1
        xstream.spawn {
            await body()
            self.ended()
        }
    }

    private func ended() {
        count -= 1
        guard count == 0, let waiter = waiter else { return }
        self.waiter = nil
        waiter.resume()
    }

    /// Returns when none runs any more. One waiter at a time.
    func wait() async {
        guard count > 0 else { return }
        precondition(waiter == nil, "two tasks wait for the same counter")
        await withCheckedContinuation { waiter = $0 }
    }
}

/// A queue between one producer and several workers, of bounded length. Confined to an xstream.
final class WorkQueue<Item: Sendable> {
    private let limit: Int
    private var items: [Item] = []
    private var ended = false
    private var takers: [CheckedContinuation<Item?, Never>] = []
    private var giver: CheckedContinuation<Void, Never>?

    init(limit: Int) {
        precondition(limit > 0)
        self.limit = limit
    }

    /// Adds an item; waits while the queue is full. Dropped once the queue has ended.
    func put(_ item: Item) async {
        if ended { return }
        if !takers.isEmpty {
            takers.removeFirst().resume(returning: item)
            return
        }
        items.append(item)
        if items.count >= limit {
            precondition(giver == nil, "a work queue has one producer")
            await withCheckedContinuation { giver = $0 }
        }
    }

    /// The next item; nil when there will be none.
    func take() async -> Item? {
        if !items.isEmpty {
            let item = items.removeFirst()
            resumeGiver()
            return item
        }
        if ended { return nil }
        return await withCheckedContinuation { takers.append($0) }
    }

    /// No further items. With `discarding`, those that are still queued are dropped.
    func end(discarding: Bool = false) {
        ended = true
        if discarding { items.removeAll() }
        resumeGiver()
        let waiting = takers
        takers.removeAll()
        for taker in waiting { taker.resume(returning: nil) }
    }

    private func resumeGiver() {
        guard let waiting = giver else { return }
        giver = nil
        waiting.resume()
    }
}
