internal import BIO
internal import DrayRuntime
internal import VOS

/// Runs a script once, keeps what the device held and what was known at every boundary of a write
/// or flush, and looks at what each of these moments leaves when the power fails there.
///
/// That is what `SimulatedDeviceStore.crash(atBoundary:)` does, which runs the script up to one of
/// them.
package final class CrashExplorer {
    /// A moment at which the power can fail.
    private struct Moment {
        var image: StoreImage
        var journal: StoreJournal
        var what: String
    }

    /// Two moments with equal keys leave the same.
    private struct Key: Hashable {
        var fingerprint: UInt64
        var version: Int
    }

    private let scenario: CrashScenario
    /// How many draws where a crash leaves a choice.
    private let draws: Int
    private var seed: UInt64
    private var seen: Set<Key> = []
    private var crashes = 0
    package private(set) var report = Report()

    /// What was done and found.
    package struct Report: Sendable {
        /// Boundaries in the script.
        package var boundaries = 0
        /// Different states that a crash left, and recoveries from them.
        package var recoveries = 0
        /// Of those, from crashes of recoveries.
        package var recoveriesAgain = 0
        /// Discards in the script.
        package var discards: UInt64 = 0
        /// Recoveries that found more than was acknowledged, and with less than was begun.
        package var whole = 0
        package var none = 0
        package var violations: [String] = []
        /// What was reached too little for the run to mean something.
        package var shortfalls: [String] = []

        package var passed: Bool { violations.isEmpty && shortfalls.isEmpty }

        package var summary: String {
            "\(boundaries) boundaries, \(recoveries) states recovered, \(recoveriesAgain) of them "
                + "in recoveries; \(whole) with and \(none) without what was under way"
        }
    }

    /// More findings than that are not worth reading.
    private static let violationsMax = 5

    package init(_ scenario: CrashScenario, seed: UInt64, draws: Int = 1) {
        self.scenario = scenario
        self.draws = draws
        self.seed = seed
    }

    /// Runs the script and crashes all of its moments.
    package func run() -> Report {
        let process = SimulatedStore(seed: seed, shape: scenario.shape)
        let player = StorePlayer(process, seed: seed)
        let scenario = scenario
        if scenario.isFormatted {
            process.run {
                try await process.format()
                try await player.openStore()
                try await scenario.prepare(player)
            }
        }
        let moments = record(player) { try await scenario.play(player) }
        report.boundaries = moments.count - 1
        report.discards = process.discardCount
        note(player, "before a crash")
        for moment in moments {
            crash(moment, depth: 0)
            if report.violations.count >= CrashExplorer.violationsMax { break }
        }
        if report.boundaries < scenario.boundariesMin {
            report.shortfalls.append(
                "\(report.boundaries) boundaries, \(scenario.boundariesMin) wanted")
        }
        if report.recoveries <= report.boundaries / 2 {
            report.shortfalls.append("\(report.recoveries) different states")
        }
        return report
    }

    private func note(_ player: StorePlayer, _ what: String) {
        report.violations += (player.violations + player.process.failures).map {
            "\(scenario.name), \(scenario.shape.devices.rawValue), seed \(seed), \(what): \($0)"
        }
    }

    /// Runs `body` and returns all moments of it, the end included.
    private func record(
        _ player: StorePlayer, _ body: @escaping () async throws -> Void
    ) -> [Moment] {
        final class Recording { var moments: [Moment] = [] }
        let recording = Recording()
        let process = player.process
        let context = SimulationConfined((recording, player), to: process.simulation)
        process.devices.crash(atBoundary: nil)
        process.devices.onBoundary { number, boundary in
            let (recording, player) = context.value
            recording.moments.append(
                Moment(
                    image: player.process.image, journal: player.journal,
                    what: "boundary \(number) (\(boundary.rawValue))"))
        }
        if !process.run(body) { player.violate("it does not end") }
        process.devices.onBoundary(nil)
        recording.moments.append(
            Moment(image: process.image, journal: player.journal, what: "the end"))
        return recording.moments
    }

    private func crash(_ moment: Moment, depth: Int) {
        for outcome in moment.image.outcomes {
            for draw in 0..<(outcome.isDrawn ? draws : 1) {
                crashes += 1
                let image = moment.image.crashed(
                    outcome, seed: seed << 32 | UInt64(crashes + draw))
                let key = Key(fingerprint: image.fingerprint, version: moment.journal.version)
                guard seen.insert(key).inserted else { continue }
                recover(
                    Moment(
                        image: image, journal: moment.journal,
                        what: "\(moment.what), \(outcome.name)"),
                    depth: depth)
                if report.violations.count >= CrashExplorer.violationsMax { return }
            }
        }
    }

    private func recover(_ moment: Moment, depth: Int) {
        report.recoveries += 1
        if depth > 0 { report.recoveriesAgain += 1 }
        let number = report.recoveries
        let process = SimulatedStore(
            seed: seed &+ UInt64(number), shape: scenario.shape, image: moment.image)
        let player = StorePlayer(
            process, journal: moment.journal, seed: seed &+ UInt64(number) << 8)
        let scenario = scenario
        let isFull = scenario.fillsDevice
        let isTight = scenario.isTight
        let body = { () async throws in
            do throws(VOSError) {
                try await player.openStore()
            } catch {
                guard !scenario.isFormatted, CrashExplorer.isNoStore(error) else { throw error }
                // The format did not come to its end.
                if !moment.journal.model.epochs.isEmpty { player.violate("the store is gone") }
                try await process.format(overwrite: true)
                try await player.openStore()
            }
            try await player.recover()
            guard player.violations.isEmpty else { return }
            try await player.resend()
            if isFull { try await player.destroy() }
            try await player.goOn(makingRoom: isTight)
            guard number % 4 == 0 else { return await player.closeStore() }
            try await player.reopen()
            try await checkInvariants(of: player.vos)
            try await player.compare(epochs: 0)
            await player.closeStore()
        }
        let isCrashedAgain =
            depth < scenario.recoveryDepth && number % scenario.recoveryPeriod == 0
        var moments: [Moment] = []
        if isCrashedAgain {
            moments = record(player, body)
        } else if !process.run(body) {
            player.violate("recovery does not end")
        }
        count(moment.journal, player)
        note(player, moment.what)
        for next in moments where report.violations.count < CrashExplorer.violationsMax {
            crash(
                Moment(
                    image: next.image, journal: next.journal,
                    what: "\(moment.what), then \(next.what)"),
                depth: depth + 1)
        }
    }

    private func count(_ before: StoreJournal, _ player: StorePlayer) {
        guard let (_, update) = before.underWay.first, update.transaction != .zero else { return }
        if player.journal.acknowledged[update.transaction] == nil {
            report.none += 1
        } else {
            report.whole += 1
        }
    }

    /// Whether an error says that there is no store, or only a torn superblock of one.
    private static func isNoStore(_ error: VOSError) -> Bool {
        switch error {
        case .device(.foreign), .device(.corrupt): true
        default: false
        }
    }
}
