public import DrayRuntime

/// What one xstream has asked of a device since it opened it: how often, how much, how long it
/// took, and what failed.
public struct DeviceStatistics: Hashable, Sendable {
    /// Operations of one kind.
    public struct Operations: Hashable, Sendable {
        /// Those that succeeded.
        public private(set) var count: UInt64 = 0
        /// What they transferred.
        public private(set) var bytes: UInt64 = 0
        /// Those that failed.
        public private(set) var errors: UInt64 = 0
        /// How long those that succeeded took, the wait for their turn included.
        public private(set) var latency = LatencyHistogram(precision: 3)

        /// None.
        public init() {}

        mutating func ended(bytes: Int, in duration: Duration, failed: Bool) {
            if failed {
                errors += 1
            } else {
                count += 1
                self.bytes += UInt64(bytes)
                latency.record(duration)
            }
        }

        /// Adds what another device, or another xstream, has counted.
        public mutating func add(_ other: Operations) {
            count += other.count
            bytes += other.bytes
            errors += other.errors
            latency.merge(other.latency)
        }

        /// What was counted since `earlier`, a former state of this.
        public func since(_ earlier: Operations) -> Operations {
            var difference = self
            difference.count -= earlier.count
            difference.bytes -= earlier.bytes
            difference.errors -= earlier.errors
            difference.latency = latency.since(earlier.latency)
            return difference
        }
    }

    /// Reads.
    public internal(set) var reads = Operations()
    /// Writes that need a flush to be durable.
    public internal(set) var writes = Operations()
    /// Writes that were durable when they ended, a flush after them included where it takes one.
    public internal(set) var durableWrites = Operations()
    /// Flushes by themselves.
    public internal(set) var flushes = Operations()
    /// Ranges given back.
    public internal(set) var discards = Operations()
    /// Places that could not be read, each once, as the device's `DeviceHealth` knows them.
    public internal(set) var unreadablePlaces: UInt64 = 0
    /// Places that did not match their checksums, likewise.
    public internal(set) var damagedPlaces: UInt64 = 0
    /// The last operation that failed.
    public internal(set) var lastError: BIOError?

    /// Nothing.
    public init() {}

    /// Bytes written, durably or not.
    public var bytesWritten: UInt64 { writes.bytes + durableWrites.bytes }

    /// Bytes read.
    public var bytesRead: UInt64 { reads.bytes }

    /// How often something became durable: durable writes and flushes.
    public var flushCount: UInt64 { durableWrites.count + flushes.count }

    /// Operations of any kind that failed.
    public var errors: UInt64 {
        reads.errors + writes.errors + durableWrites.errors + flushes.errors + discards.errors
    }

    /// Adds what another device, or another xstream, has counted.
    public mutating func add(_ other: DeviceStatistics) {
        reads.add(other.reads)
        writes.add(other.writes)
        durableWrites.add(other.durableWrites)
        flushes.add(other.flushes)
        discards.add(other.discards)
        unreadablePlaces += other.unreadablePlaces
        damagedPlaces += other.damagedPlaces
        lastError = other.lastError ?? lastError
    }

    /// What was counted since `earlier`, a former state of this. The last error stays.
    public func since(_ earlier: DeviceStatistics) -> DeviceStatistics {
        var difference = self
        difference.reads = reads.since(earlier.reads)
        difference.writes = writes.since(earlier.writes)
        difference.durableWrites = durableWrites.since(earlier.durableWrites)
        difference.flushes = flushes.since(earlier.flushes)
        difference.discards = discards.since(earlier.discards)
        difference.unreadablePlaces -= earlier.unreadablePlaces
        difference.damagedPlaces -= earlier.damagedPlaces
        return difference
    }

    /// The kinds of operations.
    enum Kind { case read, write, durableWrite, flush, discard }

    /// An operation has ended: `bytes` were to be transferred, and `error` says whether they were.
    mutating func ended(_ kind: Kind, bytes: Int, in duration: Duration, _ error: BIOError?) {
        if let error { lastError = error }
        switch kind {
        case .read: reads.ended(bytes: bytes, in: duration, failed: error != nil)
        case .write: writes.ended(bytes: bytes, in: duration, failed: error != nil)
        case .durableWrite: durableWrites.ended(bytes: bytes, in: duration, failed: error != nil)
        case .flush: flushes.ended(bytes: bytes, in: duration, failed: error != nil)
        case .discard: discards.ended(bytes: bytes, in: duration, failed: error != nil)
        }
    }
}

extension BlockDevice {
    /// Counts what `body` does to the device.
    final func measured(
        _ kind: DeviceStatistics.Kind, bytes: Int, on xstream: XStream,
        _ body: () async throws(BIOError) -> Void
    ) async throws(BIOError) {
        let start = xstream.now
        do throws(BIOError) {
            try await body()
        } catch {
            statistics.ended(kind, bytes: bytes, in: xstream.now.since(start), error)
            throw error
        }
        statistics.ended(kind, bytes: bytes, in: xstream.now.since(start), nil)
    }
}
