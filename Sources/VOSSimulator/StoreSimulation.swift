internal import BIO
internal import DrayRuntime
internal import VOS

/// Random operations on a small store beside a model, over crashes and clean restarts, all decided
/// by one seed: several users with a container each, while checkpoints are taken and superseded
/// versions are dropped.
package final class StoreSimulation {
    /// What is simulated.
    package struct Options: Sendable {
        /// Steps of all users together.
        package var steps = 2_000
        /// Everything is scrubbed again and again meanwhile.
        package var isScrubbed = false
        package var isVerbose = false

        package init() {}
    }

    let seed: UInt64
    let options: Options
    private let shape: SimulatedStore.Shape
    private let laneCount: Int
    /// Nobody but one user at a time: then the order of everything is known.
    private var entropy: Entropy
    var report: StoreReport
    /// The last epoch that was used.
    private var epoch: UInt64 = 1000
    private var number: UInt64 = 0
    /// The power fails, or has failed in this stretch: everybody stops.
    private var isDoomed = false
    /// The power failed at the end of the stretch before.
    private var wasCrashed = false

    /// The most steps between two starts of the process.
    private static let stretchMax: UInt64 = 300
    private static let violationsMax = 5

    /// Prepares a simulation. Runs of the same seed and options are equal.
    package init(seed: UInt64, options: Options = Options()) {
        self.seed = seed
        self.options = options
        entropy = Entropy(seed: seed).fork("store")
        laneCount = 1 + Int(entropy.below(4))
        var shape = SimulatedStore.Shape()
        shape.blocks = [500, 1500, 4000][Int(entropy.below(3))]
        shape.logBlocks = [16, 32, 64][Int(entropy.below(3))]
        if entropy.chance(1, in: 2) {
            shape.options = .shrunken()
            shape.options.transactionsMax = 200
        }
        shape.options.inlineThreshold = [64, 200, 4096][Int(entropy.below(3))]
        var choice = entropy.fork("devices")
        shape.devices = [.single, .single, .discarding, .pair][Int(choice.below(4))]
        shape.indexBlocks = [12, 60, 300][Int(choice.below(3))]
        self.shape = shape
        report = StoreReport(seed: seed, devices: shape.devices)
    }

    /// Runs everything and says what happened.
    package func run() -> StoreReport {
        var image: StoreImage
        do {
            let process = SimulatedStore(seed: seed, shape: shape)
            process.run { try await process.format() }
            note(process.failures)
            image = process.image
        }
        var journal = StoreJournal()
        var stretch: UInt64 = 0
        while report.steps < options.steps, report.violations.isEmpty {
            stretch += 1
            let process = SimulatedStore(
                seed: seed &* 1000 &+ stretch, shape: shape, image: image)
            let player = StorePlayer(
                process, journal: journal, seed: seed &* 1000 &+ stretch)
            (image, journal) = live(player)
            report.fold(process.simulation.eventHash)
        }
        return report
    }

    private func note(_ violations: [String]) {
        report.violations += violations.prefix(StoreSimulation.violationsMax)
    }

    /// One life of the process. Returns what the device holds at its end, and what is known.
    private func live(_ player: StorePlayer) -> (StoreImage, StoreJournal) {
        let process = player.process
        let isCrashed = entropy.chance(3, in: 5)
        // Some in the middle of the recovery from the one before.
        let boundary = Int(entropy.below(entropy.chance(1, in: 5) ? 12 : 400))
        let steps = 20 + entropy.below(StoreSimulation.stretchMax)
        process.run { [wasCrashed] in try await player.inspect(isCrashed: wasCrashed) }
        final class Crash { var moment: (StoreImage, StoreJournal)? }
        let crash = Crash()
        isDoomed = false
        if isCrashed {
            let context = SimulationConfined((self, player, crash), to: process.simulation)
            process.devices.onBoundary { number, _ in
                let (simulation, player, crash) = context.value
                guard number == boundary else { return }
                crash.moment = (player.process.image, player.journal)
                simulation.isDoomed = true
            }
        }
        let isEnded = process.run { [self] in
            try await player.openStore()
            try await player.recover()
            guard player.violations.isEmpty else { return }
            report.starts += 1
            await work(player, steps: steps)
            guard player.violations.isEmpty else { return }
            if !isDoomed {
                try await settle(player)
                try await checkInvariants(of: player.vos)
            }
            await player.closeStore()
        }
        process.devices.onBoundary(nil)
        report.discards += process.discardCount
        if !isEnded { player.violate("the process hangs") }
        note(player.violations + process.failures)
        wasCrashed = crash.moment != nil
        guard let (image, journal) = crash.moment else { return (process.image, player.journal) }
        report.crashes += 1
        let outcomes = image.outcomes
        let outcome = outcomes[Int(entropy.below(UInt64(outcomes.count)))]
        return (image.crashed(outcome, seed: entropy.next()), journal)
    }

    private func work(_ player: StorePlayer, steps: UInt64) async {
        var working = laneCount
        var bodies: [() async throws -> Void] = []
        for index in 0..<laneCount {
            let lane = StoreLane(
                player, simulation: self, index: UInt64(index),
                entropy: entropy.fork("lane \(index) \(report.starts)"))
            bodies.append { [self] in
                defer { working -= 1 }
                for _ in 0..<steps / UInt64(laneCount) where !isDoomed {
                    report.steps += 1
                    try await lane.step()
                    guard player.violations.isEmpty else { return }
                }
            }
        }
        var housekeeping = entropy.fork("housekeeping \(report.starts)")
        bodies.append { [self] in
            while working > 0, !isDoomed {
                await player.process.xstream.sleep(
                    for: .microseconds(Int64(housekeeping.below(4_000))))
                try await keepHouse(player, &housekeeping)
            }
        }
        if options.isScrubbed {
            var scrubbing = entropy.fork("scrubbing \(report.starts)")
            bodies.append { [self] in
                repeat {
                    let rate: UInt64 = [32 << 20, 256 << 20, 1 << 40][Int(scrubbing.below(3))]
                    await player.scrub(rate: rate, until: { self.isDoomed })
                    await player.process.xstream.sleep(
                        for: .microseconds(Int64(scrubbing.below(500))))
                } while working > 0 && !isDoomed
                report.scrubs += Int(player.vos.scrubStatus.passes)
            }
        }
        // Draws of the lanes must not repeat in the next life.
        _ = entropy.next()
        await player.together(bodies)
        report.extentsCut += player.vos.extentsCut
    }

    private func keepHouse(_ player: StorePlayer, _ entropy: inout Entropy) async throws {
        switch entropy.below(6) {
        case 0:
            do throws(VOSError) {
                try await player.checkpoint(isAlone: false)
                report.checkpoints += 1
            } catch .noSpace {
                report.full += 1
            } catch {
                throw error
            }
        case 1...3:
            let back = entropy.below(entropy.chance(1, in: 3) ? 400 : 60)
            try await aggregate(player, upTo: epoch - min(epoch, back))
        case 4: try await player.flushOutcomes()
        default: player.journal.forgetFinished(keeping: 20)
        }
    }

    private func aggregate(_ player: StorePlayer, upTo epoch: UInt64) async throws {
        do throws(VOSError) {
            try await player.vos.aggregate(upTo: epoch)
            report.aggregations += 1
        } catch .noSpace {
            report.full += 1
        } catch {
            throw error
        }
    }

    /// What is prepared is decided, and everything is compared.
    private func settle(_ player: StorePlayer) async throws {
        for fate in player.journal.fates where fate.isPending {
            if entropy.chance(2, in: 3) {
                player.commit(fate.update.transaction)
            } else {
                try await player.abort(fate.update.transaction)
            }
        }
        report.comparisons += 1
        try await player.compare()
    }

    // MARK: - For the lanes

    /// A new epoch, or one that comes late. Those of distributed transactions are odd and are
    /// never used twice.
    func nextEpoch(_ entropy: inout Entropy, isTransaction: Bool) -> UInt64 {
        epoch += 2 * (1 + entropy.below(4))
        if isTransaction { return epoch | 1 }
        let late = entropy.chance(1, in: 5) ? 2 * entropy.below(40) : 0
        return max(2, (epoch & ~1) - min(epoch & ~1, late))
    }

    var newestEpoch: UInt64 { epoch }

    func nextNumber() -> UInt64 {
        number += 1
        return number
    }

    /// Space is short: what is superseded goes.
    func didFill(_ player: StorePlayer) async throws {
        report.full += 1
        try await aggregate(player, upTo: epoch)
    }
}

/// What a simulation of a store did and found.
package struct StoreReport: Sendable {
    package let seed: UInt64
    /// What the store stands on.
    package let devices: SimulatedStore.Devices
    /// Steps of the users.
    package var steps = 0
    package var updates = 0
    package var refusals = 0
    /// Of these, writes with another record size than the array has.
    package var mismatches = 0
    package var reads = 0
    package var lists = 0
    package var transactions = 0
    package var destructions = 0
    package var epochsDiscarded = 0
    package var snapshotsTaken = 0
    package var snapshotsDropped = 0
    /// Transactions that were refused although nothing of their user was in their way.
    package var chanceConflicts = 0
    package var checkpoints = 0
    package var aggregations = 0
    /// Extents of which merges left parts.
    package var extentsCut = 0
    /// Passes of the scrubber that came to the end.
    package var scrubs = 0
    package var full = 0
    package var discards: UInt64 = 0
    package var starts = 0
    package var crashes = 0
    /// Everything read back at the end of a life, besides after each start.
    package var comparisons = 0
    /// Depends on everything that the devices saw.
    package private(set) var eventHash: UInt64 = 0
    /// Everything that must not be. Empty when the run is good.
    package var violations: [String] = []

    init(seed: UInt64, devices: SimulatedStore.Devices) {
        self.seed = seed
        self.devices = devices
    }

    mutating func fold(_ hash: UInt64) { eventHash = (eventHash &* 31) ^ hash }

    /// More of them than places that are shared by chance explain.
    var hasStrangeConflicts: Bool { chanceConflicts > 2 + transactions / 20 }

    /// The floors that the run did not reach.
    package var shortfalls: [String] {
        guard violations.isEmpty, steps >= 500 else { return [] }
        var shortfalls: [String] = []
        for (what, count, least) in [
            ("updates", updates, steps / 5), ("reads", reads, steps / 20),
            ("starts", starts, steps / 500), ("aggregations", aggregations, 1),
            ("snapshots taken", snapshotsTaken, steps / 500),
            ("discards of epochs", epochsDiscarded, steps / 2000),
            ("writes with another record size", mismatches, steps / 1000),
            ("discards", Int(discards), devices == .single ? 0 : steps / 2000),
        ] where count < least { shortfalls.append("\(count) \(what), at least \(least)") }
        return shortfalls
    }

    package var passed: Bool { violations.isEmpty && shortfalls.isEmpty }

    package var summary: String {
        "seed \(seed), \(devices.rawValue): \(steps) steps, \(updates) updates, "
            + "\(refusals) refused, \(mismatches) of these with another record size, "
            + "\(reads) reads, \(lists) lists, \(transactions) transactions, "
            + "\(destructions) destructions, \(epochsDiscarded) times epochs discarded, "
            + "\(snapshotsTaken) snapshots taken, "
            + "\(snapshotsDropped) given up, \(checkpoints) checkpoints, "
            + "\(aggregations) aggregations, \(extentsCut) extents cut, "
            + "full \(full) times, \(discards) discards, "
            + "\(starts) starts, \(crashes) crashes, event hash \(String(eventHash, radix: 16))"
    }
}
