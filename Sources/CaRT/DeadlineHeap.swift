internal import BasicContainers

/// Call slots by deadline: a binary heap that knows where each slot stands, so that a call which
/// ends leaves it at once.
///
/// Calls end long before their deadlines; removing lazily would keep a minute's worth of them.
/// Deadlines mostly ascend, so that inserting is O(1) in practice; all else is O(log n).
struct DeadlineHeap: ~Copyable {
    struct Entry {
        var deadline: UInt64
        var slot: Int32
    }

    private var entries = UniqueArray<Entry>()
    /// By slot: its index in `entries`, or -1.
    private var positions = UniqueArray<Int32>()

    var count: Int { entries.count }

    /// The earliest deadline and its slot.
    var first: (deadline: UInt64, slot: Int32)? {
        entries.isEmpty ? nil : (entries[0].deadline, entries[0].slot)
    }

    /// Adds `slot`, which must not be present.
    mutating func insert(slot: Int32, deadline: UInt64) {
        while positions.count <= Int(slot) { positions.append(-1) }
        precondition(positions[Int(slot)] < 0, "the slot has a deadline already")
        entries.append(Entry(deadline: deadline, slot: slot))
        positions[Int(slot)] = Int32(entries.count - 1)
        siftUp(entries.count - 1)
    }

    /// Removes `slot` if present.
    mutating func remove(slot: Int32) {
        guard Int(slot) < positions.count else { return }
        let position = Int(positions[Int(slot)])
        guard position >= 0 else { return }
        positions[Int(slot)] = -1
        let last = entries.removeLast()
        guard position < entries.count else { return }
        place(last, at: position)
        siftUp(position)
        siftDown(Int(positions[Int(last.slot)]))
    }

    private mutating func place(_ entry: Entry, at position: Int) {
        entries[position] = entry
        positions[Int(entry.slot)] = Int32(position)
    }

    private mutating func siftUp(_ start: Int) {
        var position = start
        let entry = entries[position]
        while position > 0 {
            let parent = (position - 1) / 2
            guard entry.deadline < entries[parent].deadline else { break }
            place(entries[parent], at: position)
            position = parent
        }
        place(entry, at: position)
    }

    private mutating func siftDown(_ start: Int) {
        var position = start
        let entry = entries[position]
        while true {
            var child = 2 * position + 1
            guard child < entries.count else { break }
            if child + 1 < entries.count, entries[child + 1].deadline < entries[child].deadline {
                child += 1
            }
            guard entries[child].deadline < entry.deadline else { break }
            place(entries[child], at: position)
            position = child
        }
        place(entry, at: position)
    }

    /// Checks the order and the positions. O(n).
    func checkInvariants() {
        for position in entries.indices {
            precondition(positions[Int(entries[position].slot)] == Int32(position))
            if position > 0 {
                precondition(
                    entries[(position - 1) / 2].deadline <= entries[position].deadline)
            }
        }
        precondition(positions.indices.count { positions[$0] >= 0 } == entries.count)
    }
}
