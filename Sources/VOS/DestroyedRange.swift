internal import DrayRuntime

/// Everything between two keys that has one of some epochs and was logged before a stamp is
/// garbage: a container or pool was destroyed, or epochs of a container or object were discarded.
struct DestroyedRange: Hashable {
    let from: IndexKey.Bytes
    let to: IndexKey.Bytes
    var epochs: ClosedRange<UInt64> = allEpochs
    let stamp: UInt64

    static let allEpochs: ClosedRange<UInt64> = 0...UInt64.max

    /// Whether it is about a key.
    func contains(_ key: IndexKey.Bytes) -> Bool {
        IndexKey.compare(key, from) >= 0 && IndexKey.compare(key, to) < 0
    }

    /// Whether what another one makes garbage is garbage by this one, too.
    func covers(_ other: DestroyedRange) -> Bool {
        stamp >= other.stamp && IndexKey.compare(from, other.from) <= 0
            && IndexKey.compare(to, other.to) >= 0 && epochs.contains(other.epochs)
    }

    /// Whether a version is garbage by it.
    @inline(__always)
    func hides(_ key: UnsafeRawBufferPointer, _ head: EntryHead) -> Bool {
        guard head.stamp < stamp, epochs.contains(head.epoch) else { return false }
        return unsafe from.withUnsafeBytes { unsafe IndexKey.compare($0, key) <= 0 }
            && to.withUnsafeBytes { unsafe IndexKey.compare($0, key) > 0 }
    }

    /// Whether it may be about keys that begin with a prefix.
    func overlaps(_ prefix: IndexKey.Prefix) -> Bool {
        prefix.compare(to) < 0 && IndexVersion.isBelowEnd(from, prefix)
    }

    /// Whether a table may have any of it.
    func overlaps(_ info: TableInfo) -> Bool {
        info.overlaps(from, to) && info.epochMin <= epochs.upperBound
    }
}

/// What is garbage and may still be in the index, for who reads that.
struct DestroyedRanges {
    private let ranges: [DestroyedRange]
    private let xstream: XStream

    /// How many entries are passed before others have their turn.
    private static let passedMax = 512

    /// Nil when there are none.
    init?(_ ranges: [DestroyedRange], on xstream: XStream) {
        guard !ranges.isEmpty else { return nil }
        self.ranges = ranges
        self.xstream = xstream
    }

    /// Those that may be about keys that begin with a prefix.
    func overlapping(_ prefix: IndexKey.Prefix) -> DestroyedRanges? {
        DestroyedRanges(ranges.filter { $0.overlaps(prefix) }, on: xstream)
    }

    /// Whether a version is garbage.
    func hide(_ key: UnsafeRawBufferPointer, _ head: EntryHead) -> Bool {
        for range in ranges where unsafe range.hides(key, head) { return true }
        return false
    }

    /// Lets others have their turn when so many entries were passed.
    func giveWay(after passed: Int) async {
        if passed % DestroyedRanges.passedMax == 0 { await xstream.sleep(until: xstream.now) }
    }
}
