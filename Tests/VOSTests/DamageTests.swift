import BIO
import DrayRuntime
import Testing
import VOS
import VOSSimulator

/// One sector, or one block, of a closed or idle store is not what it was, wherever that is:
/// harmless, repaired, or reported as damage; never wrong data, never a trap.
@Suite struct DamageTests {
    enum Damage: CaseIterable {
        /// The sector is zero, as if never written.
        case zeroed
        case random
        case flippedBit
        /// A latent error: it cannot be read.
        case unreadable
    }

    private static let sectorSize = 512

    /// A small device with some of everything in it, and what is known of that.
    private struct Sample {
        var shape: SimulatedStore.Shape
        var image: DeviceImage
        var journal: StoreJournal
    }

    private static func play(_ player: StorePlayer) async throws {
        let other = ObjectID(high: 1, low: 1)
        let container = UniqueID(high: 0xbb, low: 7)
        for step in 0..<3 as Range<UInt64> {
            try await player.put(1, 6000, epoch: 100 + step)
            try await player.put(2, 70, epoch: 110 + step)
            try await player.update(
                [.extent(3, at: step * 700, 5000, seed: step)], epoch: 120 + step)
        }
        try await player.update([.value(4, 40_000, seed: 1)], epoch: 130)
        try await player.update(
            [StoreChange(other, [1], [2], .single([7])), StoreChange(other, [2], [])],
            epoch: 131)
        try await player.update([.value(5, 5000, seed: 5)], epoch: 132, container: container)
        try await player.update([StoreChange(StoreNames.object, [2])], epoch: 140)
        let first = try await player.prepare(
            1, [.value(6, 5000, seed: 6), .value(7, 10, seed: 7)], epoch: 150)
        try await player.vos.aggregate(upTo: 111)
        try await player.checkpoint()
        player.commit(first)
        try await player.put(1, 4097, epoch: 160)
        try await player.put(2, 90, epoch: 161)
        try await player.update([.extent(3, at: 9000, 200, seed: 9)], epoch: 162)
        let second = try await player.prepare(2, [.value(8, 4500, seed: 8)], epoch: 170)
        player.commit(second)
        try await player.update([StoreChange(StoreNames.object, [4])], epoch: 180)
        try await player.put(9, 33_000, epoch: 181)
    }

    private static let sample = makeSample(isClosed: true)
    private static let idleSample = makeSample(isClosed: false)

    /// `isClosed`: or nobody used it when its process was killed.
    private static func makeSample(isClosed: Bool) -> Sample {
        var shape = SimulatedStore.Shape()
        shape.blocks = 120
        let process = SimulatedStore(seed: 3, shape: shape)
        let player = StorePlayer(process, seed: 3)
        let finished = process.run {
            try await process.format()
            try await player.openStore()
            try await play(player)
            if isClosed { return await player.closeStore() }
            await process.xstream.sleep(for: .milliseconds(50))
        }
        #expect(finished && player.violations == [] && process.failures == [])
        return Sample(
            shape: shape, image: process.image.data.crashed(.keep, seed: 1),
            journal: player.journal)
    }

    /// How often what came of it.
    private struct Counts {
        var same = 0
        var harmless = 0
        var openings = 0
        var reads = 0
    }

    /// Opens a damaged image and reads everything. Returns whether it could be opened.
    @discardableResult
    private func look(
        _ image: DeviceImage, of sample: Sample = Self.sample, journal: StoreJournal? = nil,
        _ what: String, _ counts: inout Counts
    ) -> Bool {
        let journal = journal ?? sample.journal
        guard image.fingerprint != sample.image.fingerprint || image.hasUnreadable else {
            counts.same += 1
            return true
        }
        let process = SimulatedStore(
            seed: 4, shape: sample.shape, image: StoreImage(data: image))
        let player = StorePlayer(process, journal: journal, seed: 4)
        var damaged = 0
        var isOpen = false
        let finished = process.run {
            do throws(VOSError) {
                try await player.openStore()
            } catch {
                if !StoreComparison.isDamage(error) { player.violate("\(error)") }
                return
            }
            isOpen = true
            do {
                try await checkInvariants(of: player.vos)
            } catch let error as VOSError {
                if !StoreComparison.isDamage(error) { player.violate("\(error)") }
                damaged += 1
            }
            for (id, update) in journal.acknowledged {
                if player.vos.transactionOutcome(id) != update.epoch {
                    player.violate("a transaction of epoch \(update.epoch) is not remembered")
                }
            }
            try await player.decide()
            try await self.compare(player, &damaged)
            // It goes on, or says why not.
            do {
                try await player.put(20, 5000, epoch: 300)
                try await player.put(1, 5000, epoch: 301)
                try await player.vos.aggregate(upTo: 301)
                try await player.checkpoint()
                try await self.compare(player, &damaged)
            } catch let error as VOSError {
                if !StoreComparison.isDamage(error) { player.violate("\(error)") }
                damaged += 1
            }
            await player.closeStore()
        }
        #expect(finished, "\(what): it hangs")
        for violation in (player.violations + process.failures).prefix(2) {
            Issue.record("\(what): \(violation)")
        }
        if !isOpen {
            counts.openings += 1
        } else if damaged > 0 {
            counts.reads += 1
        } else {
            counts.harmless += 1
        }
        return isOpen
    }

    /// Whether a block is in the log. Everything else that opening needs is there twice.
    private func isInLog(_ block: UInt64) -> Bool {
        (2..<2 + Self.sample.shape.logBlocks).contains(block)
    }

    private func compare(_ player: StorePlayer, _ damaged: inout Int) async throws {
        var comparison = StoreComparison(
            player.vos, player.journal.model, entropy: Entropy(seed: 5))
        comparison.toleratesDamage = true
        let bound = player.vos.aggregatedEpoch
        let epochs = [UInt64.max, bound, 131].filter { $0 >= bound }
        if let found = try await comparison.difference(at: epochs) { player.violate(found) }
        damaged += comparison.damaged
    }

    private func damaged(_ damage: Damage, sector: UInt64, of sample: Sample) -> DeviceImage {
        var image = sample.image
        var entropy = Entropy(seed: sector)
        let offset = sector * UInt64(Self.sectorSize)
        switch damage {
        case .zeroed:
            image.overwrite(at: offset, with: [UInt8](repeating: 0, count: Self.sectorSize))
        case .random:
            image.overwrite(
                at: offset, with: .pattern(Self.sectorSize, seed: entropy.next()))
        case .flippedBit:
            let place = offset + entropy.below(UInt64(Self.sectorSize))
            let byte = image.bytes(at: place, count: 1)[0]
            image.overwrite(at: place, with: [byte ^ 1 << UInt8(entropy.below(8))])
        case .unreadable: image.makeUnreadable(at: offset)
        }
        return image
    }

    @Test(arguments: Damage.allCases, [true, false])
    func everySector(damage: Damage, isClosed: Bool) {
        let sample = isClosed ? Self.sample : Self.idleSample
        var counts = Counts()
        for sector in 0..<sample.shape.blocks * 8 {
            let what = "\(damage), sector \(sector), closed \(isClosed)"
            let image = damaged(damage, sector: sector, of: sample)
            let opens = look(image, of: sample, what, &counts)
            #expect(opens || isInLog(sector / 8), "\(what)")
        }
        print("\(damage), closed \(isClosed): \(counts)")
        #expect(counts.harmless > 0 && counts.openings > 0 && counts.reads > 0)
    }

    /// A write of what stands in one block went to another.
    @Test func strayWrites() {
        var counts = Counts()
        let blocks = Self.sample.shape.blocks
        for source in 0..<blocks {
            let bytes = Self.sample.image.bytes(at: source * 4096, count: 4096)
            guard bytes.contains(where: { $0 != 0 }) else { continue }
            for distance in [1, 2, 7, 16, 31] as [UInt64] {
                let target = (source + distance) % blocks
                var image = Self.sample.image
                image.overwrite(at: target * 4096, with: bytes)
                let what = "block \(source) in place of \(target)"
                #expect(look(image, what, &counts) || isInLog(target), "\(what)")
            }
        }
        print("stray: \(counts)")
        #expect(counts.openings > 0 && counts.reads > 0)
    }

    // MARK: - While it works

    /// Runs the script on a device that does one thing wrong, at its `boundary`-th boundary.
    /// Returns the player and whether the script came so far.
    private func play(
        _ faults: DeviceFaults, at boundary: Int, seed: UInt64
    ) -> (player: StorePlayer, isReached: Bool) {
        final class State {
            var isReached = false
            var isArmed = false
        }
        let process = SimulatedStore(seed: seed, shape: Self.sample.shape)
        let player = StorePlayer(process, seed: 3)
        process.run {
            try await process.format()
            try await player.openStore()
        }
        let state = State()
        let context = SimulationConfined((state, process.devices), to: process.simulation)
        process.devices.crash(atBoundary: nil)
        process.devices.onBoundary { number, kind in
            let (state, devices) = context.value
            if state.isArmed, kind == .writeEnds || kind == .flushEnds {
                devices.setFaults(DeviceFaults())
                state.isArmed = false
            }
            guard number == boundary else { return }
            state.isReached = true
            state.isArmed = true
            devices.setFaults(faults)
        }
        let finished = process.run {
            do throws(VOSError) {
                try await Self.playUntilFailure(player)
            } catch {
                if !StoreComparison.isDamage(error) { player.violate("\(error)") }
            }
            await player.closeStore()
        }
        process.devices.onBoundary(nil)
        if !finished { player.violate("it hangs") }
        for violation in player.violations + process.failures {
            Issue.record("boundary \(boundary), seed \(seed): \(violation)")
        }
        return (player, state.isReached)
    }

    private static func playUntilFailure(_ player: StorePlayer) async throws(VOSError) {
        do {
            try await play(player)
        } catch let error as VOSError {
            throw error
        } catch {
            player.violate("\(error)")
        }
    }

    /// Each write in turn goes to a place a few blocks further, and nobody is told.
    @Test(arguments: UInt64(1)...3)
    func everyWriteIsMisdirected(seed: UInt64) {
        var faults = DeviceFaults()
        faults.misdirectedWriteChance = 1_000_000
        var counts = Counts()
        var boundary = 0
        while true {
            let (player, isReached) = play(faults, at: boundary, seed: seed * 1000)
            guard isReached else { break }
            look(
                player.process.image.data.crashed(.keep, seed: 1), journal: player.journal,
                "boundary \(boundary), seed \(seed)", &counts)
            boundary += 1
        }
        print("misdirected: \(counts)")
        #expect(boundary > 50 && counts.openings > 0 && counts.reads > 0)
    }

    enum Failure: CaseIterable { case write, flush }

    /// Each write or flush in turn fails: nothing acknowledged is lost then, whatever the device
    /// has kept of the rest.
    @Test(arguments: Failure.allCases)
    func everyTransferFails(failure: Failure) {
        var faults = DeviceFaults()
        switch failure {
        case .write: faults.writeErrorChance = 1_000_000
        case .flush: faults.flushErrorChance = 1_000_000
        }
        var boundary = 0
        var failures = 0
        while true {
            let (player, isReached) = play(faults, at: boundary, seed: 1)
            guard isReached else { break }
            failures += player.process.devices.faultCountTotal > 0 ? 1 : 0
            for outcome in [CrashOutcome.keep, .lose, .tear] {
                let process = SimulatedStore(
                    seed: 4, shape: Self.sample.shape,
                    image: player.process.image.crashed(outcome, seed: UInt64(boundary)))
                let next = StorePlayer(process, journal: player.journal, seed: 5)
                let finished = process.run {
                    try await next.openStore()
                    try await next.recover()
                    guard next.violations.isEmpty else { return }
                    try await next.goOn()
                    await next.closeStore()
                }
                #expect(finished)
                for violation in next.violations + process.failures {
                    Issue.record("\(failure) at boundary \(boundary), \(outcome): \(violation)")
                }
            }
            boundary += 1
        }
        #expect(boundary > 50 && failures > 5)
    }
}
