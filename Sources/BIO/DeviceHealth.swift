internal import Synchronization

/// Whether a device is in service, as everybody in this process knows who has it open
/// (`BlockDevice.health`).
///
/// After a write or a flush that failed nobody knows what is on a device: a later flush may succeed
/// although something was lost that another xstream wrote. So it goes out of service for all of its
/// stores at once, and stays so until somebody makes another one of these. Places that cannot be
/// read, or do not match their checksums, leave the rest as it is; when there are too many of them
/// (`FaultyCriteria`), the device goes out of service as well.
public final class DeviceHealth: Sendable {
    /// What is wrong with the device so far.
    private struct Places {
        var unreadable = FaultyPlaces()
        var damaged = FaultyPlaces()
        /// Whether there were too many of them.
        var isFaulty = false
    }

    /// What a bad place that was met comes to.
    enum Noted {
        /// It is known.
        case known
        case new
        /// It is new, and one too many: the device is faulty from now on.
        case tooMany
    }

    // Ordering: a hint. A store that sees the flag late finds out for itself.
    private let hasFailed = Atomic<Bool>(false)
    /// Held for as long as it takes to note a place; only errors are noted.
    private let places = Mutex(Places())
    private let criteria: FaultyCriteria
    private let whenFailed: @Sendable (BIOError) -> Void

    /// In service. `whenFailed` is called with the first error that takes it out of service, on the
    /// xstream that met it.
    public init(
        criteria: FaultyCriteria = FaultyCriteria(),
        whenFailed: @escaping @Sendable (BIOError) -> Void = { _ in }
    ) {
        self.criteria = criteria
        self.whenFailed = whenFailed
    }

    /// Whether an error took the device out of service.
    public var isOutOfService: Bool { hasFailed.load(ordering: .relaxed) }

    func fail(_ error: BIOError) {
        guard !hasFailed.exchange(true, ordering: .relaxed) else { return }
        whenFailed(error)
    }

    /// The bytes of `range` could not be read from the device that is called `path`.
    func addUnreadable(_ range: Range<UInt64>, path: String) -> Noted {
        add(path) { $0.unreadable.add(range) }
    }

    /// The bytes of `range` do not match their checksum.
    func addDamaged(_ range: Range<UInt64>, path: String) -> Noted {
        add(path) { $0.damaged.add(range) }
    }

    private func add(_ path: String, _ note: (inout Places) -> Bool) -> Noted {
        let (noted, unreadable, damaged) = places.withLock { places in
            guard note(&places) else { return (Noted.known, 0, 0) }
            let (unreadable, damaged) = (places.unreadable.count, places.damaged.count)
            let isFaulty =
                criteria.unreadableMax.map { unreadable > $0 } == true
                || criteria.damagedMax.map { damaged > $0 } == true
            let isOneTooMany = isFaulty && !places.isFaulty
            places.isFaulty = isFaulty
            return (isOneTooMany ? .tooMany : .new, unreadable, damaged)
        }
        if noted == .tooMany {
            fail(.faulty(path: path, unreadable: unreadable, damaged: damaged))
        }
        return noted
    }
}

/// How much of a device may be bad before it is taken out of service. (DAOS: auto-faulty criteria)
///
/// Places are counted, not errors: one bad block that is asked for again and again is one.
public struct FaultyCriteria: Hashable, Sendable {
    /// The most of both that can be asked for.
    public static let placesMax = 1000

    /// The most places that cannot be read; nil for any number. (DAOS: `max_io_errs`, 10)
    public var unreadableMax: Int? = 10

    /// The most places that can be read and do not match their checksums; nil for any number. More,
    /// because a container may have its checksums from the client alone. (DAOS: `max_csum_errs`,
    /// 200 in its example of a configuration)
    public var damagedMax: Int? = 200

    /// The defaults.
    public init() {}
}

/// Ranges of a device, each with something that is wrong in it.
struct FaultyPlaces {
    /// None overlaps another one by more than what was noted at once.
    private var ranges: [Range<UInt64>] = []

    var count: Int { ranges.count }

    /// Notes a range. Returns false when what is wrong there may be what is known: then that is in
    /// what both have in common. After `FaultyCriteria.placesMax` and one more, nothing is new.
    mutating func add(_ range: Range<UInt64>) -> Bool {
        if let index = ranges.firstIndex(where: { $0.overlaps(range) }) {
            ranges[index] = ranges[index].clamped(to: range)
            return false
        }
        guard ranges.count <= FaultyCriteria.placesMax else { return false }
        ranges.append(range)
        return true
    }
}
