internal import BIO
internal import DrayRuntime
internal import Logging

/// Scrubbing: reading everything there is, so that damage is found while replicas can mend it.
extension VOS {
    /// How fast a pass reads that was asked for where none begins by itself: bytes in a second.
    static let scrubRateByHand: UInt64 = 64 << 20

    /// The first pass after a store was opened begins no later than after this time.
    private static let firstScrubDelay = Duration.seconds(3600)

    /// Begins a pass over everything in the store. False when one is under way.
    ///
    /// - Parameter rate: the most bytes that it reads in a second; nil: `VOSOptions.scrubRate`.
    @discardableResult
    package func startScrub(rate: UInt64? = nil) -> Bool {
        guard scrub.status.current == nil, !isClosed else { return false }
        let own = options.scrubRate > 0 ? options.scrubRate : VOS.scrubRateByHand
        let stored = version.tables.reduce(active.weight) {
            $0 + UInt64($1.info.byteCount)
                + $1.info.valueBlocks * UInt64(BlockDevice.blockSize)
        }
        scrub.begin(at: world.clock.wallNanoseconds, bytesTotal: stored)
        scrub.next = options.scrubRate > 0 ? xstream.now + options.scrubInterval : .never
        let scrubber = Scrubber(self, rate: max(1, rate ?? own))
        xstream.spawn { await scrubber.run() }
        return true
    }

    /// Ends the pass under way, soon.
    package func stopScrub() { scrub.isStopping = true }

    /// What the scrubber does, and has found.
    package var scrubStatus: ScrubStatus { scrub.status }

    /// Decides when the first pass begins by itself.
    func scheduleScrub() {
        guard options.scrubRate > 0 else { return }
        scrub.next = xstream.now + min(options.scrubInterval, VOS.firstScrubDelay)
    }

    func startScrubIfDue() {
        guard xstream.now >= scrub.next else { return }
        startScrub()
    }

    /// The device that has the index, for messages.
    var indexDevice: String { (store.metadataDevice ?? store.device).name }

    /// The block where a chunk of a value begins.
    private func block(_ record: IndexRecord, chunk: Int) -> UInt32? {
        record.blocks.block(chunk * VOSLimits.checksumChunk / BlockDevice.blockSize)
    }

    /// Where a chunk of a value is, for messages; without an offset when it is in the index.
    func place(of record: IndexRecord, chunk: Int) -> (device: String, offset: UInt64?) {
        guard let block = block(record, chunk: chunk), let place = store.location(of: block) else {
            return (indexDevice, nil)
        }
        return (place.device, place.offset)
    }

    /// Counts a chunk of a value that does not match its checksum, for the health of the device.
    func noteDamage(_ record: IndexRecord, chunk: Int) {
        if let block = block(record, chunk: chunk) { store.noteDamage(at: block) }
    }
}

extension BlockStore {
    /// Where a block of `extents` is, for messages; nothing when there is no such block.
    func placeText(_ extents: [BlockExtent], _ index: Int) -> String {
        let place = extents.block(index).flatMap { location(of: $0) }
        return place.map { " (\($0.device) at byte \($0.offset))" } ?? ""
    }
}

extension [BlockExtent] {
    /// The block with this index, counted through all extents; nil when there are not so many.
    func block(_ index: Int) -> UInt32? {
        var rest = index
        for extent in self {
            if rest < Int(extent.count) { return extent.start + UInt32(rest) }
            rest -= Int(extent.count)
        }
        return nil
    }
}
