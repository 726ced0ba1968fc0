internal import DequeModule

/// A part of a collective that further parents may ask for.
protocol CollectiveParticipant: AnyObject {
    /// Another parent asks for what is under way: it gets the same answer.
    func join(_ reply: DeferredReply<CollectiveAnswer>, bulk: CollectiveBulk?)
}

/// The collectives that a context takes part in, or has taken part in until a moment ago.
///
/// A rank whose parent is lost is asked once more, by whoever adopted it. So every collective is
/// remembered until its deadline, after which its requests are refused anyway: no handler runs
/// twice. Answers are kept as well, as far as there is room.
struct CollectiveTable: ~Copyable {
    enum Entry {
        case running(any CollectiveParticipant)
        /// Nil when the answer was dropped to make room.
        case answered(CollectiveAnswer?)
    }

    private struct Slot {
        var id: CollectiveID
        var entry: Entry
    }

    private var slots: [Slot] = []
    private var free: [Int32] = []
    /// Looked up, never iterated.
    private var bySlot: [CollectiveID: Int32] = [:]
    /// Those that are answered, by their deadlines.
    private var deadlines = DeadlineHeap()
    /// Answers that are kept, oldest first; many are forgotten by now.
    private var kept = Deque<CollectiveID>()
    private(set) var keptBytes = 0

    /// Collectives that are remembered at a time; more are refused.
    static let collectivesMax = 1 << 18
    /// Memory for answers.
    static let keptBytesMax = 4 << 20

    var count: Int { bySlot.count }

    func find(_ id: CollectiveID) -> Entry? { bySlot[id].map { slots[Int($0)].entry } }

    /// Adds a collective that is not there. False when there are too many.
    mutating func begin(
        _ id: CollectiveID, _ participant: any CollectiveParticipant, now: UInt64
    ) -> Bool {
        expire(now: now)
        guard bySlot.count < CollectiveTable.collectivesMax else { return false }
        let slot = Slot(id: id, entry: .running(participant))
        if let index = free.popLast() {
            slots[Int(index)] = slot
            bySlot[id] = index
        } else {
            bySlot[id] = Int32(slots.count)
            slots.append(slot)
        }
        return true
    }

    /// The longest time, in nanoseconds, that an answered collective is remembered.
    static let rememberedMax: UInt64 = 3_600_000_000_000

    /// A collective is answered; it is forgotten at `deadline`.
    mutating func end(
        _ id: CollectiveID, _ answer: CollectiveAnswer, deadline: UInt64, now: UInt64
    ) {
        guard let slot = bySlot[id], case .running = slots[Int(slot)].entry else {
            preconditionFailure("a collective ended twice")
        }
        slots[Int(slot)].entry = .answered(answer)
        deadlines.insert(
            slot: slot, deadline: min(deadline, now + CollectiveTable.rememberedMax))
        kept.append(id)
        keptBytes += answer.size
        while keptBytes > CollectiveTable.keptBytesMax, let oldest = kept.popFirst() {
            guard let index = bySlot[oldest], case .answered(let answer?) = slots[Int(index)].entry
            else { continue }
            keptBytes -= answer.size
            slots[Int(index)].entry = .answered(nil)
        }
    }

    /// Forgets those whose deadlines have passed.
    mutating func expire(now: UInt64) {
        while let (deadline, index) = deadlines.first, deadline <= now {
            deadlines.remove(slot: index)
            let slot = slots[Int(index)]
            if case .answered(let answer?) = slot.entry { keptBytes -= answer.size }
            slots[Int(index)].entry = .answered(nil)
            bySlot[slot.id] = nil
            free.append(index)
        }
        while let oldest = kept.first, bySlot[oldest] == nil { kept.removeFirst() }
    }
}
