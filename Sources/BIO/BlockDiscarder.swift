internal import DrayRuntime

/// Whether blocks that are freed are given back to the device.
public enum DiscardPolicy: Sendable {
    /// Where it helps the device: flash past the file system (`BlockDevice.discardsByDefault`).
    case automatic
    /// Wherever the device can. A file then loses the space it had reserved.
    case on
    /// Never.
    case off
}

/// When freed blocks are worth a discard.
package struct DiscardLimits: Sendable {
    /// Freed extents that make it worth beginning.
    package var batchExtents = 64
    /// And the blocks for which fewer will do: 4 MiB.
    package var batchBlocks: UInt32 = 1024
    /// The least blocks of one discard: 64 KiB.
    package var runMin: UInt32 = 16
    /// The most blocks around a freed one that are looked at, on each side.
    package var aroundMax: UInt32 = 1024

    package init() {}

    /// On a device of a few hundred blocks: most of what is freed is discarded, a little at a time.
    package static var shrunken: DiscardLimits {
        var limits = DiscardLimits()
        limits.batchExtents = 4
        limits.batchBlocks = 16
        limits.runMin = 2
        limits.aroundMax = 4
        return limits
    }
}

/// Gives freed blocks back to their device, in the background, many at a time.
///
/// The blocks are taken from the allocator meanwhile, so nobody writes to them. What is freed was
/// freed durably: no recovery looks at it. Short runs are discarded with the free blocks around
/// them, or not at all: a device does nothing with a range below its own unit.
final class BlockDiscarder {
    var limits = DiscardLimits()
    private let places: StorePlaces
    private let allocator: BlockAllocator
    private let xstream: XStream
    private let isOn: Bool
    private(set) var isRunning = false
    private var isStopped = false
    private var stopWaiter: Waiter<Void>?

    init(
        places: StorePlaces, allocator: BlockAllocator, policy: DiscardPolicy, xstream: XStream
    ) {
        self.places = places
        self.allocator = allocator
        self.xstream = xstream
        isOn =
            switch policy {
            case .automatic: places.data.discardsByDefault
            case .on: places.data.canDiscard
            case .off: false
            }
        if isOn { allocator.rememberFreed() }
    }

    private var isWorthIt: Bool {
        let (extents, blocks) = allocator.freedSince
        return extents > 0
            && (extents >= limits.batchExtents || blocks >= UInt64(limits.batchBlocks))
    }

    /// Begins when enough was freed. Cheap.
    func advance() {
        guard isOn, !isRunning, !isStopped, isWorthIt else { return }
        isRunning = true
        xstream.spawn { await self.run() }
    }

    /// Waits for the discard under way; there will be no more.
    func stop() async {
        isStopped = true
        if isRunning { await Waiter.suspend { stopWaiter = $0 } }
    }

    private func run() async {
        while !isStopped, isWorthIt {
            var done: UInt64 = 0
            let extents = allocator.takeFreed().sorted { $0.start < $1.start }
            // On the metadata device a discard gains nothing.
            for extent in extents where !places.isOnMetadata(extent) {
                if isStopped { break }
                // Neighbours that were freed together went with the first of them.
                var start = max(UInt64(extent.start), done)
                while start < extent.end, !isStopped {
                    guard
                        let run = allocator.freeRun(
                            around: UInt32(start), max: limits.aroundMax)
                    else {
                        start += 1
                        continue
                    }
                    if run.count >= limits.runMin { await discard(run) }
                    start = run.end
                    done = run.end
                }
            }
        }
        isRunning = false
        if let waiter = stopWaiter {
            stopWaiter = nil
            waiter.resume()
        }
    }

    private func discard(_ run: BlockExtent) async {
        let taken = allocator.takeFree(in: run)
        defer { allocator.cancel(taken) }
        do throws(BIOError) {
            for extent in taken {
                let (device, offset) = places.place(of: extent)
                try await device.discard(offset..<offset + extent.byteCount)
            }
        } catch {
            // Counted by the device. It is no error of the store: nothing is lost by it.
            isStopped = true
        }
    }
}
