import CaRT
import DrayRuntime
import DraySimulator
import Testing

/// What failure detection promises, in groups on virtual time.
@Suite struct MembershipTests {
    private static let suspicionTime = SwimOptions().suspicionTimeout

    /// A group that has come up.
    private func group(
        _ count: Int, seed: UInt64, lossPercent: UInt64 = 0
    ) -> MembershipSimulation {
        var options = MembershipSimulation.Options(memberCount: count)
        options.lossPerMillion = lossPercent * 10_000
        let group = MembershipSimulation(options, seed: seed)
        group.run(for: .seconds(3))
        group.forget()
        return group
    }

    @Test(arguments: [2, 3, 4, 8, 24, 64], [UInt64(0), 5])
    func aKilledMemberIsKnownToAllWithinTwoSeconds(count: Int, lossPercent: UInt64) {
        var entropy = Entropy(seed: UInt64(count))
        let group = group(count, seed: 1, lossPercent: lossPercent)
        for _ in 0..<(count > 10 ? 5 : 20) {
            group.run(for: .milliseconds(Int64(500 + entropy.below(1000))))
            let rank = Int(entropy.below(UInt64(count)))
            group.kill(rank)
            let isKnown = group.run(for: .seconds(2)) {
                group.all(hold: UInt32(rank), for: .dead)
            }
            #expect(isKnown, "\(rank)")
            group.restart(rank)
            let isBack = group.run(for: .seconds(2)) {
                group.all(hold: UInt32(rank), for: .alive)
            }
            #expect(isBack, "\(rank)")
        }
        #expect(group.falseDeaths.isEmpty)
    }

    @Test(arguments: [2, 3, 8, 32], [UInt64(0), 5])
    func aStoppedMemberDiesAfterTheSuspicionTime(count: Int, lossPercent: UInt64) {
        for seed in 0..<UInt64(3) {
            let group = group(count, seed: seed, lossPercent: lossPercent)
            let begin = group.now
            group.stop(1)
            let isKnown = group.run(for: Self.suspicionTime + .seconds(3)) {
                group.all(hold: 1, for: .dead)
            }
            #expect(isKnown)
            let first = group.changes.first { $0.member.rank == 1 && $0.member.state == .dead }
            let time = Duration.nanoseconds(Int64((first?.time ?? 0) - begin))
            #expect(time >= Self.suspicionTime)
            // It is told, contradicts, and is alive again for all.
            group.resume(1)
            #expect(group.run(for: .seconds(3)) { group.all(hold: 1, for: .alive) })
            group.run(for: .seconds(10))
            #expect(group.exclusions.map(\.observer) == [1])
            #expect(group.allAreWell || lossPercent > 0)
            #expect(group.falseDeaths.allSatisfy { $0.member.rank == 1 }, "it blames nobody")
        }
    }

    @Test(arguments: [2, 3, 8, 32], [UInt64(0), 5])
    func whoIsStoppedForLessDoesNotDie(count: Int, lossPercent: UInt64) {
        var entropy = Entropy(seed: UInt64(count))
        let group = group(count, seed: 2, lossPercent: lossPercent)
        for _ in 0..<8 {
            let rank = Int(entropy.below(UInt64(count)))
            group.stop(rank)
            group.run(for: .milliseconds(Int64(entropy.below(4900))))
            group.resume(rank)
            group.run(for: .milliseconds(Int64(entropy.below(3000))))
        }
        group.run(for: .seconds(10))
        #expect(group.falseDeaths.isEmpty)
        #expect(group.exclusions.isEmpty)
        #expect(group.changes.contains { $0.member.state == .suspect })
    }

    /// A machine without processor time for its members, again and again: it blames nobody.
    @Test func whoIsStarvedSuspectsNobody() {
        var entropy = Entropy(seed: 3)
        let group = group(8, seed: 3)
        for _ in 0..<100 {
            group.stop(2)
            group.run(for: .milliseconds(Int64(120 + entropy.below(500))))
            group.resume(2)
            group.run(for: .milliseconds(Int64(entropy.below(200))))
        }
        #expect(!group.changes.contains { $0.observer == 2 && $0.member.state != .alive })
        #expect(group.falseDeaths.isEmpty)
    }

    @Test(arguments: [3, 8, 32])
    func whoWasCutOffLearnsThatItWasExcluded(count: Int) {
        let group = group(count, seed: 4)
        group.isCutOff = { from, to in (from == 0) != (to == 0) }
        group.run(for: .seconds(20))
        #expect(group.all(hold: 0, for: .dead))
        #expect(group.exclusions.isEmpty)
        group.isCutOff = { _, _ in false }
        #expect(group.run(for: .seconds(5)) { group.all(hold: 0, for: .alive) })
        #expect(group.exclusions.first?.observer == 0)
        #expect(group.exclusions.first?.exclusion == .declaredDead)
        // It takes the others for dead, and they do not believe it of each other.
        let others = group.falseDeaths.filter { $0.member.rank != 0 }
        #expect(others.allSatisfy { $0.observer == 0 })
        #expect(group.run(for: .seconds(20)) { group.allAreWell })
        group.forget()
        group.run(for: .seconds(20))
        #expect(group.allAreWell && group.changes.isEmpty)
    }

    @Test(arguments: [4, 9, 32])
    func halvesComeTogetherAgain(count: Int) {
        let group = group(count, seed: 5)
        let half = UInt32(count / 2)
        group.isCutOff = { from, to in (from < half) != (to < half) }
        group.run(for: .seconds(20))
        #expect(group.all(hold: 0, for: .dead) == false)
        for observer in 0..<count {
            for member in group.machines[observer].members {
                let isHere = (member.rank < half) == (UInt32(observer) < half)
                #expect((member.state == .alive) == isHere)
            }
        }
        group.isCutOff = { _, _ in false }
        #expect(group.run(for: .seconds(30)) { group.allAreWell })
        group.forget()
        group.run(for: .seconds(20))
        #expect(group.allAreWell && group.changes.isEmpty)
    }

    @Test func noFalseDeathWhenMessagesAreLost() {
        let group = group(40, seed: 6, lossPercent: 5)
        group.run(for: .seconds(120))
        #expect(group.lossCount > group.messageCount / 25)
        #expect(group.changes.contains { $0.member.state == .suspect })
        #expect(group.falseDeaths.isEmpty)
    }

    /// Detection and load do not grow with the group; the way of a rumour does by its logarithm.
    @Test func figuresOfSmallAndLargeGroups() {
        let figures = [8, 16, 64].map {
            MembershipFigures(
                memberCount: $0, lossPercent: 0, trials: 12, quietTime: .seconds(10), seed: 7)
        }
        for one in figures {
            #expect(one.failures == 0 && one.falseDeaths == 0)
            #expect((9.5...10.5).contains(one.messagesPerSecond), "two in each of five periods")
            #expect(one.firstDetection.mean < 0.6)
            #expect(one.firstDetection.longest < 2.5)
            #expect(one.suspicionSpread.mean < 0.25 * 6)
        }
        #expect(figures[2].suspicionSpread.mean > figures[0].suspicionSpread.mean)
    }

    @Test func sameSeedSameHistory() {
        func history(_ seed: UInt64) -> [MembershipSimulation.Change] {
            let group = group(12, seed: seed, lossPercent: 20)
            group.kill(3)
            group.run(for: .seconds(20))
            return group.changes
        }
        #expect(history(8) == history(8))
        #expect(history(8) != history(9))
    }
}
