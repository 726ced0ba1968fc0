internal import DrayRuntime

/// A bounded number of transfer buffers: whoever wants one when all are out waits its turn.
///
/// Confined to the xstream of the work. It bounds both the memory and the requests in flight.
final class BufferPool {
    private let bufferSize: Int
    private var unmade: Int
    private var free: [IOBuffer] = []
    private var waiting: [UnsafeContinuation<IOBuffer, Never>] = []

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
        return unsafe await withUnsafeContinuation { unsafe waiting.append($0) }
    }

    func give(_ buffer: IOBuffer) {
        precondition(buffer.count == bufferSize)
        if unsafe waiting.isEmpty {
            free.append(buffer)
        } else {
            unsafe waiting.removeFirst().resume(returning: buffer)
        }
    }
}

/// Waits for a number of tasks to end. Confined to an xstream.
final class TaskCounter {
    private var count = 0
    private var waiter: UnsafeContinuation<Void, Never>?

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
        guard count == 0, let waiter = unsafe waiter else { return }
        unsafe self.waiter = nil
        unsafe waiter.resume()
    }

    /// Returns when none runs any more. One waiter at a time.
    func wait() async {
        guard count > 0 else { return }
        precondition(unsafe waiter == nil, "two tasks wait for the same counter")
        unsafe await withUnsafeContinuation { unsafe waiter = $0 }
    }
}

/// A queue between one producer and several workers, of bounded length. Confined to an xstream.
final class WorkQueue<Item> {
    private let limit: Int
    private var items: [Item] = []
    private var ended = false
    private var takers: [UnsafeContinuation<Item?, Never>] = []
    private var giver: UnsafeContinuation<Void, Never>?

    init(limit: Int) {
        precondition(limit > 0)
        self.limit = limit
    }

    /// Adds an item; waits while the queue is full. Dropped once the queue has ended.
    func put(_ item: Item) async {
        if ended { return }
        if unsafe !takers.isEmpty {
            unsafe takers.removeFirst().resume(returning: item)
            return
        }
        items.append(item)
        if items.count >= limit {
            precondition(unsafe giver == nil, "a work queue has one producer")
            unsafe await withUnsafeContinuation { unsafe giver = $0 }
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
        return unsafe await withUnsafeContinuation { unsafe takers.append($0) }
    }

    /// No further items. With `discarding`, those that are still queued are dropped.
    func end(discarding: Bool = false) {
        ended = true
        if discarding { items.removeAll() }
        resumeGiver()
        let waiting = unsafe takers
        unsafe takers.removeAll()
        for unsafe taker in unsafe waiting { unsafe taker.resume(returning: nil) }
    }

    private func resumeGiver() {
        guard let waiting = unsafe giver else { return }
        unsafe giver = nil
        unsafe waiting.resume()
    }
}
