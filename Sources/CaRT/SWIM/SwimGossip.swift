/// What is still to be told to others, on the back of whatever is sent.
///
/// The newest of each member only, so that it is never longer than the group. What was told least
/// goes first; each is told a number of times that grows with the logarithm of the group's size.
struct SwimGossip: Sendable {
    private struct Entry: Sendable {
        var update: SwimMember
        var tellings: Int
    }

    /// Ascending by `tellings`; of equals, the latest first.
    private var entries: [Entry] = []

    var count: Int { entries.count }

    /// Something new, in the place of what was said of the member before.
    mutating func add(_ update: SwimMember) {
        entries.removeAll { $0.update.rank == update.rank }
        entries.insert(Entry(update: update, tellings: 0), at: 0)
    }

    /// The member is no more.
    mutating func remove(rank: UInt32) {
        entries.removeAll { $0.update.rank == rank }
    }

    /// Appends to `updates` what fits, but nothing about `addressee`, and counts it as told. What
    /// was told `tellingsMax` times is forgotten.
    mutating func take(
        into updates: inout [SwimMember], for addressee: UInt32, tellingsMax: Int
    ) {
        guard !entries.isEmpty else { return }
        var told: [Entry] = []
        var kept: [Entry] = []
        for entry in entries {
            let fits = updates.count < SwimMessage.updatesMax
            if fits, entry.update.rank != addressee {
                updates.append(entry.update)
                if entry.tellings + 1 < tellingsMax {
                    told.append(Entry(update: entry.update, tellings: entry.tellings + 1))
                }
            } else {
                kept.append(entry)
            }
        }
        entries = SwimGossip.merged(kept, told)
    }

    private static func merged(_ left: [Entry], _ right: [Entry]) -> [Entry] {
        var result: [Entry] = []
        result.reserveCapacity(left.count + right.count)
        var (first, second) = (0, 0)
        while first < left.count, second < right.count {
            if left[first].tellings <= right[second].tellings {
                result.append(left[first])
                first += 1
            } else {
                result.append(right[second])
                second += 1
            }
        }
        result.append(contentsOf: left[first...])
        result.append(contentsOf: right[second...])
        return result
    }
}
