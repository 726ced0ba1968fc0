import BIO
import DrayRuntime
import Testing

@testable import VOS

/// Kills the process at every moment a device sees while transactions are prepared and decided.
@Suite struct DTXCrashTests {
    /// What happened to a transaction, as whoever asked for it knows.
    struct Fate {
        var isPrepareBegun = false
        var isPrepared = false
        var isCommitTold = false
        var isCommitDurable = false
        var isAbortBegun = false
        var isAborted = false
        var isCompletionTold = false
        var isCompletionDurable = false

        /// Something was logged, or a checkpoint taken: what was told before is durable.
        mutating func settle() {
            isCommitDurable = isCommitTold
            isCompletionDurable = isCompletionTold
        }
    }

    final class Journal {
        var fates: [UInt64: Fate] = [:]
        /// Epochs of plain updates: begun, and acknowledged.
        var begun: [UInt64] = []
        var acknowledged: [UInt64] = []
        var isEnded = false

        func settle() { for id in fates.keys { fates[id]?.settle() } }
    }

    /// The keys of each transaction. Key 0 is small, the others are in blocks.
    static let keys: [UInt64: [Int]] = [1: [0, 1], 2: [1, 2], 3: [2], 4: [0, 2], 5: [1]]
    /// Those that this target leads.
    static let led: Set<UInt64> = [1, 4]

    static func epoch(_ id: UInt64) -> UInt64 { 100 + 10 * id }

    /// What a transaction, or a plain update at an epoch, writes.
    static func value(_ writer: UInt64, _ key: Int) -> [UInt8] {
        [UInt8].pattern(key == 0 ? 100 : 4096 * key + 17, seed: writer * 16 + UInt64(key))
    }

    // MARK: - The scenario

    private func update(
        _ vos: VOS, _ journal: Journal, epoch: UInt64, keys: [Int]
    ) async throws {
        journal.begun.append(epoch)
        let work = DTXWork(
            .zero, keys.map { .single([UInt8($0)], Self.value(epoch, $0)) })
        var update = work.updates[0]
        update.epoch = epoch
        try await vos.update(update)
        withExtendedLifetime(work) {}
        journal.acknowledged.append(epoch)
        journal.settle()
    }

    private func prepare(_ vos: VOS, _ journal: Journal, _ id: UInt64) async throws -> DTX {
        journal.fates[id, default: Fate()].isPrepareBegun = true
        let changes = (Self.keys[id] ?? []).map {
            DTXChange.single([UInt8($0)], Self.value(id, $0))
        }
        let dtx = try await vos.prepare(
            .dtx(id), changes, epoch: Self.epoch(id), isLeader: Self.led.contains(id))
        journal.settle()
        journal.fates[id]?.isPrepared = true
        return dtx
    }

    private func abort(_ vos: VOS, _ journal: Journal, _ dtx: DTX) async throws {
        journal.fates[dtx.id.low]?.isAbortBegun = true
        try await vos.abort(dtx)
        journal.settle()
        journal.fates[dtx.id.low]?.isAborted = true
    }

    private func commit(_ vos: VOS, _ journal: Journal, _ dtx: DTX) {
        journal.fates[dtx.id.low]?.isCommitTold = true
        vos.commit(dtx)
    }

    private func play(_ vos: VOS, _ journal: Journal) async throws {
        try await update(vos, journal, epoch: 100, keys: [0, 1, 2])
        let first = try await prepare(vos, journal, 1)
        commit(vos, journal, first)
        let second = try await prepare(vos, journal, 2)
        try await abort(vos, journal, second)
        let third = try await prepare(vos, journal, 3)
        try await vos.checkpoint()
        journal.settle()
        commit(vos, journal, third)
        try await vos.flushOutcomes()
        journal.settle()
        vos.complete(.dtx(1))
        journal.fates[1]?.isCompletionTold = true
        try await update(vos, journal, epoch: 135, keys: [0, 1])
        let fourth = try await prepare(vos, journal, 4)
        try await vos.aggregate(upTo: 200)
        let fifth = try await prepare(vos, journal, 5)
        try await vos.checkpoint()
        journal.settle()
        commit(vos, journal, fifth)
        try await abort(vos, journal, fourth)
        journal.fates[9] = Fate(isAbortBegun: true)
        try await vos.refuse(.dtx(9), epoch: 155)
        journal.fates[9]?.isAborted = true
        try await update(vos, journal, epoch: 160, keys: [2])
        await vos.close()
        journal.isEnded = true
    }

    // MARK: - What is left

    /// Each transaction is what its fate allows.
    private func verifyFates(_ vos: VOS, _ journal: Journal) {
        for (id, fate) in journal.fates {
            let outcome = vos.outcome(of: .dtx(id))
            switch outcome {
            case "unknown": #expect(!fate.isPrepared && !fate.isAborted)
            case "prepared":
                #expect(fate.isPrepareBegun && !fate.isCommitDurable && !fate.isAborted)
            case "committed at \(Self.epoch(id))": #expect(fate.isCommitTold)
            case "aborted": #expect(fate.isAbortBegun)
            default: Issue.record("\(outcome)")
            }
            let isUncompleted = vos.uncompleted.contains { $0.id == .dtx(id) }
            if outcome.hasPrefix("committed"), Self.led.contains(id) {
                #expect(isUncompleted || fate.isCompletionTold)
                #expect(!isUncompleted || !fate.isCompletionDurable)
            } else {
                #expect(!isUncompleted)
            }
        }
    }

    /// Whoever asks everybody decides what is undecided: for what was told, or by chance.
    private func decide(_ vos: VOS, _ journal: Journal, chance: Int) async throws {
        for dtx in vos.undecided {
            let fate = journal.fates[dtx.id.low] ?? Fate()
            let commits = fate.isCommitTold || !fate.isAbortBegun && chance % 2 == 0
            if commits { vos.commit(dtx) } else { try await vos.abort(dtx) }
        }
    }

    /// Every key has the newest of what is committed.
    private func verifyValues(_ vos: VOS, _ journal: Journal) async throws {
        for key in 0..<3 {
            var writers: [(epoch: UInt64, writer: UInt64)] = []
            for (id, keys) in Self.keys where keys.contains(key) {
                if case .committed(let epoch) = vos.state(of: .dtx(id)) {
                    writers.append((epoch, id))
                }
            }
            let value = try await vos.getSingle([UInt8(key)], [])
            var isRight = false
            // An update that was not acknowledged is there, or not.
            for updates in [journal.begun, journal.acknowledged] {
                let plain = updates.filter {
                    key == 2 ? $0 != 135 : $0 != 160
                }
                let newest = (writers + plain.map { ($0, $0) }).max { $0.epoch < $1.epoch }
                let expected = newest.map { Self.value($0.writer, key) }
                isRight = isRight || value == expected
            }
            #expect(isRight, "key \(key)")
        }
    }

    private func verify(_ target: SimulatedTarget, _ journal: Journal, chance: Int) async throws {
        let vos = try await target.open()
        try await vos.checkInvariants()
        verifyFates(vos, journal)
        if chance % 3 == 0 { try await vos.checkpoint() }
        try await decide(vos, journal, chance: chance)
        try await verifyValues(vos, journal)
        // The store goes on, and the blocks of what is gone are used again.
        try await vos.putSingle([9], [], [UInt8].pattern(9000, seed: 5), epoch: 900)
        try await vos.aggregate(upTo: 901)
        try await vos.checkpoint()
        try await vos.checkInvariants()
        try await verifyValues(vos, journal)
    }

    private func verifyAgain(_ target: SimulatedTarget, _ journal: Journal) async throws {
        let vos = try await target.open()
        try await vos.checkInvariants()
        #expect(vos.undecided.isEmpty)
        try await verifyValues(vos, journal)
        await target.close(vos)
    }

    @Test(arguments: CrashOutcome.allCases)
    func fatesAreKept(outcome: CrashOutcome) {
        var boundary = 0
        var ended = false
        while !ended {
            // Few blocks, so that freed ones are used again at once.
            let target = SimulatedTarget(
                seed: UInt64(boundary), blocks: 136, logBlocks: 16, crash: outcome)
            let journal = Journal()
            ended = target.run {
                let vos = try await target.open()
                target.devices.crash(atBoundary: boundary)
                try await self.play(vos, journal)
            }
            #expect(ended == journal.isEnded)
            if ended { #expect(boundary > 60) }
            target.devices.crash(atBoundary: nil)
            target.restart()
            #expect(target.run { try await self.verify(target, journal, chance: boundary) })
            target.restart()
            #expect(target.run { try await self.verifyAgain(target, journal) })
            boundary += 1
            guard boundary < 2000 else {
                Issue.record("the scenario never ends")
                return
            }
        }
    }

    /// While an abort is on its way to the log, a checkpoint must not forget what was prepared:
    /// after a crash it is there, or known to be aborted.
    @Test(arguments: 0..<60)
    func anAbortUnderWayIsNotForgotten(boundary: Int) {
        let target = SimulatedTarget(seed: UInt64(boundary))
        target.run {
            let vos = try await target.open()
            let dtx = try await vos.prepare(.dtx(1), [.single([1], [1])], epoch: 10)
            target.devices.crash(atBoundary: boundary)
            var isDone = false
            target.xstream.spawn {
                try? await vos.abort(dtx)
                isDone = true
            }
            await target.xstream.yield()
            try await vos.checkpoint()
            while !isDone { await target.xstream.sleep(for: .microseconds(10)) }
        }
        target.devices.crash(atBoundary: nil)
        target.restart()
        let finished = target.run {
            let vos = try await target.open()
            #expect(vos.outcome(of: .dtx(1)) != "unknown")
            try await vos.checkInvariants()
        }
        #expect(finished)
    }
}
