internal import BIO
internal import DrayRuntime
internal import Logging

/// One pass over a store: reads everything from the devices, in the order of the index, and
/// compares it with its checksums.
///
/// All that it keeps from one step to the next is the key where it goes on. An entry of the index
/// has the same key in whatever table it is, so tables may be flushed, merged and removed at any
/// time: what was there when the pass began, and is still there when its turn comes, is verified
/// once. In a step it keeps the version of the tables, and so the blocks of all values in it.
final class Scrubber {
    /// Why a pass ends early.
    enum End: Error { case closed, stopped }

    /// What a step reads, about: then others have their turn.
    private static let stepBytes = 256 << 10
    private static let stepEntries = 128
    /// Shorter pauses are put together.
    private static let pauseMin = Duration.milliseconds(10)
    /// How often a pause looks whether the store was closed.
    private static let pauseMax = Duration.milliseconds(250)
    /// The most findings of a pass that are logged one by one.
    private static let loggedMax = 16

    let vos: VOS
    private let rate: UInt64
    /// When all that was read so far may have been read.
    private var due: Instant

    /// A table that the pass is in, and its fences; nil when they are damaged.
    struct OpenTable {
        let table: IndexTable
        let fences: CachedBlock?
    }

    /// A block of a table.
    struct BlockName: Hashable {
        let table: UInt64
        let place: Int
    }

    var open: [UInt64: OpenTable] = [:]
    /// The blocks of the last step.
    var blocks: [BlockName: CachedBlock] = [:]
    var damagedBlocks: Set<BlockName> = []

    init(_ vos: VOS, rate: UInt64) {
        self.vos = vos
        self.rate = rate
        due = vos.xstream.now
    }

    func run() async {
        var isComplete = false
        do throws(End) {
            // What was only logged so far comes into tables.
            try await flush()
            try await checkManifest()
            var key: IndexKey.Bytes? = []
            while let from = key { key = try await step(from: from) }
            isComplete = true
        } catch {
            // It was closed or stopped.
            isComplete = false
        }
        vos.scrub.end(at: vos.world.clock.wallNanoseconds, isComplete: isComplete)
        guard let pass = vos.scrub.status.last else { return }
        let what = isComplete ? "scrubbed" : "scrubbing ended early:"
        let text = "\(what) \(pass.bytes) bytes, \(pass.tables) tables, \(pass.values) values"
        if pass.errors > 0 {
            vos.log.error("\(text): \(pass.errors) damaged")
        } else {
            vos.log.info("\(text): all intact")
        }
    }

    private func flush() async throws(End) {
        do throws(VOSError) {
            try await vos.checkpoint()
        } catch .closed {
            throw .closed
        } catch {
            // Then the next pass has it.
            vos.log.info("before scrubbing: \(error)")
        }
    }

    // MARK: - Steps

    /// Verifies some of what is at `key` or behind it. Returns where to go on; nil: nowhere.
    private func step(from key: IndexKey.Bytes) async throws(End) -> IndexKey.Bytes? {
        var work = Work()
        let next = try await reading { [self] in
            let version = vos.version
            defer { withExtendedLifetime(version) {} }
            return await advance(in: version, from: key, &work)
        }
        try await pause(after: work)
        return next
    }

    /// What was done in a step.
    struct Work {
        var bytes = 0
        var entries = 0
        var tables = 0
        var values = 0

        var isEnough: Bool { bytes >= Scrubber.stepBytes || entries >= Scrubber.stepEntries }
    }

    /// Runs `body` as an operation that the store does not close under.
    func reading<Value>(_ body: () async -> Value) async throws(End) -> Value {
        do throws(VOSError) { try vos.begin() } catch { throw .closed }
        vos.scrub.isReading = true
        defer {
            vos.scrub.isReading = false
            vos.end()
        }
        return await body()
    }

    /// Counts, lets others have their turn, and waits as long as the rate wants it.
    func pause(after work: Work) async throws(End) {
        vos.scrub.count(bytes: work.bytes, tables: work.tables, values: work.values)
        let now = vos.xstream.now
        let cost = UInt64(work.bytes) * 1_000_000_000 / rate
        due = max(due, now) + .nanoseconds(Int64(clamping: cost))
        await vos.giveWay()
        while due.since(vos.xstream.now) >= Scrubber.pauseMin
            || vos.isBehind && vos.isCheckpointing
        {
            if vos.isClosed || vos.scrub.isStopping { break }
            let left = max(due.since(vos.xstream.now), Scrubber.pauseMin)
            await vos.xstream.sleep(for: min(left, Scrubber.pauseMax))
        }
        if vos.isClosed { throw .closed }
        if vos.scrub.isStopping { throw .stopped }
    }

    // MARK: - Findings

    func add(
        _ part: StoreFinding.Part, _ what: String, _ block: UInt32?, table: UInt64? = nil,
        entry: StoreEntry.Name? = nil
    ) {
        let place = block.flatMap { vos.store.location(of: $0) }
        let finding = StoreFinding(
            part: part, what: what, entry: entry, table: table, block: block,
            device: place?.device, offset: place?.offset)
        let number = vos.scrub.add(finding)
        if number <= Scrubber.loggedMax {
            vos.log.error("scrubbing: \(finding.text)")
        } else if number == Scrubber.loggedMax + 1 {
            vos.log.error("scrubbing: there is more damage, which is counted")
        }
    }
}

extension StoreFinding {
    /// All of it in one line.
    var text: String {
        var text = "\(part.rawValue): \(what)"
        if let entry {
            text += "; pool \(entry.pool), container \(entry.container), object \(entry.object)"
            if let dkey = entry.dkey { text += ", dkey \(ValueLocation.text(of: dkey))" }
            if let akey = entry.akey { text += ", akey \(ValueLocation.text(of: akey))" }
            if let offset = entry.offset { text += ", offset \(offset)" }
            text += ", \(entry.byteCount) bytes, epoch \(entry.epoch)"
        }
        if let device, let offset { text += "; \(device) at byte \(offset)" }
        return text
    }
}
